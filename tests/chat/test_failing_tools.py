"""Tools that fail again and again, or take too long, and what a question will take before it is sent."""

from __future__ import annotations

import asyncio
import threading

import pytest

from mlx_oss import ChatSession, OptionError, ScriptedEngine, ToolDescription, ToolResult, load_tokenizer
from mlx_oss.tools import Tool, tool_from
from tests.chat.scripted import CALL, HELLO, OPENING, THINK

OTHER = CALL.replace("functions.weather", "functions.news")


def chat(*answers, **kwargs) -> ChatSession:
    return ChatSession(ScriptedEngine(*answers), load_tokenizer(), **kwargs)


def results(events) -> list[ToolResult]:
    return [event for event in events if isinstance(event, ToolResult)]


def broken(city: str) -> str:
    """Gets the weather."""
    raise ConnectionError("no network")


weather = tool_from(broken, name="weather")
news = tool_from(broken, name="news")


def test_the_third_equal_error_tells_the_model_to_stop_and_the_next_call_is_not_run():
    ran = []

    def weather(city: str) -> str:
        """Gets the weather."""
        ran.append(city)
        raise ConnectionError("no network")

    session = chat(*[THINK + CALL] * 4, HELLO, tools=[weather])
    events = list(session.send("Oslo?"))
    first, second, third, fourth = results(events)
    assert first == second and first.text == "Error: ConnectionError: no network"
    assert third.text.endswith(
        "This has failed 3 times in the same way: do not call it again, answer with what you have."
    )
    assert "not run: your calls have failed in the same way" in fourth.text and len(ran) == 3
    assert events[-1].reason == "stop"  # the model has answered


def test_a_model_that_does_not_listen_is_stopped():
    session = chat(*[CALL] * 5, tools=[weather])
    reply = session.ask("Oslo?")
    assert reply.finish_reason == "tool_calls" and len(session.model.requests) == 5 and reply.text == ""
    session.model.says(CALL, HELLO)
    assert session.ask("Again?").finish_reason == "stop"  # a new turn begins anew


def test_only_equal_errors_one_after_another_count():
    times = iter(range(100))

    def weather(city: str) -> str:
        """Gets the weather."""
        if (time := next(times)) % 3 == 2:
            return "rain"
        raise ConnectionError("no network" if time % 2 else "no answer")

    session = chat(*[CALL] * 9, HELLO, tools=[weather])
    assert not any("in the same way" in result.text for result in results(session.send("Oslo?")))
    session = chat(CALL, OTHER, CALL, OTHER, CALL, HELLO, tools=[tool_from(broken, name="weather"), news])
    assert not any("in the same way" in result.text for result in results(session.send("Oslo?")))


def test_calls_that_the_user_refuses_again_and_again_end_too():
    session = chat(*[CALL] * 4, HELLO, tools=[weather], confirm=lambda call: False)
    assert "not run" in results(session.send("Oslo?"))[-1].text


def test_a_call_that_takes_too_long_is_a_sentence_to_the_model():
    go_on = threading.Event()

    def slow() -> str:
        """Waits."""
        go_on.wait(60)
        return "late"

    session = chat(CALL, HELLO, tools=[tool_from(lambda city: slow(), name="weather", timeout=0.01)])
    (result,) = results(session.send("Oslo?"))
    assert result.error == "the call took longer than 0.01 s and was stopped"
    go_on.set()


@pytest.mark.parametrize("in_loop", [True, False])
def test_an_async_tool_that_takes_too_long_is_cancelled(in_loop):
    cancelled = []

    async def weather(city: str) -> str:
        """Waits."""
        try:
            await asyncio.sleep(60)
        except asyncio.CancelledError:
            cancelled.append(city)
            raise
        return "late"

    session = chat(CALL, HELLO, tools=[tool_from(weather, timeout=0.01)])

    async def read() -> list:
        return [event async for event in session.asend("Oslo?")]

    events = asyncio.run(read()) if in_loop else list(session.send("Oslo?"))
    assert "took longer than 0.01 s" in str(results(events)[0].error) and events[-1].reason == "stop"
    for _ in range(1000):  # without a loop of the caller's, the tool has one on a thread of its own
        if cancelled:
            break
        threading.Event().wait(0.01)
    assert cancelled == ["Oslo"]


def test_a_call_that_is_in_time_is_not_disturbed():
    session = chat(CALL, HELLO, tools=[tool_from(lambda city: f"rain in {city}", name="weather", timeout=60)])
    assert results(session.send("Oslo?")) == [ToolResult("functions.weather", "rain in Oslo")]


@pytest.mark.parametrize("timeout", [0, -1, "5", True, float("nan"), float("inf"), 1e10])
def test_what_is_no_time_is_refused(timeout):
    with pytest.raises(OptionError, match=r"timeout of the tool 'weather' is .*, expected seconds above 0, or None"):
        Tool(ToolDescription("weather"), print, timeout=timeout)


def test_what_is_no_tool_is_refused_when_it_is_made():
    with pytest.raises(OptionError, match=r"expected ToolDescription\(name, text, schema\); tool_from"):
        Tool("weather", print)
    with pytest.raises(OptionError, match="the handler of the tool 'weather' is 'print', expected a function"):
        Tool(ToolDescription("weather"), "print")
    with pytest.raises(OptionError, match="5 is not a function"):
        tool_from(5)


def test_what_a_question_takes_is_known_before_it_is_sent():
    session = chat(THINK + HELLO, HELLO, instructions="Be brief.")
    for text in ("Hi", "What is the capital of Portugal? 🦉"):
        before = session.context_used + session.count(text)
        assert session.ask(text).usage.prompt_tokens == before
    assert session.count("") == session.count("Hi") - 1 and session.count("Hi") > len(OPENING)
    with pytest.raises(OptionError, match="the user's message must be a str, not int"):
        session.count(5)
