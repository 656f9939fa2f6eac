"""Measures choices in the code that only a GPU can decide, each against the plain way, in the shapes of the releases.

    python -m tests.bench_choices

The two ways take turns, so other load affects both alike. Each line shows the medians in milliseconds and their ratio:
below 1, the choice is right on this machine. On MLX's CPU backend the figures say nothing about a GPU.
tests/FIRST_MAC.md says what each result would change.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import mlx.core as mx

from mlx_oss.backend import device
from mlx_oss.backend.device import device_name
from mlx_oss.backend.expert_rows import sorted_rows
from mlx_oss.config import MXFP4
from mlx_oss.generation.options import SamplingOptions
from mlx_oss.generation.sampling import Sampler
from mlx_oss.model import attention as attention_module
from mlx_oss.model.linear import ExpertLinear
from mlx_oss.model.transformer import Experts
from mlx_oss.tokenizer import LAST_TEXT_ID
from mlx_oss.weights.layouts.checkpoint import released

Make = Callable[[], mx.array]
HIDDEN, VOCABULARY = 2880, 201_088
RUNS = 15


def duel(what: str, ours: Make, plain: Make, runs: int = RUNS) -> None:
    """Prints the median milliseconds of both ways, which take turns, and their ratio."""
    times: dict[int, list[float]] = {0: [], 1: []}
    mx.eval(ours(), plain())
    for _ in range(runs):
        for number, make in enumerate((ours, plain)):
            started = time.perf_counter()
            mx.eval(make())
            times[number].append(time.perf_counter() - started)
    a, b = (1e3 * median(times[number]) for number in (0, 1))
    sys.stdout.write(f"{what:66}{a:9.3f}{b:9.3f}{a / b:7.2f}\n")
    sys.stdout.flush()


def experts_of(name: str) -> Experts:
    """The experts of a layer of a release, with random bits as weights."""
    layer = Experts(released(name).config, {}, "")
    for projection in (layer.gate_up_proj, layer.down_proj):
        count, rows, words = projection.weight.shape  # lazy: never computed
        projection.weight = mx.random.randint(0, 2**31 - 1, (count, rows, words), mx.uint32)
        projection.scales = mx.full((count, rows, words // 4), 120, mx.uint8)
        projection.bias = projection.bias.astype(mx.bfloat16)
    mx.eval(layer.parameters())
    return layer


def rows_for_sorted_experts() -> None:
    """Rows that are added so that MLX sorts: `backend.expert_rows`."""
    cases = {"gpt-oss-20b": (12, 16, 24, 31), "gpt-oss-120b": (44, 64, 96, 127)}
    for name, tokens in cases.items() if device.on_gpu() else ():
        layer = experts_of(name)
        count = layer.gate_up_proj.weight.shape[0]
        for n in tokens:
            x = mx.random.normal((1, n, HIDDEN)).astype(mx.bfloat16)
            chosen = mx.argsort(mx.random.uniform(shape=(1, n, count)), axis=-1)[..., :4].astype(mx.uint32)
            mx.eval(x, chosen)

            def plain(layer: Experts = layer, x: mx.array = x, chosen: mx.array = chosen) -> mx.array:
                return layer._forward(x.reshape(-1, 1, HIDDEN), chosen.flatten(), sorted_indices=False)

            def ours(layer: Experts = layer, x: mx.array = x, chosen: mx.array = chosen) -> mx.array:
                return layer.outputs(x.reshape(-1, 1, HIDDEN), chosen.flatten(), total=chosen.size)

            rows = sorted_rows(4 * n, count, 4 * n)
            duel(f"{name}, experts of {n} tokens: {rows} sorted rows / unsorted", ours, plain)


def attention_in_parts() -> None:
    """5 to 8 queries in parts of 4: `model.attention`."""
    for queries in (5, 8):
        for keys in (700, 8000):
            shapes = (1, 64, queries, 64), (1, 8, keys, 64), (1, 8, keys, 64), (64,)
            q, k, v, sinks = (mx.random.normal(shape).astype(mx.bfloat16) for shape in shapes)
            mx.eval(q, k, v, sinks)
            how = {"scale": 0.125, "mask": "causal", "sinks": sinks}
            duel(
                f"attention of {queries} queries, {keys} keys: in parts of 4 / at once",
                partial(attention_module._by_kernels, q, k, v, *how.values()),
                partial(mx.fast.scaled_dot_product_attention, q, k, v, **how),
            )


def exact_logits() -> None:
    """The 64 best logits once more in float32: `generation.sampling`."""
    if not device.on_gpu():
        return  # there NumPy chooses the token
    weight = mx.random.normal((VOCABULARY, HIDDEN)).astype(mx.bfloat16)
    hidden = mx.random.normal((HIDDEN,)).astype(mx.bfloat16)
    mx.eval(weight, hidden)
    sampler = Sampler(SamplingOptions(temperature=0))

    def exact(ids: mx.array) -> mx.array:
        return (weight[ids].astype(mx.float32) * hidden.astype(mx.float32)).sum(axis=-1)

    duel(
        "unembedding and greedy choice: best 64 in float32 / all in bfloat16",
        lambda: sampler.sample(sampler.logits(weight @ hidden, exact=exact)),
        lambda: sampler.sample(sampler.logits(weight @ hidden)),
    )
    logits = mx.random.normal((LAST_TEXT_ID + 1,))
    mx.eval(logits)

    def with_sum() -> mx.array:
        return mx.stack([sampler.sample(logits).astype(mx.float32), logits.sum()])

    duel("greedy choice: with the sum of the logits, for NaN / without", with_sum, lambda: sampler.sample(logits))

    def by_blocks() -> mx.array:
        """The 64 largest are in the 64 blocks with the largest maxima."""
        blocks = logits[: LAST_TEXT_ID // 64 * 64].reshape(-1, 64)
        best = mx.argpartition(-blocks.max(-1), kth=63)[:64]
        among = blocks[best].flatten()
        return mx.argpartition(-among, kth=63)[:64]

    duel(
        "the 64 largest of 200,019: one partition / by blocks", lambda: mx.argpartition(-logits, kth=63)[:64], by_blocks
    )


def padded_columns() -> None:
    """Not done yet: 3,072 columns take MLX's fast kernel, 2,880 do not."""
    experts = mx.array([3, 0, 2, 1], mx.uint32)
    layers = {columns: ExpertLinear(4, columns, 2 * HIDDEN, MXFP4) for columns in (3072, HIDDEN)}
    inputs = {columns: mx.random.normal((1, 1, columns)).astype(mx.bfloat16) for columns in layers}
    for layer in layers.values():
        layer.bias = layer.bias.astype(mx.bfloat16)
    mx.eval(*(layer.parameters() for layer in layers.values()), *inputs.values())
    make = {columns: partial(layer, inputs[columns], experts) for columns, layer in layers.items()}
    duel("one token's gate and up: 3,072 columns / 2,880", make[3072], make[HIDDEN])


def wiring() -> None:
    """What wiring 4 GB and releasing them costs, each time the model begins to compute: `backend.wired`."""
    if not device.on_metal():
        sys.stdout.write("wiring: only on a Mac\n")
        return
    held = [mx.zeros((1 << 30,), mx.uint8) for _ in range(4)]
    mx.eval(held)

    def seconds(limit: int) -> float:
        started = time.perf_counter()
        mx.set_wired_limit(limit)
        mx.eval(held[0][:8] + 1)
        return time.perf_counter() - started

    times = [(seconds(4 << 30), seconds(0)) for _ in range(5)]
    wired, released_ = (1e3 * median(column) for column in zip(*times, strict=True))
    sys.stdout.write(f"wiring 4 GB takes {wired:.1f} ms, releasing them {released_:.1f} ms\n")


def main() -> None:
    sys.stdout.write(f"{device_name()}, MLX {mx.__version__}\n{'':66}{'ours':>9}{'plain':>9}{'ratio':>7}\n")
    attention_in_parts()
    exact_logits()
    padded_columns()
    rows_for_sorted_experts()
    wiring()


if __name__ == "__main__":
    main()
