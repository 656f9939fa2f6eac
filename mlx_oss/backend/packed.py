"""Packed weights -> values, on any backend."""

from __future__ import annotations

import mlx.core as mx

from mlx_oss.config import QuantizationSpec


def dequantized(spec: QuantizationSpec, weight: mx.array, scales: mx.array, biases: mx.array | None = None) -> mx.array:
    """weight (..., words), scales and, if affine, biases (..., groups) -> values (..., columns)."""
    return mx.dequantize(weight, scales, biases, spec.group_size, spec.bits, spec.mode)
