"""Logits that are not numbers: an error says so, and no token is chosen from them."""

from __future__ import annotations

import math
from types import SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest

from mlx_oss import SamplingOptions, Transformer, generate_step
from mlx_oss.backend import device
from mlx_oss.errors import NumericalError
from mlx_oss.generation import token_picker
from mlx_oss.generation.engine import Request
from mlx_oss.generation.local import LocalEngine
from mlx_oss.generation.token_picker import TokenPicker
from mlx_oss.tokenizer import LAST_TEXT_ID
from tests.engines import as_loaded, small_config

CONFIG = small_config(window=7, context=64)
PROMPT = [3, 14, 15, 9, 2, 6]
OPTIONS = {
    "greedy": SamplingOptions(temperature=0),
    "drawn": SamplingOptions(seed=1),
    "top_p": SamplingOptions(seed=1, top_p=0.9),
    "top_k and min_p": SamplingOptions(seed=1, top_k=5, min_p=0.1),
    "penalty": SamplingOptions(seed=1, repetition_penalty=1.5),
    "logprobs": SamplingOptions(temperature=0, logprobs=True, top_logprobs=3),
}


class Even:
    """Allows even ids, and after `forced` tokens of its own choice."""

    def __init__(self, vocab: int, forced: int = 0) -> None:
        self.mask, self.forced = np.arange(vocab) % 2 == 0, forced

    def allowed(self) -> np.ndarray | int:
        return 4 if self.forced > 0 else self.mask

    def accept(self, token: int) -> None:
        assert token % 2 == 0
        self.forced -= 1


@pytest.fixture
def model() -> Transformer:
    mx.random.seed(4)
    return as_loaded(Transformer(CONFIG))


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("row", [0, 3, -1])
@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
def test_one_bad_row_of_the_unembedding_is_noticed_at_the_first_token(model, value, row, options):
    model.lm_head.weight[row] = value
    with pytest.raises(NumericalError, match="mlx-oss verify"):
        next(generate_step(model, PROMPT, options))


@pytest.mark.parametrize("options", OPTIONS.values(), ids=OPTIONS)
@pytest.mark.parametrize("constrained", [False, True])
def test_logits_that_become_nan_later_are_noticed_at_their_token(model, monkeypatch, options, constrained):
    whole = [step.token for step in generate_step(model, PROMPT, options, max_tokens=5, constraint=_even(constrained))]
    logits, calls = type(model).logits, [0]

    def later(self: Transformer, hidden: mx.array) -> mx.array:
        calls[0] += 1
        return logits(self, hidden) * (math.nan if calls[0] == 4 else 1)

    monkeypatch.setattr(type(model), "logits", later)
    steps = generate_step(model, PROMPT, options, max_tokens=5, constraint=_even(constrained))
    assert [next(steps).token for _ in range(3)] == whole[:3]
    with pytest.raises(NumericalError):
        next(steps)


def _even(wanted: bool) -> Even | None:
    return Even(CONFIG.vocab_size) if wanted else None


@pytest.mark.parametrize("gpu", [True, False])
def test_a_bad_logit_of_an_added_id_is_noticed(monkeypatch, gpu):
    monkeypatch.setattr(device, "on_gpu", lambda: gpu)
    scores = SimpleNamespace(logits=mx.zeros(LAST_TEXT_ID + 9), exact=None)
    scores.logits[LAST_TEXT_ID + 4] = math.nan
    picker = TokenPicker(SamplingOptions(seed=1, top_p=0.5), 0, [], None, added_ids=[LAST_TEXT_ID + 4])
    with pytest.raises(NumericalError):
        picker.pick(scores).value  # noqa: B018
    assert TokenPicker(SamplingOptions(), 0, [], None).pick(scores).value <= LAST_TEXT_ID  # it is not used here


def test_tokens_that_the_constraint_chooses_alone_need_no_logits(model):
    model.norm.weight[5] = math.nan
    steps = generate_step(model, PROMPT, constraint=Even(CONFIG.vocab_size, forced=2))
    assert [next(steps).token, next(steps).token] == [4, 4]
    with pytest.raises(NumericalError):
        next(steps)


def test_an_engine_forgets_what_it_has_read_and_goes_on(model):
    engine, options = LocalEngine(model), SamplingOptions(temperature=0)
    wanted = [step.token for step in engine.submit(Request(PROMPT, options=options, max_tokens=3))]
    weight, cache = model.layers[0].self_attn.sinks, engine.make_prompt_cache()
    model.layers[0].self_attn.sinks = weight * math.nan
    mx.eval(model.parameters())  # the engine has a thread of its own
    with pytest.raises(NumericalError):
        list(engine.submit(Request(PROMPT, options=options, max_tokens=3, cache=cache)))
    assert cache.ids == []
    model.layers[0].self_attn.sinks = weight
    steps = engine.submit(Request(PROMPT, options=options, max_tokens=3, cache=cache))
    assert [step.token for step in steps] == wanted


def test_on_a_gpu_looking_at_the_sum_waits_for_nothing_that_the_token_did_not_wait_for(model, monkeypatch):
    """The sum is evaluated with the token, never by asking for its value."""
    monkeypatch.setattr(device, "on_gpu", lambda: True)
    pending: list[int] = []
    evaluated, number = mx.async_eval, token_picker._number

    def begin(*arrays: object) -> None:
        pending.extend(id(array) for array in _arrays(arrays))
        evaluated(*arrays)

    def ask(array: mx.array) -> object:
        assert id(array) in pending
        return number(array)

    monkeypatch.setattr(mx, "async_eval", begin)
    monkeypatch.setattr(token_picker, "_number", ask)
    assert len(list(generate_step(model, PROMPT, SamplingOptions(temperature=0), max_tokens=4))) == 4


def _arrays(tree: object) -> list[mx.array]:
    if isinstance(tree, (tuple, list)):
        return [array for each in tree for array in _arrays(each)]
    return [tree] if isinstance(tree, mx.array) else []
