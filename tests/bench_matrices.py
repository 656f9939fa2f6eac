"""Measures matrix products and attention of the CPU backend in the shapes of 20b.

    python -m tests.bench_matrices

The README quotes these figures in "Where the time goes". They are milliseconds of processor time on one core, the
minimum of several runs, so that other processes have little effect.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

from mlx_oss.backend.blas import prefer_fast_blas

prefer_fast_blas()

import mlx.core as mx  # noqa: E402

from mlx_oss.backend import cores, cpu_linear, host_memory  # noqa: E402
from mlx_oss.config import MXFP4  # noqa: E402
from mlx_oss.model import linear  # noqa: E402
from mlx_oss.model.attention import attention  # noqa: E402

HIDDEN, QKV, GATE_UP = 2880, 5120, 5760
HEADS, KV_HEADS, DIM = 64, 8, 64
HOW = {"group_size": 32, "bits": 4, "mode": "mxfp4"}


def cost(make: Callable[[], mx.array], runs: int = 7) -> float:
    """Milliseconds of processor time that computing the array takes, the minimum of several runs."""
    mx.eval(make())
    spent = []
    for _ in range(runs):
        started = time.process_time()
        mx.eval(make())
        spent.append(time.process_time() - started)
    return 1e3 * min(spent)


def tell(what: str, *figures: float) -> None:
    sys.stdout.write(f"{what:58}" + "".join(f"{figure:8.1f}" for figure in figures) + "\n")
    sys.stdout.flush()


def normal(*shape: int) -> mx.array:
    array = mx.random.normal(shape)
    mx.eval(array)
    return array


def dense() -> None:
    layer = linear.linear(HIDDEN, QKV, False, None)
    layer.weight = normal(QKV, HIDDEN).astype(mx.bfloat16)
    held = layer.weight.astype(mx.float32)
    mx.eval(layer.weight, held)
    for rows in (1, 8, 32, 128, 512):
        x = normal(rows, HIDDEN)
        figures = cost(lambda x=x: layer(x)), cost(lambda x=x: x @ held.T)
        tell(f"q, k, v of {rows}: stored in bfloat16, held in float32", *figures)


def one_row() -> None:
    layer, x = linear.linear(HIDDEN, QKV, False, None), normal(1, HIDDEN)
    layer.weight = normal(QKV, HIDDEN).astype(mx.bfloat16)
    mx.eval(layer.weight)
    heights, usual, costs = (32, 64, 128, 256, 512), cpu_linear.LEAST_ROWS, []
    for height in heights:
        cpu_linear.LEAST_ROWS = height
        costs.append(cost(lambda: layer(x)))
    cpu_linear.LEAST_ROWS = usual
    tell("one row, in blocks of " + ", ".join(map(str, heights)) + " rows of the matrix", *costs)


def packed() -> None:
    """Products with the gate and up matrices of one expert."""
    weight, scales = mx.quantize(normal(GATE_UP, HIDDEN), **HOW)
    mx.eval(weight, scales)
    for rows in (1, 4, 8, 16, 64):
        x = normal(rows, HIDDEN)
        figures = [cost(lambda x=x: mx.quantized_matmul(x, weight, scales, None, transpose=True, **HOW), 3)]
        usual, cpu_linear.UNPACK_FROM = cpu_linear.UNPACK_FROM, 1
        product = cpu_linear._packed_product(MXFP4)
        figures.append(cost(lambda x=x, p=product: cpu_linear._by_blocks(x, p, None, weight, scales), 3))
        cpu_linear.UNPACK_FROM = usual
        tell(f"an expert's gate and up of {rows}: packed, unpacked once", *figures)
    parts = [(weight[n : n + 160], scales[n : n + 160]) for n in range(0, GATE_UP, 160)]
    ours = cost(lambda: [cpu_linear._mxfp4_even_and_odd(*part) for part in parts], 3)
    tell(
        "unpacking alone: whole words, mx.dequantize", ours, cost(lambda: [mx.dequantize(*p, **HOW) for p in parts], 3)
    )


def attended() -> None:
    scores, sinks = normal(1024, 1024), normal(HEADS)
    tell("a million powers of e, of 2", cost(lambda: mx.exp(scores)), cost(lambda: mx.power(2.0, scores)))
    for length, positions in ((1, 4096), (128, 128), (512, 4096)):
        q, k = normal(1, HEADS, length, DIM), normal(1, KV_HEADS, positions, DIM)
        how = {"scale": DIM**-0.5, "mask": "causal" if length > 1 else None, "sinks": sinks}
        ours = cost(lambda q=q, k=k, how=how: attention(q, k, k, **how), 3)
        mlxs = cost(lambda q=q, k=k, how=how: mx.fast.scaled_dot_product_attention(q, k, k, **how), 3)
        tell(f"attention of {length} at {positions} positions: by tiles, MLX's", ours, mlxs)


def main() -> None:
    cores.SHARED_FROM = sys.maxsize
    layer, x = linear.linear(HIDDEN, QKV, False, None), normal(1, HIDDEN)
    layer.weight = normal(QKV, HIDDEN).astype(mx.bfloat16)
    mx.eval(layer.weight)
    tell("one row, freed memory given back as glibc does", cost(lambda: layer(x)))
    host_memory.keep_freed_memory()
    one_row()
    dense()
    packed()
    attended()


if __name__ == "__main__":
    main()
