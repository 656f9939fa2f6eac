"""Generation equals its definition: a whole forward pass and a sampler for every token."""

from __future__ import annotations

import itertools
from collections import Counter

import mlx.core as mx
import numpy as np
import pytest

from mlx_oss import SamplingOptions, Transformer, generate_step, prefill
from mlx_oss.backend import device
from mlx_oss.errors import ContextError, OptionError
from mlx_oss.generation import sampling
from mlx_oss.generation.sampling import Sampler
from mlx_oss.tokenizer import LAST_TEXT_ID
from tests.engines import as_loaded, rounding, small_config

CONTEXT = 64
PROMPT = [3, 14, 15, 9, 2, 6, 5, 35, 8, 7, 9]
GREEDY = SamplingOptions(temperature=0)


@pytest.fixture(scope="module")
def model() -> Transformer:
    """A model with random weights, a window shorter than the prompt, and a context of 64 tokens."""
    mx.random.seed(4)
    return as_loaded(Transformer(small_config(window=7, context=CONTEXT)))


def forward(model: Transformer, tokens: list[int]) -> mx.array:
    """Logits (L, V) of a forward pass over all tokens, without a cache."""
    return model(mx.array([tokens]))[0].astype(mx.float32)


def same(model: Transformer, logits: mx.array, expected: mx.array) -> bool:
    """True if they differ by rounding only."""
    a, b = (np.array(array.astype(mx.float32)) for array in (logits, expected))
    return np.abs(a - b).max() < rounding(b, model.dtype)


def tokens_of(model: Transformer, options: SamplingOptions, **more) -> list[int]:
    return [step.token for step in generate_step(model, PROMPT, options, **more)]


def log_softmax(logits: mx.array) -> np.ndarray:
    values = np.array(logits).astype(np.float64)
    return values - values.max() - np.log(np.exp(values - values.max()).sum())


@pytest.mark.parametrize(
    "options",
    [
        GREEDY,
        SamplingOptions(seed=1),
        SamplingOptions(seed=2, temperature=1.7, top_k=20, top_p=0.9),
        SamplingOptions(seed=3, repetition_penalty=1.5, repetition_window=9, logit_bias={4: 2.0}),
        SamplingOptions(temperature=0, repetition_penalty=3.0, top_logprobs=5),
    ],
)
def test_each_token_is_what_the_sampler_picks_from_a_whole_forward_pass(model, options):
    """Its log-probability and those of the alternatives are those of the same logits at temperature 1."""
    sampler, tokens = Sampler(options, len(PROMPT)), list(PROMPT)
    for step in generate_step(model, PROMPT, options, max_tokens=25):
        logits = sampler.logits(forward(model, tokens)[-1], tokens)
        assert step.token == sampler.sample(logits).item()
        expected, tolerance = log_softmax(logits), rounding(np.array(logits), model.dtype)
        assert step.logprob == pytest.approx(expected[step.token], abs=tolerance)
        assert len(step.top_logprobs) == options.top_logprobs
        for token, logprob in step.top_logprobs:
            assert logprob == pytest.approx(expected[token], abs=tolerance)
        tokens.append(step.token)
    assert len(tokens) == len(PROMPT) + 25


@pytest.mark.parametrize("gpu", [True, False])
def test_penalties_count_the_tokens_of_the_message_that_is_being_written(model, monkeypatch, gpu):
    """Not those of the prompt, and not those before a control token: a header begins or ends there."""
    monkeypatch.setattr(device, "on_gpu", lambda: gpu)
    monkeypatch.setattr(sampling, "N_RANKS", 50)  # so that ids from 50 on are control tokens of this small model
    options = SamplingOptions(seed=4, temperature=2, frequency_penalty=1.0, presence_penalty=0.5)
    controls = Plan({6: 51, 14: 50})
    steps = list(generate_step(model, PROMPT, options, max_tokens=20, constraint=controls))
    sampler, tokens, counts = Sampler(options, len(PROMPT)), list(PROMPT), Counter()
    for place, step in enumerate(steps):
        logits = sampler.logits(forward(model, tokens)[-1], counts=counts)
        if place in controls.plan:
            sampler.skip()
        else:
            assert step.token == sampler.sample(logits).item()
        tokens.append(step.token)
        counts = Counter() if step.token >= 50 else counts + Counter([step.token])
    assert [steps[place].token for place in (6, 14)] == [51, 50]


def test_a_penalty_keeps_greedy_tokens_from_coming_back(model):
    plain = tokens_of(model, GREEDY, max_tokens=40)
    varied = tokens_of(model, SamplingOptions(temperature=0, frequency_penalty=2), max_tokens=40)
    assert len(set(varied)) > len(set(plain))


def test_greedy_tokens_are_the_likeliest_of_one_forward_pass_over_them_all(model):
    generated = tokens_of(model, GREEDY, max_tokens=30)
    logits = forward(model, PROMPT + generated)
    assert np.array(logits[len(PROMPT) - 1 : -1]).argmax(axis=1).tolist() == generated


def test_alternatives_are_the_likeliest_best_first(model):
    step = next(generate_step(model, PROMPT, SamplingOptions(top_logprobs=6, seed=0)))
    logits = np.array(forward(model, PROMPT)[-1])
    assert [logits[token] for token, _ in step.top_logprobs] == sorted(logits, reverse=True)[:6]
    everything = next(generate_step(model, PROMPT, SamplingOptions(top_logprobs=100)))
    assert sorted(token for token, _ in everything.top_logprobs) == list(range(53))
    assert sum(np.exp(logprob) for _, logprob in everything.top_logprobs) == pytest.approx(1, abs=1e-5)


def test_the_cache_holds_the_prompt_and_every_yielded_token(model):
    cache = model.make_cache()
    for count, _ in enumerate(generate_step(model, PROMPT, GREEDY, cache=cache, max_tokens=20), start=1):
        assert cache.offset == len(PROMPT) + count
    assert cache.offset == len(PROMPT) + 20


@pytest.mark.parametrize("taken", [0, 1, 2, 9])
def test_closing_early_leaves_a_cache_to_go_on_from(model, taken):
    cache = model.make_cache()
    steps = generate_step(model, PROMPT, SamplingOptions(seed=5), cache=cache)
    tokens = [step.token for step in itertools.islice(steps, taken)]
    steps.close()
    seen = PROMPT + tokens if taken else []  # nothing is computed before the first token is requested
    assert cache.offset == len(seen)
    more = [40, 41, 42]
    assert same(model, prefill(model, more, cache), forward(model, seen + more)[-1])


def test_generating_in_two_turns_on_one_cache_is_generating_in_one(model):
    whole = tokens_of(model, GREEDY, max_tokens=20)
    cache = model.make_cache()
    first = tokens_of(model, GREEDY, cache=cache, max_tokens=11)
    prefix = PROMPT + first
    logits = forward(model, prefix)[-1]
    second = [int(logits.argmax())]
    second += [step.token for step in generate_step(model, second, GREEDY, cache=cache, max_tokens=8)]
    assert first + second == whole


@pytest.mark.parametrize("gpu", [True, False])
def test_a_token_is_not_held_back_until_the_next_one_is_chosen(model, monkeypatch, gpu):
    """On a GPU the next choice has begun, and nothing has waited for it. On the CPU backend choosing waits."""
    monkeypatch.setattr(device, "on_gpu", lambda: gpu)
    sample, chosen = Sampler.sample, []
    monkeypatch.setattr(Sampler, "sample", lambda self, logits: (chosen.append(1), sample(self, logits))[1])
    steps = generate_step(model, PROMPT, SamplingOptions(seed=5))
    for count in (1, 2, 3):
        next(steps)
        assert len(chosen) == count + gpu


def test_a_stop_id_is_the_last_token(model):
    endless = tokens_of(model, SamplingOptions(seed=6), max_tokens=30)
    stop = endless[4]
    steps = list(generate_step(model, PROMPT, SamplingOptions(seed=6), max_tokens=30, stop_ids=(stop, 10**6)))
    assert [step.token for step in steps] == endless[: endless.index(stop) + 1]
    assert [step.finish for step in steps] == [None] * (len(steps) - 1) + ["stop"]


def test_a_stop_id_as_the_last_token_allowed_is_a_stop(model):
    token = tokens_of(model, GREEDY, max_tokens=1)[0]
    (step,) = generate_step(model, PROMPT, GREEDY, max_tokens=1, stop_ids=[token])
    assert step.finish == "stop"


@pytest.mark.parametrize("count", [1, 2, 7])
def test_max_tokens_are_generated_and_no_more(model, count):
    steps = list(generate_step(model, PROMPT, GREEDY, max_tokens=count))
    assert [step.finish for step in steps] == [None] * (count - 1) + ["length"]


@pytest.mark.parametrize("max_tokens", [None, CONTEXT])
def test_generation_ends_where_the_context_does(model, max_tokens):
    steps = list(generate_step(model, PROMPT, GREEDY, max_tokens=max_tokens))
    assert len(PROMPT) + len(steps) == CONTEXT
    assert [step.finish for step in steps] == [None] * (len(steps) - 1) + ["length"]


@pytest.mark.parametrize("cached", [0, 30])
def test_a_prompt_that_fills_the_context_is_refused_before_anything_is_computed(model, cached):
    cache = model.make_cache()
    if cached:
        prefill(model, [1] * cached, cache)
    with pytest.raises(ContextError, match="64 tokens leave no room to answer in a context of 64"):
        next(generate_step(model, [1] * (CONTEXT - cached), cache=cache))
    assert cache.offset == cached
    (step,) = generate_step(model, [1] * (CONTEXT - cached - 1), cache=cache)
    assert step.finish == "length" and cache.offset == CONTEXT


def test_a_seed_decides_the_tokens(model):
    first, again, other = (tokens_of(model, SamplingOptions(seed=seed), max_tokens=15) for seed in (1, 1, 2))
    assert first == again != other


@pytest.mark.parametrize("chunk", [1, 2, 5, 7, 10, 11, 12, 1000])
def test_the_chunk_size_changes_no_token(model, chunk):
    options = SamplingOptions(seed=9)
    assert tokens_of(model, options, chunk=chunk, max_tokens=15) == tokens_of(model, options, max_tokens=15)


@pytest.mark.parametrize(("chunk", "calls"), [(4, [4, 8, 11]), (11, [11]), (512, [11]), (1, list(range(1, 12)))])
def test_progress_is_called_after_each_chunk(model, chunk, calls):
    cache, reported = model.make_cache(), []

    def progress(done: int, total: int) -> None:
        assert cache.offset == done
        reported.append((done, total))

    logits = prefill(model, PROMPT, cache, chunk=chunk, progress=progress)
    assert reported == [(done, 11) for done in calls]
    assert same(model, logits, forward(model, PROMPT)[-1])


def test_an_exception_in_progress_ends_the_prefill_and_the_cache_keeps_what_was_reported(model):
    cache = model.make_cache()

    def progress(done: int, total: int) -> None:
        if done == 8:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        next(generate_step(model, PROMPT, GREEDY, cache=cache, chunk=4, progress=progress))
    assert cache.offset == 8
    logits = prefill(model, PROMPT[8:], cache)
    assert same(model, logits, forward(model, PROMPT)[-1])


@pytest.mark.parametrize(
    ("prompt", "more", "message"),
    [
        ([], {}, "the prompt is empty"),
        ([1, -1], {}, "token id -1 is outside the vocabulary of 53"),
        ([0, 53], {}, "token id 53 is outside the vocabulary of 53"),
        ([1], {"chunk": 0}, "chunk is 0"),
        ([1], {"max_tokens": 0}, "max_tokens is 0"),
        ([1], {"max_tokens": -1}, "max_tokens is -1"),
    ],
)
def test_a_wrong_argument_is_refused_before_anything_is_computed(model, prompt, more, message):
    cache = model.make_cache()
    with pytest.raises(OptionError, match=message):
        next(generate_step(model, prompt, cache=cache, **more))
    assert cache.offset == 0


def test_without_logprobs_the_tokens_are_the_same(model):
    prompt = [1, 2, 3]
    with_logprobs, without = (
        list(generate_step(model, prompt, SamplingOptions(seed=5, logprobs=wanted), max_tokens=8))
        for wanted in (True, False)
    )
    assert [step.token for step in with_logprobs] == [step.token for step in without]
    assert all(isinstance(step.logprob, float) for step in with_logprobs)
    assert all(step.logprob is None for step in without)


class Plan:
    """A constraint that allows ids by place, or every id where nothing is planned.

    It checks that `allowed` and `accept` are called alternately.
    """

    def __init__(self, plan: dict[int, int | list[int]]) -> None:
        self.plan, self.accepted, self.calls = plan, list[int](), 0

    def allowed(self) -> np.ndarray | int | None:
        assert self.calls == len(self.accepted)
        self.calls += 1
        planned = self.plan.get(len(self.accepted))
        if isinstance(planned, list):
            mask = np.zeros(LAST_TEXT_ID + 1, bool)
            mask[planned] = True
            return mask
        return planned

    def accept(self, token: int) -> None:
        self.accepted.append(token)


SAMPLED = [GREEDY, SamplingOptions(seed=7, temperature=2), SamplingOptions(seed=8, repetition_penalty=1.3, top_p=0.9)]


@pytest.mark.parametrize("options", SAMPLED)
def test_a_constraint_that_allows_everything_changes_nothing(model, options):
    everything = Plan({place: list(range(LAST_TEXT_ID)) for place in (2, 3, 9)})
    free = list(generate_step(model, PROMPT, options, max_tokens=15))
    assert list(generate_step(model, PROMPT, options, max_tokens=15, constraint=everything)) == free
    assert everything.accepted == [step.token for step in free]


@pytest.mark.parametrize("options", SAMPLED)
def test_only_allowed_ids_are_chosen_and_each_is_the_choice_of_the_sampler_among_them(model, options):
    allowed = {place: list(range(place % 5, 53, 5)) for place in range(0, 20, 2)} | {5: [17]}
    steps = list(generate_step(model, PROMPT, options, max_tokens=20, constraint=Plan(allowed)))
    sampler, tokens = Sampler(options, len(PROMPT)), list(PROMPT)
    for place, step in enumerate(steps):
        mask = np.array([not (place in allowed and id_ not in allowed[place]) for id_ in range(53)])
        whole = forward(model, tokens)[-1]
        logits = sampler.logits(whole, tokens, mask)
        assert step.token == sampler.sample(logits).item()
        assert place not in allowed or step.token in allowed[place]
        tolerance = rounding(np.array(whole), model.dtype)
        assert step.logprob == pytest.approx(log_softmax(logits)[step.token], abs=tolerance)
        tokens.append(step.token)


@pytest.mark.parametrize("options", SAMPLED)
def test_a_forced_token_is_generated_and_does_not_change_the_randomness_of_later_draws(model, options):
    """If the model would have generated the forced tokens anyway, all tokens are the same as without a constraint."""
    free = tokens_of(model, options, max_tokens=15)
    as_it_would = Plan({place: free[place] for place in (0, 4, 5, 6)})
    assert tokens_of(model, options, max_tokens=15, constraint=as_it_would) == free
    other = Plan({place: (free[place] + 1) % 53 for place in (0, 4, 5, 6)})
    forced = tokens_of(model, options, max_tokens=15, constraint=other)
    assert [forced[place] for place in (0, 4, 5, 6)] == [other.plan[place] for place in (0, 4, 5, 6)]


def test_alternatives_are_among_the_allowed_ids(model):
    constraint = Plan({0: [3, 5, 8], 1: 4})
    options = SamplingOptions(temperature=0, top_logprobs=6)
    masked, forced = generate_step(model, PROMPT, options, max_tokens=2, constraint=constraint)
    assert sorted(token for token, _ in masked.top_logprobs) == [3, 5, 8]
    assert sum(np.exp(logprob) for _, logprob in masked.top_logprobs) == pytest.approx(1, abs=1e-5)
    assert (forced.token, forced.logprob, forced.top_logprobs) == (4, 0.0, ())


@pytest.mark.parametrize("taken", [1, 3, 6])
def test_closing_early_leaves_the_cache_at_the_last_token_with_a_constraint_too(model, taken):
    cache = model.make_cache()
    steps = generate_step(model, PROMPT, GREEDY, cache=cache, constraint=Plan({2: 7, 3: [1, 2], 4: 9}))
    tokens = [step.token for step in itertools.islice(steps, taken)]
    steps.close()
    assert cache.offset == len(PROMPT) + taken
    logits = prefill(model, [40], cache)
    assert same(model, logits, forward(model, [*PROMPT, *tokens, 40])[-1])
