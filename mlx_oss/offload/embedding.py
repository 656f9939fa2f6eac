"""An embedding that stays on disk: each call reads the rows of its tokens."""

from __future__ import annotations

from collections.abc import Sequence

import mlx.core as mx
import numpy as np

from mlx_oss.backend.packed import dequantized
from mlx_oss.offload.reader import Reader
from mlx_oss.weights.arrays import MLX_DTYPES, allocated, bytes_of
from mlx_oss.weights.placements import Placement
from mlx_oss.weights.reading import Files, as_held


class EmbeddingOnDisk:
    """tokens (...) int -> (..., C), with the same values as `nn.Embedding` and `nn.QuantizedEmbedding`.

    Args:
        placements: Its parameters: the weight; if quantised also the scales and, if affine, the biases.
        files: The open files that they are read from.
        reader: Reads the rows.
    """

    def __init__(self, placements: Sequence[Placement], files: Files, reader: Reader) -> None:
        self._placements, self._files, self._reader = placements, files, reader

    def __call__(self, tokens: mx.array) -> mx.array:
        """Waits until `tokens` is computed and its rows are read. Raises CheckpointError if they cannot be read."""
        ids, index = np.unique(np.array(tokens), return_inverse=True)
        with self._reader.lock:
            values, *others = [as_held(placement, [self._rows(placement, ids)]) for placement in self._placements]
        if spec := self._placements[0].spec:
            values = dequantized(spec, values, *others)
        return values[mx.array(index.reshape(tokens.shape))]

    def _rows(self, placement: Placement, ids: np.ndarray) -> mx.array:
        """The rows `ids` of a parameter, as stored."""
        stored = placement.parts[0].array
        (span,) = stored.spans
        rows = allocated((len(ids), *stored.shape[1:]), MLX_DTYPES[stored.dtype])
        into, nbytes, file = bytes_of(rows), span.nbytes // stored.shape[0], self._files[span.tensor.file]
        parts = ((file, span.start(0) + int(row) * nbytes, into[n * nbytes :][:nbytes]) for n, row in enumerate(ids))
        self._reader.finish(self._reader.start(parts))
        return rows
