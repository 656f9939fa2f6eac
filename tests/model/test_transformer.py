"""The model equals the NumPy reference, and the logits are the same however tokens are fed."""

from __future__ import annotations

import dataclasses

import mlx.core as mx
import numpy as np
import pytest

from mlx_oss import ModelConfig, Transformer, load_model
from mlx_oss.config import YarnScaling
from mlx_oss.model.attention import sliding_mask
from tests import reference
from tests.shapes import SHAPES

TOLERANCE = 1e-4


@pytest.fixture(scope="module")
def model(folder) -> Transformer:
    return load_model(folder("tiny"), dtype="float32")


def tokens_for(model: Transformer, batch: int, length: int) -> mx.array:
    rng = np.random.default_rng(length)
    return mx.array(rng.integers(0, model.config.vocab_size, (batch, length)))


def feed(model: Transformer, tokens: mx.array, sizes: list[int], cache=None) -> mx.array:
    """Logits of tokens fed in chunks of the given sizes."""
    cache, start, parts = cache or model.make_cache(), 0, []
    for size in sizes:
        parts.append(model(tokens[:, start : start + size], cache))
        start += size
    assert start == tokens.shape[1]
    return mx.concatenate(parts, axis=1)


def distance(a: mx.array, b: mx.array) -> float:
    assert a.shape == b.shape
    return mx.abs(a - b).max().item()


@pytest.mark.parametrize("layout", ["hf", "original"])
def test_logits_equal_the_numpy_reference(shape, layout, release, folder):
    model = load_model(folder(shape, layout), dtype="float32")
    tokens = np.random.default_rng(3).integers(0, SHAPES[shape]["vocab_size"], 60)
    expected = reference.logits(model.config, reference.read_release(release(shape)), tokens)
    assert np.abs(np.array(model(mx.array(tokens[None]))[0]) - expected).max() < TOLERANCE


@pytest.mark.parametrize("scaling", [None, YarnScaling(8.0, 64, 4.0, 0.5, truncate=False)])
def test_any_rope_setting_gives_the_reference_logits(scaling, release, folder):
    loaded = load_model(folder("tiny"), dtype="float32")
    config = dataclasses.replace(loaded.config, rope_scaling=scaling, rope_theta=500.0, quantization=None)
    model = Transformer(config)
    model.update(loaded.transformer.parameters())
    tokens = np.arange(40) * 7 % config.vocab_size
    expected = reference.logits(config, reference.read_release(release("tiny")), tokens)
    assert np.abs(np.array(model(mx.array(tokens[None]))[0]) - expected).max() < TOLERANCE


def test_clamps_of_the_swiglu_are_reached_and_equal_the_reference(release, folder):
    loaded = load_model(folder("tiny"), dtype="float32")
    config = dataclasses.replace(loaded.config, swiglu_limit=0.25, quantization=None)
    model = Transformer(config)
    model.update(loaded.transformer.parameters())
    tokens = np.arange(30)
    expected = reference.logits(config, reference.read_release(release("tiny")), tokens)
    assert np.abs(np.array(model(mx.array(tokens[None]))[0]) - expected).max() < TOLERANCE
    assert distance(model(mx.array(tokens[None])), loaded(mx.array(tokens[None]))) > 100 * TOLERANCE


def test_decode_matches_prefill(model):
    tokens = tokens_for(model, 1, 40)
    assert distance(feed(model, tokens, [1] * 40), model(tokens)) < TOLERANCE


@pytest.mark.parametrize("chunk", range(1, 23))
def test_prefill_in_chunks_of_any_size_to_twice_the_window_is_the_same(model, chunk):
    tokens = tokens_for(model, 1, 50)
    sizes = [chunk] * (50 // chunk) + ([50 % chunk] if 50 % chunk else [])
    assert distance(feed(model, tokens, sizes), model(tokens)) < TOLERANCE


def test_prefill_then_decode_then_prefill_matches(model):
    tokens = tokens_for(model, 1, 60)
    for sizes in ([13, 1, 1, 30, 1, 14], [1, 11, 1, 12, 1, 34], [5, 1, 4, 1, 1, 10, 38]):
        assert distance(feed(model, tokens, sizes), model(tokens)) < TOLERANCE


@pytest.mark.parametrize("sizes", [[31], [12, 1, 1, 17], [1] * 31])
def test_batch_matches_single(model, sizes):
    tokens = tokens_for(model, 3, 31)
    together = feed(model, tokens, sizes)
    for row in range(3):
        assert distance(together[row : row + 1], feed(model, tokens[row : row + 1], sizes)) < TOLERANCE


def test_sorting_by_expert_changes_nothing(model, monkeypatch):
    tokens = tokens_for(model, 1, 40)
    expected = model(tokens)
    monkeypatch.setattr("mlx_oss.model.transformer.sorted_rows", lambda *_: 0)
    assert distance(model(tokens), expected) < TOLERANCE


def test_last_hidden_state_gives_the_last_logits(model):
    tokens = tokens_for(model, 2, 9)
    assert distance(model.transformer.logits(model.transformer.hidden(tokens)[:, -1]), model(tokens)[:, -1]) < TOLERANCE


def test_sliding_mask_is_the_one_drawn_by_hand():
    drawn = """
        ###..
        .###.
        ..###
    """
    rows = [[mark == "#" for mark in line.strip()] for line in drawn.split()]
    assert sliding_mask(kept=2, L=3, window=3).tolist() == rows


def test_a_new_model_needs_no_weights(model):
    """A config is enough for a model that runs, with random weights, e.g. for benchmarks."""
    config = ModelConfig(**SHAPES["tiny"])
    assert Transformer(config)(mx.array([[1, 2, 3]])).shape == (1, 3, config.vocab_size)
