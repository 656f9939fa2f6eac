"""Messages in and out: sessions from messages, few-shot answers, plain JSON, and what is read again after a change."""

from __future__ import annotations

import functools
import json
from types import SimpleNamespace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_oss import ChatSession, Message, OptionError, ScriptedEngine, SessionError, collect, load_tokenizer
from mlx_oss.chat.message_reader import from_items
from mlx_oss.chat.message_writer import to_dicts
from mlx_oss.harmony import DeveloperContent, SystemContent, render_conversation
from tests.chat.scripted import CALL, DATE, HELLO, OPENING, THINK, TOKENIZER, said, system, turn, user

FEW_SHOT = [
    {"role": "system", "content": "Answer with one word."},
    {"role": "user", "content": "Good film!"},
    {"role": "assistant", "content": "positive"},
    {"role": "user", "content": "I left early."},
    {"role": "assistant", "content": "negative"},
]


def chat(*answers: str, **kwargs) -> ChatSession:
    return ChatSession(ScriptedEngine(*answers), load_tokenizer(), current_date=DATE, **kwargs)


def weather(city: str) -> str:
    """Gets the weather."""
    return f"rain in {city}"


def test_the_model_reads_answers_that_it_never_wrote():
    session = chat("positive", messages=FEW_SHOT)
    assert session.turns == 2 and session.instructions == "Answer with one word."
    session.ask("I laughed.")
    expected = [
        Message("system", SystemContent(conversation_start_date=DATE)),
        Message("developer", DeveloperContent("Answer with one word.")),
        Message("user", "Good film!"),
        Message("assistant", "positive", "final"),
        Message("user", "I left early."),
        Message("assistant", "negative", "final"),
        Message("user", "I laughed."),
    ]
    assert list(session.model.requests[0].prompt) == render_conversation(expected, next_role="assistant")


def test_a_question_at_the_end_is_answered_by_resume():
    session = chat("Fine.", messages=[{"role": "user", "content": "How are you?"}])
    assert collect(session.resume()).text == "Fine." and session.turns == 1


def test_harmony_messages_and_dictionaries_and_objects_mean_the_same():
    as_messages = [
        Message("developer", DeveloperContent("Answer with one word.")),
        *chat(messages=FEW_SHOT).messages,
    ]
    as_objects = [SimpleNamespace(model_dump=lambda data=data: {**data, "refusal": None}) for data in FEW_SHOT]
    in_parts = [{**data, "content": [{"type": "text", "text": data["content"]}]} for data in FEW_SHOT]
    for form in (as_messages, as_objects, in_parts, tuple(FEW_SHOT)):
        session = chat(messages=form)
        assert session.to_messages() == FEW_SHOT and session.messages == chat(messages=FEW_SHOT).messages


def test_tool_calls_and_reasoning_come_back_from_json():
    call = "<|channel|>commentary<|message|>I look.<|end|><|start|>assistant" + CALL
    session = chat(THINK + call, THINK + HELLO, tools=[weather], instructions="Be brief.")
    session.ask("Oslo?")
    kept = json.loads(json.dumps(session.to_messages()))
    assert kept == [
        {"role": "system", "content": "Be brief."},
        {"role": "user", "content": "Oslo?"},
        {
            "role": "assistant",
            "content": "I look.",
            "reasoning": "The user greets me.",
            "tool_calls": [
                {"id": "call_1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "Oslo"}'}}
            ],
        },
        {"role": "tool", "tool_call_id": "call_1", "content": "rain in Oslo"},
        {"role": "assistant", "content": "Hello, how can I help you today?", "reasoning": "The user greets me."},
    ]
    again = chat("And more.", messages=kept, tools=[weather])
    assert again.messages == session.messages and again.instructions == "Be brief."
    again.ask("More?")
    preamble = [
        Message("system", SystemContent(conversation_start_date=DATE)),
        Message("developer", DeveloperContent.with_functions("Be brief.", tuple(again.tools))),
    ]
    read = [message for message in again.messages[:-1] if message.channel != "analysis"]
    expected = render_conversation([*preamble, *read], next_role="assistant")
    assert list(again.model.requests[0].prompt) == expected


def test_several_calls_at_once_are_followed_by_their_results():
    def called(number: int) -> dict:
        return {"id": f"c{number}", "type": "function", "function": {"name": "weather", "arguments": {"city": number}}}

    items = [
        {"role": "user", "content": "Two cities?"},
        {"role": "assistant", "content": None, "tool_calls": [called(1), called(2)]},
        {"role": "tool", "tool_call_id": "c2", "content": "two"},
        {"role": "tool", "tool_call_id": "c1", "content": "one"},
    ]
    _, messages = from_items(items)
    assert [message.content for message in messages] == ["Two cities?", '{"city": 1}', "one", '{"city": 2}', "two"]
    assert {message.name for message in messages if message.role == "tool"} == {"functions.weather"}


def test_messages_cannot_be_changed_in_place():
    session = chat("Hello")
    session.ask("Hi")
    with pytest.raises(AttributeError):
        session.messages.append(Message("user", "More"))
    with pytest.raises(TypeError):
        session.messages[0] = Message("user", "More")


def test_after_an_edit_only_what_follows_it_is_read_again(session, script):
    script.says(THINK + HELLO, THINK + HELLO, HELLO)
    for text in ("One", "Two"):
        turn(session, script, text)
    kept = session.to_messages()
    session.messages = kept  # the same ones: nothing changes
    edited = [*kept[:-2], {"role": "user", "content": "Three"}]
    session.messages = edited
    turn(session, script, None)
    script.read(system(), user("One"), said(HELLO), user("Three"), OPENING)
    assert script.fed == [*said(HELLO), *user("Three"), *OPENING]  # the last snapshot before is that of the first turn


def test_the_ids_that_the_model_wrote_stay_when_other_messages_go(session, script):
    """The model may spell a word with other tokens than the tokenizer would."""
    odd = [*TOKENIZER.encode_with_specials("<|channel|>final<|message|>"), *(TOKENIZER.encode(c)[0] for c in "Hello")]
    assert TOKENIZER.encode("Hello") != odd[3:]
    end = TOKENIZER.encode_with_specials("<|return|>")
    script.says([*odd, *end], [*odd, *end], HELLO)
    for text in ("One", "Two"):
        turn(session, script, text)
    session.messages = [Message("user", "New"), *session.messages[1:]]
    turn(session, script, "Three")
    wrote = [*OPENING, *odd, *TOKENIZER.encode_with_specials("<|end|>")]
    script.read(system(), user("New"), wrote, user("Two"), wrote, user("Three"), OPENING)


def test_messages_are_not_set_while_a_turn_runs():
    session = chat("Hello")
    events = session.send("Hi")
    next(events)
    with pytest.raises(SessionError, match="in the middle of a turn"):
        session.messages = []
    list(events)


def test_instructions_are_set_by_a_system_message_and_stay_without_one():
    session = chat(messages=FEW_SHOT)
    session.messages = FEW_SHOT[1:3]
    assert session.instructions == "Answer with one word." and session.turns == 1
    session.messages = [{"role": "developer", "content": "Be kind."}]
    assert session.instructions == "Be kind." and session.turns == 0
    assert chat(messages=FEW_SHOT, instructions="Answer with one word.").instructions == "Answer with one word."


def test_a_saved_session_keeps_given_messages(tmp_path):
    session = chat("Hello", messages=FEW_SHOT)
    session.save(tmp_path / "chat", text_only=True)
    loaded = ChatSession.load(tmp_path / "chat", ScriptedEngine(), load_tokenizer(), text_only=True)
    assert loaded.messages == session.messages and loaded.to_messages() == FEW_SHOT


DEEP = functools.reduce(lambda inner, _: {"a": inner}, range(100_000), {})
CALLED = {"id": "c1", "type": "function", "function": {"name": "f", "arguments": "{}"}}


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        ("Hello", "messages is 'Hello', expected a list of messages"),
        ({"role": "user", "content": "Hi"}, "expected a list of messages"),
        (["Hello"], r"messages\[0\] is 'Hello', expected a Message or a dict with 'role' and 'content'"),
        ([{"content": "Hi"}], r"messages\[0\] has the role None, expected one of system, developer, user"),
        ([{"role": "bot", "content": "Hi"}], "has the role 'bot'"),
        ([{"role": "user", "content": 5}], r"messages\[0\] has the content 5, expected a text: json.dumps"),
        ([{"role": "user"}], 'has the content None, expected a text: without text, give ""'),
        (
            [{"role": "user", "content": [{"type": "image_url", "image_url": {}}]}],
            "content of the type 'image_url', but gpt-oss reads only text",
        ),
        ([{"role": "assistant"}], "has neither content nor tool_calls"),
        ([{"role": "user", "content": "Hi", "id": 7}], "has the key 'id', .*: leave it out"),
        ([{"role": "user", "content": "Hi", "name": "Ann <|end|>"}], "has the name 'Ann <.*cannot stand in a header"),
        (
            [{"role": "assistant", "tool_calls": [CALLED | {"function": {"name": "f<|message|>evil"}}]}],
            "names 'functions.f<.*which cannot stand in a header: name tools and authors in letters",
        ),
        ([Message("assistant", "x", "commentary", "a b")], "names 'a b', which cannot stand in a header"),
        ([{"role": "tool", "content": "18"}], "says not which call it answers: give it the 'tool_call_id'"),
        (
            [{"role": "tool", "content": "18", "tool_call_id": "c1"}],
            "result of the call 'c1', but no message before it",
        ),
        ([{"role": "assistant", "tool_calls": "f"}], r"messages\[0\].tool_calls is 'f', expected a list"),
        ([{"role": "assistant", "tool_calls": [{"name": "f"}]}], r"tool_calls\[0\] is .*, expected a call such as"),
        (
            [{"role": "assistant", "tool_calls": [CALLED | {"function": {"name": "f", "arguments": 1}}]}],
            "has the arguments 1, expected their JSON as a text",
        ),
        (
            [{"role": "assistant", "tool_calls": [CALLED | {"function": {"name": "f", "arguments": {"a": {1}}}}]}],
            "has the arguments .*, expected their JSON as a text",
        ),
        (
            [{"role": "assistant", "tool_calls": [CALLED | {"function": {"name": "f", "arguments": DEEP}}]}],
            "has the arguments .*, expected their JSON as a text",
        ),
        (
            [{"role": "assistant", "tool_calls": [CALLED | {"type": ["function"]}]}],
            r"\[0\] is .*, expected a call such as",
        ),
        ([{"role": ["user"], "content": "Hi"}], r"messages\[0\] has the role \['user'\], expected one of"),
        (
            [Message("system", SystemContent())],
            "is a SystemContent .*: leave it out, and give its values to ChatSession",
        ),
        ([Message("tool", "18")], "is a tool's result without a name"),
        ([Message("user", 5)], "has the content 5, expected a text"),
        ([{"role": "assistant", "channel": 5, "content": "x"}], r"messages\[0\]: a message has channel 5"),
    ],
)
def test_what_is_no_message_is_refused_with_its_place(items, expected):
    with pytest.raises(OptionError, match=expected):
        chat(messages=items)
    session = chat(messages=FEW_SHOT)
    with pytest.raises(OptionError, match=expected):
        session.messages = items
    assert session.to_messages() == FEW_SHOT


def test_instructions_given_twice_are_refused():
    with pytest.raises(OptionError, match="instructions are given twice"):
        chat(messages=FEW_SHOT, instructions="Be kind.")


TEXTS = st.sampled_from(["", "a", "b"])
RECIPIENTS = st.sampled_from(["functions.f", "functions.a.b", "python", "browser.search", "assistant", "all"])
MESSAGES = st.one_of(
    st.builds(Message, st.just("developer"), st.sampled_from([DeveloperContent("a"), DeveloperContent("b")])),
    st.builds(Message, st.just("user"), TEXTS, name=st.sampled_from([None, "ann"])),
    st.builds(
        Message,
        st.just("assistant"),
        TEXTS,
        st.sampled_from([None, "analysis", "commentary", "final"]),
        st.one_of(st.none(), RECIPIENTS),
        st.sampled_from([None, "json", "code", "<|constrain|>json"]),
    ),
    st.builds(
        Message,
        st.just("tool"),
        TEXTS,
        st.sampled_from([None, "analysis", "commentary"]),
        st.sampled_from([None, "assistant"]),
        name=RECIPIENTS,
    ),
)


@settings(max_examples=400, deadline=None)
@given(st.lists(MESSAGES, max_size=8))
def test_no_message_is_changed_by_json(messages):
    messages = [Message("user", "Hi"), *messages]
    assert from_items(json.loads(json.dumps(to_dicts(messages, "Be brief.")))) == ("Be brief.", messages)
