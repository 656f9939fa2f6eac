"""The prompt cache of `LocalEngine`: a prefix of its pool, held for one conversation, forked, saved and restored.

Knows nothing of what the ids mean.
"""

from __future__ import annotations

import weakref
from collections.abc import Iterable, Iterator, Mapping, Sequence

import mlx.core as mx
import numpy as np

from mlx_oss.backend.device_errors import device_errors
from mlx_oss.generation import compute_thread
from mlx_oss.generation.engine import PromptCache, SavedTensor
from mlx_oss.generation.prefix_pool import Prefix, PrefixPool
from mlx_oss.model.kv_cache import MOST_SNAPSHOTS, Cache
from mlx_oss.model.transformer import Transformer

_DTYPES = {str(dtype).removeprefix("mlx.core."): dtype for dtype in (mx.float32, mx.bfloat16, mx.float16)}


class KVPromptCache(PromptCache):
    """What an engine holds of one conversation: a prefix of its pool.

    The methods may be called from any thread: what computes runs on the computing thread.

    Attributes:
        pool: The pool of the engine.
        prefix: What is held; None if nothing is. Set on the computing thread.
    """

    def __init__(self, model: Transformer, pool: PrefixPool) -> None:
        self._stream = None
        self._model, self.pool = model, pool
        self.prefix: Prefix | None = None

    @property
    def ids(self) -> list[int]:  # type: ignore[override]
        """The ids whose keys and values are held. Waits for a token that is being computed."""
        return compute_thread.run(lambda: [] if self.prefix is None else list(self.prefix.ids))

    @property
    def kv(self) -> Cache:
        """The keys and values."""
        return self._model.make_cache() if (prefix := self.prefix) is None else prefix.kv

    @property
    def nbytes(self) -> int:
        return self.kv.nbytes

    @property
    def snapshot_bytes(self) -> int:
        return self.kv.snapshot_bytes

    def hold(self, prefix: Prefix | None) -> None:
        """Holds a prefix instead of the present one, which stays in the pool; only for the computing thread."""
        if (before := self.prefix) is not None and before is not prefix:
            before.owner = None
        self.prefix = prefix
        if prefix is not None:
            prefix.owner = weakref.ref(self)

    def fork(self) -> KVPromptCache:
        def fork() -> KVPromptCache:
            forked = self._frozen()
            if forked.prefix is not None:
                self.pool.put(forked.prefix)
            return forked

        return compute_thread.run(fork)  # there, because an interrupted request may still be extending the cache

    def frozen(self) -> KVPromptCache:
        return compute_thread.run(self._frozen)

    def _frozen(self) -> KVPromptCache:
        """A cache that holds the same, and that the pool does not know."""
        copied = KVPromptCache(self._model, self.pool)
        if self.prefix is not None:
            copied.hold(Prefix(self.prefix.kv.fork(), list(self.prefix.ids)))
        return copied

    def tensors(self) -> Iterator[tuple[str, SavedTensor]]:
        named = compute_thread.run(lambda: self.kv.tensors() if self.prefix else {})
        for name in sorted(named):
            yield name, compute_thread.run(lambda array=named[name]: _to_saved(array))  # type: ignore[misc]

    def check(self, length: int, described: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
        if length or described:
            compute_thread.run(lambda: self._check(self._model.make_cache(), length, described))

    def restore(self, ids: Sequence[int], tensors: Iterable[tuple[str, SavedTensor]]) -> None:
        named: dict[str, mx.array] = {}
        for name, tensor in tensors:
            named[name] = compute_thread.run(lambda tensor=tensor: _from_saved(tensor))  # type: ignore[misc]
        compute_thread.run(lambda: self._restore(list(ids), named))

    def _restore(self, ids: list[int], named: dict[str, mx.array]) -> None:
        kv = self._model.make_cache()
        if ids or named:
            self._check(kv, len(ids), {name: (_name(array.dtype), array.shape) for name, array in named.items()})
            kv.restore(named, len(ids))
        self.end_stream()
        self.hold(Prefix(kv, ids) if ids else None)
        if self.prefix is not None:
            self.pool.put(self.prefix)

    def _check(self, kv: Cache, length: int, described: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
        """Raises ValueError unless these are all tensors of a cache that holds `length` ids, and no others."""
        if length > self._model.config.max_position_embeddings:
            raise ValueError(f"{length} ids are more than the model's context")
        config, windows = self._model.config, [getattr(layer, "window", None) for layer in kv.layers]
        shapes = {f"layers.{number}": window or length for number, window in enumerate(windows)}
        rings = [window for window in windows if window is not None]
        positions = {name.split(".")[1] for name in described if name.startswith("snapshots.")}
        if len(positions) > MOST_SNAPSHOTS:
            raise ValueError(f"a cache has no {len(positions)} snapshots")
        for position in positions:
            if not position.isdecimal() or str(int(position)) != position or not 0 < int(position) <= length:
                raise ValueError(f"there is no position {position}")
            shapes |= {f"snapshots.{position}.{number}": window for number, window in enumerate(rings)}
        wanted = {
            f"{name}.{part}": (1, config.num_key_value_heads, size, config.head_dim)
            for name, size in shapes.items()
            for part in ("keys", "values")
        }
        if {name: shape for name, (_, shape) in described.items()} != wanted:
            raise ValueError("tensors are missing, unknown, or of the wrong shape")
        if any(dtype != _name(self._model.dtype) for dtype, _ in described.values()):
            raise ValueError(f"a tensor is not {self._model.dtype}")


def _name(dtype: mx.Dtype) -> str:
    return str(dtype).removeprefix("mlx.core.")


def _to_saved(array: mx.array) -> SavedTensor:
    with device_errors:
        flat = mx.contiguous(array).reshape(-1).view(mx.uint8)
        mx.eval(flat)
    return SavedTensor(_name(array.dtype), tuple(array.shape), memoryview(flat))  # type: ignore[arg-type]


def _from_saved(tensor: SavedTensor) -> mx.array:
    if tensor.dtype not in _DTYPES:
        raise ValueError(f"no cache has the dtype {tensor.dtype}")
    with device_errors:
        data = mx.array(np.frombuffer(tensor.data, np.uint8))
    array = data.view(_DTYPES[tensor.dtype]).reshape(tensor.shape)  # raises RuntimeError if the shape is impossible
    with device_errors:
        mx.eval(array)
    return array
