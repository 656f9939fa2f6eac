"""Options of a session and of one turn: checked when they are given, used where they were given, and nowhere else."""

from __future__ import annotations

import asyncio

import pytest

from mlx_oss import (
    ChatSession,
    Guards,
    MlxOssError,
    OptionError,
    SamplingOptions,
    ScriptedEngine,
    ToolDescription,
    collect,
    load_tokenizer,
)
from mlx_oss.tools import Tool
from tests.chat.scripted import CALL, THINK

TOKENIZER = load_tokenizer()


def weather(city: str) -> str:
    """Gets the weather."""
    return f"rain in {city}"


def chat(*answers, **kwargs) -> ChatSession:
    return ChatSession(ScriptedEngine(*answers), TOKENIZER, **kwargs)


def read(session: ChatSession, number: int = -1) -> str:
    """What the model read in a request."""
    return TOKENIZER.decode(session.model.requests[number].prompt)


def test_an_option_of_a_turn_counts_for_this_turn_only():
    session = chat(*["Fine."] * 3, max_tokens=500, options=SamplingOptions(seed=1))
    session.ask("One", max_tokens=7, options=SamplingOptions(seed=9, temperature=0.5))
    list(session.send("Two", max_tokens=None))
    session.ask("Three")
    first, second, third = session.model.requests
    assert (first.max_tokens, first.options.seed) == (7, 9)
    assert second.max_tokens > 100_000 and second.options.seed == 1 == third.options.seed
    assert third.max_tokens == session.max_tokens == 500


@pytest.mark.parametrize("how", ["send", "resume", "retry", "edit"])
def test_every_method_takes_options_with_and_without_an_event_loop(how):
    arguments = {"send": ("More",), "edit": (0, "Other")}.get(how, ())
    for prefix in ("", "a"):
        session = chat("Fine.", "Fine.")
        session.ask("Hi")
        events = getattr(session, prefix + how)(*arguments, max_tokens=9)

        async def read_all(events=events):
            return [event async for event in events]

        assert collect(asyncio.run(read_all()) if prefix else events).text == "Fine."
        assert session.model.requests[-1].max_tokens == 9


def test_the_effort_and_the_tools_of_a_turn_are_what_the_model_reads():
    session = chat(*["Fine."] * 3, reasoning_effort="high")
    session.ask("One", reasoning_effort="low", tools=[weather])
    assert "Reasoning: low" in read(session) and "type weather" in read(session)
    session.ask("Two")
    assert "Reasoning: high" in read(session) and "type weather" not in read(session)


def test_a_tool_of_a_turn_is_run():
    session = chat(CALL, "Rain.")
    assert session.ask("Oslo?", tools=[weather]).text == "Rain." and "rain in Oslo" in read(session)


def test_tools_can_be_set_and_taken_from_the_session():
    session = chat(CALL, "Rain.", CALL, "Rain.", tools=[weather])

    def other(x: int) -> int:
        """Another one."""
        return x

    session.tools = [*session.tools, other]
    assert [tool.name for tool in session.tools] == ["weather", "other"]
    assert session.ask("Oslo?").text == "Rain."  # the session still runs it
    assert session.ask("Oslo?", tools=session.tools[:1]).text == "Rain."
    session.tools = []
    assert session.tools == ()


def test_the_form_of_an_answer_can_be_set():
    pytest.importorskip("llguidance")
    session = chat('{"sure":true}', "Yes", '{"sure":true}')
    session.response_format = {"type": "object", "properties": {"sure": {"type": "boolean"}}}
    assert session.ask("Sure?").parsed == {"sure": True} and "# Response Formats" in read(session)
    assert session.ask("Sure?", response_format={"type": "text"}).parsed is None
    session.response_format = None
    session.ask("Sure?", response_format={"type": "json_object"})
    assert "# Response Formats" in read(session) and session.response_format is None


def test_guards_can_be_set():
    session = chat("Fine.", "Fine.")
    session.guards = Guards(legal_headers=False, stop_repetition=False)
    session.ask("Hi")
    session.guards = Guards()
    session.ask("Hi")
    without, guarded = session.model.requests
    assert without.constraint is None and guarded.constraint is not None


WRONG = [
    ("instructions", None, "instructions is None, expected a text"),
    ("reasoning_effort", "hihg", "reasoning_effort is 'hihg', expected one of"),
    ("tools", weather, r"tools is .*, expected a list, for example tools=\[get_weather\]"),
    ("tools", "weather", "tools is 'weather', expected a list"),
    ("tools", [5], "5 is not a tool"),
    ("tools", [weather, weather], "two tools are called 'weather'"),
    ("tool_choice", "weather", "tool_choice is 'weather', but there are no tools"),
    ("tool_choice", "required", "but there are no tools: give tools="),
    ("confirm", True, "confirm is True, expected a function"),
    ("max_rounds", -1, "max_rounds is -1, expected at least 0"),
    ("options", {"temperature": 0}, r"options is .*, expected SamplingOptions\(...\)"),
    ("max_tokens", 0, "max_tokens is 0, expected at least 1 or None"),
    ("max_tokens", "100", "max_tokens is '100', expected at least 1 or None"),
    ("stop", 5, "stop is 5, expected a text or a list of texts"),
    ("stop", ["a", ""], "none of them empty"),
    ("logprobs", 5, r"logprobs is 5, expected True or False; .*SamplingOptions\(top_logprobs"),
    ("response_format", "json", "response_format is 'json', which as a regular expression"),
    ("max_reasoning_tokens", -1, "max_reasoning_tokens is -1"),
    ("guards", {"legal_headers": False}, "guards is .*, expected Guards"),
    ("context_limit", 10**9, "context_limit is 1000000000, expected 1 to 131,072 tokens or None"),
    ("context_policy", "forget", "context_policy is 'forget', expected refuse or drop_oldest"),
    ("current_date", 2025, "current_date is 2025, expected a date such as"),
]


@pytest.mark.parametrize(
    ("name", "value", "expected"), WRONG, ids=[f"{name} {n}" for n, (name, _, _) in enumerate(WRONG)]
)
def test_a_wrong_option_is_refused_where_it_is_given_and_nothing_changes(name, value, expected):
    session = chat("Fine.", "Fine.")
    session.ask("Hi")
    before, messages = getattr(session, name), session.messages
    with pytest.raises(OptionError, match=expected):
        setattr(session, name, value)
    with pytest.raises(OptionError, match=expected):
        chat(**{name: value})
    if name in ("instructions", "guards", "context_limit", "context_policy", "current_date"):
        expected = f"a turn has no option {name!r}: set it on the session"
    for method, arguments in (("ask", ("More",)), ("send", ("More",)), ("asend", ("More",)), ("retry", ())):
        with pytest.raises(OptionError, match=expected):
            getattr(session, method)(*arguments, **{name: value})
    assert getattr(session, name) == before and session.messages == messages
    assert session.ask("More").text == "Fine." and len(session.model.requests) == 2


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("temperature", r"a session has no option 'temperature': give options=SamplingOptions\(temperature=...\)"),
        ("max_token", "a session has no option 'max_token': did you mean 'max_tokens'?"),
        ("instruction", "did you mean 'instructions'?"),
        ("flavour", "a session has no option 'flavour': the options are "),
        ("model", r"session.model cannot be set: ChatSession\(model, tokenizer, messages=session.to_messages\(\)\)"),
        ("tokenizer", "session.tokenizer cannot be set"),
        ("usage", "session.usage cannot be set"),
        ("ask", "a session has no option 'ask'"),
    ],
)
def test_what_cannot_be_set_is_refused(name, expected):
    session = chat()
    for kind in (MlxOssError, AttributeError):  # whichever an app expects
        with pytest.raises(kind, match=expected):
            setattr(session, name, 1)


def test_what_is_not_there_cannot_be_read():
    session = chat()
    with pytest.raises(AttributeError, match=r"a session has no attribute 'mesages': did you mean 'messages'\?"):
        session.mesages  # noqa: B018
    assert not hasattr(session, "history")


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ({"temperature": 0}, r"a turn has no option 'temperature': give options=SamplingOptions\(temperature=...\)"),
        ({"max_token": 5}, "a turn has no option 'max_token': did you mean 'max_tokens'?"),
        ({"stream": True}, "a turn has no option 'stream': `send` returns the events"),
        ({"flavour": 1}, "a turn has no option 'flavour': the options are options, max_tokens, stop"),
        ({"n": 0}, "n is 0, expected a number of answers from 1 to 1,000"),
        ({"n": "3"}, "n is '3', expected a number"),
    ],
)
def test_what_a_turn_does_not_know_is_refused(arguments, expected):
    with pytest.raises(OptionError, match=expected):
        chat().ask("Hi", **arguments)


def test_arguments_are_checked_before_anything_is_read():
    session = chat("Fine.")
    with pytest.raises(OptionError, match=r"no option 'n': `ask` and `aask` give several answers"):
        session.send("Hi", n=3)
    for wrong in (
        lambda: session.send(None),
        lambda: session.asend(None),
        lambda: session.retry(),
        lambda: session.aretry(),
        lambda: session.edit(0, "Hi"),
        lambda: session.aedit("0", "Hi"),
        lambda: session.resume(max_tokens=0),
    ):
        with pytest.raises(OptionError):
            wrong()


def test_choosing_a_tool_needs_it_and_an_effort():
    with pytest.raises(
        OptionError, match="tool_choice is 'ship', expected auto, none, required, or one of the tools: w"
    ):
        chat(tools=[weather], tool_choice="ship")
    with pytest.raises(OptionError, match="'none' starts the answer at once"):
        chat(tools=[weather], tool_choice="required", reasoning_effort="none")
    with pytest.raises(OptionError, match=r"needs Guards\(legal_headers=True\)"):
        chat(tools=[weather], tool_choice="none", guards=Guards(legal_headers=False))
    for choice in ("weather", "functions.weather", {"type": "function", "function": {"name": "weather"}}):
        assert chat(tools=[weather], tool_choice=choice).tool_choice == choice


def test_a_saved_session_has_its_stop_strings(tmp_path):
    session = chat(stop=["END"], tools=[weather], tool_choice="required", logprobs=True)
    session.save(tmp_path / "chat", text_only=True)
    loaded = ChatSession.load(tmp_path / "chat", ScriptedEngine(), TOKENIZER, text_only=True)
    assert (loaded.stop, loaded.tool_choice, loaded.logprobs) == (("END",), "required", True)
    chat().save(tmp_path / "plain", text_only=True)
    assert b"tool_choice" not in (tmp_path / "plain").read_bytes()  # so that earlier releases can open it


def test_handlers_are_found_for_descriptions_of_the_session_only():
    described = ToolDescription("weather", "Gets the weather.", {"type": "object", "properties": {}})
    session = chat(CALL, tools=[Tool(described, weather)])
    assert session.ask("Oslo?", tools=[ToolDescription("weather")]).finish_reason == "tool_calls"


def test_an_option_that_is_set_while_a_turn_runs_counts_for_the_next_one():
    session = chat(THINK + CALL, "Rain.", "Fine.", tools=[weather], max_tokens=50)
    events = session.send("Oslo?")
    next(events)
    session.max_tokens = 9
    list(events)
    session.ask("More")
    assert session.model.requests[1].max_tokens > 9 == session.model.requests[2].max_tokens
