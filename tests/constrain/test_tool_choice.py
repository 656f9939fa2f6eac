"""tool_choice: whether the model may, must or must not call a tool, whatever its logits say."""

from __future__ import annotations

import pytest

from mlx_oss import ChatSession, OptionError, SamplingOptions, ScriptedEngine, collect
from mlx_oss.constrain import OutputConstraints, TurnConstraint
from mlx_oss.harmony import PYTHON, ToolDescription
from mlx_oss.tokenizer import END, STOP_IDS
from tests.chat.scripted import CALL, DATE, HELLO, TOKENIZER, ids

SHIP = ToolDescription("ship", "Ships a parcel.", {"type": "object", "properties": {"to": {"type": "string"}}})
WEATHER = ToolDescription(
    "weather", "Gets the weather.", {"type": "object", "properties": {"city": {"type": "string"}}}
)


def constraint(choice, after: str, **kwargs) -> TurnConstraint:
    rules = OutputConstraints(**kwargs).rules([SHIP, WEATHER], [PYTHON], choice)
    follower = TurnConstraint(rules)
    for token in ids(after):
        follower.accept(token)
    return follower


def may_follow(choice, after: str, text: str, **kwargs) -> bool:
    """Whether a text may be written after another one."""
    follower = constraint(choice, after, **kwargs)
    for token in ids(text):
        allowed = follower.allowed()
        if allowed is not None and not (allowed == token if isinstance(allowed, int) else allowed[token]):
            return False
        follower.accept(token)
    return True


ANSWER, THOUGHT, PREAMBLE = (f"<|channel|>{name}<|message|>" for name in ("final", "analysis", "commentary"))
SHIPPED, ASKED = (f"<|channel|>commentary to=functions.{name} <|constrain|>json" for name in ("ship", "weather"))


@pytest.mark.parametrize(
    ("choice", "legal"),
    [
        ("auto", {ANSWER, THOUGHT, PREAMBLE, SHIPPED, ASKED, " to=python<|channel|>analysis code"}),
        ("none", {ANSWER, THOUGHT}),
        ("required", {THOUGHT, PREAMBLE, SHIPPED, ASKED, " to=python<|channel|>analysis code"}),
        ("ship", {THOUGHT, PREAMBLE, SHIPPED}),
        ("python", {THOUGHT, PREAMBLE, " to=python<|channel|>analysis code"}),
        ({"type": "function", "function": {"name": "weather"}}, {THOUGHT, PREAMBLE, ASKED}),
        ({"type": "allowed_tools", "mode": "auto", "tools": [{"name": "ship"}]}, {ANSWER, THOUGHT, PREAMBLE, SHIPPED}),
        (
            {"type": "allowed_tools", "allowed_tools": {"mode": "required", "tools": [{"function": {"name": "ship"}}]}},
            {THOUGHT, PREAMBLE, SHIPPED},
        ),
    ],
    ids=lambda value: "" if isinstance(value, set) else str(value),
)
def test_only_these_messages_may_begin_a_turn(choice, legal):
    headers = {ANSWER, THOUGHT, PREAMBLE, SHIPPED, ASKED, " to=python<|channel|>analysis code"}
    assert {header for header in headers if may_follow(choice, "", header)} == legal


def test_a_turn_does_not_end_before_the_call_that_is_required():
    for opened in (THOUGHT + "I could", PREAMBLE + "I will"):
        allowed = constraint("required", opened).allowed()
        assert not any(allowed[stop] for stop in STOP_IDS) and allowed[END]
        assert constraint("auto", opened).allowed() is None


def test_after_reasoning_that_is_too_long_the_call_comes():
    end = constraint("ship", THOUGHT + "One", max_reasoning_tokens=1)
    assert end.allowed() == END and end.reasoning_stopped == "limit"
    written = "<|end|><|start|>assistant"
    assert may_follow("ship", THOUGHT + "One" + written, SHIPPED, max_reasoning_tokens=1)
    assert not may_follow("ship", THOUGHT + "One" + written, ANSWER, max_reasoning_tokens=1)
    assert not may_follow("ship", THOUGHT + "One" + written, THOUGHT, max_reasoning_tokens=1)


@pytest.mark.parametrize("choice", ["required", "weather"])
def test_after_the_call_the_model_decides(choice):
    engine = ScriptedEngine(CALL, HELLO, HELLO)
    session = ChatSession(engine, TOKENIZER, tools=[WEATHER], tool_choice=choice)
    session.add_tool_result(session.ask("Oslo?").tool_calls[0], "rain")
    assert collect(session.resume()).text
    session.ask("And?")
    first, second, third = (request.constraint._rules for request in engine.requests)
    assert first.must_call == third.must_call == ("functions.weather",) and second.must_call is None


@pytest.mark.parametrize("seed", range(3))
def test_random_weights_call_what_they_must_and_nothing_when_they_must_not(model, seed):
    session = ChatSession(
        model,
        TOKENIZER,
        tools=[SHIP, WEATHER],
        current_date=DATE,
        options=SamplingOptions(seed=seed),
        max_tokens=120,
        max_reasoning_tokens=3,
    )
    required = collect(session.send("Ship it.", tool_choice="ship"))
    written = [message.recipient for message in session.messages if message.recipient]
    assert not required.text and set(written) <= {"functions.ship"}
    session.clear()
    reply = session.ask("Ship it.", tool_choice="none")
    assert reply.tool_calls == () and all(message.recipient is None for message in session.messages)


@pytest.mark.parametrize("inner", [{}, {"tools": []}, {"tools": "ship"}, {"tools": [{"name": "ship"}], "mode": "x"}, 7])
def test_allowed_tools_without_tools_are_refused(inner):
    with pytest.raises(OptionError, match="give allowed_tools the mode auto or required, and a list of tools"):
        constraint({"type": "allowed_tools", "allowed_tools": inner}, "")
    with pytest.raises(OptionError, match="one of the tools: ship, weather, python"):
        constraint({"type": "allowed_tools", "tools": [{"name": "shop"}]}, "")
