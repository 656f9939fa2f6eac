"""The arithmetic of comparisons, against its definition in float64."""

from __future__ import annotations

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_oss.evals.divergence import TOP, divergence, divergence_from, top_of

SIZES = st.integers(2, 700)


def drawn(size: int, seed: int, scale: float, apart: float) -> tuple[np.ndarray, np.ndarray, int]:
    """Logits of two predictions, and a token."""
    random = np.random.default_rng(seed)
    p = random.normal(0, scale, size).astype(np.float32) + np.float32(random.normal(0, 20))
    q = (p + random.normal(0, apart, size) + random.normal(0, 5)).astype(np.float32)
    return p, q, int(random.integers(size))


def logprobs(logits: np.ndarray) -> np.ndarray:
    wide = logits.astype(np.float64) - logits.max()
    return wide - np.log(np.exp(wide).sum())


cases = given(SIZES, st.integers(0, 2**32), st.sampled_from([0.1, 3, 30]), st.sampled_from([1e-4, 0.01, 1, 40]))


@cases
@settings(deadline=None)
def test_kl_is_what_its_definition_says(size, seed, scale, apart):
    p, q, said = drawn(size, seed, scale, apart)
    log_p, log_q = logprobs(p), logprobs(q)
    expected = (np.exp(log_p) * (log_p - log_q)).sum()
    found = divergence(p, q, said)
    assert abs(found.kl - expected) < 1e-5 * max(1, expected) and found.kl >= 0 and found.missing == 0
    assert abs(found.change - (log_q - log_p)[said]) < 1e-4
    assert found.is_same == (p.argmax() == q.argmax())


@cases
@settings(deadline=None)
def test_a_prediction_does_not_differ_from_itself_at_all(size, seed, scale, apart):
    p, _, said = drawn(size, seed, scale, apart)
    for found in (divergence(p, p, said), divergence_from(top_of(p, said), p, said)):
        assert found.kl == 0 and found.change == 0 and found.is_same


@cases
@settings(deadline=None)
def test_what_was_stored_bounds_kl_from_both_sides(size, seed, scale, apart):
    p, q, said = drawn(size, seed, scale, apart)
    exact, coarse = divergence(p, q, said), divergence_from(top_of(p, said), q, said)
    slack = 1e-5 * max(1, exact.kl)
    assert coarse.kl - slack <= exact.kl <= coarse.kl + coarse.missing + slack
    assert abs(coarse.change - exact.change) < 1e-4 and coarse.is_same == exact.is_same
    if size <= TOP:
        assert coarse.missing == 0 and abs(coarse.kl - exact.kl) <= slack


def test_a_rest_that_the_other_takes_for_impossible_counts():
    """Its probability in Q, e^-120, is nothing in float32. It was left out, and nothing was said to be missing."""
    p = np.zeros(TOP + 50, np.float32)
    q = np.where(np.arange(len(p)) < TOP, 0, -120).astype(np.float32)
    for stored in (np.arange(TOP, dtype=np.int32), np.arange(50, TOP + 50, dtype=np.int32)):
        top = top_of(p, 0, stored)
        exact, coarse = divergence(p, q, 0), divergence_from(top, q, 0)
        assert exact.kl > 19 and coarse.kl - 1e-4 <= exact.kl <= coarse.kl + coarse.missing + 1e-4


def test_small_differences_are_not_lost_in_rounding():
    """Without care, sums in float32 of 200,000 terms are off by 1e-6, more than what rounding to bfloat16 changes."""
    random = np.random.default_rng(3)
    p = (random.normal(0, 4, 201_088) + 20).astype(np.float32)
    q = (p + random.normal(0, 3e-4, p.shape)).astype(np.float32)
    log_p, log_q = logprobs(p), logprobs(q)
    expected = (np.exp(log_p) * (log_p - log_q)).sum()
    assert 1e-8 < expected < 1e-7
    assert abs(divergence(p, q, 0).kl / expected - 1) < 0.01


def test_a_token_that_only_the_other_expects_counts():
    p, q = np.zeros(5, np.float32), np.zeros(5, np.float32)
    p[0], q[1] = 200, 200
    assert abs(divergence(p, q, 1).kl - 200) < 1e-3 and abs(divergence(p, q, 1).change - 200) < 1e-3


def test_the_most_likely_token_is_stored_first_and_all_stored_ones_are_different():
    random = np.random.default_rng(5)
    logits = np.round(random.normal(0, 2, 4001)).astype(np.float32)  # many are equal
    top = top_of(logits, 7)
    assert top.ids[0] == logits.argmax() and len(set(top.ids.tolist())) == TOP
    assert logits[top.ids].min() == np.sort(logits)[-TOP]
