"""Recipes that quantise: one pass over the source gives packed weights and their scales, and measures what was lost.

Here what affine and MXFP4 quantisation share, and the MXFP4 quantisation of fine-tuned experts (NumPy); `affine` has
the rest, which needs MLX. Knows nothing of names and models.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

import numpy as np

from mlx_oss.convert.transforms import read
from mlx_oss.errors import CheckpointError
from mlx_oss.weights import mxfp4
from mlx_oss.weights.safetensors import TensorInfo

_SLAB = 256  # output rows quantised at a time: they fit the processor's cache


class RelativeError:
    """The relative error of a quantised weight: |value - stored| / |value|, both as Euclidean norms; 0 if all are 0."""

    def __init__(self, source: TensorInfo):
        self.source = source
        self._lost = self._power = 0.0

    def __float__(self) -> float:
        return math.sqrt(self._lost / self._power) if self._power else 0.0

    def add(self, values: np.ndarray, stored: np.ndarray) -> None:
        """Counts float32 values and what they are stored as. Raises CheckpointError for NaN and infinity."""
        difference = (values - stored).reshape(-1)
        power = float(np.vdot(values, values))
        if not math.isfinite(power):
            raise CheckpointError(
                f"{self.source.file}: tensor {self.source.name} holds NaN or infinity: fetch it again"
            )
        self._power += power
        self._lost += float(np.vdot(difference, difference))


class DenseExperts:
    """bfloat16 (E, columns, halves * rows) -> MXFP4 of the transpose, its rows dealt out to `halves` weights by turns.

    Quantised by the rules of OCP MX v1.0 (see `mxfp4.quantize`). Targets: blocks and scales, of each weight.
    """

    def __init__(self, source: TensorInfo, halves: int):
        self.source = source
        self.losses = tuple(RelativeError(source) for _ in range(halves))

    @property
    def nbytes(self) -> int:
        return self.source.nbytes

    def pieces(self) -> Iterator[tuple[np.ndarray, ...]]:
        experts, columns, rows = self.source.shape
        halves = len(self.losses)
        slab = _SLAB * halves
        for expert in read(self.source, 0, self.source.nbytes, self.source.nbytes // experts):
            matrix = expert.view("<u2").reshape(columns, rows)
            for start in range(0, rows, slab):
                parts: list[np.ndarray] = []
                for first, loss in enumerate(self.losses, start):
                    values = float32(np.ascontiguousarray(matrix[:, first : start + slab : halves].T))
                    with np.errstate(invalid="ignore"):  # NaN and infinity are reported by `loss`
                        blocks, scales = mxfp4.quantize(values)
                        loss.add(values, mxfp4.dequantize(blocks, scales))
                    parts += blocks.reshape(-1), scales.reshape(-1)
                yield tuple(parts)


def float32(bits: np.ndarray) -> np.ndarray:
    """bfloat16 as uint16 -> the same values."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
