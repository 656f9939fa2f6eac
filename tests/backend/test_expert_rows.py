"""The number of rows for which MLX's kernel reads the experts least, in bytes of the releases."""

from __future__ import annotations

from collections.abc import Callable

import mlx.core as mx
import numpy as np
import pytest

from mlx_oss import ModelConfig
from mlx_oss.backend import device
from mlx_oss.backend.expert_rows import most_reads, sorted_rows
from mlx_oss.model.transformer import Transformer
from tests.shapes import MANY

EXPERT = 3 * 2880 * 2880 * 17 // 32  # bytes of one expert of the releases in one layer: 4.25 bits a value
MODELS = {"20b": (24, 32), "120b": (36, 128)}  # layers, experts of each


@pytest.fixture
def as_on_a_gpu(monkeypatch) -> None:
    monkeypatch.setattr(device, "on_gpu", lambda: True)


def by_metal(experts: np.ndarray, count: int, is_sorted: bool) -> int:
    """How many matrices MLX reads on Metal for these experts, one a row (mlx/backend/metal/quantized.cpp).

    In the kernel for sorted rows, each block of 16 rows reads every expert in it once.
    """
    if not (is_sorted and len(experts) >= 16 and len(experts) // count >= 4):
        return len(experts)
    return sum(len(set(experts[start : start + 16])) for start in range(0, len(experts), 16))


def read(tokens: int, model: str, draw: Callable[[int, int], np.ndarray]) -> tuple[float, float]:
    """(GB read as the experts are, GB read with the rows that `sorted_rows` chooses), in all layers."""
    layers, count = MODELS[model]
    experts = np.sort(draw(4 * tokens, count))
    rows = sorted_rows(len(experts), count)
    padded = np.concatenate([experts, np.repeat(experts[-1:], max(rows - len(experts), 0))])
    assert by_metal(padded, count, rows > 0) <= (most_reads(len(experts), rows, count) if rows else len(experts))
    plain, ours = by_metal(experts, count, True), by_metal(padded, count, rows > 0)
    return plain * layers * EXPERT / 1e9, ours * layers * EXPERT / 1e9


def even(pairs: int, count: int) -> np.ndarray:
    return np.arange(pairs) % count


def uniform(pairs: int, count: int) -> np.ndarray:
    return np.random.default_rng(pairs).integers(0, count, pairs)


def few(pairs: int, count: int) -> np.ndarray:
    return np.arange(pairs) % 4


def test_a_prompt_one_token_too_short_for_the_kernel_reads_no_more_than_a_longer_one(as_on_a_gpu):
    """Without more rows, 127 tokens of 120b would read 242 GB, and 128 tokens 61 GB."""
    plain, ours = read(127, "120b", even)
    assert (round(plain), round(read(128, "120b", even)[1])) == (242, 61) and ours <= 76
    plain, ours = read(31, "20b", even)
    assert (round(plain), round(read(32, "20b", even)[1])) == (39, 10) and ours <= 13


@pytest.mark.parametrize("draw", [even, uniform, few])
@pytest.mark.parametrize("model", MODELS)
def test_more_rows_never_read_more(as_on_a_gpu, model, draw):
    for tokens in range(1, 300):
        plain, ours = read(tokens, model, draw)
        assert ours <= plain


@pytest.mark.parametrize("model", MODELS)
def test_rows_are_only_added_where_that_makes_the_difference(as_on_a_gpu, model):
    count = MODELS[model][1]
    for pairs in range(1, 9 * count):
        rows = sorted_rows(pairs, count)
        assert rows in (0, max(pairs, 4 * count, 16)) and (rows == pairs or pairs < max(16, 4 * count))
    assert sorted_rows(4, count) == 0 and sorted_rows(4 * count, count) == 4 * count


def test_the_cpu_backend_does_not_sort(monkeypatch):
    monkeypatch.setattr(device, "on_gpu", lambda: False)
    assert [sorted_rows(pairs, 32) for pairs in (4, 64, 500)] == [0, 0, 0]


@pytest.mark.parametrize("tokens", [1, 3, 11, 20, 31, 32, 40, 127, 128])
@pytest.mark.parametrize("experts", ["32 experts", "128 experts"])
def test_more_rows_change_nothing_in_the_result(monkeypatch, as_on_a_gpu, experts, tokens):
    mx.random.seed(tokens)
    model = Transformer(ModelConfig(**MANY[experts]))
    ids = mx.random.randint(0, 300, (1, tokens))
    logits = model(ids)
    monkeypatch.setattr("mlx_oss.model.transformer.sorted_rows", lambda *_: 0)
    plain = model(ids)
    assert mx.abs(logits - plain).max().item() < 1e-4 * mx.abs(plain).max().item()
