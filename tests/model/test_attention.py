"""Attention on the CPU backend: the same result for every tile size and every number of cores."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_oss.backend import cores as cores_module
from mlx_oss.backend import cpu_attention, device
from mlx_oss.model.attention import attention
from mlx_oss.model.transformer import sliding_mask

SCALE = 0.3
SHAPES = [(1, 6, 2, 1, 9, 8), (1, 6, 2, 7, 7, 8), (1, 4, 4, 5, 12, 16), (2, 6, 3, 5, 11, 8), (3, 5, 1, 1, 4, 8)]


def inputs(B: int, H: int, K: int, L: int, S: int, D: int) -> tuple[mx.array, ...]:
    rng = np.random.default_rng(L)
    shapes = (B, H, L, D), (B, K, S, D), (B, K, S, D), (H,)
    return tuple(mx.array(rng.standard_normal(shape).astype(np.float32)) for shape in shapes)


def reference(q: mx.array, k: mx.array, v: mx.array, sinks: mx.array, allowed: np.ndarray) -> np.ndarray:
    """In float64; the sink is one more score, with the value zero."""
    q, k, v, sinks = (np.array(a, np.float64) for a in (q, k, v, sinks))
    k, v = (np.repeat(a, q.shape[1] // a.shape[1], axis=1) for a in (k, v))
    scores = np.where(allowed, SCALE * q @ k.swapaxes(-1, -2), -np.inf)
    largest = np.maximum(scores.max(-1, keepdims=True), sinks[:, None, None])
    weights = np.exp(scores - largest)
    return weights @ v / (weights.sum(-1, keepdims=True) + np.exp(sinks[:, None, None] - largest))


def masks(L: int, S: int) -> list[tuple[mx.array | str | None, np.ndarray]]:
    causal = np.tri(L, S, S - L, dtype=bool)
    sliding = sliding_mask(S - L, L, 3)
    made = [("causal", causal), (sliding, np.array(sliding))]
    return [*made, (None, np.ones((L, S), bool))]


@pytest.fixture(params=[1, 3])
def cores(request, monkeypatch):
    monkeypatch.setattr(device, "on_gpu", lambda: False)
    monkeypatch.setattr(cores_module, "SHARED_FROM", 0)
    monkeypatch.setattr(cores_module.os, "sched_getaffinity", lambda _: set(range(request.param)), raising=False)
    monkeypatch.setattr(cores_module, "_cpu", type(cores_module._cpu)())


@pytest.mark.parametrize("scores", [1, 40, 100, 1 << 20])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_result_is_the_references_whatever_is_computed_at_a_time(shape, scores, cores, monkeypatch):
    monkeypatch.setattr(cpu_attention, "SCORES", scores)
    q, k, v, sinks = inputs(*shape)
    for mask, allowed in masks(*shape[3:5]):
        out = attention(q, k, v, scale=SCALE, mask=mask, sinks=sinks)
        assert np.abs(np.array(out) - reference(q, k, v, sinks, allowed)).max() < 1e-5


@pytest.mark.parametrize("mask", ["causal", None])
def test_memory_grows_neither_with_the_positions_nor_with_the_queries(mask, cores, monkeypatch):
    """Beyond inputs and outputs there are only a few tiles for each core, however many tiles there are in all."""
    monkeypatch.setattr(cpu_attention, "SCORES", 1 << 14)

    def extra_bytes(L: int, S: int) -> int:
        q, k, v, sinks = inputs(1, 6, 3, L, S, 8)
        mx.eval(q, k, v, sinks)
        mx.synchronize()
        before = mx.get_active_memory()
        mx.reset_peak_memory()
        mx.eval(attention(q, k, v, scale=SCALE, mask=mask, sinks=sinks))
        return mx.get_peak_memory() - before - 4 * q.nbytes

    tile = 4 << 14
    assert all(extra_bytes(L, S) < 16 * tile for L, S in [(64, 4096), (64, 16384), (512, 4096)])


def test_the_largest_scores_and_the_smallest_are_exact_enough(cores, monkeypatch):
    """The largest score of a query is subtracted first, also if it is in a later tile or is the sink."""
    monkeypatch.setattr(cpu_attention, "SCORES", 40)
    q, k, v, sinks = inputs(1, 4, 2, 5, 12, 16)
    for factor in (1e-3, 300.0, -300.0):
        for sink in (-1e4, 0.0, 60.0):
            out = np.array(attention(factor * q, k, v, scale=SCALE, mask="causal", sinks=sinks + sink))
            assert np.isfinite(out).all()
            causal = np.tri(5, 12, 7, dtype=bool)
            assert np.abs(out - reference(factor * q, k, v, sinks + sink, causal)).max() < 1e-4


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_smaller_numbers_are_computed_with_in_float32(dtype, cores):
    q, k, v, sinks = (array.astype(dtype) for array in inputs(1, 6, 2, 7, 40, 8))
    out = attention(q, k, v, scale=SCALE, mask="causal", sinks=sinks)
    assert out.dtype == dtype
    q, k, v, sinks = (array.astype(mx.float32) for array in (q, k, v, sinks))
    assert (out == attention(q, k, v, scale=SCALE, mask="causal", sinks=sinks).astype(dtype)).all()


def test_on_a_gpu_it_is_mlxs_kernel(monkeypatch):
    calls = []
    monkeypatch.setattr(device, "on_gpu", lambda: True)
    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", lambda *a, **o: calls.append((a, o)))
    q, k, v, sinks = inputs(*SHAPES[0])
    attention(q, k, v, scale=SCALE, mask="causal", sinks=sinks)
    assert calls == [((q, k, v), {"scale": SCALE, "mask": "causal", "sinks": sinks})]


@pytest.mark.parametrize("group", [1, 3, 8])
@pytest.mark.parametrize("L", [1, 2, 4, 5, 6, 7, 8, 9, 30])
def test_on_a_gpu_every_number_of_queries_has_a_kernel(L, group, monkeypatch):
    """On Metal that is more than 8 queries, or up to 32 rows of queries times query heads a kv head."""
    real, calls = mx.fast.scaled_dot_product_attention, []

    def kernel(q, k, v, **options):
        calls.append((q.shape[2], k.shape[2], options["mask"]))
        return real(q, k, v, **options)

    monkeypatch.setattr(device, "on_gpu", lambda: True)
    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", kernel)
    q, k, v, sinks = inputs(2, 2 * group, 2, L, 37, 64)
    for mask, allowed in masks(L, 37):
        calls.clear()
        out = attention(q, k, v, scale=SCALE, mask=mask, sinks=sinks)
        assert np.abs(np.array(out) - reference(q, k, v, sinks, allowed)).max() < 1e-5
        assert sum(queries for queries, *_ in calls) == L
        assert all(queries > 8 or queries * group <= 32 for queries, *_ in calls)
        assert len(calls) == (1 if L > 8 or L * group <= 32 else 2)
