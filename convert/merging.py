"""Adds what a LoRA adapter changes to the rows of a weight, and rounds the sums. Knows nothing of PEFT and mlx-lm."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mlx_oss.convert.losses import RelativeError
from mlx_oss.convert.transforms import ROUNDED, Transform, float32, is_finite, read_stored, to_bfloat16
from mlx_oss.errors import CheckpointError
from mlx_oss.weights.safetensors import TensorInfo

DTYPES = {"BF16": "<u2", **ROUNDED}  # what a factor may be stored in
_PIECE = 1 << 20


@dataclass(frozen=True, slots=True)
class Factor:
    """One of the two matrices of a product.

    Attributes:
        tensor: Where it is stored.
        transposed: True if its transpose is stored.
    """

    tensor: TensorInfo
    transposed: bool

    @property
    def shape(self) -> tuple[int, ...]:
        return self.tensor.shape[::-1] if self.transposed else self.tensor.shape

    def values(self) -> np.ndarray:
        """The matrix in float32."""
        values, end = np.empty(math.prod(self.tensor.shape), np.float32), 0
        for piece in _pieces(self.tensor):
            values[end : end + piece.size] = piece
            end += piece.size
        values = values.reshape(self.tensor.shape)
        return np.ascontiguousarray(values.T) if self.transposed else values

    def is_finite(self) -> bool:
        """False if a value is NaN or infinite."""
        return all(np.isfinite(piece).all() for piece in _pieces(self.tensor))


@dataclass(frozen=True, slots=True)
class Delta:
    """What an adapter adds to a weight (rows, columns): scale * left right.

    Attributes:
        left: A matrix (rows, rank).
        right: A matrix (rank, columns).
        scale: The factor.
        base: The weight that it is added to, if the adapter has brought it. None: that of the model.
    """

    left: Factor
    right: Factor
    scale: float
    base: TensorInfo | None = None


@dataclass(frozen=True, slots=True)
class Merged:
    """Adds a `Delta` to bfloat16 rows, and rounds the sums to bfloat16.

    Attributes:
        values: Gives the rows.
        columns: Values in a row.
        delta: What is added.
        loss: Measures the error of rounding.
    """

    values: Transform
    columns: int
    delta: Delta
    loss: RelativeError

    def pieces(self) -> Iterator[tuple[np.ndarray]]:
        left, right, first = self.delta.left.values(), self.delta.right.values(), 0
        for (piece,) in self.values.pieces():
            rows = float32(piece.view("<u2").reshape(-1, self.columns))
            with np.errstate(over="ignore", invalid="ignore"):  # what overflows is told below
                total = rows + np.float32(self.delta.scale) * (left[first : first + len(rows)] @ right)
                stored = to_bfloat16(total)
            if not (np.isfinite(total).all() and is_finite(stored)):
                tensor = self.delta.left.tensor
                raise CheckpointError(
                    f"{tensor.file}: what tensor {tensor.name} and its counterpart add to the weight is too large for "
                    "bfloat16: use another state of the training"
                )
            first += len(rows)
            self.loss.add(total, float32(stored))
            yield (stored.reshape(-1).view(np.uint8),)


def _pieces(tensor: TensorInfo) -> Iterator[np.ndarray]:
    """The values of a tensor in float32, in pieces."""
    for piece in read_stored(tensor, 0, tensor.nbytes, _PIECE):
        stored = piece.view(DTYPES[tensor.dtype])
        yield float32(stored) if tensor.dtype == "BF16" else stored.astype(np.float32, copy=False)
