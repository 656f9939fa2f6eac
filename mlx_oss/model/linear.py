"""Linear layers whose weights stay as they are stored, on every backend.

A GPU multiplies stored bfloat16 and packed integers itself: there these are MLX's own layers. MLX's CPU backend is fast
in float32 only, so there a matrix becomes float32 (exactly) block by block inside the product, each block while it is
in the cache: memory holds the stored bytes alone, and the blocks are shared out among the cores. Knows nothing of the
model.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_oss.backend import device
from mlx_oss.config import MXFP4, QuantizationSpec

# Values of a block. For a row or a few, reading the block is the work, so it has to stay in a core's own cache, but it
# has LEAST_ROWS rows of the matrix, as the BLAS is slow with less; for many rows the product is the work, and the BLAS
# wants it large.
SMALL_BLOCK, LEAST_ROWS, LARGE_BLOCK, LARGE_FROM = 1 << 17, 128, 1 << 20, 16
# From this many rows on it pays to unpack a quantised block once instead of once a row.
UNPACK_FROM = 10


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
        product = _packed_product(QuantizationSpec(self.group_size, self.bits, self.mode))
        return _by_blocks(x, product, self.get("bias"), *_stored(self))


class ExpertLinear(nn.Module):
    """One packed matrix and bias for each expert; a row of the input goes through the expert it names."""

    def __init__(self, experts: int, inputs: int, outputs: int, spec: QuantizationSpec) -> None:
        super().__init__()
        self.spec = spec
        self.weight, self.scales, *biases = mx.quantize(
            mx.random.uniform(-1, 1, (experts, outputs, inputs)), spec.group_size, spec.bits, mode=spec.mode
        )
        if biases:
            self.biases = biases[0]
        self.bias = mx.zeros((experts, outputs))

    def __call__(self, x: mx.array, experts: mx.array, sorted_indices: bool = False) -> mx.array:
        """x (n, 1, inputs), experts (N,) -> (N, 1, outputs) without the bias; each row serves N / n experts in turn.

        `sorted_indices` says that the experts come in order, which pays where each has many rows.
        """
        if sorted_indices and not device.on_gpu():
            return self._by_expert(x, experts)
        # Only without `rows` does MLX take its kernel for sorted experts.
        rows = None if sorted_indices else _token_of_pair(experts.size, experts.size // x.shape[0])
        return device.over_cores(  # by the rows of the matrices: however few pairs there are, all cores have work
            lambda *stored: self._gathered(x, rows, experts, *stored),
            *_stored(self),
            work=experts.size * self.weight[0].nbytes,
            axis=1,
            into=2,
        )

    def _gathered(
        self,
        x: mx.array,
        rows: mx.array | None,
        experts: mx.array,
        weight: mx.array,
        scales: mx.array,
        biases: mx.array | None = None,
    ) -> mx.array:
        return mx.gather_qmm(
            x,
            weight,
            scales,
            biases,
            lhs_indices=rows,
            rhs_indices=experts,
            transpose=True,
            group_size=self.spec.group_size,
            bits=self.spec.bits,
            mode=self.spec.mode,
            sorted_indices=rows is None,
        )

    def _by_expert(self, x: mx.array, experts: mx.array) -> mx.array:
        """x (N, 1, inputs), experts (N,) in order: the rows of each as one product. Waits for the router."""
        product, counts, start = _packed_product(self.spec), np.bincount(np.array(experts)), 0
        outputs: list[mx.array] = []
        turns: dict[int, mx.array] = {}
        for expert in np.flatnonzero(counts).tolist():
            end = start + int(counts[expert])
            stored = (mx.squeeze(array[expert : expert + 1], 0) for array in _stored(self))
            outputs.append(_by_blocks(x[start:end], product, None, *stored, turns=turns))
            start = end
        return mx.concatenate(outputs)


@lru_cache(maxsize=64)
def _token_of_pair(pairs: int, each: int) -> mx.array:
    """(pairs,) uint32: 0 for the first `each`, 1 for the next, ...; kept, as making it is a kernel."""
    return mx.array(np.arange(pairs, dtype=np.uint32) // each)


def _stored(layer: nn.Module) -> list[mx.array]:
    return [layer[name] for name in ("weight", "scales", "biases") if layer.get(name) is not None]


def _packed_product(spec: QuantizationSpec) -> Callable[..., mx.array]:
    """product(x transposed (inputs, n), packed rows) -> (rows, n)."""
    how: dict[str, Any] = {"group_size": spec.group_size, "bits": spec.bits, "mode": spec.mode}

    def product(xt: mx.array, weight: mx.array, scales: mx.array, biases: mx.array | None = None) -> mx.array:
        if xt.shape[1] < UNPACK_FROM:
            return mx.quantized_matmul(xt.T, weight, scales, biases, transpose=True, **how).T
        if spec == MXFP4 and xt.dtype == mx.float32:
            low, high = _mxfp4_halves(weight, scales)
            return mx.addmm(low @ xt[0::2], high, xt[1::2])
        return mx.dequantize(weight, scales, biases, **how).astype(xt.dtype) @ xt

    return product


def _mxfp4_halves(weight: mx.array, scales: mx.array) -> tuple[mx.array, mx.array]:
    """MXFP4 (rows, inputs / 8) uint32 with scales -> float32 values of the even columns, and of the odd ones: exactly
    what mx.dequantize gives, in less than half of its time on the CPU backend, as whole words are taken at a time.

    A code's low three bits 0..7 mean 0, 1, 2, 3, 4, 6, 8, 12 halves, the larger of m, 2m - 4 and 4m - 16; bit 3 is the
    sign. A scale is the exponent of a float32.
    """
    scale = (scales.astype(mx.uint32) << 23).view(mx.float32)[..., None] * 0.5

    def values(words: mx.array) -> mx.array:
        m = (words & 0x07070707).view(mx.int8)
        twice = m + m
        halves = mx.maximum(m, mx.maximum(twice - 4, twice + twice - 16))
        halves = halves * (1 - ((words >> 2) & 0x02020202).view(mx.int8))
        grouped = halves.astype(mx.float32).reshape(*scales.shape, -1) * scale
        return grouped.reshape(weight.shape[0], -1)

    return values(weight), values(weight >> 4)


def _by_blocks(
    x: mx.array,
    product: Callable[..., mx.array],
    bias: mx.array | None,
    *stored: mx.array,
    turns: dict[int, mx.array] | None = None,
) -> mx.array:
    """x (..., inputs) -> (..., outputs), where product(x transposed (inputs, n), rows of the stored arrays) gives those
    rows of the result, transposed too: so blocks are joined by rows, and the reference BLAS is at its fastest.
    """
    outputs, (*shape, inputs) = stored[0].shape[0], x.shape
    rows = x.reshape(-1, inputs)
    xt = rows.T if rows.shape[0] == 1 else mx.contiguous(rows.T)
    few, packed = rows.shape[0] < LARGE_FROM, len(stored) > 1
    block = max(LEAST_ROWS, SMALL_BLOCK // inputs) if few and not packed else max(1, LARGE_BLOCK // inputs)
    if packed and rows.shape[0] < UNPACK_FROM:  # nothing is unpacked that would have to stay in the cache
        block = stored[0].shape[0]
    work = sum(array.nbytes for array in stored) * (16 + rows.shape[0]) // 16  # 16 rows take as long as reading
    y = device.over_cores(lambda *part: product(xt, *part), *stored, work=work, block=block, turns=turns).T
    return (y if bias is None else y + bias).reshape(*shape, outputs)
