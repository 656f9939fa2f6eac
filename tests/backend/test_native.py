"""The native library of the CPU backend: against NumPy in float64, with every kind of vectors and number of threads."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import mlx.core as mx
import numpy as np
import pytest

from mlx_oss.backend import device, native
from mlx_oss.config import MXFP4, QuantizationSpec

if native.vectors() is None:
    pytest.skip("the native library is not built", allow_module_level=True)

LEVELS = [level for level in range(4) if native.use(level)]
native.use()
KINDS = {
    "float32": None,
    "bfloat16": None,
    "float16": None,
    "mxfp4": MXFP4,
    "affine 4 in groups of 32": QuantizationSpec(32, 4, "affine"),
    "affine 4 in groups of 64": QuantizationSpec(64, 4, "affine"),
    "affine 8 in groups of 32": QuantizationSpec(32, 8, "affine"),
    "affine 8 in groups of 128": QuantizationSpec(128, 8, "affine"),
}
ACTIVATION = native.SwiGLU(1.702, 7.0, False)


@pytest.fixture(params=[(level, threads) for level in LEVELS for threads in (1, 3)], ids=str, autouse=True)
def how(request, monkeypatch):
    monkeypatch.setattr(device, "on_gpu", lambda: False)
    native.use(*request.param)
    yield
    native.use()


def normal(*shape: int) -> np.ndarray:
    return np.random.default_rng(shape).standard_normal(shape).astype(np.float32)


def stored(kind: str, *shape: int) -> tuple[list[mx.array], np.ndarray]:
    """Random matrices as they are stored, and their exact values."""
    values, spec = mx.array(normal(*shape)), KINDS[kind]
    if spec is None:
        weight = values.astype(getattr(mx, kind))
        return [weight], np.array(weight.astype(mx.float32), np.float64)
    arrays = list(mx.quantize(values, spec.group_size, spec.bits, mode=spec.mode))
    biases = arrays[2] if len(arrays) > 2 else None
    unpacked = mx.dequantize(*arrays[:2], biases, spec.group_size, spec.bits, mode=spec.mode, dtype=mx.float32)
    return arrays, np.array(unpacked, np.float64)


def activated(h: np.ndarray, alternates: bool) -> np.ndarray:
    half = h.shape[-1] // 2
    gate, up = (h[..., 0::2], h[..., 1::2]) if alternates else (h[..., :half], h[..., half:])
    gate, up = np.minimum(gate, 7), np.clip(up, -7, 7)
    return gate / (1 + np.exp(-1.702 * gate)) * (up + 1)


def close(got: mx.array, expected: np.ndarray, terms: int) -> bool:
    """Whether only roundings differ: the sums have `terms` products of numbers around 1."""
    assert got.shape == expected.shape
    return bool((np.abs(np.array(got) - expected) <= 2e-6 * np.sqrt(terms) * (1 + np.abs(expected))).all())


@pytest.mark.parametrize("kind", KINDS)
def test_a_stored_matrix_gives_the_product_of_its_exact_values(kind):
    inputs, outputs = 1152, 77
    (arrays, values), b = stored(kind, outputs, inputs), normal(outputs)
    for rows in (1, 2, 3, 4, 5, 67):
        x = normal(2, rows, inputs)
        expected = x.astype(np.float64) @ values.T
        for bias in (b, None):
            y = native.product(mx.array(x), KINDS[kind], arrays, None if bias is None else mx.array(bias))
            assert y.dtype == mx.float32
            assert close(y, expected if bias is None else expected + bias, inputs), f"{rows=}, {bias is None=}"


@pytest.mark.parametrize("inputs", [1, 3, 15, 16, 17, 31, 33, 1023, 1024, 1025, 2049])
def test_sizes_are_multiples_of_nothing(inputs):
    x = normal(5, inputs)
    for outputs in (1, 7, 8, 9, 63, 65):
        for kind in ("float32", "bfloat16", "float16"):
            arrays, values = stored(kind, outputs, inputs)
            y = native.product(mx.array(x), None, arrays)
            assert close(y, x.astype(np.float64) @ values.T, inputs), f"{outputs=}, {kind=}"


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("experts", [1, 2, 7])
def test_each_row_is_multiplied_with_the_matrices_of_its_experts(kind, experts):
    inputs, outputs = 128, 35
    (arrays, values), bias = stored(kind, experts, outputs, inputs), normal(experts, outputs)
    for rows, each in ((1, 1), (1, 4), (3, 2), (40, 4), (0, 4)):
        chosen = np.random.default_rng(rows).integers(0, experts, rows * each).astype(np.uint32)
        x = normal(rows, 1, inputs)
        y = native.product(mx.array(x), KINDS[kind], arrays, mx.array(bias), mx.array(chosen))
        expected = np.einsum("nli,noi->nlo", x.repeat(each, axis=0).astype(np.float64), values[chosen])
        assert close(y, expected + bias[chosen][:, None], inputs), f"{rows=}, {each=}"


@pytest.mark.parametrize("kind", ["mxfp4", "bfloat16", "affine 8 in groups of 32"])
def test_swiglu_follows_in_either_order_of_the_rows(kind):
    chosen = np.array([2, 0, 2, 1, 1, 0, 2, 2], np.uint32)
    x = normal(4, 1, 96)
    for outputs in (1, 4, 31, 33, 64, 100):
        (arrays, values), bias = stored(kind, 3, 2 * outputs, 96), normal(3, 2 * outputs)
        h = np.einsum("nli,noi->nlo", x.repeat(2, axis=0).astype(np.float64), values[chosen]) + bias[chosen][:, None]
        for alternates in (True, False):
            activation = ACTIVATION._replace(alternates=alternates)
            y = native.product(mx.array(x), KINDS[kind], arrays, mx.array(bias), mx.array(chosen), activation)
            # The factors are up to 8, and errors grow with them.
            assert close(y, activated(h, alternates), 900), f"{outputs=}, {alternates=}"


def test_ten_thousand_rows_are_no_other_case():
    arrays, values = stored("mxfp4", 5, 40, 64)
    chosen = np.random.default_rng(1).integers(0, 5, 10_000).astype(np.uint32)
    x = normal(10_000, 1, 64)
    y = native.product(mx.array(x), MXFP4, arrays, None, mx.array(chosen))
    assert close(y, np.einsum("nli,noi->nlo", x.astype(np.float64), values[chosen]), 64)


@pytest.mark.parametrize("kind", KINDS)
def test_the_bits_of_a_row_depend_neither_on_its_neighbours_nor_on_their_number(kind):
    arrays, _ = stored(kind, 4, 70, 1152)
    rng = np.random.default_rng(7)
    x, chosen = normal(150, 1, 1152), rng.integers(0, 4, 300).astype(np.uint32)
    for activation in (None, ACTIVATION):
        together = np.array(native.product(mx.array(x), KINDS[kind], arrays, None, mx.array(chosen), activation))
        for start, end in ((0, 1), (1, 3), (3, 6), (6, 10), (10, 80), (80, 150)):
            own = mx.array(chosen[2 * start : 2 * end])
            alone = native.product(mx.array(x[start:end]), KINDS[kind], arrays, None, own, activation)
            assert np.array_equal(np.array(alone), together[2 * start : 2 * end])


@pytest.mark.parametrize("kind", KINDS)
def test_the_bits_of_a_row_do_not_depend_on_how_few_or_many_rows_a_matrix_has(kind):
    """The library computes up to 8 rows in other ways than more of them."""
    arrays, _ = stored(kind, 200, 1152)
    x = normal(70, 1152)
    together = np.array(native.product(mx.array(x), KINDS[kind], arrays))
    for count in range(1, 14):
        assert np.array_equal(np.array(native.product(mx.array(x[-count:]), KINDS[kind], arrays)), together[-count:])


def test_the_number_of_threads_changes_no_bit():
    arrays, _ = stored("mxfp4", 300, 1152)
    x, q, k = mx.array(normal(9, 1152)), mx.array(normal(2, 6, 50, 16)), mx.array(normal(2, 3, 90, 16))
    results = []
    for threads in (1, 2, 5):
        native.use(0, threads)
        y = native.product(x, MXFP4, arrays)
        seen = native.attention(q, k, k, scale=0.3, sinks=mx.zeros(6), window=40)
        results.append((np.array(y), np.array(seen)))
    assert all(np.array_equal(a, b) for result in results for a, b in zip(results[0], result, strict=True))


def test_every_code_and_scale_of_mxfp4_is_what_mlx_reads():
    codes = np.tile(np.arange(256, dtype=np.uint8), (253, 1))
    scales = np.arange(253, dtype=np.uint8)[:, None].repeat(16, axis=1)  # the larger ones are infinite with some codes
    weight, scales = mx.array(codes).view(mx.uint32), mx.array(scales)
    expected = mx.dequantize(weight, scales, group_size=32, bits=4, mode="mxfp4", dtype=mx.float32)
    got = native.product(mx.eye(512), MXFP4, [weight, scales])  # each column by itself
    assert np.array_equal(np.array(got).T, np.array(expected))


@pytest.mark.parametrize("dtype", [mx.bfloat16, mx.float16])
def test_smaller_numbers_of_x_are_multiplied_in_float32(dtype):
    arrays, _ = stored("bfloat16", 30, 96)
    x = mx.array(normal(4, 96)).astype(dtype)
    y = native.product(x, None, arrays, mx.array(normal(30)).astype(dtype))
    exact = native.product(x.astype(mx.float32), None, arrays, mx.array(normal(30)).astype(dtype).astype(mx.float32))
    assert y.dtype == dtype and mx.array_equal(y, exact.astype(dtype))


def test_every_float16_is_what_numpy_reads():
    every = np.arange(1 << 16, dtype=np.uint16).view(np.float16).reshape(-1, 1)
    finite = every[np.isfinite(every)].reshape(-1, 1)
    for values in (finite, finite[: len(finite) // 32 * 32].reshape(-1, 32)):
        got = native.product(mx.eye(values.shape[1]), None, [mx.array(values)])
        assert np.array_equal(np.array(got).T, values.astype(np.float32))
    unknown = mx.array(np.array([[np.nan, np.inf, -np.inf] * 7], np.float16))
    got = np.array(
        [native.product(mx.array([[float(n == i) for n in range(21)]]), None, [unknown]).item() for i in (0, 1)]
    )
    assert np.isnan(got).all()  # infinity times zero is beside each


@pytest.mark.parametrize("kind", ["float32", "bfloat16", "mxfp4"])
@pytest.mark.parametrize("activation", [None, ACTIVATION])
@pytest.mark.parametrize("number", [np.nan, np.inf])
def test_what_is_not_a_number_is_not_hidden(kind, activation, number):
    arrays, _ = stored(kind, 40, 64)
    x = normal(3, 64)
    x[1, 5] = number
    y = np.array(native.product(mx.array(x), KINDS[kind], arrays, None, None, activation))
    assert np.isfinite(y[0]).all() and np.isfinite(y[2]).all()
    assert np.isnan(y[1]).all() if np.isnan(number) else (~np.isfinite(y[1])).any() or activation


def test_experts_are_read_as_a_view_shows_them():
    """As the router makes them if a token has one expert."""
    arrays, values = stored("bfloat16", 2, 20, 48)
    x, chosen = normal(3, 1, 48), mx.array([[0, 1], [1, 0], [0, 1]], mx.uint32)[..., -1:].flatten()
    y = native.product(mx.array(x), None, arrays, None, chosen)
    assert close(y, np.einsum("nli,noi->nlo", x.astype(np.float64), values[[1, 0, 1]]), 48)


def test_a_view_is_read_as_what_it_shows():
    arrays, values = stored("bfloat16", 20, 48)
    x = normal(3, 7, 48)
    y = native.product(mx.array(x)[:, -1:], None, arrays)
    assert close(y, x[:, -1:].astype(np.float64) @ values.T, 48)


SHAPES = [(1, 6, 2, 1, 9, 8), (1, 6, 2, 7, 7, 8), (1, 4, 4, 5, 12, 16), (2, 6, 3, 5, 11, 20), (3, 5, 1, 1, 4, 8)]
SHAPES += [(1, 8, 1, 70, 200, 64), (1, 16, 2, 1, 300, 80), (1, 3, 3, 33, 33, 33)]


def reference(q: np.ndarray, k: np.ndarray, v: np.ndarray, sinks: np.ndarray, scale: float, window: int) -> np.ndarray:
    """In float64; the sink is one more score, with the value zero."""
    (L, S), group = (q.shape[2], k.shape[2]), q.shape[1] // k.shape[1]
    q, k, v = (a.astype(np.float64) for a in (q, k.repeat(group, axis=1), v.repeat(group, axis=1)))
    query, key = np.arange(S - L, S)[:, None], np.arange(S)
    scores = np.where((key <= query) & (key > query - window), scale * q @ k.swapaxes(-1, -2), -np.inf)
    largest = np.maximum(scores.max(-1, keepdims=True), sinks[:, None, None])
    weights = np.exp(scores - largest)
    return (weights @ v / (weights.sum(-1, keepdims=True) + np.exp(sinks[:, None, None] - largest))).swapaxes(1, 2)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_attention_is_the_references(shape):
    B, H, K, L, S, D = shape
    q, k, v, sinks = normal(B, H, L, D), normal(B, K, S, D), normal(B, K, S, D)[..., ::-1].copy(), normal(H)
    buffers = [mx.pad(mx.array(a), [(0, 0), (0, 0), (0, 9), (0, 0)])[:, :, :S] for a in (k, v)]  # as caches are
    turned = mx.array(q.swapaxes(1, 2)).swapaxes(1, 2)
    for window in (None, 1, 3, 64, 65, 1000):
        out = native.attention(turned, *buffers, scale=0.3, sinks=mx.array(sinks), window=window)
        assert np.abs(np.array(out) - reference(q, k, v, sinks, 0.3, window or S)).max() < 5e-6, f"{window=}"


@pytest.mark.parametrize("factor", [1e-3, 300.0, -300.0])
def test_the_largest_scores_and_the_smallest_are_exact_enough(factor):
    q, k = factor * normal(1, 4, 70, 16), normal(1, 2, 150, 16)
    for sink in (-np.inf, -1e4, 0.0, 60.0):
        sinks = np.full(4, sink, np.float32)
        out = native.attention(mx.array(q), mx.array(k), mx.array(k), scale=0.3, sinks=mx.array(sinks))
        assert np.abs(np.array(out) - reference(q, k, k, sinks, 0.3, 150)).max() < 2e-4, f"{sink=}"


def test_the_bits_of_a_query_do_not_depend_on_the_other_sequences_and_queries():
    q, k, sinks = mx.array(normal(3, 8, 40, 16)), mx.array(normal(3, 2, 200, 16)), mx.array(normal(8))
    together = native.attention(q, k, k, scale=0.3, sinks=sinks)
    alone = native.attention(q[1:2], k[1:2], k[1:2], scale=0.3, sinks=sinks)
    last = native.attention(q[:, :, -1:], k, k, scale=0.3, sinks=sinks)
    assert mx.array_equal(together[1:2], alone) and mx.array_equal(together[:, -1:], last)


def test_attention_to_what_is_not_a_number_is_not_a_number():
    q, k = mx.array(normal(1, 2, 5, 8)), mx.array(normal(1, 1, 9, 8))
    k[0, 0, 6, 0] = mx.nan
    out = np.array(native.attention(q, k, mx.array(normal(1, 1, 9, 8)), scale=0.3, sinks=mx.zeros(2)))
    assert np.isfinite(out[:, :2]).all() and np.isnan(out[:, 2:]).all()


def test_threads_that_compute_at_the_same_time_get_the_same_bits():
    arrays, _ = stored("mxfp4", 500, 1152)
    mx.eval(arrays)
    rows = [normal(n, 1152) for n in range(1, 9)]
    expected = [np.array(native.product(mx.array(x), MXFP4, arrays)) for x in rows]
    with ThreadPoolExecutor(4) as pool:
        for _ in range(10):
            got = list(pool.map(lambda x: np.array(native.product(mx.array(x), MXFP4, arrays)), rows))
            assert all(np.array_equal(a, b) for a, b in zip(got, expected, strict=True))


X, OUT, WEIGHT = normal(2, 64), np.zeros((2, 10), np.float32), normal(10, 64)
PACKED = [np.array(a) for a in mx.quantize(mx.array(WEIGHT), 32, 4, mode="mxfp4")]
FINE = (OUT, X, None, WEIGHT, None, None, None, 0, 0, 0.0, 0.0, 0)
IDS = np.zeros(2, np.uint32)


@pytest.mark.parametrize(
    "changes",
    [
        {0: np.zeros((2, 10))},
        {0: np.zeros((2, 11), np.float32)},
        {0: np.zeros((3, 10), np.float32)},
        {0: np.zeros((10, 2), np.float32).T},
        {1: X[:, :63]},
        {1: X[:, ::2]},
        {1: X.astype(np.int32)},
        {1: np.float32(1)},
        {2: IDS + 1},
        {2: IDS.astype(np.uint64)},
        {2: IDS[:1]},
        {3: WEIGHT[:9]},
        {3: np.zeros((2, 10, 64), np.float32)},
        {3: WEIGHT.astype(np.int32)},
        {3: None},
        {6: np.zeros(9, np.float32)},
        {6: np.zeros(10)},
        {9: 1.702},
        {3: PACKED[0], 7: 4, 8: 32},
        {3: PACKED[0], 4: PACKED[1][:, :1], 7: 4, 8: 32},
        {3: PACKED[0], 4: PACKED[1].astype(np.float32), 7: 4, 8: 32},
        {3: PACKED[0], 4: PACKED[1], 7: 4, 8: 0},
        {3: PACKED[0], 4: PACKED[1], 7: 4, 8: 64},
        {3: PACKED[0], 4: PACKED[1], 7: 8, 8: 32},
        {3: PACKED[0][:, :7], 4: PACKED[1], 7: 4, 8: 32},
    ],
    ids=lambda changes: str(list(changes)),
)
def test_arrays_that_do_not_fit_together_are_refused(changes):
    with pytest.raises((ValueError, TypeError)):
        native._native.product(*(changes.get(n, given) for n, given in enumerate(FINE)))
    native._native.product(*FINE)


Q, K = normal(1, 4, 3, 8), normal(1, 2, 5, 8)
SINKS, HEADS = np.zeros(4, np.float32), np.zeros((1, 3, 4, 8), np.float32)


@pytest.mark.parametrize(
    "changes",
    [
        {0: np.zeros((1, 4, 3, 8), np.float32)},
        {1: Q[:, :3]},
        {1: Q[..., ::2]},
        {1: Q[0]},
        {2: K[:, :, :2], 3: K[:, :, :2]},
        {2: K[:, :, :4]},
        {2: K.astype(np.float64)},
        {3: K[..., :7]},
        {4: SINKS[:3]},
        {4: None},
        {6: 0},
    ],
    ids=lambda changes: str(list(changes)),
)
def test_keys_and_queries_that_do_not_fit_together_are_refused(changes):
    fine = (HEADS, Q, K, K, SINKS, 0.3, 10)
    with pytest.raises((ValueError, TypeError)):
        native._native.attention(*(changes.get(n, given) for n, given in enumerate(fine)))
    native._native.attention(*fine)


def test_attention_of_no_heads_or_no_queries_is_nothing():
    for B, H, L in ((1, 0, 3), (1, 4, 0), (0, 4, 3)):
        q, k, out = np.zeros((B, H, L, 8), np.float32), K[:B, :, :L], np.zeros((B, L, H, 8), np.float32)
        native._native.attention(out, q, k, k, SINKS[:H], 0.3, 10)


def test_a_library_that_was_built_before_the_code_changed_is_not_used(monkeypatch):
    """As after `git pull` in a checkout that is installed as editable."""
    assert native._library() is native._native
    monkeypatch.setattr(native, "_INTERFACE", native._INTERFACE + 1)
    assert native._library() is None


def test_on_a_gpu_and_for_other_quantisations_it_is_not_used(monkeypatch):
    assert all(native.computes(spec) for spec in KINDS.values())
    others = (QuantizationSpec(16, 4, "nvfp4"), QuantizationSpec(32, 8, "mxfp8"), QuantizationSpec(64, 6, "affine"))
    assert not any(native.computes(spec) for spec in others)
    monkeypatch.setattr(device, "on_gpu", lambda: True)
    assert not any(native.computes(spec) for spec in KINDS.values())
