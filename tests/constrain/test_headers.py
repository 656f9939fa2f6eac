"""Legal headers, compared with the full list of them."""

from __future__ import annotations

import os
import random

import mlx.core as mx
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_oss import SamplingOptions, generate_step
from mlx_oss.constrain import Rules, TurnConstraint, legal_headers
from mlx_oss.constrain.headers import LegalHeaders
from mlx_oss.harmony import HarmonyParser, MessageStarted, render_conversation
from mlx_oss.tokenizer import CHANNEL, END, MESSAGE, N_RANKS, START, load_tokenizer
from tests.constrain import oracle
from tests.harmony.strategies import examples, function_names

RUNS = int(os.environ.get("CONSTRAINED_RUNS", "1"))
OPENING = render_conversation([], next_role="assistant")
TOOLS = ("functions.get", "functions.get_weather", "python", "browser.search", "browser.open", "browser.find")


@pytest.mark.parametrize("recipients", [(), TOOLS])
@pytest.mark.parametrize("reasoning", [True, False])
def test_what_is_allowed_is_what_trying_every_id_finds(recipients, reasoning):
    """Along random walks, which split the texts into tokens anywhere."""
    texts = oracle.legal_headers(recipients, reasoning)
    begun, draw = oracle.beginnings(texts), random.Random(len(recipients))
    for _ in range(2):
        state, written = LegalHeaders(recipients, reasoning).first, b""
        while written not in texts:
            assert list(state.allowed) == oracle.what_may_follow(written, begun)
            token = draw.choice(state.allowed)
            state, written = state.after(token), written + oracle.symbols_of(token)
            assert state is not None
        assert state.allowed == ()


@examples(20)
@given(st.lists(function_names, max_size=30, unique=True), st.randoms(use_true_random=False))
def test_any_walk_ends_in_a_legal_header_that_needs_no_repair(recipients, draw):
    state, ids = LegalHeaders(tuple(recipients)).between, []
    while state.transitions:
        ids.append(draw.choice(state.allowed))
        state = state.after(ids[-1])
    assert ids[0] == START
    written = b"".join(map(oracle.symbols_of, ids[1:]))
    role = oracle.symbols("assistant")
    assert written.startswith(role) and written.removeprefix(role) in oracle.legal_headers(recipients)
    parser = HarmonyParser(None, strict=True)
    (started,) = [event for id_ in ids for event in parser.feed(id_)]
    assert isinstance(started, MessageStarted)
    assert started.header.recipient in (None, *recipients)
    assert started.header.channel != "final" or started.header.recipient is None


def test_a_token_that_is_not_legal_leads_nowhere():
    state = legal_headers(TOOLS).first
    assert all(state.after(token) is None for token in (MESSAGE, START, *load_tokenizer().encode("final")))
    assert state.after(CHANNEL).after(load_tokenizer().encode(" final")[0]) is None


def test_the_usual_spellings_are_legal():
    for text in (
        "<|channel|>analysis<|message|>",
        "<|channel|>commentary<|message|>",
        "<|channel|>final<|message|>",
        "<|channel|>final <|constrain|>json<|message|>",
        "<|channel|>commentary to=functions.get_weather <|constrain|>json<|message|>",
        "<|channel|>commentary to=functions.get_weather<|constrain|>json<|message|>",
        " to=functions.get<|channel|>commentary <|constrain|>json<|message|>",
        "<|channel|>analysis to=python code<|message|>",
        "<|channel|>analysis to=browser.search code<|message|>",
    ):
        state = legal_headers(TOOLS).first
        for token in load_tokenizer().encode_with_specials(text):
            assert token in state.allowed
            state = state.after(token)
        assert state.allowed == ()


def headers_in(ids: list[int]) -> list[bytes]:
    """The complete headers in a stream that starts after OPENING, without their role."""
    headers, header = [], b""
    reading = True
    for id_ in ids:
        if reading:
            header += oracle.symbols_of(id_)
        elif id_ in (START, CHANNEL):
            reading, header = True, oracle.symbols_of(id_) if id_ == CHANNEL else b""
        if reading and id_ == MESSAGE:
            headers.append(header.removeprefix(oracle.symbols("assistant")))
            reading = False
    return headers


@pytest.mark.parametrize("recipients", [(), TOOLS])
def test_random_weights_write_legal_headers_only(model, recipients):
    """At temperature 2, with a bias for control tokens that keeps messages short."""
    texts = oracle.legal_headers(recipients)
    count = 0
    for seed in range(3 * RUNS):
        options = SamplingOptions(temperature=2, seed=seed, logit_bias={END: 24, START: 22, CHANNEL: 22, MESSAGE: 20})
        constraint = TurnConstraint(Rules(recipients, stop_repetition=False))
        ids = [step.token for step in generate_step(model, OPENING, options, max_tokens=60, constraint=constraint)]
        written = headers_in(ids)
        count += len(written)
        assert set(written) <= texts
    assert count > 8 * RUNS


def test_the_likeliest_legal_continuation_is_taken(model):
    """With greedy sampling it is the argmax of the unconstrained logits over the ids that the oracle allows."""
    texts = oracle.legal_headers(TOOLS)
    begun, written, ids = oracle.beginnings(texts), b"", []
    constraint = TurnConstraint(Rules(TOOLS))
    greedy = SamplingOptions(temperature=0)
    for step in generate_step(model, OPENING, greedy, max_tokens=60, constraint=constraint):
        logits = np.array(model(mx.array([OPENING + ids]))[0, -1])
        legal = oracle.what_may_follow(written, begun)
        assert step.token == legal[int(np.argmax(logits[legal]))]
        ids.append(step.token)
        written += oracle.symbols_of(step.token)
        if written in texts:
            return
    pytest.fail("the header has no end")


def test_a_body_is_free():
    constraint = TurnConstraint(Rules(TOOLS))
    for token in load_tokenizer().encode_with_specials("<|channel|>analysis<|message|>Let me think"):
        constraint.accept(token)
    assert constraint.allowed() is None


def test_after_a_message_only_the_next_one_of_the_assistant_begins():
    constraint = TurnConstraint(Rules(TOOLS))
    for token in load_tokenizer().encode_with_specials("<|channel|>analysis<|message|>Hm<|end|>"):
        constraint.accept(token)
    assert constraint.allowed() == START
    constraint.accept(START)
    allowed = constraint.allowed()
    assert all(b"assistant".startswith(load_tokenizer().token_bytes(id_)) for id_ in np.flatnonzero(allowed))
    assert OPENING[1] < N_RANKS and allowed[OPENING[1]]
