"""Transforms that quantise: one pass over the source produces packed weights and scales, and measures the error.

This file has the MXFP4 quantisation of fine-tuned experts, in NumPy, and what it shares with `affine`, which needs MLX.
Knows nothing of names and models.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence

import numpy as np

from mlx_oss.convert.transforms import read
from mlx_oss.errors import CheckpointError
from mlx_oss.weights import mxfp4
from mlx_oss.weights.safetensors import TensorInfo

_SLAB = 256  # output rows quantised at a time: small enough for the CPU's cache


class RelativeError:
    """The relative error of a quantised weight: |values - stored| / |values| in Euclidean norms; 0 if all values are 0.

    `add` adds values to the sums, `float()` returns the result so far.
    """

    def __init__(self, source: TensorInfo):
        self.source = source
        self._lost = self._power = 0.0

    def __float__(self) -> float:
        return math.sqrt(self._lost / self._power) if self._power else 0.0

    def add(self, values: np.ndarray, stored: np.ndarray) -> None:
        """Adds float32 values and the values they are stored as. Raises CheckpointError for NaN and infinity."""
        difference = (values - stored).reshape(-1)
        power = float(np.vdot(values, values))
        if not math.isfinite(power):
            raise CheckpointError(
                f"{self.source.file}: tensor {self.source.name} holds NaN or infinity: download it again"
            )
        self._power += power
        self._lost += float(np.vdot(difference, difference))


class DenseExperts:
    """Quantises bfloat16 experts to MXFP4. Row r of an expert's matrix belongs to weight r % num_weights (gate and up).

    Targets: blocks and scales of the first weight, then of the second. `mxfp4.quantize` has the rules.

    Args:
        sources: The experts: one tensor that holds all, or one tensor of each.
        experts: Number of experts.
        num_weights: Number of weights whose rows alternate.
        transposed: True if the matrices are stored (columns, rows), False if (rows, columns).
    """

    def __init__(self, sources: Sequence[TensorInfo], experts: int, num_weights: int, transposed: bool):
        self.sources, self.experts, self.transposed = tuple(sources), experts, transposed
        self.losses = tuple(RelativeError(sources[0]) for _ in range(num_weights))

    @property
    def source(self) -> TensorInfo:
        return self.sources[0]

    @property
    def nbytes(self) -> int:
        return sum(source.nbytes for source in self.sources)

    def pieces(self) -> Iterator[tuple[np.ndarray, ...]]:
        num_weights = len(self.losses)
        slab = _SLAB * num_weights
        for matrix in self._matrices():
            for start in range(0, len(matrix), slab):
                parts: list[np.ndarray] = []
                for first, loss in enumerate(self.losses, start):
                    values = float32(np.ascontiguousarray(matrix[first : start + slab : num_weights]))
                    with np.errstate(invalid="ignore"):  # NaN and infinity are reported by `loss`
                        blocks, scales = mxfp4.quantize(values)
                        loss.add(values, mxfp4.dequantize(blocks, scales))
                    parts += blocks.reshape(-1), scales.reshape(-1)
                yield tuple(parts)

    def _matrices(self) -> Iterator[np.ndarray]:
        """The bits of each expert's matrix, (rows, columns) uint16."""
        for source in self.sources:
            for loss in self.losses:
                loss.source = source
            for expert in read(source, 0, source.nbytes, source.nbytes * len(self.sources) // self.experts):
                matrix = expert.view("<u2").reshape(source.shape[-2:])
                yield matrix.T if self.transposed else matrix


def float32(bits: np.ndarray) -> np.ndarray:
    """bfloat16 bits as uint16 -> the same values as float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
