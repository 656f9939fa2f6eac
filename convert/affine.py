"""Transforms for MLX's quantisation, in all its modes: bfloat16 rows to packed weights, and back. Needs MLX.

Always computed on MLX's CPU device, so that every machine writes the same bytes. Knows nothing of names and models.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from threading import Lock

import mlx.core as mx
import numpy as np

from mlx_oss.config import QuantizationSpec
from mlx_oss.convert.losses import RelativeError
from mlx_oss.convert.quantized import too_large
from mlx_oss.convert.transforms import PIECE, Rows, Transform, float32, to_bfloat16
from mlx_oss.weights.safetensors import TensorInfo

_MLX = Lock()  # transforms run in several threads, but MLX must only be called from one at a time


@dataclass(frozen=True, slots=True)
class Quantized:
    """Quantises bfloat16 rows. Targets: weight (uint32) and scales (bytes) or, if the mode is affine, weight, scales
    and biases (both bfloat16).

    Attributes:
        values: Gives the rows.
        columns: Number of columns.
        spec: How they are quantised.
        loss: Measures the error of the weight.
        source: What is read, for messages.
    """

    values: Transform
    columns: int
    spec: QuantizationSpec
    loss: RelativeError
    source: TensorInfo

    def pieces(self) -> Iterator[tuple[np.ndarray, ...]]:
        size, bits, mode = self.spec.group_size, self.spec.bits, self.spec.mode
        for (piece,) in self.values.pieces():
            rows = piece.view("<u2").reshape(-1, self.columns)
            with _MLX:
                parts = mx.quantize(_bfloat16(rows), size, bits, mode, stream=mx.cpu)
                weight, scales, biases = (*parts, None)[:3]
                back = mx.dequantize(weight, scales, biases, size, bits, mode, dtype=mx.bfloat16, stream=mx.cpu)
                stored = _bits(back)
                packed = tuple(_bits(part).reshape(-1).view(np.uint8) for part in parts)
            if not self.loss.add(float32(rows), float32(stored)):
                raise too_large(self.source)
            yield packed


@dataclass(frozen=True, slots=True)
class Dequantized:
    """Dequantises a module to bfloat16 rows: computes them in float32, and rounds once.

    Attributes:
        parts: Its weight, its scales and, if it is affine, its biases.
        spec: How it is quantised.
        loss: Measures the error of rounding the values to bfloat16.
    """

    parts: tuple[Rows, ...]
    spec: QuantizationSpec
    loss: RelativeError = field(default_factory=lambda: RelativeError("dequantised"))

    @property
    def source(self) -> TensorInfo:
        return self.parts[0].source

    def pieces(self) -> Iterator[tuple[np.ndarray]]:
        row_bytes = self.parts[0].row_bytes
        rows = max(PIECE // row_bytes // 4, 1)
        size, bits, mode = self.spec.group_size, self.spec.bits, self.spec.mode
        for (weight,), *scaling in zip(*(part.runs(rows) for part in self.parts), strict=True):
            with _MLX:
                words = mx.array(weight.view("<u4").reshape(-1, row_bytes // 4))
                scales, *biases = (self._scaling(part, len(words)) for (part,) in scaling)
                offsets = biases[0] if biases else None
                exact = np.array(
                    mx.dequantize(words, scales, offsets, size, bits, mode, dtype=mx.float32, stream=mx.cpu)
                )
            rounded = to_bfloat16(exact)
            if not self.loss.add(exact, float32(rounded)):
                raise too_large(self.source)
            yield (rounded.reshape(-1).view(np.uint8),)

    def _scaling(self, part: np.ndarray, rows: int) -> mx.array:
        """Scales or biases: float32 if the mode is affine, so that only the values are rounded; else bytes."""
        if self.spec.mode == "affine":
            return _bfloat16(part.view("<u2").reshape(rows, -1)).astype(mx.float32, stream=mx.cpu)
        return mx.array(part.reshape(rows, -1))


def _bfloat16(bits: np.ndarray) -> mx.array:
    return mx.array(bits).view(mx.bfloat16)


def _bits(values: mx.array) -> np.ndarray:
    return np.array(values.view(mx.uint16) if values.dtype == mx.bfloat16 else values)
