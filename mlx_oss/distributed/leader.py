"""The model of the first machine: each call is told to the others before it is computed here.

They hold caches of the same names and change them in the same way. What is told is computed at once, in the order in
which it was told, because the machines wait for each other. Knows nothing of what the calls are for.
"""

from __future__ import annotations

import threading
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from typing import Any

import mlx.core as mx

from mlx_oss.distributed import measures
from mlx_oss.distributed.channel import Connection
from mlx_oss.errors import EngineError
from mlx_oss.model.kv_cache import Cache
from mlx_oss.model.sharding import Shard
from mlx_oss.model.transformer import Transformer

_MOMENT = 2.0  # seconds


class Machines:
    """The other machines, as the first one sees them.

    Args:
        shard: The part of the model that the first one computes.

    Attributes:
        shard: As given.
        reason: Why the others are gone; "" while they are there.
    """

    def __init__(self, shard: Shard) -> None:
        self.shard, self.reason = shard, ""
        self._gone = threading.Event()
        self._others: list[Connection] = []
        self._names = count()
        self._freed: deque[int] = deque()  # caches that are gone; any thread may add to it
        self._lock = threading.RLock()

    def add(self, other: Connection) -> None:
        """Adds one that has connected."""
        self._others.append(other)

    @contextmanager
    def told(self, *message: Any) -> Iterator[None]:
        """Tells the others what is computed within the context. One thread at a time.

        Raises:
            EngineError: If one of them is gone.
        """
        with self._lock:
            if self.reason:
                raise EngineError(f"{self.reason}, so nothing can be computed any more: start all machines again")
            freed = [self._freed.popleft() for _ in range(len(self._freed))]
            for other in self._others:
                if freed:
                    other.send(["free", freed])
                other.send(message)
            try:
                yield
            except BaseException as error:  # the others may have computed more or less than this machine has
                if isinstance(error, RuntimeError | EngineError):
                    self._gone.wait(_MOMENT)  # MLX notices first that a machine is gone, and does not say which
                self.lose(f"a step was interrupted ({type(error).__name__})")
                raise EngineError(f"{self.reason}: start all machines again") from error

    def new_name(self) -> int:
        """A name for a cache."""
        return next(self._names)

    def free(self, name: int) -> None:
        """The cache with this name is no longer needed. Any thread may say so."""
        self._freed.append(name)

    def lose(self, reason: str) -> None:
        """One of them is gone."""
        self.reason = self.reason or reason
        self._gone.set()

    def memory_of_each(self) -> list[int]:
        """The most bytes of memory that the process of each machine has used."""
        with self.told("memory"):
            return measures.memory_of_each(self.shard)

    def gather_seconds(self, numbers: int, times: int) -> float:
        """See `measures.gather_seconds`."""
        with self.told("gathers", numbers, times):
            return measures.gather_seconds(self.shard, numbers, times)


class LedCache(Cache):
    """A cache of which every machine has its part."""

    def __init__(self, cache: Cache, machines: Machines, name: int) -> None:
        super().__init__(cache.layers)
        self._snapshots = cache._snapshots
        self.machines, self.name = machines, name

    def __del__(self) -> None:
        self.machines.free(self.name)

    def _told(self, what: str, *arguments: Any) -> Any:
        return self.machines.told(what, self.name, *arguments)

    def _copy(self, make: Callable[[], Cache], what: str, *arguments: Any) -> LedCache:
        name = self.machines.new_name()
        with self._told(what, name, *arguments):
            return LedCache(make(), self.machines, name)

    def reserve(self, tokens: int) -> None:
        with self._told("reserve", tokens):
            super().reserve(tokens)

    def fork(self) -> Cache:
        return self._copy(super().fork, "fork")

    def copied(self, position: int) -> Cache:
        return self._copy(lambda: Cache.copied(self, position), "copied", position)

    def snapshot(self) -> None:
        with self._told("snapshot"):
            super().snapshot()

    def keep_earlier(self, is_kept: bool) -> None:
        with self._told("keep_earlier", is_kept):
            super().keep_earlier(is_kept)

    def take_back(self, tokens: int) -> None:
        with self._told("take_back", tokens):
            super().take_back(tokens)

    def rewind(self, position: int) -> int:
        with self._told("rewind", position):
            return super().rewind(position)

    def tensors(self) -> dict[str, mx.array]:
        with self._told("tensors"):
            return gathered(super().tensors(), self.machines.shard)

    def restore(self, named: Mapping[str, mx.array], offset: int) -> None:
        described = [[name, dtype_name(array.dtype), array.shape] for name, array in named.items()]
        with self._told("restore", offset, described):
            super().restore(divided(named, self.machines.shard), offset)


def gathered(named: Mapping[str, mx.array], shard: Shard) -> dict[str, mx.array]:
    """Keys and values with the heads of this machine -> with those of all."""
    found = {}
    for name in sorted(named):
        found[name] = shard.heads_of_all(mx.contiguous(named[name]))
        mx.eval(found[name])
    return found


def divided(named: Mapping[str, mx.array], shard: Shard) -> dict[str, mx.array]:
    """Keys and values of the first machine, with all heads -> with those of this machine."""
    found = {}
    for name, array in named.items():
        found[name] = shard.own_heads(shard.from_first(array))
        mx.eval(found[name])
    return found


def dtype_name(dtype: mx.Dtype) -> str:
    """The name of a dtype, such as "float32"."""
    return str(dtype).removeprefix("mlx.core.")


class LeadingTransformer(Transformer):
    """The first machine's part of a model, used like the whole of it.

    Attributes:
        machines: The other machines; set before it is used.
    """

    machines: Machines

    def make_cache(self) -> Cache:
        name = self.machines.new_name()
        with self.machines.told("cache", name):
            return LedCache(super().make_cache(), self.machines, name)

    def hidden(self, tokens: mx.array, cache: Cache | None = None) -> mx.array:
        cache = self.make_cache() if cache is None else cache
        with self.machines.told("hidden", _name(cache), tokens.tolist()):
            found = super().hidden(tokens, cache)
            mx.async_eval(found, cache.arrays)
            return found

    def hidden_of_each(self, tokens: mx.array, caches: Sequence[Cache]) -> mx.array:
        if len(caches) == 1:
            return self.hidden(tokens[None], caches[0])
        with self.machines.told("each", [_name(cache) for cache in caches], tokens.tolist()):
            found = super().hidden_of_each(tokens, caches)
            mx.async_eval(found, [cache.arrays for cache in caches])
            return found

    def logits(self, hidden: mx.array) -> mx.array:
        with self.machines.told("logits", list(hidden.shape)):
            found = super().logits(self.shard.from_first(hidden))
            mx.async_eval(found)
            return found

    def exact_logits(self, hidden: mx.array, ids: mx.array) -> mx.array:
        with self.machines.told("exact", list(hidden.shape), ids.tolist()):
            found = super().exact_logits(self.shard.from_first(hidden), ids)
            mx.async_eval(found)
            return found


def _name(cache: Cache) -> int:
    assert isinstance(cache, LedCache), f"{cache=}"
    return cache.name
