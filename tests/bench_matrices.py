"""Measures products and attention of the CPU backend in the shapes of 20b: the native library beside MLX's operations.

    python -m tests.bench_matrices [--threads N] [--level N]

The figures are milliseconds, the minimum of several runs, with MLX's in the last column. Only few of MLX's are
measured, because the others take seconds.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable

import mlx.core as mx
import numpy as np

from mlx_oss.backend import host_memory, native
from mlx_oss.config import MXFP4, QuantizationSpec
from mlx_oss.model.attention import Seen, attention
from mlx_oss.model.linear import ExpertLinear, linear

HIDDEN, QKV, VOCABULARY = 2880, 5120, 201_088
HEADS, KV_HEADS, DIM = 64, 8, 64
EXPERTS, CHOSEN = 32, 4
AFFINE = QuantizationSpec(64, 8, "affine")


def cost(compute: Callable[[], mx.array], runs: int = 7) -> float:
    """Milliseconds that computing takes, the minimum of several runs."""
    mx.eval(compute())
    spent = []
    for _ in range(runs):
        started = time.perf_counter()
        mx.eval(compute())
        spent.append(time.perf_counter() - started)
    return 1e3 * min(spent)


def tell(what: str, ours: float, nbytes: float, multiplied: float, mlxs: float | None = None) -> None:
    rates = f"{nbytes / ours / 1e6:6.1f} GB/s {2 * multiplied / ours / 1e6:6.0f} GFLOPS"
    sys.stdout.write(f"{what:44}{ours:9.2f} ms {rates}" + (f"{mlxs:9.1f} ms" if mlxs else "") + "\n")
    sys.stdout.flush()


def beside(compute: Callable[[], mx.array], runs: int = 3) -> float:
    """The cost with MLX's own operations."""
    library, native._native = native._native, None
    try:
        return cost(compute, runs)
    finally:
        native._native = library


def normal(*shape: int) -> mx.array:
    array = mx.array(np.random.default_rng(0).standard_normal(shape, np.float32))
    mx.eval(array)
    return array


def dense(name: str, outputs: int, rows: tuple[int, ...], spec: QuantizationSpec | None = None) -> None:
    layer = linear(HIDDEN, outputs, False, spec)
    if spec is None:
        layer.weight = layer.weight.astype(mx.bfloat16)
    mx.eval(layer.parameters())
    nbytes = sum(array.nbytes for array in layer.values() if isinstance(array, mx.array))
    for count in rows:
        x = normal(count, HIDDEN)
        mlxs = beside(lambda x=x: layer(x)) if count == 1 else None  # type: ignore[misc]
        tell(f"{name}, {count} rows", cost(lambda x=x: layer(x)), nbytes, count * HIDDEN * outputs, mlxs)  # type: ignore[misc]


def experts() -> None:
    # The weights come from NumPy: so many random numbers at once end MLX 0.32.4's CPU backend.
    layer, rng = ExpertLinear(EXPERTS, HIDDEN, 2 * HIDDEN, MXFP4), np.random.default_rng(0)
    layer.weight = mx.array(rng.integers(0, 1 << 32, layer.weight.shape, np.uint32))
    layer.scales = mx.array(rng.integers(118, 124, layer.scales.shape, np.uint8))
    mx.eval(layer.bias)
    each = (layer.weight.nbytes + layer.scales.nbytes) / EXPERTS
    for count in (1, 32, 128, 512):
        x = normal(count, 1, HIDDEN)
        chosen = rng.integers(0, EXPERTS, count * CHOSEN).astype(np.uint32)
        if count == 1:
            chosen = np.arange(CHOSEN, dtype=np.uint32)
        ids, used = mx.array(chosen), len(set(chosen.tolist()))

        def compute(x: mx.array = x, ids: mx.array = ids) -> mx.array:
            return layer.activated(x, ids, False, 1.702, 7.0, True)

        mlxs = beside(compute) if count == 1 else None
        tell(
            f"gate and up of {used} experts, {count} rows",
            cost(compute),
            used * each,
            count * CHOSEN * HIDDEN**2 * 2,
            mlxs,
        )


def attended() -> None:
    for length, positions in ((1, 1000), (1, 8000), (512, 512), (512, 4096)):
        q, k = normal(1, HEADS, length, DIM), normal(1, KV_HEADS, positions, DIM)

        def compute(q: mx.array = q, k: mx.array = k) -> mx.array:
            return attention(q, k, k, scale=DIM**-0.5, seen=Seen(), sinks=mx.zeros(HEADS))

        scores = HEADS * length * (positions - length / 2)
        tell(f"attention of {length} at {positions}", cost(compute), 2 * k.nbytes, 2 * scores * DIM, beside(compute, 1))


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int)
    parser.add_argument("--level", type=int, default=0, help="0: the fastest vectors of this machine")
    args = parser.parse_args()
    host_memory.keep_freed_memory()
    sys.stdout.write(f"{native.vectors() and native.use(args.level, args.threads)}\n")
    dense("q, k and v", QKV, (1, 32, 128, 512))
    dense("q, k and v, affine 8 bit", QKV, (1, 128), AFFINE)
    dense("unembedding", VOCABULARY, (1,))
    experts()
    attended()


if __name__ == "__main__":
    main()
