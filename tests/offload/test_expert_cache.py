"""Which experts have a slot and which make room: for any requests, slots and experts match one to one."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_oss.offload.expert_cache import ExpertCache


def serve(slots: ExpertCache, needed: list[int]) -> int:
    """Serves one token that needs these experts; returns how many had no slot."""
    counts = np.zeros(len(slots.of), int)
    counts[needed] = 1
    slots.record(counts, 1)
    missing = [expert for expert in needed if slots.of[expert] < 0]
    for slot, expert in zip(slots.free(len(missing), keep=needed), missing, strict=True):
        slots.fill(slot, expert)
    return len(missing)


@given(st.lists(st.lists(st.integers(0, 11), min_size=1, max_size=4, unique=True), max_size=60), st.integers(4, 12))
def test_whatever_is_needed_has_a_slot_of_its_own(requests, count):
    slots = ExpertCache(12, count)
    for needed in requests:
        serve(slots, needed)
        held = slots.held(range(12))
        assert set(needed) <= set(held) and len(held) <= count
        assert len({int(slots.of[expert]) for expert in held}) == len(held)
        assert all(0 <= slots.of[expert] < count for expert in held)


def test_what_is_kept_keeps_its_slot():
    slots = ExpertCache(8, 4)
    serve(slots, [0, 1, 2, 3])
    before = slots.of[[1, 3]].tolist()
    serve(slots, [1, 3, 6, 7])
    assert slots.of[[1, 3]].tolist() == before and slots.of[0] == slots.of[2] == -1


def test_an_expert_needed_often_outlasts_one_needed_once_and_later():
    slots = ExpertCache(8, 2)
    for _ in range(3):
        serve(slots, [0])
    serve(slots, [1])
    serve(slots, [2])
    assert slots.held(range(8)) == [0, 2]


def test_an_expert_needed_often_long_ago_makes_room():
    slots = ExpertCache(8, 2)
    for _ in range(5):
        serve(slots, [0])
    for turn in range(400):
        serve(slots, [1 + turn % 2])
    assert slots.held(range(8)) == [1, 2]


def test_many_tokens_at_once_count_like_the_same_tokens_one_by_one():
    together, apart = ExpertCache(3, 1), ExpertCache(3, 1)
    together.record(np.array([50, 25, 0]), 50)
    for token in range(50):
        apart.record(np.array([1, token % 2, 0]), 1)
    assert together._heat == pytest.approx(apart._heat, rel=0.02)


def test_a_slot_that_was_emptied_holds_no_expert():
    slots = ExpertCache(4, 2)
    serve(slots, [0, 1])
    slots.free(1, keep=[1])
    assert slots.held(range(4)) == [1]
    slots.free(2, keep=[])
    assert slots.held(range(4)) == []
