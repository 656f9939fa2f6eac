"""Adds what a LoRA adapter changes to the rows of a weight, and rounds the sums. Knows nothing of PEFT and mlx-lm."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Protocol

import numpy as np

from mlx_oss.convert.losses import RelativeError
from mlx_oss.convert.transforms import ROUNDED, Transform, float32, is_finite, read_stored, to_bfloat16
from mlx_oss.errors import CheckpointError
from mlx_oss.weights.layouts.description import CanonicalTensor
from mlx_oss.weights.safetensors import TensorInfo

DTYPES = {"BF16": "<u2", **ROUNDED}  # what a factor may be stored in
_PIECE = 1 << 20

Change = Callable[[int, np.ndarray], np.ndarray]  # (first row, rows in float32) -> the changed rows


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
        values = _values(self.tensor)
        return np.ascontiguousarray(values.T) if self.transposed else values


class Addition(Protocol):
    """What an adapter does to a tensor of the model, which is seen as rows."""

    @property
    def tensor(self) -> TensorInfo:
        """One of the adapter's tensors, for messages."""
        ...

    def change(self, rows: Callable[[], Iterator[np.ndarray]]) -> Change:
        """What is done to the rows. `rows` reads all of them once, in float32 and in pieces."""
        ...


@dataclass(frozen=True, slots=True)
class Delta:
    """What is added to a weight (rows, columns): scale * left right. With DoRA, its rows then get given lengths.

    Attributes:
        left: A matrix (rows, rank).
        right: A matrix (rank, columns).
        scale: The factor.
        lengths: The Euclidean norms that the rows of the sum get (Liu et al., 2024, arXiv 2402.09353). None: the sum
            stays as it is.
        by_column: The lengths are those of the columns.
    """

    left: Factor
    right: Factor
    scale: float
    lengths: TensorInfo | None = None
    by_column: bool = False

    @property
    def tensor(self) -> TensorInfo:
        return self.left.tensor

    def change(self, rows: Callable[[], Iterator[np.ndarray]]) -> Change:
        left, right, scale = self.left.values(), self.right.values(), np.float32(self.scale)

        def added(first: int, values: np.ndarray) -> np.ndarray:
            total: np.ndarray = values + scale * (left[first : first + len(values)] @ right)
            return total

        if self.lengths is None:
            return added
        lengths = _values(self.lengths)
        if not self.by_column:

            def stretched(first: int, values: np.ndarray) -> np.ndarray:
                total = added(first, values)
                norms = np.linalg.norm(total, axis=1)
                return np.asarray(total * _ratio(lengths[first : first + len(total)], norms)[:, None])

            return stretched
        squares, first = np.zeros(len(lengths), np.float64), 0
        for piece in rows():
            squares += np.square(added(first, piece), dtype=np.float64).sum(axis=0)
            first += len(piece)
        factors = _ratio(lengths, np.sqrt(squares).astype(np.float32))
        return lambda first, values: added(first, values) * factors


@dataclass(frozen=True, slots=True)
class Shift:
    """What is added to a bias: scale * the vector. Its values are seen as rows of one.

    Attributes:
        tensor: The vector.
        scale: The factor.
    """

    tensor: TensorInfo
    scale: float

    def change(self, rows: Callable[[], Iterator[np.ndarray]]) -> Change:
        shift = np.float32(self.scale) * _values(self.tensor)[:, None]
        return lambda first, values: values + shift[first : first + len(values)]


@dataclass(frozen=True, slots=True)
class Adapter:
    """All that an adapter changes.

    Attributes:
        additions: What is done to tensors of the model, by their canonical names.
        replaced: Tensors that the adapter has brought, and that are used in place of the model's, by these names.
    """

    additions: Mapping[str, Addition] = field(default_factory=dict)
    replaced: Mapping[str, CanonicalTensor] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Merged:
    """Changes bfloat16 rows as an adapter says, and rounds the results to bfloat16.

    Attributes:
        values: Gives the rows.
        columns: Values in a row.
        addition: What is done to them.
        loss: Measures the error of rounding.
    """

    values: Transform
    columns: int
    addition: Addition
    loss: RelativeError

    def pieces(self) -> Iterator[tuple[np.ndarray]]:
        with np.errstate(over="ignore", invalid="ignore"):  # what overflows is told below
            change = self.addition.change(self._rows)
        first = 0
        for rows in self._rows():
            with np.errstate(over="ignore", invalid="ignore"):
                total = change(first, rows)
                stored = to_bfloat16(total)
            if not (np.isfinite(total).all() and is_finite(stored)):
                tensor = self.addition.tensor
                raise CheckpointError(
                    f"{tensor.file}: what tensor {tensor.name} and its counterpart add to the weight is too large for "
                    "bfloat16: use another state of the training"
                )
            first += len(rows)
            self.loss.add(total, float32(stored))
            yield (stored.reshape(-1).view(np.uint8),)

    def _rows(self) -> Iterator[np.ndarray]:
        for (piece,) in self.values.pieces():
            yield float32(piece.view("<u2").reshape(-1, self.columns))


def is_finite_tensor(tensor: TensorInfo) -> bool:
    """False if a value is NaN or infinite."""
    return all(np.isfinite(piece).all() for piece in _pieces(tensor))


def _ratio(lengths: np.ndarray, norms: np.ndarray) -> np.ndarray:
    """What stretches vectors of these norms to these lengths. What has no length stays as it is."""
    return lengths / np.where(norms > 0, norms, np.float32(1))


def _values(tensor: TensorInfo) -> np.ndarray:
    """A tensor in float32."""
    values, end = np.empty(math.prod(tensor.shape), np.float32), 0
    for piece in _pieces(tensor):
        values[end : end + piece.size] = piece
        end += piece.size
    return values.reshape(tensor.shape)


def _pieces(tensor: TensorInfo) -> Iterator[np.ndarray]:
    """The values of a tensor in float32, in pieces."""
    for piece in read_stored(tensor, 0, tensor.nbytes, _PIECE):
        stored = piece.view(DTYPES[tensor.dtype])
        yield float32(stored) if tensor.dtype == "BF16" else stored.astype(np.float32, copy=False)
