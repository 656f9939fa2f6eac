"""Products on MLX's CPU backend, whose weights stay as they are stored.

It is fast in float32 only, so a matrix becomes float32 (exactly) block by block inside the product, each block while it
is in the cache: memory holds the stored bytes alone, and the blocks are shared out among the cores. Knows nothing of
layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_oss.backend import cores
from mlx_oss.config import MXFP4, QuantizationSpec

# Values of a block. For a row or a few, reading the block is the work, so it has to stay in a core's own cache, but it
# has LEAST_ROWS rows of the matrix, as the BLAS is slow with less; for many rows the product is the work, and the BLAS
# wants it large.
SMALL_BLOCK, LEAST_ROWS, LARGE_BLOCK, LARGE_FROM = 1 << 17, 128, 1 << 20, 16
# From this many rows on it pays to unpack a quantised block once instead of once a row.
UNPACK_FROM = 10


def linear(x: mx.array, weight: mx.array, bias: mx.array | None) -> mx.array:
    """x (..., inputs), weight (outputs, inputs) -> (..., outputs) in the dtype of x; the weight may be of another."""
    return _by_blocks(x, lambda xt, weight: weight.astype(xt.dtype) @ xt, bias, weight)


def quantized_linear(x: mx.array, spec: QuantizationSpec, bias: mx.array | None, *stored: mx.array) -> mx.array:
    """As `linear`, with what is `stored` of a packed weight: the words, scales and, if affine, biases."""
    return _by_blocks(x, _packed_product(spec), bias, *stored)


def expert_linear(x: mx.array, experts: mx.array, spec: QuantizationSpec, *stored: mx.array) -> mx.array:
    """x (N, 1, inputs), experts (N,) in order -> (N, 1, outputs): the rows of each as one product. Waits for the
    router.
    """
    product, counts, start = _packed_product(spec), np.bincount(np.array(experts)), 0
    outputs: list[mx.array] = []
    tails: dict[int, mx.array] = {}
    for expert in np.flatnonzero(counts).tolist():
        end = start + int(counts[expert])
        own = (mx.squeeze(array[expert : expert + 1], 0) for array in stored)
        outputs.append(_by_blocks(x[start:end], product, None, *own, tails=tails))
        start = end
    return mx.concatenate(outputs)


def by_rows_of(matrices: Callable[..., mx.array], count: int, *stored: mx.array) -> mx.array:
    """matrices(*stored), of which `count` are used, with the rows of the matrices shared among the cores: so all cores
    have work, however few experts are used.
    """
    return cores.over_cores(matrices, *stored, work=count * stored[0][0].nbytes, axis=1, into=2)


def _packed_product(spec: QuantizationSpec) -> Callable[..., mx.array]:
    """product(x transposed (inputs, n), packed rows) -> (rows, n)."""
    how: dict[str, Any] = {"group_size": spec.group_size, "bits": spec.bits, "mode": spec.mode}

    def product(xt: mx.array, weight: mx.array, scales: mx.array, biases: mx.array | None = None) -> mx.array:
        if xt.shape[1] < UNPACK_FROM:
            return mx.quantized_matmul(xt.T, weight, scales, biases, transpose=True, **how).T
        if spec == MXFP4 and xt.dtype == mx.float32:
            low, high = _mxfp4_even_and_odd(weight, scales)
            return mx.addmm(low @ xt[0::2], high, xt[1::2])
        return mx.dequantize(weight, scales, biases, **how).astype(xt.dtype) @ xt

    return product


def _mxfp4_even_and_odd(weight: mx.array, scales: mx.array) -> tuple[mx.array, mx.array]:
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
    tails: dict[int, mx.array] | None = None,
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
    y = cores.over_cores(lambda *part: product(xt, *part), *stored, work=work, block=block, tails=tails).T
    return (y if bias is None else y + bias).reshape(*shape, outputs)
