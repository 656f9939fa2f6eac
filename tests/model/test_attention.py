"""Attention is the reference's, with the native library, with MLX's operations, and with the parts for a GPU."""

from __future__ import annotations

import mlx.core as mx
import numpy as np
import pytest

from mlx_oss.backend import device, native
from mlx_oss.model.attention import Seen, attention, sliding_mask

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
    return (weights @ v / (weights.sum(-1, keepdims=True) + np.exp(sinks[:, None, None] - largest))).swapaxes(1, 2)


def views(L: int, S: int) -> list[tuple[Seen, np.ndarray]]:
    """What queries see, and the same as a mask."""
    causal = np.tri(L, S, S - L, dtype=bool)
    made = [(Seen(), causal), (Seen(S), causal), (Seen(S + 3), causal)]
    return made if L == 1 else [*made, (Seen(3), np.array(sliding_mask(S - L, L, 3)))]


@pytest.fixture(params=["the native library", "MLX's operations"])
def backend(request, monkeypatch):
    monkeypatch.setattr(device, "on_gpu", lambda: False)
    if request.param != "the native library":
        monkeypatch.setattr(native, "_native", None)
    elif native.vectors() is None:
        pytest.skip("the native library is not built")


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_the_result_is_the_references(shape, backend):
    q, k, v, sinks = inputs(*shape)
    for seen, allowed in views(*shape[3:5]):
        out = attention(q, k, v, scale=SCALE, seen=seen, sinks=sinks)
        assert np.abs(np.array(out) - reference(q, k, v, sinks, allowed)).max() < 1e-5


def test_a_single_query_sees_a_ring_in_any_order(backend):
    q, k, v, sinks = inputs(1, 6, 2, 1, 9, 8)
    order = mx.array([3, 8, 1, 0, 7, 2, 6, 5, 4])
    out = attention(q, k, v, scale=SCALE, seen=Seen(9), sinks=sinks)
    turned = attention(q, k[:, :, order], v[:, :, order], scale=SCALE, seen=Seen(9), sinks=sinks)
    assert mx.abs(out - turned).max().item() < 1e-6


@pytest.mark.parametrize("L", [7, 300])
def test_memory_does_not_grow_with_the_scores(L, monkeypatch):
    """Beyond inputs and outputs there are only a few tiles for each core, however many there are in all."""
    monkeypatch.setattr(device, "on_gpu", lambda: False)
    if native.vectors() is None:
        pytest.skip("the native library is not built")
    q, k, v, sinks = inputs(1, 6, 3, L, 16384, 8)
    mx.eval(q, k, v, sinks)
    before = mx.get_active_memory()
    mx.reset_peak_memory()
    mx.eval(attention(q, k, v, scale=SCALE, seen=Seen(), sinks=sinks))
    assert mx.get_peak_memory() - before <= 2 * q.nbytes


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_smaller_numbers_are_computed_with_in_float32(dtype, monkeypatch):
    monkeypatch.setattr(device, "on_gpu", lambda: False)
    if native.vectors() is None:
        pytest.skip("the native library is not built")
    q, k, v, sinks = (array.astype(dtype) for array in inputs(1, 6, 2, 7, 40, 8))
    out = attention(q, k, v, scale=SCALE, seen=Seen(), sinks=sinks)
    assert out.dtype == dtype
    q, k, v, sinks = (array.astype(mx.float32) for array in (q, k, v, sinks))
    assert (out == attention(q, k, v, scale=SCALE, seen=Seen(), sinks=sinks).astype(dtype)).all()


def test_a_forward_pass_makes_each_mask_once():
    seen = Seen(3)
    assert seen.mask(4, 9) is seen.mask(4, 9) and seen.mask(1, 9) is None and Seen(9).mask(4, 9) == "causal"


def test_on_a_gpu_it_is_mlxs_kernel(monkeypatch):
    calls = []
    monkeypatch.setattr(device, "on_gpu", lambda: True)
    monkeypatch.setattr(mx.fast, "scaled_dot_product_attention", lambda *a, **o: (calls.append((a, o)), a[0])[1])
    q, k, v, sinks = inputs(*SHAPES[1])
    attention(q, k, v, scale=SCALE, seen=Seen(), sinks=sinks)
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
    for seen, allowed in views(L, 37):
        calls.clear()
        out = attention(q, k, v, scale=SCALE, seen=seen, sinks=sinks)
        assert np.abs(np.array(out) - reference(q, k, v, sinks, allowed)).max() < 1e-5
        assert sum(queries for queries, *_ in calls) == L
        assert all(queries > 8 or queries * group <= 32 for queries, *_ in calls)
        assert len(calls) == (1 if L > 8 or L * group <= 32 else 2)
