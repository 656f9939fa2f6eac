"""An embedding that stays on disk: each call reads the rows of its tokens."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_oss.config import QuantizationSpec
from mlx_oss.offload.reader import Reader
from mlx_oss.weights.arrays import STORED, allocated, bytes_of
from mlx_oss.weights.files import OpenFile
from mlx_oss.weights.safetensors import TensorInfo


class EmbeddingOnDisk:
    """tokens (...) int -> (..., C), with the same values as `nn.Embedding` and `nn.QuantizedEmbedding`.

    Args:
        tensors: The stored tensors by suffix: `weight`; if quantised also `scales` and, if affine, `biases`.
        files: Open files by path.
        spec: How the embedding is quantised. None means not at all.
        dtype: Dtype of the scales, and so of the result, if it is quantised. Otherwise the result has the stored dtype.
        reader: Reads the rows.
    """

    def __init__(
        self,
        tensors: Mapping[str, TensorInfo],
        files: Mapping[Path, OpenFile],
        spec: QuantizationSpec | None,
        dtype: mx.Dtype,
        reader: Reader,
    ) -> None:
        self._tensors, self._files, self._spec, self._dtype, self._reader = tensors, files, spec, dtype, reader

    def __call__(self, tokens: mx.array) -> mx.array:
        """Waits until `tokens` is computed and its rows are read. Raises CheckpointError if they cannot be read."""
        ids, index = np.unique(np.array(tokens), return_inverse=True)
        with self._reader.lock:
            rows = {
                suffix: self._rows(tensor, self._files[tensor.file], ids) for suffix, tensor in self._tensors.items()
            }
        values = rows["weight"]
        if spec := self._spec:
            scales, biases = self._scales(rows["scales"]), rows.get("biases")
            biases = None if biases is None else self._scales(biases)
            values = mx.dequantize(values, scales, biases, spec.group_size, spec.bits, spec.mode)
        return values[mx.array(index.reshape(tokens.shape))]

    def _scales(self, stored: mx.array) -> mx.array:
        return stored.astype(self._dtype) if mx.issubdtype(stored.dtype, mx.floating) else stored

    def _rows(self, tensor: TensorInfo, file: OpenFile, ids: np.ndarray) -> mx.array:
        """The rows `ids` of a tensor, as stored."""
        stored = allocated((len(ids), *tensor.shape[1:]), STORED[tensor.dtype])
        into, nbytes = bytes_of(stored), tensor.nbytes // tensor.shape[0]
        parts = ((file, tensor.start + int(row) * nbytes, into[n * nbytes :][:nbytes]) for n, row in enumerate(ids))
        self._reader.finish(self._reader.start(parts))
        return stored
