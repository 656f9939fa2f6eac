"""Attention on the CPU backend: the same result however heads and queries are divided, and on however many cores."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_oss import attention as module
from mlx_oss import device
from mlx_oss.attention import attention
from mlx_oss.model import sliding_mask

SCALE = 0.3
SHAPES = [(1, 6, 2, 1, 9, 8), (1, 6, 2, 7, 7, 8), (1, 4, 4, 5, 12, 16), (2, 6, 3, 5, 11, 8), (3, 5, 1, 1, 4, 8)]


def inputs(B: int, H: int, K: int, L: int, S: int, D: int) -> tuple[mx.array, ...]:
    rng = np.random.default_rng(L)
    shapes = (B, H, L, D), (B, K, S, D), (B, K, S, D), (H,)
    return tuple(mx.array(rng.standard_normal(shape).astype(np.float32)) for shape in shapes)


def reference(q: mx.array, k: mx.array, v: mx.array, sinks: mx.array, allowed: np.ndarray) -> np.ndarray:
    """In float64, head by head; the sink is one more score whose value is nothing."""
    q, k, v, sinks = (np.array(a, np.float64) for a in (q, k, v, sinks))
    out = np.zeros_like(q)
    for b, h in np.ndindex(*q.shape[:2]):
        kv = h // (q.shape[1] // k.shape[1])
        scores = np.where(allowed, np.exp(SCALE * q[b, h] @ k[b, kv].T), 0)
        out[b, h] = scores @ v[b, kv] / (scores.sum(-1, keepdims=True) + np.exp(sinks[h]))
    return out


def masks(L: int, S: int) -> list[tuple[mx.array | str | None, np.ndarray]]:
    causal = np.tri(L, S, S - L, dtype=bool)
    sliding = sliding_mask(S - L, L, 3)
    made = [("causal", causal), (sliding, np.array(sliding))]
    return [*made, (None, np.ones((L, S), bool))]


@pytest.fixture(params=[1, 3])
def cores(request, monkeypatch):
    monkeypatch.setattr(device, "on_gpu", lambda: False)
    monkeypatch.setattr(device, "SHARED_FROM", 0)
    monkeypatch.setattr(device.os, "sched_getaffinity", lambda _: set(range(request.param)), raising=False)
    monkeypatch.setattr(device, "_cpu", type(device._cpu)())


@pytest.mark.parametrize("scores", [1, 40, 100, 1 << 20])
@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_result_is_the_references_whatever_is_computed_at_a_time(shape, scores, cores, monkeypatch):
    monkeypatch.setattr(module, "SCORES", scores)
    q, k, v, sinks = inputs(*shape)
    for mask, allowed in masks(*shape[3:5]):
        out = attention(q, k, v, scale=SCALE, mask=mask, sinks=sinks)
        assert np.abs(np.array(out) - reference(q, k, v, sinks, allowed)).max() < 1e-5


def test_no_more_scores_are_held_at_a_time_than_allowed(cores, monkeypatch):
    real, seen = mx.fast.scaled_dot_product_attention, []

    def watched(q, k, v, **options):
        seen.append(q.shape[0] * q.shape[1] * q.shape[2] * k.shape[2])
        return real(q, k, v, **options)

    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", watched)
    monkeypatch.setattr(module, "SCORES", 500)
    q, k, v, sinks = inputs(1, 6, 2, 40, 100, 8)
    mx.eval(attention(q, k, v, scale=SCALE, mask="causal", sinks=sinks))
    assert max(seen) <= 500 and len(seen) > 40


def test_on_a_gpu_it_is_mlxs_kernel(monkeypatch):
    calls = []
    monkeypatch.setattr(device, "on_gpu", lambda: True)
    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", lambda *a, **o: calls.append((a, o)))
    q, k, v, sinks = inputs(*SHAPES[0])
    attention(q, k, v, scale=SCALE, mask="causal", sinks=sinks)
    assert calls == [((q, k, v), {"scale": SCALE, "mask": "causal", "sinks": sinks})]
