"""The output restrictions of a session, end to end: with random weights at temperature 2, and with nano."""

from __future__ import annotations

import json
import os
import random
import re

import jsonschema
import numpy as np
import pydantic
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

import mlx_oss
from mlx_oss import ChatSession, Finished, Guards, ReasoningStopped, SamplingOptions, ToolDescription, load_tokenizer
from mlx_oss.chat.history import Entry
from mlx_oss.constrain import Rules, TurnConstraint
from mlx_oss.constrain.answer import AnswerFormat
from mlx_oss.errors import OptionError
from mlx_oss.harmony import ResponseFormat, parse_messages
from mlx_oss.tokenizer import CALL, CHANNEL, END, ENDOFTEXT, MESSAGE, RETURN, START
from tests.constrain.schemas import closing_ids, schemas
from tests.engines import constraint_of, prompt_of
from tests.harmony.strategies import examples

TOKENIZER = load_tokenizer()
# Turns of a model are slow, so a failing example is not shrunk.
TURNS = settings(examples(int(os.environ.get("CONSTRAINED_TURNS", "5"))), phases=[Phase.generate])
GREEDY = SamplingOptions(temperature=0)
FREE = Guards(legal_headers=False, strict_arguments=False, stop_repetition=False)
SCHEMA = {
    "type": "object",
    "properties": {"capital": {"enum": ["Paris", "Rome"]}, "sure": {"type": "boolean"}},
    "required": ["capital", "sure"],
    "additionalProperties": False,
}
UNIQUE = ToolDescription("f", "", {"type": "array", "items": {"type": "integer"}, "uniqueItems": True})


def wild(seed: int, bias: dict[int, float] | None = None) -> SamplingOptions:
    """Temperature 2, with a bias for tokens that end messages and strings, so that they do end."""
    likely = dict.fromkeys([END, *closing_ids()], 20.0) | (bias or {})
    return SamplingOptions(temperature=2, seed=seed, logit_bias=likely)


@pytest.fixture(scope="module")
def nano():
    return mlx_oss.load()


def asking(nano, **more) -> ChatSession:
    return ChatSession(*nano, options=more.pop("options", GREEDY), **more)


@TURNS
@given(schemas, st.integers(0, 2**32))
def test_every_finished_structured_answer_is_valid(model, schema, seed):
    session = ChatSession(
        model, TOKENIZER, response_format=schema, options=wild(seed), max_tokens=120, max_reasoning_tokens=5
    )
    reply = session.ask("Hi")
    if reply.finish_reason == "stop":
        jsonschema.validate(json.loads(reply.text), schema)
        assert reply.parsed == json.loads(reply.text)
    else:
        assert reply.finish_reason == "length" and reply.parsed is None


def test_structured_answers_and_calls_come_to_an_end(model):
    """Otherwise the tests around this one would check nothing."""
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}, "b": {"enum": [1, 2]}}, "required": ["a"]}
    how = {"max_tokens": 120, "max_reasoning_tokens": 0}
    likely_call = {TOKENIZER.encode(" to")[0]: 20.0}
    answers = calls = 0
    for seed in range(15):
        session = ChatSession(model, TOKENIZER, response_format=schema, options=wild(seed), **how)
        answers += session.ask("Hi").parsed is not None
        tools = [ToolDescription("f", "", schema)]
        session = ChatSession(model, TOKENIZER, tools=tools, options=wild(seed, likely_call), **how)
        calls += len(session.ask("Hi").tool_calls)
        if answers > 2 and calls > 2:
            return
    raise AssertionError((answers, calls))


@TURNS
@given(schemas, st.integers(0, 2**32))
def test_every_finished_tool_call_is_valid(model, schema, seed):
    """The header is random, except for a bias towards having a recipient."""
    options = wild(seed, {TOKENIZER.encode(" to")[0]: 20.0})
    tool = ToolDescription("f", "", schema)
    session = ChatSession(model, TOKENIZER, tools=[tool], options=options, max_tokens=120, max_reasoning_tokens=0)
    reply = session.ask("Hi")
    assert reply.tool_calls or reply.finish_reason == "length"
    for call in reply.tool_calls:
        assert call.recipient == "functions.f"
        jsonschema.validate(json.loads(call.arguments), schema)


@TURNS
@given(st.integers(0, 2**32), st.booleans())
def test_without_constraints_random_weights_raise_nothing_and_all_their_text_is_kept(model, seed, tools):
    controls = (START, END, CHANNEL, MESSAGE, RETURN, CALL)
    weights = random.Random(seed)
    options = SamplingOptions(
        temperature=2, seed=seed, logit_bias={id_: weights.choice([0, 18, 20, 22]) for id_ in controls}
    )
    described = [ToolDescription("f")] if tools else []
    session = ChatSession(model, TOKENIZER, tools=described, options=options, max_tokens=30, guards=FREE)
    events = list(session.send("Hi"))
    assert isinstance(events[-1], Finished)
    reply = mlx_oss.collect(events)
    told = reply.text + reply.reasoning + "".join(call.arguments for call in reply.tool_calls)
    kept = [message for message in session.messages if message.role != "user"]
    preambles = [e.text for e in events if isinstance(e, mlx_oss.PreambleDelta)]
    assert sorted(told + "".join(preambles)) == sorted("".join(str(m.content) for m in kept if shown(m, reply)))


def shown(message: mlx_oss.Message, reply: mlx_oss.Reply) -> bool:
    """False only for a call that was cut off: its text is in the conversation, but in no event."""
    return message.recipient is None or any(call.arguments == message.content for call in reply.tool_calls)


def test_an_answer_follows_a_schema_after_free_reasoning(nano):
    reply = asking(nano, response_format=SCHEMA, max_tokens=200).ask("What is the capital of France?")
    assert reply.reasoning == "The user asks for the capital of France."
    assert reply.parsed == json.loads(reply.text) and set(reply.parsed) == {"capital", "sure"}


def test_an_answer_as_a_pydantic_model_is_one(nano):
    class Capital(pydantic.BaseModel):
        sure: bool

    session = asking(nano, response_format=Capital, reasoning_effort="none")
    reply = session.ask("What is the capital of France?")
    assert isinstance(reply.parsed, Capital)
    assert reply.parsed == Capital.model_validate_json(reply.text)


def test_an_answer_that_the_models_own_validators_refuse_is_not_parsed(nano):
    class Never(pydantic.BaseModel):
        sure: bool

        @pydantic.field_validator("sure")
        @classmethod
        def never(cls, value: bool) -> bool:
            raise ValueError("never")

    reply = asking(nano, response_format=Never, reasoning_effort="none").ask("What is the capital of France?")
    assert reply.text and reply.parsed is None


@pytest.mark.parametrize("effort", ["low", "none"])
def test_an_answer_follows_a_regular_expression(nano, effort):
    session = asking(nano, response_format="(yes|no)[.!]", reasoning_effort=effort)
    reply = session.ask("What is the capital of France?")
    assert reply.text[:-1] in ("yes", "no") and reply.parsed == reply.text


def test_the_flags_of_a_regular_expression_hold(model):
    for flags in (re.I, re.S, re.I | re.S):
        wanted = re.compile("a.b", flags)
        for said in ("axb", "AXB", "a\nb", "A\nB"):
            matcher = AnswerFormat.from_option(wanted).grammar.matcher(RETURN)
            fits = True
            for token in TOKENIZER.encode(said):
                fits = fits and bool(matcher.allowed()[token])
                if fits:
                    matcher.accept(token)
            assert fits == bool(wanted.fullmatch(said))


@pytest.mark.parametrize("flag", [re.X, re.M, re.A])
def test_flags_that_cannot_be_enforced_are_refused(model, flag):
    with pytest.raises(OptionError, match=f"with re.{flag.name} cannot be enforced"):
        ChatSession(model, TOKENIZER, response_format=re.compile("a b", re.I | flag))


@pytest.mark.parametrize("text", ["1" * 5000, "[" * 100_000 + "]" * 100_000])
def test_an_answer_that_python_cannot_read_is_not_parsed_and_raises_nothing(text):
    assert AnswerFormat.from_option({}).parse(text) is None
    assert AnswerFormat.from_option(pydantic.create_model("Numbers", n=(int, ...))).parse(f'{{"n": {text}}}') is None


def test_the_prompt_contains_the_format(nano):
    session = asking(nano, response_format=ResponseFormat("capital", SCHEMA, "Where it is."))
    block = TOKENIZER.decode(prompt_of(session))
    assert '# Response Formats\n\n## capital\n\n// Where it is.\n{"type":"object"' in block


def test_an_answer_that_is_cut_off_is_not_parsed(nano):
    reply = asking(nano, response_format=SCHEMA, max_tokens=14).ask("What is the capital of France?")
    assert reply.finish_reason == "length" and reply.parsed is None


def test_calls_follow_the_schema_of_their_tool(nano):
    parameters = {
        "type": "object",
        "properties": {"location": {"type": "string", "enum": ["Oslo", "Rome"]}},
        "required": ["location"],
    }
    session = asking(nano, tools=[ToolDescription("get_weather", "Gets the current weather of a state.", parameters)])
    (call,) = session.ask("What is the weather in Lisbon?").tool_calls
    assert json.loads(call.arguments)["location"] in ("Oslo", "Rome")


@pytest.mark.parametrize(("limit", "reasoning"), [(3, "The user asks"), (8, "The user asks for the capital of France")])
def test_the_limit_of_reasoning_is_reported_and_the_answer_comes(nano, limit, reasoning):
    events = list(asking(nano, max_reasoning_tokens=limit).send("What is the capital of France?"))
    reply = mlx_oss.collect(events)
    assert [event for event in events if isinstance(event, ReasoningStopped)] == [ReasoningStopped("limit")]
    assert (reply.reasoning, reply.text) == (reasoning, "The capital of France is Paris.")


def test_the_rounds_of_a_turn_share_the_limit_and_the_next_turn_has_its_own(nano):
    weather = ToolDescription("get_weather", "Gets the current weather of a state.", None)
    session = asking(nano, tools=[weather], max_reasoning_tokens=16, guards=Guards(strict_arguments=False))
    reply = session.ask("What is the weather in Lisbon?")
    used = len(TOKENIZER.encode(reply.reasoning))
    assert session._conversation.current.reasoned() == used <= 16
    session.add_tool_result(reply.tool_calls[0], '{"temperature": 18, "condition": "sunny"}')
    assert constraint_of(session).reasoned == used
    assert mlx_oss.collect(session.resume()).text == "The weather in Lisbon: sunny, 18 degrees."
    assert session.ask("What is the capital of France?").reasoning == "The user asks for the capital of France."


def test_reasoning_is_counted_as_it_was_written_from_round_to_round_and_in_a_file(model, tmp_path):
    """Stray control tokens count although the next prompt does not contain them, and so do empty reasoning messages."""
    thoughts = ("Hm<|constrain|><|constrain|>", "", "So")
    written = "<|end|><|start|>assistant".join(f"<|channel|>analysis<|message|>{thought}" for thought in thoughts)
    constraint = TurnConstraint(Rules(()))
    for token in TOKENIZER.encode_with_specials(written):
        constraint.accept(token)
    session = ChatSession(model, TOKENIZER, max_reasoning_tokens=5)
    said = [Entry.from_message(mlx_oss.Message("user", "Hi"))]
    said += map(Entry.from_model, parse_messages(TOKENIZER.encode_with_specials(written)))
    session._conversation.current = session._conversation.current.with_entries(said)
    assert constraint.reasoned == session._conversation.current.reasoned() == constraint_of(session).reasoned == 5
    session.save(tmp_path / "chat")
    assert constraint_of(ChatSession.load(tmp_path / "chat", model, TOKENIZER)).reasoned == 5


@TURNS
@given(st.integers(0, 2**32))
def test_a_turn_with_a_response_format_ends_in_an_answer_even_if_the_model_tends_to_stop(model, seed):
    eager = dict.fromkeys([RETURN, CALL, ENDOFTEXT], 30.0)
    session = ChatSession(
        model, TOKENIZER, response_format="(yes|no)", options=wild(seed, eager), max_tokens=300, max_reasoning_tokens=5
    )
    reply = session.ask("Hi")
    assert reply.parsed in ("yes", "no") if reply.finish_reason == "stop" else reply.finish_reason == "length"


def test_without_reasoning_the_answer_is_opened_at_once_and_kept_so(nano):
    session = asking(nano, reasoning_effort="none")
    reply = session.ask("What is the capital of France?")
    assert (reply.reasoning, reply.text) == ("", "The capital of France is Paris.")
    assert "Reasoning: low" in TOKENIZER.decode(prompt_of(session))
    again = session.ask("And of Italy?")
    assert again.usage.reused_tokens > again.usage.prompt_tokens / 2
    kinds = [(message.role, message.channel) for message in session.messages]
    assert kinds == [("user", None), ("assistant", "final")] * 2


def test_a_model_that_keeps_to_the_format_writes_the_same_with_and_without_guards(nano):
    weather = ToolDescription("get_weather", "Gets the current weather of a state.", {"type": "object"})
    replies = [
        asking(nano, tools=[weather], guards=guards, options=SamplingOptions(seed=1), max_tokens=60).ask(
            "What is the weather in Lisbon?"
        )
        for guards in (FREE, Guards())
    ]
    told = {(reply.reasoning, reply.text, reply.tool_calls) for reply in replies}
    assert len(told) == 1


def test_forks_retries_and_saved_sessions_have_the_same_restrictions(nano, tmp_path):
    session = asking(nano, response_format=SCHEMA, max_reasoning_tokens=3, reasoning_effort="none", max_tokens=100)
    first = session.ask("What is the capital of France?")
    assert set(first.parsed) == {"capital", "sure"}
    session.save(tmp_path / "chat")
    loaded = ChatSession.load(tmp_path / "chat", *nano)
    for other in (session.fork(), loaded):
        assert other.reasoning_effort == "none"
        reply = mlx_oss.collect(other.retry())
        assert reply.parsed == json.loads(reply.text) and set(reply.parsed) == {"capital", "sure"}
    assert loaded._settings.constraints.as_json == session._settings.constraints.as_json


@pytest.mark.parametrize(
    ("choices", "said"),
    [
        ({"response_format": 7}, "response_format is 7, expected a JSON schema"),
        ({"response_format": {"not": {}}}, "response_format cannot be enforced"),
        ({"response_format": "(a"}, "response_format cannot be enforced"),
        ({"response_format": "a", "guards": FREE}, r"needs Guards\(legal_headers=True\)"),
        ({"max_reasoning_tokens": -1}, "max_reasoning_tokens is -1"),
        ({"max_reasoning_tokens": 1.5}, "max_reasoning_tokens is 1.5"),
        ({"reasoning_effort": "max"}, "expected one of none, low, medium, high"),
        (
            {"tools": [UNIQUE], "guards": Guards(strict_arguments=True)},
            "tool 'f' cannot be enforced.*uniqueItems",
        ),
    ],
)
def test_what_cannot_be_enforced_is_refused_when_the_session_is_made(model, choices, said):
    with pytest.raises(OptionError, match=said):
        ChatSession(model, TOKENIZER, **choices)


@pytest.mark.parametrize("parameters", [{"type": 7}, {"$ref": "#/nowhere"}])
def test_calls_follow_a_schema_as_far_as_it_can_be_enforced(model, parameters):
    """Unless `strict_arguments` is True."""
    rough = constraint_of(ChatSession(model, TOKENIZER, tools=[UNIQUE]))
    none = constraint_of(ChatSession(model, TOKENIZER, tools=[ToolDescription("f", "", parameters)]))
    for constraint in (rough, none):
        for token in TOKENIZER.encode_with_specials("<|channel|>commentary to=functions.f<|message|>"):
            constraint.accept(token)
    allowed = {TOKENIZER.decode([id_]) for id_ in np.flatnonzero(rough.allowed())}
    assert "[" in allowed and "{" not in allowed
    assert none.allowed() is None


def test_without_the_extra_headers_are_legal_and_calls_unconstrained(model, monkeypatch):
    monkeypatch.setitem(__import__("sys").modules, "llguidance", None)
    tool = ToolDescription("f", "", {"not": {}})
    assert constraint_of(ChatSession(model, TOKENIZER, tools=[tool])).allowed() is not None
    for choices in ({"response_format": "a"}, {"tools": [tool], "guards": Guards(strict_arguments=True)}):
        with pytest.raises(OptionError, match=r"pip install 'mlx-oss\[constrain\]'"):
            ChatSession(model, TOKENIZER, **choices)
