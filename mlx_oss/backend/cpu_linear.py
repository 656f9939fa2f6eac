"""Matrix products on MLX's CPU backend, with weights kept as they are stored.

The CPU backend is fast in float32 only. So each product converts its matrix to float32 (exactly) block by block, and
uses a block while it is in the cache. Memory holds only the stored bytes, and the blocks are divided among the cores.
Knows nothing of layers.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_oss.backend import cores
from mlx_oss.config import MXFP4, QuantizationSpec

# SMALL_BLOCK and LARGE_BLOCK are numbers of matrix values in a block. With few input rows, most time goes into reading
# the matrix, so a block must fit into a core's own cache. Still it has at least LEAST_ROWS rows of the matrix, because
# the BLAS is slow with fewer. From LARGE_FROM input rows on, most time goes into the product, and the BLAS computes
# large blocks fastest.
SMALL_BLOCK, LEAST_ROWS, LARGE_BLOCK, LARGE_FROM = 1 << 17, 128, 1 << 20, 16
# From this many input rows on, unpacking a quantised block once is faster than unpacking it for every row.
UNPACK_FROM = 10


def linear(x: mx.array, weight: mx.array, bias: mx.array | None) -> mx.array:
    """x (..., inputs), weight (outputs, inputs) of any float dtype -> (..., outputs) in the dtype of x."""
    return _by_blocks(x, _dense_product, bias, weight)


def quantized_linear(x: mx.array, spec: QuantizationSpec, bias: mx.array | None, *stored: mx.array) -> mx.array:
    """Like `linear`, for a quantised weight: `stored` holds its packed words, its scales and, if affine, its biases."""
    return _by_blocks(x, _packed_product(spec), bias, *stored)


def expert_linear(x: mx.array, experts: mx.array, spec: QuantizationSpec | None, *stored: mx.array) -> mx.array:
    """x (n, 1, inputs), experts (N,) -> (N, 1, outputs), with one product for all rows of an expert.

    Each row of x is multiplied with N / n consecutive entries of `experts`. `stored` holds the arrays of all experts:
    packed ones as `spec` says, or only the weight if it is None. Waits until `experts` is computed, that is, for the
    router.
    """
    ids = np.array(experts)
    order = np.argsort(ids, kind="stable")
    is_sorted = bool((ids[1:] >= ids[:-1]).all())
    if not is_sorted or x.shape[0] < len(ids):
        x = x[mx.array((order // (len(ids) // x.shape[0])).astype(np.uint32))]
    product, counts, start = _dense_product if spec is None else _packed_product(spec), np.bincount(ids), 0
    outputs: list[mx.array] = []
    tails: dict[int, mx.array] = {}
    for expert in np.flatnonzero(counts).tolist():
        end = start + int(counts[expert])
        own = (mx.squeeze(array[expert : expert + 1], 0) for array in stored)
        outputs.append(_by_blocks(x[start:end], product, None, *own, tails=tails))
        start = end
    joined = mx.concatenate(outputs)
    return joined if is_sorted else joined[mx.array(np.argsort(order).astype(np.uint32))]


def by_rows_of(matrices: Callable[..., mx.array], count: int, *stored: mx.array) -> mx.array:
    """matrices(*stored), with the rows of every expert's matrix divided among the cores.

    All cores have work even if few experts are used. `count` is how many of the stacked matrices are read.
    """
    return cores.over_cores(matrices, *stored, work=count * stored[0][0].nbytes, axis=1, into=2)


def _dense_product(xt: mx.array, weight: mx.array) -> mx.array:
    """x transposed (inputs, n), some matrix rows -> (rows, n)."""
    return weight.astype(xt.dtype) @ xt


def _packed_product(spec: QuantizationSpec) -> Callable[..., mx.array]:
    """Returns product(x transposed (inputs, n), packed arrays of some matrix rows) -> (rows, n)."""
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
    """MXFP4 (rows, inputs / 8) uint32 with scales -> float32 values of the even columns, and of the odd columns.

    The values are exactly those of mx.dequantize, in less than half of its time on the CPU backend, because whole words
    are unpacked at a time. The low three bits m = 0..7 of a code stand for 0, 1, 2, 3, 4, 6, 8, 12 halves: the largest
    of m, 2m - 4 and 4m - 16. Bit 3 is the sign. A scale is the exponent of a float32.
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
    """x (..., inputs) -> (..., outputs), with the product computed for blocks of rows of the stored arrays.

    product(x transposed (inputs, n), rows of the stored arrays) returns those rows of the transposed result. In this
    orientation blocks are joined by rows, and the reference BLAS is fastest.
    """
    outputs, (*shape, inputs) = stored[0].shape[0], x.shape
    rows = x.reshape(-1, inputs)
    xt = rows.T if rows.shape[0] == 1 else mx.contiguous(rows.T)
    few, packed = rows.shape[0] < LARGE_FROM, len(stored) > 1
    block = max(LEAST_ROWS, SMALL_BLOCK // inputs) if few and not packed else max(1, LARGE_BLOCK // inputs)
    if packed and rows.shape[0] < UNPACK_FROM:  # nothing is unpacked, so nothing has to fit into the cache
        block = stored[0].shape[0]
    # Multiplying with 16 rows takes as long as reading the matrix.
    work = sum(array.nbytes for array in stored) * (16 + rows.shape[0]) // 16
    y = cores.over_cores(lambda *part: product(xt, *part), *stored, work=work, block=block, tails=tails).T
    return (y if bias is None else y + bias).reshape(*shape, outputs)
