"""The prompt cache of `LocalEngine`: a KV cache together with the ids that it holds.

Knows nothing of what the ids mean.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence

import mlx.core as mx
import numpy as np

from mlx_oss.backend.device_errors import device_errors
from mlx_oss.generation import compute_thread
from mlx_oss.generation.engine import PromptCache, SavedTensor
from mlx_oss.generation.generate import prefill_chunks
from mlx_oss.model.kv_cache import MOST_SNAPSHOTS, Cache
from mlx_oss.model.transformer import Transformer

_DTYPES = {str(dtype).removeprefix("mlx.core."): dtype for dtype in (mx.float32, mx.bfloat16, mx.float16)}


class KVPromptCache(PromptCache):
    """The KV cache of a model, and the token ids that it holds.

    Everything that computes runs on the computing thread: `rewind` and `read` expect to be called there, the other
    methods may be called from any thread.

    Attributes:
        model: The model.
        kv: The KV cache.
        ids: The ids whose keys and values `kv` holds; there are `kv.offset` of them.
    """

    def __init__(self, model: Transformer) -> None:
        super().__init__()
        self.model = model
        self.forget()

    @property
    def nbytes(self) -> int:
        return self.kv.nbytes

    @property
    def snapshot_bytes(self) -> int:
        return self.kv.snapshot_bytes

    def forget(self) -> None:
        """Empties the cache, for example after an error that may have left the layers at different positions."""
        self.kv: Cache = self.model.make_cache()
        self.ids = []

    def fork(self) -> KVPromptCache:
        return compute_thread.run(self._fork)  # there, because an interrupted request may still be extending the cache

    def _fork(self) -> KVPromptCache:
        forked = KVPromptCache(self.model)
        forked.kv, forked.ids = self.kv.fork(), list(self.ids)
        return forked

    def rewind(self, prompt: Sequence[int]) -> int:
        """Rewinds to the longest common prefix of `ids` and the prompt, or to the nearest earlier position possible.

        Returns:
            The number of ids that are kept.
        """
        kept = self.kv.rewind(self.shared_with(prompt))
        del self.ids[kept:]
        return kept

    def read(self, tokens: Sequence[int], chunk: int) -> Iterator[mx.array]:
        """Prefills the tokens in chunks. Chunks that are done are kept if the iterator is closed early.

        Yields:
            After each chunk, the final hidden state (1, 1, C) of its last token.

        Raises:
            OptionError: If there are no tokens, or a token is not in the vocabulary.
            CheckpointError: If weights are on disk and cannot be read.
        """
        start = len(self.ids)
        for done, last in prefill_chunks(self.model, tokens, self.kv, chunk):
            self.ids[start:] = tokens[:done]
            yield last

    def tensors(self) -> Iterator[tuple[str, SavedTensor]]:
        named = compute_thread.run(self.kv.tensors) if self.ids else {}
        for name in sorted(named):
            yield name, compute_thread.run(lambda array=named[name]: _to_saved(array))  # type: ignore[misc]

    def check(self, length: int, described: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
        if length or described:
            compute_thread.run(lambda: self._check(self.model.make_cache(), length, described))

    def restore(self, ids: Sequence[int], tensors: Iterable[tuple[str, SavedTensor]]) -> None:
        named: dict[str, mx.array] = {}
        for name, tensor in tensors:
            named[name] = compute_thread.run(lambda tensor=tensor: _from_saved(tensor))  # type: ignore[misc]
        compute_thread.run(lambda: self._restore(list(ids), named))

    def _restore(self, ids: list[int], named: dict[str, mx.array]) -> None:
        kv = self.model.make_cache()
        if ids or named:
            self._check(kv, len(ids), {name: (_name(array.dtype), array.shape) for name, array in named.items()})
            kv.restore(named, len(ids))
        self.end_stream()
        self.kv, self.ids = kv, ids

    def _check(self, kv: Cache, length: int, described: Mapping[str, tuple[str, tuple[int, ...]]]) -> None:
        """Raises ValueError unless these are all tensors of a cache that holds `length` ids, and no others."""
        if length > self.model.config.max_position_embeddings:
            raise ValueError(f"{length} ids are more than the model's context")
        config, windows = self.model.config, [getattr(layer, "window", None) for layer in kv.layers]
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
        if any(dtype != _name(self.model.dtype) for dtype, _ in described.values()):
            raise ValueError(f"a tensor is not {self.model.dtype}")


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
