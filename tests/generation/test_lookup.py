"""Guesses from the text save steps and change no answer, whether they are right or wrong."""

from __future__ import annotations

import random

import mlx.core as mx
import numpy as np
import pytest

from mlx_oss import LocalEngine, Request, SamplingOptions, Transformer
from mlx_oss.generation.lookup import LEAST_MATCH, Lookup, Worth
from tests.engines import as_loaded, small_config

CONTEXT = 400
TEXT = [(7 * n) % 41 for n in range(20)]


class Steps(Transformer):
    """Counts the steps that compute one token or more after a prompt."""

    def __init__(self, config) -> None:
        super().__init__(config)
        self.count = [0]

    def hidden_of_each(self, tokens, caches):
        self.count[0] += 1
        return super().hidden_of_each(tokens, caches)


@pytest.fixture(scope="module")
def transformer() -> Steps:
    mx.random.seed(4)
    return as_loaded(Steps(small_config(window=7, context=CONTEXT)))


class Says:
    """A constraint that allows only the ids of a script, as masks, so that they are sampled."""

    def __init__(self, script: list[int]) -> None:
        self.script = iter(script)

    def allowed(self) -> np.ndarray:
        return np.arange(53) == next(self.script)

    def accept(self, token: int) -> None:
        pass


def test_a_guess_is_what_followed_where_the_same_ids_stood_before():
    lookup = Lookup([*TEXT, 50, *TEXT[: LEAST_MATCH - 1]])
    assert lookup.guess() == []
    lookup.append(TEXT[LEAST_MATCH - 1])
    assert lookup.guess(4) == TEXT[LEAST_MATCH : LEAST_MATCH + 4]
    lookup.append(TEXT[LEAST_MATCH])
    assert lookup.guess(1) == [TEXT[LEAST_MATCH + 1]]
    lookup.append(52)
    assert lookup.guess() == []


def test_a_guess_never_leaves_the_text():
    rng = random.Random(1)
    for _ in range(300):
        ids = [rng.randrange(3) for _ in range(rng.randrange(40))]
        lookup = Lookup(ids)
        guess = lookup.guess(8)
        places = [n for n in range(len(ids)) if ids[n - LEAST_MATCH : n] == ids[-LEAST_MATCH:] and n >= LEAST_MATCH]
        assert len(guess) <= 8 and (not guess or any(ids[n : n + len(guess)] == guess for n in places))


def test_guesses_stop_where_they_cost_time_and_are_tried_again_later():
    worth = Worth()
    worth.took(1.0, 0, 0)
    for _ in range(4):
        assert worth.is_worth_it()
        worth.took(3.0, 4, 1)
    assert not worth.is_worth_it()
    pauses = 0
    while not worth.is_worth_it():
        worth.took(1.0, 0, 0)
        pauses += 1
    assert pauses == 32
    for _ in range(10):
        worth.took(3.0, 4, 4)
        assert worth.is_worth_it()


@pytest.mark.parametrize("options", [SamplingOptions(temperature=0), SamplingOptions(seed=3, top_logprobs=2)])
def test_a_repeated_text_takes_fewer_steps_and_is_the_same(transformer, options):
    script = (TEXT * 6)[:100]
    said = {}
    for guesses in (True, False):
        engine, transformer.count[0] = LocalEngine(transformer, guesses=guesses), 0
        steps = list(engine.submit(Request(TEXT, options, 100, constraint=Says([*script, *script]))))
        said[guesses] = steps, transformer.count[0]
    assert said[True][0] == said[False][0] and [step.token for step in said[True][0]] == script
    assert said[False][1] == 100 and said[True][1] < 100


def test_no_answer_changes(transformer):
    """With any options. The cache then holds the same, and goes on in the same way."""
    rng = random.Random(2)
    on, off = LocalEngine(transformer, guesses=True), LocalEngine(transformer, guesses=False)
    for number in range(12):
        prompt = [rng.randrange(50) for _ in range(rng.randrange(3, 40))] * rng.choice([1, 3])
        options = rng.choice(
            [
                SamplingOptions(temperature=0),
                SamplingOptions(seed=number, temperature=0.05),
                SamplingOptions(seed=number, top_logprobs=3),
                SamplingOptions(temperature=0, repetition_penalty=1.05),
            ]
        )
        count, stop = rng.choice([5, 40, 150]), rng.sample(range(50), rng.choice([0, 1]))
        caches = [engine.make_prompt_cache() for engine in (on, off)]
        first, second = (
            list(engine.submit(Request(prompt, options, count, stop, cache=cache)))
            for engine, cache in zip((on, off), caches, strict=True)
        )
        assert first == second and caches[0].ids == caches[1].ids
        longer = [*caches[0].ids, 3, 4]
        first, second = (
            [step.token for step in engine.submit(Request(longer, options, 20, cache=cache))]
            for engine, cache in zip((on, off), caches, strict=True)
        )
        assert first == second


@pytest.mark.parametrize("taken", range(1, 30, 3))
def test_a_stream_that_is_closed_leaves_only_what_its_reader_has_seen(transformer, taken):
    """So that a prompt that goes on from there reads only what is new."""
    engine = LocalEngine(transformer, guesses=True)
    cache, script = engine.make_prompt_cache(), (TEXT * 6)[:90]
    stream = engine.submit(Request(TEXT, SamplingOptions(temperature=0), 90, constraint=Says(script), cache=cache))
    given = [next(stream).token for _ in range(taken)]
    stream.close()
    held = cache.ids
    assert held == [*TEXT, *given]
    again = engine.submit(Request([*held, 1], SamplingOptions(temperature=0), 9, cache=cache))
    alone = engine.submit(Request([*held, 1], SamplingOptions(temperature=0), 9))
    assert [step.token for step in again] == [step.token for step in alone]
    assert again.counts.reused_tokens == len(held)
