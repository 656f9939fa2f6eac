"""A cache together with the ids whose keys and values it holds, so that a prompt is read only from where it is new.

Knows nothing of what the ids mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile

from mlx_oss.generation.generate import prefill_chunks
from mlx_oss.model.kv_cache import Cache
from mlx_oss.model.transformer import Transformer


class PromptCache:
    """The caches of a model, `kv`, and what they have read, `ids`: as many as the position they stand at."""

    def __init__(self, model: Transformer) -> None:
        self._model = model
        self.forget()

    def forget(self) -> None:
        """Starts anew, e.g. after an error, when the layers may have stopped at different positions."""
        self.kv: Cache = self._model.make_cache()
        self.ids: list[int] = []

    def fork(self) -> PromptCache:
        """Another one that has read the same; they share the memory until one of them reads on."""
        forked = PromptCache(self._model)
        forked.kv, forked.ids = self.kv.fork(), list(self.ids)
        return forked

    def rewind(self, prompt: Sequence[int]) -> int:
        """Steps back to what was read of this prompt, or as near before as is possible; gives how many ids that is."""
        pairs = takewhile(lambda pair: pair[0] == pair[1], zip(self.ids, prompt, strict=False))
        reached = self.kv.rewind(sum(1 for _ in pairs))
        del self.ids[reached:]
        return reached

    def read(self, tokens: Sequence[int]) -> Iterator[int]:
        """Reads on in chunks; after each one, which is kept, yields how many of the tokens are read."""
        start = len(self.ids)
        for done in prefill_chunks(self._model, tokens, self.kv):
            self.ids[start:] = tokens[:done]
            yield done
