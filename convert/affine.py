"""Transforms for MLX's affine quantisation: bfloat16 rows -> packed weight, scales and biases, and back. Needs MLX.

Always computed on MLX's CPU device, so that every machine writes the same bytes. Knows nothing of names and models.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from threading import Lock

import mlx.core as mx
import numpy as np

from mlx_oss.config import QuantizationSpec
from mlx_oss.convert.quantized import RelativeError, float32
from mlx_oss.convert.transforms import PIECE, Rows, TensorTransform
from mlx_oss.weights.safetensors import TensorInfo

_MLX = Lock()  # transforms run in several threads, but MLX must only be called from one at a time


@dataclass(frozen=True, slots=True)
class Affine:
    """Quantises bfloat16 rows. Targets: weight (uint32), scales and biases (bfloat16); `loss` is the weight's error."""

    values: TensorTransform | Dequantized
    columns: int
    spec: QuantizationSpec
    loss: RelativeError = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "loss", RelativeError(self.values.source))

    def pieces(self) -> Iterator[tuple[np.ndarray, ...]]:
        size, bits = self.spec.group_size, self.spec.bits
        for (piece,) in self.values.pieces():
            rows = piece.view("<u2").reshape(-1, self.columns)
            with _MLX:
                parts = mx.quantize(_bfloat16(rows), size, bits, stream=mx.cpu)
                stored = _bits(mx.dequantize(*parts, size, bits, stream=mx.cpu))
                packed = tuple(_bits(part).reshape(-1).view(np.uint8) for part in parts)
            self.loss.add(float32(rows), float32(stored))
            yield packed


@dataclass(frozen=True, slots=True)
class Dequantized:
    """Dequantises the weight, scales and biases of an affine module to bfloat16 rows."""

    weight: Rows
    scales: Rows
    biases: Rows
    spec: QuantizationSpec

    @property
    def source(self) -> TensorInfo:
        return self.weight.source

    def pieces(self) -> Iterator[tuple[np.ndarray]]:
        rows = max(PIECE // self.weight.row_bytes // 4, 1)
        size, bits = self.spec.group_size, self.spec.bits
        parts = (part.runs(rows) for part in (self.weight, self.scales, self.biases))
        for (weight,), *scales_and_biases in zip(*parts, strict=True):
            with _MLX:
                words = mx.array(weight.view("<u4").reshape(-1, self.weight.row_bytes // 4))
                factors, offsets = (
                    _bfloat16(part.view("<u2").reshape(-1, self.scales.row_bytes // 2)) for (part,) in scales_and_biases
                )
                values = _bits(mx.dequantize(words, factors, offsets, size, bits, stream=mx.cpu))
            yield (values.reshape(-1).view(np.uint8),)


def _bfloat16(bits: np.ndarray) -> mx.array:
    return mx.array(bits).view(mx.bfloat16)


def _bits(values: mx.array) -> np.ndarray:
    return np.array(values.view(mx.uint16) if values.dtype == mx.bfloat16 else values)
