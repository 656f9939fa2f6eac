"""Recipes of MLX's affine quantisation: bfloat16 rows -> packed weight, scales, biases, and back. Needs MLX.

Computed on MLX's CPU device everywhere, so that every machine writes the same bytes. Knows nothing of names and models.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import mlx.core as mx
import numpy as np

from mlx_oss.config import QuantizationSpec
from mlx_oss.tensorfile import TensorInfo

from .quantized import Quantizer, float32
from .recipes import CHUNK, Piece, Rows


class Affine(Quantizer):
    """Parts: weight uint32, scales and biases bfloat16."""

    def __init__(self, values: Piece | Dequantized, columns: int, spec: QuantizationSpec):
        super().__init__(values.source)
        self.values, self.columns, self.spec = values, columns, spec

    def pieces(self) -> Iterator[tuple[np.ndarray, ...]]:
        size, bits = self.spec.group_size, self.spec.bits
        for chunk in self.values.chunks():
            rows = chunk.view("<u2").reshape(-1, self.columns)
            parts = mx.quantize(_bfloat16(rows), size, bits, stream=mx.cpu)
            stored = mx.dequantize(*parts, size, bits, stream=mx.cpu)
            self.measure(float32(rows), float32(_bits(stored)))
            yield tuple(_bits(part).reshape(-1).view(np.uint8) for part in parts)


@dataclass(frozen=True, slots=True)
class Dequantized:
    """The bfloat16 values of an affine module."""

    weight: Rows
    scales: Rows
    biases: Rows
    spec: QuantizationSpec

    @property
    def source(self) -> TensorInfo:
        return self.weight.source

    def chunks(self) -> Iterator[np.ndarray]:
        rows = max(CHUNK // self.weight.row_bytes // 4, 1)
        size, bits = self.spec.group_size, self.spec.bits
        parts = (self.weight.pieces(rows), self.scales.pieces(rows), self.biases.pieces(rows))
        for weight, scales, biases in zip(*parts, strict=True):
            words = mx.array(weight.view("<u4").reshape(-1, self.weight.row_bytes // 4))
            factors, offsets = (
                _bfloat16(part.view("<u2").reshape(-1, self.scales.row_bytes // 2)) for part in (scales, biases)
            )
            values = mx.dequantize(words, factors, offsets, size, bits, stream=mx.cpu)
            yield _bits(values).reshape(-1).view(np.uint8)


def _bfloat16(bits: np.ndarray) -> mx.array:
    return mx.array(bits).view(mx.bfloat16)


def _bits(values: mx.array) -> np.ndarray:
    return np.array(values.view(mx.uint16) if values.dtype == mx.bfloat16 else values)
