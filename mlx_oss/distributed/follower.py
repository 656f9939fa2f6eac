"""The machines after the first: each computes its part of what the first one tells, until that one ends.

Knows nothing of requests and text.
"""

from __future__ import annotations

from collections.abc import Callable
from queue import SimpleQueue
from typing import Any

import mlx.core as mx

from mlx_oss.distributed import measures
from mlx_oss.distributed.leader import divided, gathered
from mlx_oss.errors import EngineError, quoted
from mlx_oss.model.kv_cache import Cache
from mlx_oss.model.transformer import Transformer


class Follower:
    """Computes what it is told.

    Args:
        model: The part of the model that this machine has.
    """

    def __init__(self, model: Transformer) -> None:
        self._model = model
        self._caches: dict[int, Cache] = {}
        names = "gone cache free reserve fork copied snapshot keep_earlier take_back rewind tensors restore"
        names += " hidden each logits exact memory gathers"
        self._calls: dict[str, Callable[..., None]] = {name: getattr(self, f"_{name}") for name in names.split()}

    def follow(self, told: SimpleQueue[Any]) -> None:
        """Computes until the first machine ends.

        Args:
            told: What the first machine has told, and is not yet computed.

        Raises:
            EngineError: If a machine is gone, or the first one sends a word that is not known here.
        """
        while (message := told.get())[0] != "end":
            if (compute := self._calls.get(message[0])) is None:
                raise EngineError(f"machine 0 sent the unknown word {quoted(message[0])}: start all machines again")
            compute(*message[1:])

    def _gone(self, reason: str) -> None:
        raise EngineError(reason)

    def _cache(self, name: int) -> None:
        self._caches[name] = self._model.make_cache()

    def _free(self, names: list[int]) -> None:
        for name in names:
            self._caches.pop(name, None)

    def _reserve(self, name: int, tokens: int) -> None:
        self._caches[name].reserve(tokens)

    def _fork(self, name: int, new: int) -> None:
        self._caches[new] = self._caches[name].fork()

    def _copied(self, name: int, new: int, position: int) -> None:
        self._caches[new] = self._caches[name].copied(position)

    def _snapshot(self, name: int) -> None:
        self._caches[name].snapshot()

    def _keep_earlier(self, name: int, is_kept: bool) -> None:
        self._caches[name].keep_earlier(is_kept)

    def _take_back(self, name: int, tokens: int) -> None:
        self._caches[name].take_back(tokens)

    def _rewind(self, name: int, position: int) -> None:
        self._caches[name].rewind(position)

    def _tensors(self, name: int) -> None:
        gathered(self._caches[name].tensors(), self._model.shard)

    def _restore(self, name: int, offset: int, described: list[tuple[str, str, list[int]]]) -> None:
        empty = {each: mx.zeros(shape, getattr(mx, dtype)) for each, dtype, shape in described}
        self._caches[name].restore(divided(empty, self._model.shard), offset)

    def _hidden(self, name: int, tokens: list[list[int]]) -> None:
        cache = self._caches[name]
        mx.eval(self._model.hidden(mx.array(tokens), cache), cache.arrays)

    def _each(self, names: list[int], tokens: list[int]) -> None:
        caches = [self._caches[name] for name in names]
        mx.eval(self._model.hidden_of_each(mx.array(tokens), caches), [cache.arrays for cache in caches])

    def _logits(self, shape: list[int]) -> None:
        mx.eval(self._model.logits(self._from_first(shape)))

    def _exact(self, shape: list[int], ids: list[int]) -> None:
        mx.eval(self._model.exact_logits(self._from_first(shape), mx.array(ids)))

    def _memory(self) -> None:
        measures.memory_of_each(self._model.shard)

    def _gathers(self, numbers: int, times: int) -> None:
        measures.gather_seconds(self._model.shard, numbers, times)

    def _from_first(self, shape: list[int]) -> mx.array:
        return self._model.shard.from_first(mx.zeros(shape, self._model.dtype))
