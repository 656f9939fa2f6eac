"""Linear layers whose weights stay as they are stored, on every backend.

A GPU multiplies stored bfloat16 and packed integers itself: there these are MLX's own layers. MLX's CPU backend is fast
in float32 only, so there a matrix becomes float32 (exactly) block by block inside the product, each block while it is
in the cache: memory holds the stored bytes alone, and the blocks are shared out among the cores. Knows nothing of the
model.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import mlx.nn as nn

from mlx_oss import device
from mlx_oss.config import QuantizationSpec

# Values of a block. For a row or a few, reading the block is the work, so it has to stay in a core's own cache; for
# many rows the product is, and the BLAS wants it large.
SMALL_BLOCK, LARGE_BLOCK, LARGE_FROM = 1 << 18, 1 << 21, 16
# From this many rows on it pays to unpack a quantised block once instead of once a row.
UNPACK_FROM = 4


def linear(inputs: int, outputs: int, bias: bool, spec: QuantizationSpec | None) -> nn.Module:
    """A layer of random weights, quantised as `spec` says; None: not."""
    if spec is None:
        return Linear(inputs, outputs, bias)
    return QuantizedLinear(inputs, outputs, bias, group_size=spec.group_size, bits=spec.bits, mode=spec.mode)


class Linear(nn.Linear):
    """x (..., inputs) -> (..., outputs) in the dtype of x; the weight may be stored in another."""

    def __call__(self, x: mx.array) -> mx.array:
        if device.on_gpu():
            return super().__call__(x)
        return _by_blocks(x, lambda xt, weight: weight.astype(xt.dtype) @ xt, self.get("bias"), self.weight)


class QuantizedLinear(nn.QuantizedLinear):
    """As `Linear`, with packed weights."""

    def __call__(self, x: mx.array) -> mx.array:
        if device.on_gpu():
            return super().__call__(x)
        how: dict[str, Any] = {"group_size": self.group_size, "bits": self.bits, "mode": self.mode}

        def product(xt: mx.array, weight: mx.array, scales: mx.array, biases: mx.array | None = None) -> mx.array:
            if xt.shape[1] < UNPACK_FROM:
                return mx.quantized_matmul(xt.T, weight, scales, biases, transpose=True, **how).T
            return mx.dequantize(weight, scales, biases, **how).astype(xt.dtype) @ xt

        stored = [self[name] for name in ("weight", "scales", "biases") if self.get(name) is not None]
        return _by_blocks(x, product, self.get("bias"), *stored)


def _by_blocks(x: mx.array, product: Callable[..., mx.array], bias: mx.array | None, *stored: mx.array) -> mx.array:
    """x (..., inputs) -> (..., outputs), where product(x transposed (inputs, n), rows of the stored arrays) gives those
    rows of the result, transposed too: so blocks are joined by rows, and the reference BLAS is at its fastest.
    """
    outputs, (*shape, inputs) = stored[0].shape[0], x.shape
    rows = x.reshape(-1, inputs)
    xt = rows.T if rows.shape[0] == 1 else mx.contiguous(rows.T)
    block = (SMALL_BLOCK if rows.shape[0] < LARGE_FROM else LARGE_BLOCK) // inputs
    work = sum(array.nbytes for array in stored)
    y = device.over_cores(lambda *part: product(xt, *part), *stored, work=work, block=max(1, block)).T
    return (y if bias is None else y + bias).reshape(*shape, outputs)
