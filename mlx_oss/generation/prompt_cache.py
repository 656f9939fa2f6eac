"""A KV cache together with the ids that it holds, so that only the new part of a prompt is prefilled.

Knows nothing of what the ids mean.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import takewhile

from mlx_oss.generation.generate import prefill_chunks
from mlx_oss.model.kv_cache import Cache
from mlx_oss.model.transformer import Transformer


class PromptCache:
    """The KV cache of a model, and the token ids that it holds.

    Attributes:
        kv: The KV cache.
        ids: The ids whose keys and values `kv` holds; there are `kv.offset` of them.
    """

    def __init__(self, model: Transformer) -> None:
        self._model = model
        self.forget()

    def forget(self) -> None:
        """Empties the cache, for example after an error that may have left the layers at different positions."""
        self.kv: Cache = self._model.make_cache()
        self.ids: list[int] = []

    def fork(self) -> PromptCache:
        """A second cache that holds the same ids. Both share memory until one of them is extended."""
        forked = PromptCache(self._model)
        forked.kv, forked.ids = self.kv.fork(), list(self.ids)
        return forked

    def rewind(self, prompt: Sequence[int]) -> int:
        """Rewinds to the longest common prefix of `ids` and the prompt, or to the nearest earlier position possible.

        Returns:
            The number of ids that are kept.
        """
        pairs = takewhile(lambda pair: pair[0] == pair[1], zip(self.ids, prompt, strict=False))
        reached = self.kv.rewind(sum(1 for _ in pairs))
        del self.ids[reached:]
        return reached

    def read(self, tokens: Sequence[int]) -> Iterator[int]:
        """Prefills the tokens in chunks, and yields the number of tokens done after each chunk.

        Chunks that are done are kept if the generator is closed early.

        Raises:
            OptionError: If there are no tokens, or a token is not in the vocabulary.
            CheckpointError: If weights are on disk and cannot be read.
        """
        start = len(self.ids)
        for done in prefill_chunks(self._model, tokens, self.kv):
            self.ids[start:] = tokens[:done]
            yield done
