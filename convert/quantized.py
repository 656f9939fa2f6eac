"""Transforms between bfloat16 rows and MXFP4, in NumPy: quantising, which measures the error, and back.

Knows nothing of names and models.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np

from mlx_oss.convert.losses import RelativeError
from mlx_oss.convert.transforms import PIECE, Transform, float32, read
from mlx_oss.errors import CheckpointError
from mlx_oss.weights import mxfp4
from mlx_oss.weights.mxfp4 import BLOCK
from mlx_oss.weights.safetensors import OTHER_VALUES, TensorInfo


class DenseExperts:
    """Reads the matrices of bfloat16 experts row by row. Targets: the rows of each weight.

    Args:
        sources: The experts: one tensor that holds all, or one tensor of each.
        experts: Number of experts.
        firsts: The first row of each weight in an expert's matrix.
        step: Distance between the rows of a weight: 2 if the rows of gate and up alternate.
        transposed: True if the matrices are stored (columns, rows), False if (rows, columns).
    """

    def __init__(self, sources: Sequence[TensorInfo], experts: int, firsts: Sequence[int], step: int, transposed: bool):
        self.sources, self.experts, self.transposed = tuple(sources), experts, transposed
        self.firsts, self.step = tuple(firsts), step

    def pieces(self) -> Iterator[tuple[np.ndarray, ...]]:
        for matrix in self._matrices():
            rows = self.step * max(PIECE // (2 * matrix.shape[1]), 1)
            for start in range(0, len(matrix), rows):
                yield tuple(
                    np.ascontiguousarray(matrix[start + first : start + rows : self.step]).reshape(-1).view(np.uint8)
                    for first in self.firsts
                )

    def _matrices(self) -> Iterator[np.ndarray]:
        """The bits of each expert's matrix, (rows, columns) uint16."""
        for source in self.sources:
            for expert in read(source, 0, source.nbytes, source.nbytes * len(self.sources) // self.experts):
                matrix = expert.view("<u2").reshape(source.shape[-2:])
                yield matrix.T if self.transposed else matrix


class Mxfp4:
    """Quantises bfloat16 rows to MXFP4. `mxfp4.quantize` has the rules.

    Targets: blocks and scales of the first weight, then of the second.

    Args:
        values: Gives the rows of each weight.
        losses: Measure the error of each weight.
        source: What is read, for messages.
    """

    def __init__(self, values: Transform, losses: Sequence[RelativeError], source: TensorInfo):
        self.values, self.losses, self.source = values, tuple(losses), source

    def pieces(self) -> Iterator[tuple[np.ndarray, ...]]:
        for pieces in self.values.pieces():
            parts: list[np.ndarray] = []
            for piece, loss in zip(pieces, self.losses, strict=True):
                values = float32(piece.view("<u2")).reshape(-1, BLOCK)
                blocks, scales = mxfp4.quantize(values)
                if not loss.add(values, mxfp4.dequantize(blocks, scales)):
                    raise too_large(self.source)
                parts += blocks.reshape(-1), scales.reshape(-1)
            yield tuple(parts)


class DequantizedMxfp4:
    """Dequantises MXFP4 to bfloat16 rows, which is exact. Targets: the rows of each weight.

    Args:
        blocks: Gives the packed bytes of each weight, 16 for 32 values.
        scales: Gives the scales of each weight.
        source: What is read, for messages.
    """

    def __init__(self, blocks: Transform, scales: Transform, source: TensorInfo):
        self.blocks, self.scales, self.source = blocks, scales, source

    def pieces(self) -> Iterator[tuple[np.ndarray, ...]]:
        waiting: list[np.ndarray] = []  # of each weight, scales that are read and not yet used
        scales = self.scales.pieces()
        for pieces in self.blocks.pieces():
            count = pieces[0].nbytes // (BLOCK // 2)
            while not waiting or waiting[0].size < count:
                more = next(scales)
                waiting = [np.concatenate(both) for both in zip(waiting, more, strict=True)] if waiting else list(more)
            yield tuple(map(self._rows, pieces, (each[:count] for each in waiting)))
            waiting = [each[count:].copy() for each in waiting]

    def _rows(self, blocks: np.ndarray, scales: np.ndarray) -> np.ndarray:
        values = mxfp4.dequantize(blocks.reshape(-1, BLOCK // 2), scales)
        if not np.isfinite(values).all():
            raise too_large(self.source)
        return (values.view(np.uint32) >> 16).astype("<u2").view(np.uint8)


def too_large(source: TensorInfo) -> CheckpointError:
    """The error for a tensor whose values, or scales, are so large that something stored would be infinite."""
    return CheckpointError(
        f"{source.file}: tensor {source.name} holds values that are too large to be converted: {OTHER_VALUES}"
    )
