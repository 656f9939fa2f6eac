"""The repetition guard, compared with a count by definition."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from mlx_oss.constrain import RepetitionGuard
from tests.harmony.strategies import examples


def circle(tokens: list[int]) -> int:
    """How many of the last tokens repeat one cycle of at most 64 tokens, which occurs at least eight times."""
    for length in range(len(tokens), 7, -1):
        last = tokens[-length:]
        periods = range(1, min(64, length // 8) + 1)
        if any(all(a == b for a, b in zip(last, last[period:], strict=False)) for period in periods):
            return length
    return 0


@examples(100)
@given(
    st.lists(st.integers(0, 3), max_size=30),
    st.lists(st.integers(0, 3), min_size=1, max_size=70),
    st.lists(st.integers(0, 3), max_size=5),
)
def test_it_says_how_long_the_last_tokens_are_one_cycle(before, cycle, after):
    tokens = before + cycle * 9 + after
    guard = RepetitionGuard()
    lengths = [guard.observe(token) for token in tokens]
    assert lengths == [circle(tokens[:end]) for end in range(1, len(tokens) + 1)]


def test_what_a_long_text_repeats_now_and_then_is_no_circle():
    guard = RepetitionGuard()
    assert not any(guard.observe(token) for round_ in range(50) for token in (*range(20), 100 + round_))
