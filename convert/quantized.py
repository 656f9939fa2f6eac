"""Recipes that quantise: one pass over the source gives the packed weight and, on the way, its much smaller scales.

Here what affine and MXFP4 quantisation share, and the MXFP4 quantisation of fine-tuned experts (NumPy); `affine` has
the rest, which needs MLX. Knows nothing of names and models.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mlx_oss import mxfp4
from mlx_oss.errors import CheckpointError
from mlx_oss.tensorfile import TensorInfo

from .recipes import read

_SLAB = 256  # output rows quantised at a time: they fit the processor's cache


class Quantizer(ABC):
    """Source values -> parts: part 0 the packed weight, the others its scales (and affine biases)."""

    def __init__(self, source: TensorInfo):
        self.source = source
        self._kept: dict[int, list[np.ndarray]] = {}
        self._lost = self._power = 0.0

    @abstractmethod
    def pieces(self) -> Iterator[tuple[np.ndarray, ...]]:
        """The bytes of all parts, piece by piece, as newly made uint8 vectors."""

    @property
    def relative_error(self) -> float:
        """Of the values passed so far: |value - stored| / |value|, both as Euclidean norms; 0 where all are 0."""
        return math.sqrt(self._lost / self._power) if self._power else 0.0

    def part(self, number: int) -> Iterator[np.ndarray]:
        """One part's bytes. Asking for part 0 first saves a pass for the others: they are kept until asked for."""
        if number in self._kept:
            yield from self._kept.pop(number)
            return
        self._kept.clear()
        self._lost = self._power = 0.0
        for piece in self.pieces():
            if number == 0:
                for n, small in enumerate(piece[1:], 1):
                    self._kept.setdefault(n, []).append(small)
            yield piece[number]

    def measure(self, values: np.ndarray, stored: np.ndarray) -> None:
        """Adds float32 values and what they are stored as to the relative error. Raises CheckpointError for NaN."""
        difference = (values - stored).reshape(-1)
        power = float(np.vdot(values, values))
        if not math.isfinite(power):
            raise CheckpointError(
                f"{self.source.file}: tensor {self.source.name} holds NaN or infinity: fetch it again"
            )
        self._power += power
        self._lost += float(np.vdot(difference, difference))


@dataclass(frozen=True, slots=True)
class Part:
    """A quantizer's part as a recipe."""

    quantizer: Quantizer
    number: int

    def chunks(self) -> Iterator[np.ndarray]:
        return self.quantizer.part(self.number)


class DenseExperts(Quantizer):
    """bfloat16 (E, columns, rows) -> MXFP4 of the transpose (E, rows / step, columns), its rows from `first` by `step`.

    Quantised by the rules of OCP MX v1.0 (see `mxfp4.quantize`). Parts: blocks, scales.
    """

    def __init__(self, source: TensorInfo, first: int = 0, step: int = 1):
        super().__init__(source)
        self.first, self.step = first, step

    @property
    def nbytes(self) -> int:
        return self.source.nbytes // self.step

    def pieces(self) -> Iterator[tuple[np.ndarray, ...]]:
        experts, columns, rows = self.source.shape
        slab = _SLAB * self.step
        for expert in read(self.source, 0, self.source.nbytes, self.source.nbytes // experts):
            matrix = expert.view("<u2").reshape(columns, rows)
            for start in range(self.first, rows, slab):
                values = float32(np.ascontiguousarray(matrix[:, start : start + slab : self.step].T))
                with np.errstate(invalid="ignore"):  # NaN and infinity are reported below
                    blocks, scales = mxfp4.quantize(values)
                    self.measure(values, mxfp4.dequantize(blocks, scales))
                yield blocks.reshape(-1), scales.reshape(-1)


def float32(bits: np.ndarray) -> np.ndarray:
    """bfloat16 as uint16 -> the same values."""
    return (bits.astype(np.uint32) << 16).view(np.float32)
