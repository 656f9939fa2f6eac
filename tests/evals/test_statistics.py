"""The confidence interval: known values, and that it holds what it promises on simulated questions."""

from __future__ import annotations

import random

import pytest

from mlx_oss.evals.statistics import score, wilson


@pytest.mark.parametrize(
    ("right", "count", "low", "high"),
    # Newcombe 1998, Statistics in Medicine 17:857-872, table I, method 3.
    [(81, 263, 0.2553, 0.3662), (15, 148, 0.0624, 0.1605), (0, 20, 0, 0.1611), (1, 29, 0.0061, 0.1718)],
)
def test_the_interval_is_that_of_the_literature(right, count, low, high):
    assert wilson(right / count, count) == pytest.approx((low, high), abs=5e-5)
    alone = score([1] * right + [0] * (count - right), 1)
    assert (alone.low, alone.high) == pytest.approx((low, high), abs=5e-5) and alone.pass_at_1 == right / count


def test_samples_that_always_agree_are_worth_one_answer_each():
    once, often = score([1, 0, 1, 1], 1), score([9, 0, 9, 9], 9)
    assert (often.low, often.high) == pytest.approx((once.low, once.high)) and often.pass_at_1 == 0.75


def test_samples_that_differ_as_if_there_were_no_questions_are_worth_all():
    one = score([5, 5, 5, 5], 10)
    assert (one.low, one.high) == pytest.approx(wilson(0.5, 40))


def test_one_question_says_little_about_others():
    assert score([8], 16).high - score([8], 16).low > 0.8


@pytest.mark.parametrize("right", [0, 3])
def test_where_all_agree_nothing_is_certain(right):
    one = score([right] * 10, 3)
    assert one.high - one.low == pytest.approx(wilson(0, 10)[1])
    assert 0 <= one.low <= one.pass_at_1 <= one.high <= 1


@pytest.mark.parametrize(("questions", "samples", "spread"), [(20, 1, 1), (30, 4, 1), (30, 8, 4), (100, 4, 0.3)])
def test_the_interval_has_the_true_value_in_about_95_of_100_evaluations(questions, samples, spread):
    """Questions are drawn from a population in which the chance of a right answer differs (a beta distribution)."""
    draw, hits, trials = random.Random(questions * samples), 0, 1500
    share = 0.7
    for _ in range(trials):
        chances = [draw.betavariate(share * spread, (1 - share) * spread) for _ in range(questions)]
        one = score([sum(draw.random() < chance for _ in range(samples)) for chance in chances], samples)
        hits += one.low <= share <= one.high
    assert 0.92 <= hits / trials <= 0.985
