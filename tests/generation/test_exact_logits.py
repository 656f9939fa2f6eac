"""In bfloat16 the largest logits are computed once more in float32: no ties, and exact log-probabilities."""

from __future__ import annotations

import math

import mlx.core as mx
import mlx.nn as nn
import numpy as np
import pytest

import mlx_oss
from mlx_oss import ModelConfig, SamplingOptions
from mlx_oss.backend import device
from mlx_oss.config import MXFP4, QuantizationSpec
from mlx_oss.generation.sampling import EXACT, Sampler
from mlx_oss.generation.token_picker import NextScores, TokenPicker
from mlx_oss.model.linear import linear, rows_of
from mlx_oss.model.transformer import Transformer
from mlx_oss.tokenizer import LAST_TEXT_ID
from tests.shapes import SHAPES


@pytest.fixture(scope="module")
def nano() -> tuple[Transformer, mx.array, np.ndarray]:
    """nano in bfloat16, random hidden states (L, C), and the logits (L, V') of these in float64.

    After the first half of them many tokens are nearly as likely as the best, after the others only a few.
    """
    model, _ = mlx_oss.load(dtype="bfloat16")
    rng = np.random.default_rng(0)
    states = rng.standard_normal((80, model.config.hidden_size)) * np.repeat([1.0, 6.0], 40)[:, None]
    hidden = mx.array(states.astype(np.float32)).astype(mx.bfloat16)
    weight = np.array(model.transformer.lm_head.weight[: LAST_TEXT_ID + 1].astype(mx.float32), np.float64)
    return model.transformer, hidden, np.array(hidden.astype(mx.float32), np.float64) @ weight.T


def chosen(model: Transformer, last: mx.array, **options) -> tuple:
    """What a picker chooses after a hidden state (C,)."""
    picker = TokenPicker(SamplingOptions(**options), 0, [], None)
    return picker.pick(NextScores(model, last[None, None])).arrays


def test_the_most_likely_token_is_that_of_float32_where_bfloat16_has_ties():
    config = ModelConfig(**SHAPES["tiny"] | {"vocab_size": 5000})
    model, hidden = Transformer(config), mx.random.normal((200, config.hidden_size), key=mx.random.key(3))
    model.lm_head.weight = 3 * mx.random.normal((5000, config.hidden_size), key=mx.random.key(4))
    model.set_dtype(mx.bfloat16)
    hidden = hidden.astype(mx.bfloat16)
    weight = np.array(model.lm_head.weight.astype(mx.float32), np.float64)
    exact = np.array(hidden.astype(mx.float32), np.float64) @ weight.T
    rounded = np.array(model.logits(hidden).astype(mx.float32))
    wrong = rounded.argmax(-1) != exact.argmax(-1)
    assert wrong.sum() > 2  # otherwise there is no state after which it could fail
    for position in np.flatnonzero(wrong):
        (token, *_) = chosen(model, hidden[position], temperature=0)
        assert token.item() == exact[position].argmax()


def test_log_probabilities_are_exact_where_the_best_hold_nearly_everything(nano):
    model, hidden, exact = nano
    some = exact[:50]
    logprobs = some - np.logaddexp.reduce(some, axis=-1, keepdims=True)
    held = np.exp(np.partition(logprobs, -EXACT, axis=-1)[:, -EXACT:]).sum(-1)
    assert (held > 0.999).sum() > 3
    for position in np.flatnonzero(held > 0.999).tolist():
        best = np.argsort(-logprobs[position])[:20]
        token, logprob, ids, top = chosen(model, hidden[position], temperature=0, logprobs=True, top_logprobs=20)
        assert ids.tolist() == best.tolist() and token.item() == best[0]
        assert np.abs(np.array(top) - logprobs[position][best]).max() < 1e-3
        assert abs(logprob.item() - logprobs[position][best[0]]) < 1e-3


def test_top_k_keeps_the_tokens_that_it_keeps_in_float32(nano):
    model, hidden, exact = nano
    for position in range(0, len(exact), 12):
        sampler = Sampler(SamplingOptions(top_k=40))
        scores = NextScores(model, hidden[position][None, None])
        kept = sampler.filtered(sampler.logits(scores.logits, exact=scores.exact))
        kept = np.isfinite(np.array(kept)) if device.on_gpu() else kept.kept() > 0
        assert set(np.flatnonzero(kept)) == set(np.argsort(-exact[position])[:40])


@pytest.mark.parametrize("count", [1, 5, EXACT, 300])
def test_among_allowed_ids_the_best_is_that_of_float32_and_no_other_id_is_possible(nano, count):
    model, hidden, exact = nano
    rng = np.random.default_rng(count)
    for position in range(0, len(exact), 16):
        allowed = np.zeros(LAST_TEXT_ID + 1, bool)
        allowed[rng.choice(len(allowed), count, replace=False)] = True
        scores = NextScores(model, hidden[position][None, None])
        logits = np.array(Sampler(SamplingOptions()).logits(scores.logits, (), allowed, scores.exact))
        assert (np.isfinite(logits) == allowed).all()
        assert logits.argmax() == np.where(allowed, exact[position], -math.inf).argmax()


def test_bias_and_penalty_apply_to_the_exact_logits(nano):
    model, hidden, exact = nano
    best, second = np.argsort(-exact[5])[:2].tolist()
    options = SamplingOptions(logit_bias={best: -2.5}, repetition_penalty=1.25)
    scores = NextScores(model, hidden[5][None, None])
    logits = Sampler(options).logits(scores.logits, [second], exact=scores.exact)
    penalised = exact[5][second] / 1.25 if exact[5][second] > 0 else exact[5][second] * 1.25
    assert logits[best].item() == pytest.approx(exact[5][best] - 2.5, abs=1e-4)
    assert logits[second].item() == pytest.approx(penalised, abs=1e-4)


def test_in_float32_nothing_is_computed_twice():
    config = ModelConfig(**SHAPES["tiny"])
    assert NextScores(Transformer(config), mx.zeros((1, 1, config.hidden_size))).exact is None


def test_a_vocabulary_smaller_than_the_exact_logits_is_all_exact():
    logits = mx.array([1.0, 3.0, 2.0], mx.bfloat16)
    exact = mx.array([1.001, 3.002, 2.003])
    assert np.array_equal(Sampler(SamplingOptions()).logits(logits, exact=lambda ids: exact[ids]), exact)


@pytest.mark.parametrize(
    "spec", [None, QuantizationSpec(64, 8), QuantizationSpec(64, 4), QuantizationSpec(32, 4), MXFP4]
)
def test_rows_of_a_matrix_are_read_without_rounding(spec):
    mx.random.seed(3)
    layer = linear(192, 70, False, spec)
    layer.set_dtype(mx.bfloat16, lambda dtype: dtype == mx.float32)
    ids = mx.array([69, 0, 13, 13])
    wanted = layer.weight
    if isinstance(layer, nn.QuantizedLinear):
        affine = layer.mode == "affine"
        scales = layer.scales.astype(mx.float32) if affine else layer.scales
        biases = layer.biases.astype(mx.float32) if affine else None
        wanted = mx.dequantize(wanted, scales, biases, layer.group_size, layer.bits, mode=layer.mode)
    rows = rows_of(layer, ids)
    assert rows.dtype == mx.float32 and mx.array_equal(rows, wanted.astype(mx.float32)[ids])
