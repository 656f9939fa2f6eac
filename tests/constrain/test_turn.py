"""The constraint of one turn, fed token by token, and a model that never stops reasoning by itself."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from mlx_oss import SamplingOptions, generate_step, load_tokenizer
from mlx_oss.constrain import Grammar, Rules, TurnConstraint
from mlx_oss.harmony import parse_messages, render_conversation
from mlx_oss.tokenizer import CALL, END, N_RANKS, RETURN, START, STOP_IDS
from tests.harmony.strategies import examples

OPENING = render_conversation([], next_role="assistant")
CLOSE_AND_ANSWER = "<|end|><|start|>assistant<|channel|>final<|message|>"
DIGITS = Grammar.of_regex("test", "[0-9]+")


def ids(text: str) -> list[int]:
    return load_tokenizer().encode_with_specials(text)


def after(rules: Rules, text: str, reasoned: int = 0) -> TurnConstraint:
    constraint = TurnConstraint(rules, reasoned=reasoned)
    feed(constraint, ids(text))
    return constraint


def feed(constraint: TurnConstraint, tokens: Iterable[int]) -> None:
    """Feeds tokens that must all be allowed."""
    for token in tokens:
        allowed = constraint.allowed()
        assert allowed is None or (allowed == token if isinstance(allowed, int) else allowed[token])
        constraint.accept(token)


def forced(constraint: TurnConstraint) -> list[int]:
    """The next tokens as long as only one is allowed."""
    tokens = []
    while isinstance(allowed := constraint.allowed(), int):
        tokens.append(allowed)
        constraint.accept(allowed)
    return tokens


@pytest.mark.parametrize("recipients", [None, (), ("python",)])
@pytest.mark.parametrize("limit", [1, 2, 5])
def test_reasoning_that_reaches_its_limit_is_closed_and_the_answer_opened(recipients, limit):
    constraint = after(Rules(recipients, max_reasoning_tokens=limit), "<|channel|>analysis<|message|>")
    feed(constraint, ids(" hm") * (limit - 1))
    assert constraint.allowed() is None and constraint.reasoning_stopped is None
    constraint.accept(ids(" hm")[0])
    assert constraint.reasoning_stopped == "limit"
    assert forced(constraint) == ids(CLOSE_AND_ANSWER)
    assert constraint.reasoned == limit


def test_messages_share_the_limit_and_so_do_the_rounds_of_a_turn():
    rules = Rules(("python",), max_reasoning_tokens=5)
    constraint = after(rules, "<|channel|>analysis<|message|> hm hm<|end|><|start|>assistant", reasoned=1)
    feed(constraint, ids("<|channel|>analysis<|message|> hm"))
    assert constraint.allowed() is None
    constraint.accept(ids(" hm")[0])
    assert forced(constraint) == ids(CLOSE_AND_ANSWER)


def test_when_the_limit_is_used_up_no_reasoning_is_begun_but_tools_may_be_called():
    for constraint in (
        after(Rules(("python",), max_reasoning_tokens=0), "<|channel|>"),
        after(Rules(("python",), max_reasoning_tokens=7), "<|channel|>", reasoned=7),
    ):
        assert {load_tokenizer().decode([id_]) for id_ in np.flatnonzero(constraint.allowed())} >= {"final", "analysis"}
        feed(constraint, ids("analysis to=python code"))
        assert constraint.reasoning_stopped is None
    constraint = after(Rules((), max_reasoning_tokens=0), "<|channel|>")
    assert not constraint.allowed()[ids("analysis")[0]]


def test_with_free_headers_reasoning_that_begins_beyond_the_limit_is_closed_at_once():
    constraint = after(Rules(None, max_reasoning_tokens=0), "<|channel|>analysis<|message|>")
    assert forced(constraint) == ids(CLOSE_AND_ANSWER)


def test_neither_calls_nor_answers_nor_preambles_count_as_reasoning():
    rules = Rules(("python",), max_reasoning_tokens=2)
    for header in ("analysis to=python code", "commentary", "final"):
        constraint = after(rules, f"<|channel|>{header}<|message|>{'hm ' * 20}")
        assert constraint.reasoned == 0 and constraint.allowed() is None


def test_reasoning_that_goes_round_in_circles_is_closed_and_the_answer_opened():
    constraint = after(Rules(()), "<|channel|>analysis<|message|>")
    circle = ids("Wait, let me see. ")
    count = 0
    while constraint.reasoning_stopped is None:
        feed(constraint, [circle[count % len(circle)]])
        count += 1
    assert constraint.reasoning_stopped == "repetition"
    assert 128 <= count <= 128 + len(circle)
    assert forced(constraint) == ids(CLOSE_AND_ANSWER)


@pytest.mark.parametrize("thought", ["Wait.", "", "Wait, let me see."])
def test_the_same_thought_in_message_after_message_is_a_circle_too(thought):
    constraint = TurnConstraint(Rules(()))
    message = ids(f"<|channel|>analysis<|message|>{thought}<|end|><|start|>assistant")
    count = 0
    while constraint.reasoning_stopped is None:
        constraint.accept(message[count % len(message)])
        count += 1
    assert constraint.reasoning_stopped == "repetition"
    assert 128 <= count <= 128 + len(message)
    assert forced(constraint) == ids(CLOSE_AND_ANSWER)


def test_the_same_preamble_in_message_after_message_ends_the_turn():
    constraint = TurnConstraint(Rules(()))
    message = ids("<|channel|>commentary<|message|>Wait.<|end|><|start|>assistant")
    for token in (message * 200)[:1023]:
        constraint.accept(token)
    assert constraint.stopped is None
    constraint.accept(message[1023 % len(message)])
    assert constraint.stopped == "repetition"


def test_a_message_without_a_thought_takes_one_token_of_the_limit():
    rules = Rules((), max_reasoning_tokens=3)
    empty = "<|channel|>analysis<|message|><|end|><|start|>assistant"
    for end in ("<|end|><|start|>assistant", "<|start|>assistant", ""):
        constraint = after(rules, empty + f"<|channel|>analysis<|message|>{end}<|channel|>")
        assert constraint.reasoned == 2
        assert constraint.allowed()[ids("analysis")[0]]
    constraint = after(rules, empty * 3 + "<|channel|>")
    assert constraint.reasoned == 3 and not constraint.allowed()[ids("analysis")[0]]


@pytest.mark.parametrize("header", ["analysis", "commentary"])
def test_where_the_answer_has_a_grammar_neither_reasoning_nor_preambles_end_the_turn(header):
    text = f"<|channel|>{header}<|message|>Hm"
    allowed = after(Rules(("python",), answer=DIGITS), text).allowed()
    assert np.flatnonzero(~allowed).tolist() == sorted(STOP_IDS)
    assert after(Rules(("python",)), text).allowed() is None


@pytest.mark.parametrize("header", ["final", "commentary", "analysis to=python code"])
def test_elsewhere_a_circle_may_be_what_was_asked_for_until_it_is_very_long(header):
    constraint = after(Rules(("python",)), f"<|channel|>{header}<|message|>")
    feed(constraint, ids(" no") * 1023)
    assert constraint.stopped is None
    feed(constraint, ids(" no"))
    assert constraint.stopped == "repetition" and constraint.reasoning_stopped is None


def test_circles_may_be_allowed():
    constraint = after(Rules((), stop_repetition=False), "<|channel|>analysis<|message|>" + " no" * 2000)
    assert constraint.allowed() is None and constraint.stopped is None


def test_an_answer_follows_its_grammar_and_reasoning_and_preambles_do_not():
    rules = Rules(("python",), answer=DIGITS)
    assert after(rules, "<|channel|>commentary to=python code<|message|>free").allowed() is None
    for header in ("analysis", "commentary"):
        assert after(rules, f"<|channel|>{header}<|message|>free").allowed()[:N_RANKS].all()
    for header in ("final", "final <|constrain|>json"):
        constraint = after(rules, f"<|channel|>{header}<|message|>")
        allowed = [load_tokenizer().decode([id_]) for id_ in np.flatnonzero(constraint.allowed())]
        assert allowed and all(text.isdecimal() for text in allowed)
        feed(constraint, ids("123"))
        assert np.flatnonzero(constraint.allowed()[N_RANKS:]).tolist() == [RETURN - N_RANKS]


def test_an_answer_opened_by_the_prompt_follows_its_grammar():
    constraint = TurnConstraint(Rules((), answer=DIGITS), ids("<|channel|>final<|message|>"))
    assert constraint.allowed()[ids("7")[0]] and not constraint.allowed()[ids("x")[0]]


def test_a_call_follows_the_grammar_of_its_recipient_wherever_it_is_named():
    rules = Rules(("functions.a", "functions.b"), arguments={"functions.a": DIGITS})
    for header in (
        "<|channel|>commentary to=functions.a <|constrain|>json<|message|>",
        " to=functions.a<|channel|>analysis<|message|>",
    ):
        constraint = after(rules, header + "12")
        assert np.flatnonzero(constraint.allowed()[N_RANKS:]).tolist() == [CALL - N_RANKS]
    assert after(rules, "<|channel|>commentary to=functions.b<|message|>free").allowed() is None


def test_a_message_cut_off_by_the_next_header_is_followed_by_a_legal_one():
    for cut, expected in (("<|channel|>", "final"), ("<|start|>", "assistant")):
        constraint = after(Rules(()), f"<|channel|>analysis<|message|>Hm{cut}")
        allowed = constraint.allowed()
        assert allowed[ids(expected)[0]] and allowed.sum() < 50


@examples(200)
@given(st.lists(st.sampled_from(range(199990, 200020)) | st.integers(0, 300), max_size=60), st.booleans())
def test_whatever_is_written_raises_nothing(tokens, free):
    rules = Rules(None if free else ("python",), max_reasoning_tokens=3)
    constraint = TurnConstraint(rules)
    for token in tokens:
        constraint.allowed()
        constraint.accept(token)
    assert constraint.reasoned <= len(tokens)


@pytest.mark.parametrize("limit", [1, 7, 20])
def test_a_model_that_never_stops_thinking_still_answers_and_thinks_exactly_so_long(model, limit):
    """Random weights with a bias against every token that ends a message."""
    constraint = TurnConstraint(Rules((), max_reasoning_tokens=limit), ids("<|channel|>analysis<|message|>"))
    options = SamplingOptions(seed=limit, logit_bias={END: -1000, RETURN: -1000, CALL: -1000, START: -1000})
    steps = generate_step(
        model, OPENING + ids("<|channel|>analysis<|message|>"), options, max_tokens=limit + 15, constraint=constraint
    )
    written = [step.token for step in steps]
    assert written[limit : limit + 6] == ids(CLOSE_AND_ANSWER) and len(written) == limit + 15
    thought, answer = parse_messages(ids("<|channel|>analysis<|message|>") + written)
    assert (thought.message.channel, answer.message.channel) == ("analysis", "final")
    assert len(thought.ids) == 3 + limit + 1
