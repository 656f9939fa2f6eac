"""Transforms that exactly undo what OpenAI's Metal layout has done to tensors (`mlx_oss.weights.layouts.metal`)."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mlx_oss.convert.transforms import PIECE, Deinterleave, Rows, float32
from mlx_oss.errors import CheckpointError
from mlx_oss.weights.safetensors import TensorInfo


@dataclass(frozen=True, slots=True)
class _ChangedRows:
    """What the transforms of rows share: they read `rows`, and all of it."""

    rows: Rows

    @property
    def source(self) -> TensorInfo:
        return self.rows.source

    @property
    def nbytes(self) -> int:
        return self.rows.nbytes


@dataclass(frozen=True, slots=True)
class ZeroPaddedRows(_ChangedRows):
    """Copies rows and adds `zero_rows` rows of zeros at the end."""

    zero_rows: int

    def pieces(self) -> Iterator[tuple[np.ndarray]]:
        yield from self.rows.pieces()
        step = max(PIECE // self.rows.row_bytes, 1)
        for done in range(0, self.zero_rows, step):
            yield (np.zeros(min(step, self.zero_rows - done) * self.rows.row_bytes, np.uint8),)


@dataclass(frozen=True, slots=True)
class DeinterleavedHeads(_ChangedRows):
    """Restores rows of q or k: puts the first half of each head before the second, and multiplies by `factor`.

    `factor` is a power of two.
    """

    head_dim: int
    factor: float

    def pieces(self) -> Iterator[tuple[np.ndarray]]:
        row_bytes = self.rows.row_bytes
        heads = Rows(self.source, self.head_dim * row_bytes, self.rows.start, self.rows.stop)
        for (piece,) in heads.pieces():
            pairs = piece.view("<u2").reshape(-1, self.head_dim // 2, 2, row_bytes // 2)
            values = float32(np.ascontiguousarray(pairs.swapaxes(1, 2))) * np.float32(self.factor)
            yield ((values.view(np.uint32) >> 16).astype("<u2").reshape(-1).view(np.uint8),)


@dataclass(frozen=True, slots=True)
class StackedExperts:
    """Joins the tensors of single experts into one and subtracts `offset` from every byte (0 except for scales)."""

    parts: tuple[Rows | Deinterleave, ...]
    offset: int

    @property
    def source(self) -> TensorInfo:
        return self.parts[0].source

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts)

    def pieces(self) -> Iterator[tuple[np.ndarray, ...]]:
        for part in self.parts:
            for pieces in part.pieces():
                if self.offset and min(piece.min(initial=0xFF) for piece in pieces) < self.offset:
                    tensor = part.source
                    raise CheckpointError(
                        f"{tensor.file}: tensor {tensor.name} holds an impossible scale, below {self.offset}: download "
                        "it again"
                    )
                yield tuple(piece - np.uint8(self.offset) for piece in pieces) if self.offset else pieces
