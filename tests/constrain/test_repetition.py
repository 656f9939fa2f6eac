"""The guard against going round in circles, against a count by definition."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mlx_oss.constrain import RepetitionGuard
from tests.harmony.strategies import examples

SHORTEST = 24  # tokens, here


def is_circle(tokens: list[int]) -> bool:
    """Whether the last tokens are one cycle of at most 64, eight times and SHORTEST tokens long or longer."""
    for period in range(1, 65):
        length = max(8 * period, SHORTEST)
        last = tokens[-length:]
        if len(last) == length and all(a == b for a, b in zip(last, last[period:], strict=False)):
            return True
    return False


@examples(100)
@given(
    st.lists(st.integers(0, 3), max_size=30),
    st.lists(st.integers(0, 3), min_size=1, max_size=70),
    st.lists(st.integers(0, 3), max_size=5),
)
def test_it_speaks_up_where_the_last_tokens_are_one_cycle_often_enough(before, cycle, after):
    tokens = before + cycle * 12 + after
    guard = RepetitionGuard(SHORTEST)
    heard = [guard.see(token) for token in tokens]
    assert heard == [is_circle(tokens[:end]) for end in range(1, len(tokens) + 1)]


def test_what_a_long_text_repeats_now_and_then_is_no_circle():
    guard = RepetitionGuard(SHORTEST)
    assert not any(guard.see(token) for round_ in range(50) for token in (*range(20), 100 + round_))
