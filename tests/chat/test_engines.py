"""Sessions on engines of other kinds: one that was written as `Engine` says, and some that break its rules."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from mlx_oss import ChatSession, Counts, Engine, PromptCache, Request, ScriptedEngine, Step, Stream, ToolCall
from mlx_oss.errors import ContextError, EngineError
from mlx_oss.events import Event
from tests.chat.scripted import CALL, HELLO, THINK, TOKENIZER, contents, ids


class Remote(Engine):
    """Computes on a thread of its own, as another process would.

    Args:
        answers: What it says, request by request.
        order: Yields the step of a token and lets the constraint accept it, in an order of its own.
    """

    context, fingerprint = 4096, "remote"

    def __init__(self, *answers: str, order: Callable[[Step, Request], Iterator[Step]] | None = None) -> None:
        self.answers, self.order = [ids(answer) for answer in answers], order or accept_first
        self.thread = ThreadPoolExecutor(1)

    def make_prompt_cache(self) -> PromptCache:
        return PromptCache()

    def submit(self, request: Request) -> Stream:
        counts = Counts()
        return Stream(request, self.items(request, self.answers.pop(0), counts), counts, self.thread.submit)

    def items(self, request: Request, answer: list[int], counts: Counts) -> Iterator[Step]:
        assert request.cache is not None
        counts.read_tokens, counts.reused_tokens = len(request.prompt), request.cache.shared_with(request.prompt[:-1])
        request.cache.ids = list(request.prompt)
        for count, token in enumerate(answer, start=1):
            limit = request.limit(self.context)
            finish = "stop" if token in request.stop_ids else "length" if count == limit else None
            request.cache.ids.append(token)
            yield from self.order(Step(token, None, (), finish), request)


def accept_first(step: Step, request: Request) -> Iterator[Step]:
    request.constraint.accept(step.token)
    yield step


def accept_afterwards(step: Step, request: Request) -> Iterator[Step]:
    yield step
    request.constraint.accept(step.token)


def accept_another(step: Step, request: Request) -> Iterator[Step]:
    request.constraint.accept(step.token + 1 if step.token > 1000 else step.token)
    yield step


def ignore(step: Step, request: Request) -> Iterator[Step]:
    yield step


def weather(city: str) -> str:
    """The weather."""
    return f"It rains in {city}."


@pytest.mark.parametrize("order", [accept_first, ignore])
def test_a_session_talks_to_an_engine_that_is_written_as_its_docstring_says(order):
    engine = Remote(THINK + CALL, HELLO, HELLO, order=order)
    session = ChatSession(engine, TOKENIZER, tools=[weather])
    assert session.ask("Weather?").text == "Hello, how can I help you today?"
    assert session.messages[3].content == "It rains in Oslo."
    usage = session.ask("Hi").usage
    assert 0 < usage.reused_tokens < usage.prompt_tokens and usage.generated_tokens == len(ids(HELLO))


@pytest.mark.parametrize(
    ("order", "message"),
    [(accept_afterwards, "before the constraint accepted"), (accept_another, "after the constraint accepted")],
)
def test_an_engine_that_confuses_its_constraint_is_reported(order, message):
    session = ChatSession(Remote(HELLO, order=order), TOKENIZER)
    with pytest.raises(EngineError, match=message):
        session.ask("Hi")
    assert session.turns == 1


def test_what_was_written_is_kept_when_the_engine_shuts_down():
    engine = Remote(HELLO)
    session, events = ChatSession(engine, TOKENIZER), list[Event]()
    with pytest.raises(RuntimeError, match="shutdown"):
        for event in session.send("Hi"):
            events.append(event)
            if len(events) == 2:
                engine.thread.shutdown()
    assert contents(session) == [("user", None, "Hi"), ("assistant", "final", "Hello,")]


def test_an_answer_for_which_the_engine_has_no_more_room_is_kept_and_cut_off():
    engine = ScriptedEngine(CALL, [*ids(THINK), ContextError("no room")])
    session = ChatSession(engine, TOKENIZER, tools=[weather])
    assert session.ask("Weather?").finish_reason == "length"
    assert [message.role for message in session.messages] == ["user", "assistant", "tool", "assistant"]
    assert session.stats.turns == 1


def test_results_that_are_added_while_turns_begin_and_end_replace_no_message():
    session = ChatSession(ScriptedEngine(*40 * [HELLO]), TOKENIZER)
    over, added = threading.Event(), 0

    def add() -> None:
        nonlocal added
        while not over.is_set():
            session.add_tool_result(ToolCall("functions.weather", "{}"), "rain")
            added += 1
            time.sleep(0.0005)

    thread = threading.Thread(target=add)
    thread.start()
    for number in range(40):
        session.ask(f"question {number}")
    over.set()
    thread.join()
    roles = [message.role for message in session.messages]
    assert (roles.count("user"), roles.count("assistant"), roles.count("tool")) == (40, 40, added)


def test_a_cancel_that_comes_late_does_not_reach_the_next_turn():
    engine = ScriptedEngine(HELLO, HELLO)
    session = ChatSession(engine, TOKENIZER)
    session.ask("Hi")
    session.cancel()
    assert session.ask("So?").finish_reason == "stop"
