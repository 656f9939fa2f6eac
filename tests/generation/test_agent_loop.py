"""Agents that send their whole history with each request: the engine reads what is new, and hardly anything twice."""

from __future__ import annotations

import random

import mlx.core as mx
import pytest

from mlx_oss import LocalEngine, Transformer
from tests.agent_loop import SCENARIOS, Agents, Reading
from tests.engines import as_loaded, small_config


@pytest.mark.parametrize("name", SCENARIOS)
def test_hardly_anything_is_read_twice_whatever_others_ask_in_between(name):
    mx.random.seed(1)
    model = LocalEngine(as_loaded(Transformer(small_config(window=16, context=4096))))
    agents = Agents(model, random.Random(2), results=(10, 40), answers=(3, 8))
    SCENARIOS[name](agents, preamble=400, calls=8)
    assert agents.reading.requests >= 8 and agents.reading.ratio <= 1.02


def test_the_minimum_counts_each_beginning_once():
    class Counted:
        class counts:
            read_tokens, reused_tokens = 9, 2

    reading = Reading()
    reading.count(Counted, [1, 2, 3], [4, 5])  # all three ids
    reading.count(Counted, [1, 2, 3, 4, 5, 6], [7])  # what was written is held: only the 6
    reading.count(Counted, [1, 2, 3, 4, 5, 6], [7])  # at least the last one
    reading.count(Counted, [2, 3], [])  # ids elsewhere are others
    assert (reading.least, reading.read, reading.prompts) == (3 + 1 + 1 + 2, 4 * 7, 17)
    assert reading.worst == (1, 7, 1)
