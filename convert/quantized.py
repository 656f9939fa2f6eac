"""Transforms that quantise: one pass over the source produces packed weights and scales, and measures the error.

This file has the MXFP4 quantisation of fine-tuned experts, in NumPy, and what it shares with `affine`, which needs MLX.
Knows nothing of names and models.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

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
    """Quantises bfloat16 experts (E, columns, num_weights * rows) to MXFP4.

    The matrices are transposed; then row r belongs to weight r % num_weights (gate and up of gate_up). Targets: blocks
    and scales of the first weight, then of the second. The rules are those of OCP MX v1.0 (see `mxfp4.quantize`).
    """

    def __init__(self, source: TensorInfo, num_weights: int):
        self.source = source
        self.losses = tuple(RelativeError(source) for _ in range(num_weights))

    @property
    def nbytes(self) -> int:
        return self.source.nbytes

    def pieces(self) -> Iterator[tuple[np.ndarray, ...]]:
        experts, columns, rows = self.source.shape
        num_weights = len(self.losses)
        slab = _SLAB * num_weights
        for expert in read(self.source, 0, self.source.nbytes, self.source.nbytes // experts):
            matrix = expert.view("<u2").reshape(columns, rows)
            for start in range(0, rows, slab):
                parts: list[np.ndarray] = []
                for first, loss in enumerate(self.losses, start):
                    values = float32(np.ascontiguousarray(matrix[:, first : start + slab : num_weights].T))
                    with np.errstate(invalid="ignore"):  # NaN and infinity are reported by `loss`
                        blocks, scales = mxfp4.quantize(values)
                        loss.add(values, mxfp4.dequantize(blocks, scales))
                    parts += blocks.reshape(-1), scales.reshape(-1)
                yield tuple(parts)


def float32(bits: np.ndarray) -> np.ndarray:
    """bfloat16 bits as uint16 -> the same values as float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
