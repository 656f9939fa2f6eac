"""The test of the kernels: it passes on this machine, and names each kernel that errs."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import mlx.core as mx
import numpy as np
import pytest

from mlx_oss.backend import device, native
from mlx_oss.doctor import kernels
from mlx_oss.doctor.findings import Finding
from mlx_oss.weights.layouts.checkpoint import released

REAL = kernels.CONFIG


@pytest.fixture(autouse=True)
def small(monkeypatch) -> None:
    """`mlx-oss doctor` itself computes in the shapes of gpt-oss, which takes a minute on MLX's CPU backend."""
    smaller = {"hidden_size": 320, "intermediate_size": 320, "num_attention_heads": 16, "num_key_value_heads": 2}
    monkeypatch.setattr(kernels, "CONFIG", replace(REAL, **smaller))
    monkeypatch.setattr(kernels, "ROWS", 48)
    monkeypatch.setattr(kernels, "STEPS", 1)


def test_a_user_gets_the_shapes_of_gpt_oss():
    assert released("gpt-oss-20b").config == REAL


def findings(*makers: str, monkeypatch: pytest.MonkeyPatch) -> list[Finding]:
    """What the tests of some makers find, all others left out."""
    for name in "_experts _linear _norm _swiglu _weighted_sum _rope _attention _choices _tf32".split():
        if name not in makers:
            monkeypatch.setattr(kernels, name, lambda: ())
    if "_nano" not in makers:
        monkeypatch.setattr(kernels, "_nano", lambda: ())
    return [finding for _, run in kernels.tests() for finding in run()]


def test_on_this_machine_every_kernel_is_right():
    found = [finding for _, run in kernels.tests() for finding in run()]
    assert [finding.text for finding in found if finding.level != "ok"] == []
    assert len({finding.name for finding in found}) == len(found) > 30
    groups = ("experts, 320 to 640, 48 rows", "8-bit matrix", "attention, 6 queries, a window", "nano's logits")
    assert all(any(finding.name.startswith(start) for finding in found) for start in groups)


def test_nano_is_compared_in_both_dtypes_on_a_gpu(monkeypatch):
    monkeypatch.setattr(device, "on_gpu", lambda: True)
    found = findings("_nano", monkeypatch=monkeypatch)
    assert {finding.level for finding in found} == {"ok"}
    assert [finding.name.rpartition(", ")[2] for finding in found] == ["bfloat16"] * 2 + ["float32"] * 2
    assert 0 < found[0].details["relative"] < found[0].details["tolerance"]


def without_rows_after_the_first(real: Callable[..., mx.array]) -> Callable[..., mx.array]:
    """As in ml-explore/mlx#3494: only the first sequence of a batch is rotated if each has one token."""

    def rope(x: mx.array, *arguments: object, **more: object) -> mx.array:
        y = real(x, *arguments, **more)
        return mx.concatenate([y[:1], mx.zeros_like(y[1:])]) if x.shape[2] == 1 else y

    return rope


def without_sinks(real: Callable[..., mx.array]) -> Callable[..., mx.array]:
    # 6 queries are computed in parts of 4 and 2.
    def attention(q: mx.array, *arguments: object, sinks: mx.array, **more: object) -> mx.array:
        return real(q, *arguments, sinks=sinks - 100 if q.shape[2] == 2 else sinks, **more)

    return attention


def with_a_wrong_scale(real: Callable[..., mx.array]) -> Callable[..., mx.array]:
    def gather_qmm(x: mx.array, weight: mx.array, scales: mx.array, *more: object, **named: object) -> mx.array:
        return real(x, weight, mx.where(mx.arange(scales.shape[-1]) == 9, scales + 1, scales), *more, **named)

    return gather_qmm


def nan_in(real: Callable[..., mx.array]) -> Callable[..., mx.array]:
    def rms_norm(*arguments: object) -> mx.array:
        y = real(*arguments)
        y[0, 0, 5] = float("nan")
        return y

    return rms_norm


@pytest.mark.parametrize(
    ("maker", "module", "name", "broken", "named"),
    [
        ("_rope", mx.fast, "rope", without_rows_after_the_first, ["2 x 1 from 700", "2 x 1 from 131,000"]),
        (
            "_attention",
            mx.fast,
            "scaled_dot_product_attention",
            without_sinks,
            ["6 queries, 700", "6 queries, a window"],
        ),
        ("_experts", mx, "gather_qmm", with_a_wrong_scale, ["320 to 640, ", "320 to 320, "]),
        ("_norm", mx.fast, "rms_norm", nan_in, ["1 row,", "48 rows"]),
        ("_choices", mx, "topk", lambda real: lambda x, k: real(x, k + 1)[:k], ["topk"]),
    ],
)
def test_each_kernel_that_errs_is_named_and_no_other(maker, module, name, broken, named, monkeypatch):
    if name == "scaled_dot_product_attention":
        monkeypatch.setattr(device, "on_gpu", lambda: True)
    monkeypatch.setattr(native, "_native", None)  # MLX's operations, also on its CPU backend
    monkeypatch.setattr(module, name, broken(getattr(module, name)))
    problems = [f for f in findings(maker, monkeypatch=monkeypatch) if f.level == "problem"]
    assert {part for part in named if any(part in f.name for f in problems)} == set(named)
    assert all(any(part in f.name for part in named) for f in problems)
    assert all(f.remedy and f.details["wrong"] > 0 for f in problems)


def test_a_difference_is_told_with_its_size_and_place():
    expected = np.array([[1.0, -4.0], [2.0, 0.0]])
    good = kernels.compared("sum", expected + 0.001, expected, 0.01)
    assert (good.level, good.text) == (
        "ok",
        "sum: differs by 0.00025 of the largest value, and rounding explains 0.01.",
    )
    bad = kernels.compared("sum", np.array([[1.0, -4.0], [4.0, 0.1]]), expected, 0.01)
    assert bad.level == "problem" and bad.text.endswith("2 of 4 values are wrong, the worst at (1, 0).")
    assert (bad.details["absolute"], bad.details["relative"], bad.details["wrong"]) == (2.0, 0.5, 2)
    nan = kernels.compared("sum", np.array([[np.nan, -4.0], [2.0, 0.0]]), expected, 0.01)
    assert nan.level == "problem" and nan.details["relative"] is None and "the worst at (0, 0)" in nan.text


def test_float32_is_compared_more_strictly_than_bfloat16():
    case = kernels.Case("sum", mx.zeros, np.zeros, terms=2880)
    assert 1e-5 < case.tolerance(mx.float32) < 1e-4 < case.tolerance(mx.bfloat16) < 0.05
    assert kernels.Case("choice", mx.zeros, np.zeros, exact=True).tolerance(mx.bfloat16) == 0
