"""A function that runs as a tool tells how far it is, and gives what is no text."""

from __future__ import annotations

import asyncio
import threading
import time

from mlx_oss import Attachment, ChatSession, Finished, ScriptedEngine, ToolProgress, ToolResult, load_tokenizer
from mlx_oss.tools import WithAttachments, report_progress
from mlx_oss.tools.calls import ToolInvocation

TOKENIZER = load_tokenizer()
CALL = "<|channel|>commentary to=functions.{} <|constrain|>json<|message|>{{}}<|call|>"


def slow() -> str:
    """Takes a while."""
    for step in range(4):
        report_progress(step, 4, f"step {step}")
        time.sleep(0.15)
    return "done"


async def slow_too() -> str:
    """Takes a while."""
    for step in range(4):
        report_progress(step, 4)
        await asyncio.sleep(0.15)
    return "done"


def chatty() -> str:
    """Tells too much."""
    for step in range(100_000):
        report_progress(step)
    return "done"


def drawing() -> WithAttachments:
    """Draws."""
    return WithAttachments("a drawing", (Attachment("image/png", b"\x89PNG", "whale"),))


def session(tool: object, *answers: str) -> ChatSession:
    name = getattr(tool, "__name__", "")
    return ChatSession(ScriptedEngine(CALL.format(name), *(answers or ("Done.",))), TOKENIZER, tools=[tool])


def told(events: list[object]) -> list[float]:
    """How far the tool was, each time that it said so; all of it between the call and its result."""
    kinds = [type(event).__name__ for event in events]
    places = [place for place, kind in enumerate(kinds) if kind == "ToolProgress"]
    assert all(kinds.index("ToolCall") < place < kinds.index("ToolResult") for place in places)
    return [event.done for event in events if isinstance(event, ToolProgress)]


def test_progress_comes_between_the_call_and_its_result():
    events = list(session(slow).send("Go"))
    assert told(events) == [0, 1, 2, 3]
    assert ToolProgress("functions.slow", 2, 4, "step 2") in events
    assert [event.text for event in events if isinstance(event, ToolResult)] == ["done"]


def test_in_an_event_loop_too():
    async def ask(tool: object) -> list[object]:
        return [event async for event in session(tool).asend("Go")]

    for tool in (slow, slow_too):
        assert told(asyncio.run(ask(tool))) == [0, 1, 2, 3]
    assert told(list(session(slow_too).send("Go"))) == [0, 1, 2, 3]


def test_what_is_told_at_the_very_end_comes_before_the_result():
    def quick() -> str:
        """Tells something and ends."""
        report_progress(1, 1)
        return "done"

    for _ in range(20):
        assert told(list(session(quick).send("Go"))) == [1]


def test_of_very_many_reports_a_few_are_passed_on():
    events = list(session(chatty).send("Go"))
    assert 1 <= len(told(events)) < 50 and isinstance(events[-1], Finished)


def test_a_turn_that_is_cancelled_between_two_reports_ends():
    chat = session(slow)
    events = []
    for event in chat.send("Go"):
        events.append(event)
        if isinstance(event, ToolProgress):
            chat.cancel()
    assert isinstance(events[-1], Finished) and events[-1].reason == "cancelled" and told(events) == [0]


def test_a_tool_that_ends_while_its_progress_is_passed_on_has_a_result(monkeypatch):
    goes_on, perform = threading.Event(), ToolInvocation.perform

    def perform_until_the_tool_ends(invocation: ToolInvocation) -> None:
        perform(invocation)
        goes_on.set()
        invocation._text.exception(30)

    def waiting() -> str:
        """Tells something, and ends as soon as that has been heard."""
        report_progress(1)
        assert goes_on.wait(30)
        return "done"

    monkeypatch.setattr(ToolInvocation, "perform", perform_until_the_tool_ends)
    events = list(session(waiting).send("Go"))
    assert told(events) == [1]
    assert [event.text for event in events if isinstance(event, ToolResult)] == ["done"]


def test_elsewhere_it_does_nothing():
    report_progress(1, 2)
    assert slow() == "done"


def test_what_is_no_text_is_for_the_app():
    chat = session(drawing)
    (result,) = [event for event in chat.send("Go") if isinstance(event, ToolResult)]
    assert result.text == "a drawing" and result.attachments == (Attachment("image/png", b"\x89PNG", "whale"),)
    assert "a drawing" in TOKENIZER.decode(chat.model.requests[-1].prompt)
