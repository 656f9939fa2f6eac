"""A conversation that comes back has the ids that it had, whatever the client has made of it."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from mlx_oss import ChatSession, ScriptedEngine, load_tokenizer
from mlx_oss.chat.transcript import Transcript
from mlx_oss.harmony import Message, ToolDescription
from mlx_oss.server.memory import Memory

TOKENIZER = load_tokenizer()
ARGUMENTS = '{"city": "Oslo",  "days": 2}'  # two blanks: not as anybody would write it
CALL = Message("assistant", ARGUMENTS, "commentary", "functions.weather", "<|constrain|>json")
WROTE = (
    "<|channel|>analysis<|message|>I look.<|end|>"
    "<|start|>assistant to=functions.weather<|channel|>commentary json<|message|>" + ARGUMENTS + "<|call|>"
)


@pytest.fixture
def session():
    """What the model has written: its header is not the one that would be rendered."""
    session = ChatSession(ScriptedEngine(WROTE), TOKENIZER, tools=[ToolDescription("weather")])
    session.ask("What is it like?")
    return session


def written(session):
    return session._conversation.current.entries[1:]


def told(*, reasoning="", arguments=ARGUMENTS, id="call_1", name="functions.weather"):
    transcript = Transcript()
    transcript.say("What is it like?")
    transcript.reason(reasoning)
    transcript.call(id, replace(CALL, content=arguments, recipient=name))
    transcript.result(id, "18 degrees")
    return transcript


def ids(entries):
    return [list(entry.ids) for entry in entries]


@pytest.mark.parametrize(
    "changes",
    [
        {"reasoning": "I look."},
        {},
        {"reasoning": "I look.", "arguments": json.dumps(json.loads(ARGUMENTS))},
        {"arguments": '{"days":2,"city":"Oslo"}'},
        {"arguments": '{"in_detail": false, "city": "Oslo", "days": 2}'},
    ],
    ids=["echoed", "dropped", "respelled", "another order", "with a default"],
)
def test_a_call_comes_back_with_what_was_written_before_it(session, changes):
    memory = Memory(TOKENIZER)
    memory.remember(written(session), ["call_1"])
    entries = memory.entries_of(told(**changes))
    assert ids(entries[1:-1]) == ids(written(session))
    assert [entry.reasoned for entry in entries[1:-1]] == [entry.reasoned for entry in written(session)]
    assert [entry.message.role for entry in entries] == ["user", "assistant", "assistant", "tool"]


@pytest.mark.parametrize(
    "changes",
    [
        {"arguments": '{"city": "Rome", "days": 2}'},
        {"arguments": '{"city": "Oslo"}'},
        {"id": "call_2"},
        {"name": "functions.other"},
    ],
)
def test_a_call_that_the_model_has_not_made_is_taken_as_it_is_told(session, changes):
    memory = Memory(TOKENIZER)
    memory.remember(written(session), ["call_1"])
    entries = memory.entries_of(told(**changes))
    assert [entry.message for entry in entries] == told(**changes).messages


def test_reasoning_that_the_client_has_changed_stays_changed(session):
    memory = Memory(TOKENIZER)
    memory.remember(written(session), ["call_1"])
    entries = memory.entries_of(told(reasoning="I have to look."))
    assert entries[1].message.content == "I have to look."
    assert list(entries[2].ids) == list(written(session)[1].ids)


def test_an_answer_comes_back_with_the_ids_that_were_written():
    odd = [200005, 17196, 200008, *TOKENIZER.encode("Par"), *TOKENIZER.encode("is"), 200002]
    session = ChatSession(ScriptedEngine(odd), TOKENIZER)
    session.ask("Where?")
    memory, transcript = Memory(TOKENIZER), Transcript()
    memory.remember(written(session), [])
    transcript.say("Where?")
    transcript.answer("Paris")
    assert TOKENIZER.encode("Paris") != [*TOKENIZER.encode("Par"), *TOKENIZER.encode("is")]
    assert ids(memory.entries_of(transcript)[1:]) == ids(written(session))


def test_the_oldest_are_forgotten_when_there_is_too_much():
    memory = Memory(TOKENIZER, limit=100_000)
    for number in range(100):
        transcript = Transcript()
        transcript.say(f"{number} " * 1000)
        memory.entries_of(transcript)
        assert memory._nbytes <= 100_000
    kept = [key.content.split()[0] for key in memory._known]
    assert kept == [str(number) for number in range(100 - len(kept), 100)] and len(kept) > 5
