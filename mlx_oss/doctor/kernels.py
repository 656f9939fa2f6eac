"""Tests MLX's kernels on this device: the model's own functions, in the shapes of gpt-oss, against NumPy in float64.

The inputs are random, with a fixed seed, and are numbers that bfloat16 can represent, so one reference serves every
dtype. On a GPU each test runs in bfloat16 and float32, on the CPU backend in float32. nano, the bundled model, is also
compared: on a GPU with the CPU.
"""

from __future__ import annotations

import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from itertools import product
from typing import Literal

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_oss.backend import device
from mlx_oss.config import MXFP4
from mlx_oss.doctor.findings import REPORT_IT, Finding, Level
from mlx_oss.model.attention import Seen, attention
from mlx_oss.model.linear import ExpertLinear, Linear, QuantizedLinear
from mlx_oss.model.rope import inverse_frequencies
from mlx_oss.model.swiglu import swiglu
from mlx_oss.model.transformer import Transformer
from mlx_oss.weights import mxfp4
from mlx_oss.weights.layouts.checkpoint import released

GROUP = "kernels"
CONFIG = released("gpt-oss-20b").config
EXPERTS = 4  # of 32, to need less memory
ROWS = 512  # of the tests that compute a chunk of a prompt
STEPS = 7  # that compute one token each, in the test of nano
# Which columns and heads of large results are compared: a step that shares no factor with the sizes of a kernel's tiles
# meets every place in a tile.
_COLUMNS, _HEADS = 7, 5
# The spacing of the numbers from 1 to 2.
_EPSILON = {mx.float32: 2.0**-23, mx.bfloat16: 2.0**-7}
_NAMES = {mx.float32: "float32", mx.bfloat16: "bfloat16"}
# MLX rounds the factors of float32 products to TF32's 10 bits where a GPU can (M5, CUDA), unless MLX_ENABLE_TF32 is 0.
_TF32 = 2.0**-10
_DType = Literal["float32", "bfloat16"]
# Roundings accumulate through all layers. Measured on the CPU backend: 0.000002 in float32, and 0.09 in bfloat16.
_NANO_TOLERANCES: dict[_DType, float] = {"bfloat16": 0.25, "float32": 0.05}
_WRONG = f"Run `pip install --upgrade mlx`. If this persists: {REPORT_IT[0].lower()}{REPORT_IT[1:]}"

Compute = Callable[[mx.Dtype], mx.array]


@dataclass(frozen=True)
class Case:
    """One kernel in one shape.

    Attributes:
        name: What is computed.
        compute: Computes it with activations of the given dtype.
        expected: Computes it with NumPy in float64.
        terms: How many products are added up for each value of the result. Each adds a rounding in float32.
        exact: Whether not even roundings may differ.
        blur: Further relative error that is no fault, for example of angles in float32.
        dtypes: The dtypes to test. None means those of the device.
    """

    name: str
    compute: Compute
    expected: Callable[[], np.ndarray]
    terms: int = 1
    exact: bool = False
    blur: float = 0.0
    dtypes: tuple[mx.Dtype, ...] | None = None

    def tolerance(self, dtype: mx.Dtype) -> float:
        """The largest difference that rounding explains, relative to the largest value of the result."""
        if self.exact:
            return 0.0
        return 4 * _EPSILON[dtype] + 4 * math.sqrt(self.terms) * _EPSILON[mx.float32] + self.blur


def tests() -> Iterator[tuple[str, Callable[[], Iterable[Finding]]]]:
    """The name of each test, and a function that runs it."""
    for make in (_experts, _linear, _norm, _swiglu, _weighted_sum, _rope, _attention, _choices, _tf32):
        for case in make():
            yield case.name, lambda case=case: _run(case)  # type: ignore[misc]
    yield "nano's logits", _nano


def _run(case: Case) -> Iterator[Finding]:
    expected = case.expected()
    usual = (mx.bfloat16, mx.float32) if device.on_gpu() else (mx.float32,)
    for dtype in case.dtypes or usual:
        got = case.compute(dtype)
        mx.eval(got)
        details = {}
        if device.on_gpu():
            started = time.perf_counter()  # the second time, when the kernel is compiled
            mx.eval(case.compute(dtype))
            details["seconds"] = time.perf_counter() - started
        values = np.array(got.astype(mx.float32))
        yield compared(f"{case.name}, {_NAMES[dtype]}", values, expected, case.tolerance(dtype), details)


def compared(
    name: str, got: np.ndarray, expected: np.ndarray, tolerance: float, details: dict[str, float] | None = None
) -> Finding:
    """A finding that says how far two arrays of the same shape differ, relative to the largest value expected."""
    difference = np.abs(got.astype(np.float64) - expected)
    broken = ~np.isfinite(difference)
    largest = float(np.abs(expected).max()) or 1.0
    absolute = math.inf if broken.any() else float(difference.max())
    relative = absolute / largest
    at = np.unravel_index(np.argmax(np.where(broken, np.inf, difference)), difference.shape)
    level: Level = "ok" if relative <= tolerance else "problem"
    wrong = int((broken | (difference > tolerance * largest)).sum())
    text = f"{name}: differs by {relative:.2g} of the largest value"
    text += f", and rounding explains {tolerance:.2g}."
    if level == "problem":
        place = ", ".join(str(int(index)) for index in at)
        text += f" {wrong:,} of {difference.size:,} values are wrong, the worst at ({place})."
    figures = {
        "absolute": absolute if math.isfinite(absolute) else None,
        "relative": relative if math.isfinite(relative) else None,
        "tolerance": tolerance,
        "wrong": wrong,
        **(details or {}),
    }
    return Finding(GROUP, name, level, text, _WRONG if level == "problem" else "", figures)


def _random(seed: int) -> np.random.Generator:
    return np.random.default_rng([20, seed])


def _normal(rng: np.random.Generator, *shape: int) -> np.ndarray:
    """Normally distributed float32 values that bfloat16 can represent."""
    return _bfloat16(rng.standard_normal(shape, np.float32))


def _bfloat16(values: np.ndarray) -> np.ndarray:
    """float32 values without the bits that bfloat16 lacks."""
    return (values.view(np.uint32) & 0xFFFF0000).view(np.float32)


def _experts() -> Iterator[Case]:
    """The products of the experts: many rows sorted by expert, as in a prompt, and those of a single token."""
    C, F = CONFIG.hidden_size, CONFIG.intermediate_size
    for number, (columns, rows) in enumerate(((C, 2 * F), (F, C))):
        rng = _random(number)
        blocks = rng.integers(0, 256, (EXPERTS, rows, columns // mxfp4.BLOCK, 16), np.uint8)
        scales = rng.integers(117, 123, blocks.shape[:-1], np.uint8)
        layer = ExpertLinear(EXPERTS, columns, rows, MXFP4)
        layer.weight, layer.scales = mx.array(mxfp4.pack_words(blocks)), mx.array(scales)
        for tokens, kind in ((ROWS, f"{ROWS} rows sorted by expert"), (4, "4 rows of one token")):
            is_sorted = tokens > 4
            chosen = np.sort(rng.integers(0, EXPERTS, tokens)) if is_sorted else rng.permutation(EXPERTS)[:tokens]
            x = _normal(rng, tokens if is_sorted else 1, 1, columns)

            def compute(
                dtype: mx.Dtype,
                layer: ExpertLinear = layer,
                x: np.ndarray = x,
                chosen: np.ndarray = chosen,
                is_sorted: bool = is_sorted,
            ) -> mx.array:
                y = layer(mx.array(x).astype(dtype), mx.array(chosen.astype(np.uint32)), is_sorted)
                return y[..., ::_COLUMNS]

            def expected(
                x: np.ndarray = x, chosen: np.ndarray = chosen, blocks: np.ndarray = blocks, scales: np.ndarray = scales
            ) -> np.ndarray:
                inputs = np.broadcast_to(x, (len(chosen), *x.shape[1:])).astype(np.float64)
                blocks, scales = blocks[:, ::_COLUMNS], scales[:, ::_COLUMNS]
                out = np.empty((len(chosen), 1, blocks.shape[1]))
                for expert in np.unique(chosen):
                    matrix = mxfp4.dequantize(blocks[expert], scales[expert]).astype(np.float64)
                    out[chosen == expert] = inputs[chosen == expert] @ matrix.T
                return out

            yield Case(f"experts, {columns:,} to {rows:,}, {kind}", compute, expected, terms=columns)


def _linear() -> Iterator[Case]:
    """Products with stored bfloat16, and with 8-bit weights."""
    C, heads = CONFIG.hidden_size, sum(CONFIG.qkv_heads) * CONFIG.head_dim
    rng = _random(10)
    weight, bias = _normal(rng, heads, C), _normal(rng, heads)
    codes = rng.integers(0, 256, (heads, C), np.uint8)
    scales, zeros = _normal(rng, heads, C // 64), _normal(rng, heads, C // 64)
    with_codes = codes.reshape(heads, -1, 64) * scales[..., None].astype(np.float64) + zeros[..., None]
    plain, packed = Linear(1, 1), QuantizedLinear(64, 1, True, group_size=64, bits=8, mode="affine")
    for rows in (1, 6, ROWS):
        x = _normal(rng, 1, rows, C)

        def compute(dtype: mx.Dtype, x: np.ndarray = x) -> mx.array:
            plain.weight = mx.array(weight).astype(
                mx.bfloat16 if dtype == mx.bfloat16 or not device.on_gpu() else dtype
            )
            plain.bias = mx.array(bias).astype(dtype)
            return plain(mx.array(x).astype(dtype))

        def compute_packed(dtype: mx.Dtype, x: np.ndarray = x) -> mx.array:
            packed.weight = mx.array(codes.view(np.uint32))
            packed.scales, packed.biases = mx.array(scales).astype(dtype), mx.array(zeros).astype(dtype)
            packed.bias = mx.array(bias).astype(dtype)
            return packed(mx.array(x).astype(dtype))

        def expected(x: np.ndarray = x, matrix: np.ndarray = weight) -> np.ndarray:
            return np.asarray(x.astype(np.float64) @ matrix.astype(np.float64).T + bias)

        def expected_packed(x: np.ndarray = x) -> np.ndarray:
            return np.asarray(x.astype(np.float64) @ with_codes.reshape(heads, C).T + bias)

        shape = f"{C:,} to {heads:,}, {rows} row{'s' * (rows > 1)}"
        yield Case(f"matrix, {shape}", compute, expected, terms=C)
        yield Case(f"8-bit matrix, {shape}", compute_packed, expected_packed, terms=C, blur=_TF32)


def _norm() -> Iterator[Case]:
    layer = nn.RMSNorm(CONFIG.hidden_size, CONFIG.rms_norm_eps)
    rng = _random(20)
    weight = _normal(rng, CONFIG.hidden_size)
    for rows in (1, ROWS):
        x = _normal(rng, 1, rows, CONFIG.hidden_size)

        def compute(dtype: mx.Dtype, x: np.ndarray = x) -> mx.array:
            layer.weight = mx.array(weight).astype(dtype)
            y: mx.array = layer(mx.array(x).astype(dtype))
            return y

        def expected(x: np.ndarray = x) -> np.ndarray:
            wide = x.astype(np.float64)
            return np.asarray(wide / np.sqrt((wide**2).mean(-1, keepdims=True) + CONFIG.rms_norm_eps) * weight)

        yield Case(f"RMS norm, {rows} row{'s' * (rows > 1)}", compute, expected, terms=CONFIG.hidden_size)


def _swiglu() -> Iterator[Case]:
    rng, alpha, limit = _random(30), CONFIG.swiglu_alpha, CONFIG.swiglu_limit
    h, bias = 4 * _normal(rng, 64, 1, 2 * CONFIG.intermediate_size), _normal(rng, 64, 1, 2 * CONFIG.intermediate_size)

    def compute(dtype: mx.Dtype) -> mx.array:
        return swiglu(mx.array(h).astype(dtype), mx.array(bias).astype(dtype), alpha, limit, alternate=True)

    def expected() -> np.ndarray:
        both = h.astype(np.float64) + bias
        gate, up = np.minimum(both[..., 0::2], limit), np.clip(both[..., 1::2], -limit, limit)
        return np.asarray(gate / (1 + np.exp(-alpha * gate)) * (up + 1))

    yield Case("SwiGLU", compute, expected, terms=64)


def _weighted_sum() -> Iterator[Case]:
    rng, T = _random(40), CONFIG.num_experts_per_tok
    for rows in (1, ROWS):
        shapes = (rows, 1, CONFIG.hidden_size), (rows, 1, T), (rows, T, CONFIG.hidden_size)
        residual, weights, y = (_normal(rng, *shape) for shape in shapes)

        def compute(dtype: mx.Dtype, parts: tuple[np.ndarray, ...] = (residual, weights, y)) -> mx.array:
            residual, weights, y = (mx.array(part).astype(dtype) for part in parts)
            return mx.addmm(residual, weights, y)

        def expected(parts: tuple[np.ndarray, ...] = (residual, weights, y)) -> np.ndarray:
            residual, weights, y = (part.astype(np.float64) for part in parts)
            return residual + weights @ y

        yield Case(f"weighted sum of experts, {rows} row{'s' * (rows > 1)}", compute, expected, terms=T)


def _rope() -> Iterator[Case]:
    """Rotation of queries and keys, as a slice of q, k and v."""
    H, K, _ = CONFIG.qkv_heads
    D = CONFIG.head_dim
    inverse = inverse_frequencies(D, CONFIG.rope_theta, CONFIG.rope_scaling)
    freqs = (1 / inverse).astype("float32")
    rng = _random(50)
    for B, L, offset in ((1, 1, 5), (2, 1, 700), (1, 6, 131_000), (2, 1, 131_000), (1, ROWS, 4000)):
        x = _normal(rng, B, L, H + 2 * K, D)

        def compute(dtype: mx.Dtype, x: np.ndarray = x, offset: int = offset) -> mx.array:
            qk = mx.array(x).astype(dtype).swapaxes(1, 2)[:, : H + K]
            rotated: mx.array = mx.fast.rope(
                qk, D, traditional=False, base=None, scale=1.0, offset=offset, freqs=mx.array(freqs)
            )
            return rotated

        def expected(x: np.ndarray = x, offset: int = offset) -> np.ndarray:
            first, second = np.split(x.astype(np.float64).swapaxes(1, 2)[:, : H + K], 2, axis=-1)
            angle = (offset + np.arange(x.shape[1]))[:, None] / freqs.astype(np.float64)
            cos, sin = np.cos(angle), np.sin(angle)
            return np.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)

        blur = (offset + L) * _EPSILON[mx.float32]  # an angle in float32 is as exact as its size allows
        name = f"rotary positions, {B} x {L} from {offset:,}"
        yield Case(name, compute, expected, terms=4, blur=blur)


def _attention() -> Iterator[Case]:
    """Attention with sinks: over all keys as full layers compute it, and over a window as sliding layers do."""
    H, K, _ = CONFIG.qkv_heads
    D, window = CONFIG.head_dim, CONFIG.sliding_window
    concentration = CONFIG.rope_scaling.concentration if CONFIG.rope_scaling else 1.0
    scale = concentration**2 / math.sqrt(D)
    rng = _random(60)
    for L, sliding in product((1, 4, 6, ROWS), (False, True)):
        S = (window if L == 1 else window - 1 + L) if sliding else 700
        # As in the model: a slice of q, k and v, and the used part of the cache's buffers.
        qkv, keys, values = _normal(rng, 1, L, H + 2 * K, D), _normal(rng, 1, K, 768, D), _normal(rng, 1, K, 768, D)
        # As large as the sum over all keys, so that a wrong sink shows.
        sinks = _bfloat16(rng.standard_normal(H, np.float32) + np.float32(math.log(S) + scale**2 * D / 2))
        seen = np.tri(L, S, S - L, dtype=bool)
        if sliding:
            seen &= ~np.tri(L, S, S - L - window, dtype=bool)

        def compute(
            dtype: mx.Dtype,
            parts: tuple[np.ndarray, ...] = (qkv, keys, values, sinks),
            S: int = S,
            window: int | None = window if sliding else None,
        ) -> mx.array:
            qkv, k, v, sinks = (mx.array(part).astype(dtype) for part in parts)
            q = qkv.swapaxes(1, 2)[:, :H]
            return attention(q, k[:, :, :S], v[:, :, :S], scale=scale, seen=Seen(window), sinks=sinks)[:, :, ::_HEADS]

        def expected(
            parts: tuple[np.ndarray, ...] = (qkv, keys, values, sinks), S: int = S, seen: np.ndarray = seen
        ) -> np.ndarray:
            qkv, k, v, sinks = (part.astype(np.float64) for part in parts)
            q = qkv.swapaxes(1, 2)[0]
            out = []
            for head in range(0, H, _HEADS):
                kv = head * K // H
                scores = np.where(seen, scale * q[head] @ k[0, kv, :S].T, -np.inf)
                largest = np.maximum(scores.max(-1, keepdims=True), sinks[head])
                powers = np.exp(scores - largest)
                out.append(powers @ v[0, kv, :S] / (powers.sum(-1, keepdims=True) + np.exp(sinks[head] - largest)))
            return np.stack(out, axis=1)[None]

        kind = "a window" if sliding else f"{S} keys"
        name = f"attention, {L} quer{'ies' if L > 1 else 'y'}, {kind}"
        yield Case(name, compute, expected, terms=S, blur=_TF32)


def _choices() -> Iterator[Case]:
    """The largest of the router's logits, the most likely tokens, and all tokens sorted."""
    rng, T = _random(70), CONFIG.num_experts_per_tok
    logits, routed = _normal(rng, CONFIG.vocab_size), _normal(rng, ROWS, 32)

    def route(dtype: mx.Dtype) -> mx.array:
        x = mx.array(routed).astype(dtype)
        chosen = mx.argpartition(x, kth=-T, axis=-1)[..., -T:]
        return mx.array(np.sort(np.array(mx.take_along_axis(x, chosen, axis=-1).astype(mx.float32)), axis=-1))

    def likely(dtype: mx.Dtype) -> mx.array:
        x = mx.array(logits).astype(dtype)
        return mx.array(np.sort(np.array(x[mx.argpartition(-x, kth=39)[:40]].astype(mx.float32))))

    def top(dtype: mx.Dtype) -> mx.array:
        return mx.array(np.sort(np.array(mx.topk(mx.array(logits).astype(dtype), 40).astype(mx.float32))))

    def ordered(dtype: mx.Dtype) -> mx.array:
        x = mx.array(logits).astype(dtype)
        return x[mx.argsort(x)]

    largest = np.sort(logits)
    yield Case(f"the 4 largest of 32, {ROWS} rows", route, lambda: np.sort(routed)[:, -T:], exact=True)
    yield Case("the 40 largest of 201,088, argpartition", likely, lambda: largest[-40:], exact=True)
    yield Case("the 40 largest of 201,088, topk", top, lambda: largest[-40:], exact=True)
    yield Case("201,088 values sorted", ordered, lambda: largest, exact=True)


def _tf32() -> Iterator[Case]:
    """A product of numbers that need all of float32's bits. TF32 has ten; nothing is wrong if the device uses it."""
    rng = _random(80)
    a, b = (rng.standard_normal((512, 512), np.float32) for _ in range(2))
    yield Case(
        "product in float32 or TF32",
        lambda _: mx.array(a) @ mx.array(b),
        lambda: a.astype(np.float64) @ b,
        terms=512,
        blur=_TF32,
        dtypes=(mx.float32,),
    )


def _nano() -> Iterator[Finding]:
    """nano's last logits: all tokens at once and token by token, on this device against float32 on the CPU."""
    from mlx_oss.loader import load_model
    from mlx_oss.nano import nano_folder

    folder, ids = nano_folder(), [(7 * n) % 5000 for n in range(144)]

    def load(dtype: _DType) -> Transformer:
        return load_model(folder, dtype=dtype).transformer

    def logits(transformer: Transformer, single: int = 0) -> np.ndarray:
        """Those of the last STEPS + 1 tokens, with the last `single` tokens in steps of their own."""
        cache = transformer.make_cache()
        parts = [transformer.hidden(mx.array([ids[: len(ids) - single]]), cache)[:, single - STEPS - 1 :]]
        parts += [transformer.hidden(mx.array([[token]]), cache) for token in ids[len(ids) - single :]]
        return np.array(transformer.logits(mx.concatenate(parts, axis=1)).astype(mx.float32))

    usual = mx.default_device()
    mx.set_default_device(mx.Device(mx.cpu))
    try:
        expected = logits(load("float32")).astype(np.float64)
    finally:
        mx.set_default_device(usual)
    dtypes: tuple[_DType, ...] = ("bfloat16", "float32") if device.on_gpu() else ("float32",)
    for dtype in dtypes:
        transformer, tolerance = load(dtype), _NANO_TOLERANCES[dtype]
        for how, single in (("at once", 0), ("token by token", STEPS)):
            yield compared(f"nano's logits {how}, {dtype}", logits(transformer, single), expected, tolerance)
