"""Tools that a session runs: the loop until the answer, what the model and the app read, and cancelling."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import gc
import threading
from collections.abc import Awaitable, Callable

import pytest

from mlx_oss import ChatSession, SamplingOptions, ToolCall, ToolDescription, ToolResult, collect
from mlx_oss.errors import ContextError, OptionError
from mlx_oss.generation import compute_thread
from mlx_oss.harmony import PYTHON, ToolNamespace, render_message
from mlx_oss.harmony.messages import Message
from mlx_oss.tools import BrowserTool, Limits, PythonTool, Tool
from mlx_oss.tools.base import SystemTool
from mlx_oss.tools.sandbox import GUARANTEES, isolation_here
from tests.chat.scripted import CALL, DATE, HELLO, OPENING, THINK, TOKENIZER, contents, said, turn, user


def call(name: str, arguments: str = "{}", channel: str = "commentary") -> str:
    return f"<|channel|>{channel} to={name} <|constrain|>json<|message|>{arguments}<|call|>"


def answered(name: str, text: str, channel: str = "commentary") -> list[int]:
    return render_message(Message("tool", text, name=name, recipient="assistant", channel=channel))


def weather(city: str) -> dict[str, object]:
    """Tells the weather."""
    return {"city": city, "degrees": 18}


@pytest.fixture
def make(model, script):
    def make(*tools, **options) -> ChatSession:
        return ChatSession(script, TOKENIZER, current_date=DATE, tools=tools, **options)

    return make


def results(events) -> list[ToolResult]:
    return [event for event in events if isinstance(event, ToolResult)]


def test_a_call_is_run_and_the_model_answers_in_the_same_turn(make, script):
    session = make(weather)
    script.says(THINK + CALL, HELLO)
    events = turn(session, script, "Oslo?")
    assert [type(event).__name__ for event in events if "Delta" not in type(event).__name__] == [
        "ToolCall",
        "ToolResult",
        "Finished",
    ]
    assert results(events) == [ToolResult("functions.weather", '{"city": "Oslo", "degrees": 18}')]
    assert collect(events).finish_reason == "stop" and session.turns == 1
    result = answered("functions.weather", '{"city": "Oslo", "degrees": 18}')
    script.read(session_preamble(session), user("Oslo?"), said(THINK + CALL), result, OPENING)


def session_preamble(session: ChatSession) -> list[int]:
    from mlx_oss.harmony import render_conversation

    return render_conversation(session._settings.preamble)


def test_several_calls_one_after_the_other_are_one_turn(make, script):
    session = make(weather)
    script.says(CALL, CALL, THINK + CALL, HELLO)
    events = turn(session, script, "Oslo?")
    assert len(results(events)) == 3 and session.stats.turns == 1
    assert session.usage.generated_tokens == 3 * len(said(CALL)[len(OPENING) :]) + sum(
        len(said(text)[len(OPENING) :]) for text in (THINK, HELLO)
    )


def test_undo_retry_and_edit_take_the_whole_loop(make, script):
    session = make(weather)
    script.says(CALL, HELLO)
    turn(session, script, "Oslo?")
    once = contents(session)
    script.says(CALL, CALL, HELLO)
    assert len(results(session.retry())) == 2
    script.says(CALL, HELLO)
    list(session.edit(0, "Oslo?"))
    assert contents(session) == once
    assert session.undo() == "Oslo?" and session.messages == ()


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        ('{"city": 3}', "`city` must be a text, not 3"),
        ("{}", "`city` is missing"),
        ('{"city": "Os', "no JSON"),
        ("", "`city` is missing"),
    ],
)
def test_wrong_arguments_are_reported_to_the_model_which_continues(make, script, arguments, expected):
    session = make(weather)
    script.says(call("functions.weather", arguments), HELLO)
    events = turn(session, script, "Oslo?")
    (result,) = results(events)
    assert expected in result.text and result.text == f"Error: {result.error}"
    assert collect(events).text.startswith("Hello")


def test_an_exception_in_a_tool_is_a_sentence_to_the_model_and_an_error_to_the_app(make, script):
    def weather(city: str) -> None:
        raise LookupError("no such\nplace: " + 5000 * "x")

    session = make(weather)
    script.says(CALL, HELLO)
    (result,) = results(turn(session, script, "Oslo?"))
    assert (
        result.error is not None and result.error.startswith("LookupError: no such place") and "\n" not in result.text
    )
    assert len(result.text) < 1100


@pytest.mark.parametrize("error", [SystemExit(3), KeyboardInterrupt(), asyncio.CancelledError()], ids=repr)
def test_a_tool_cannot_end_the_program(make, script, error):
    def weather(city: str) -> None:
        raise error

    session = make(weather)
    script.says(CALL, HELLO)
    (result,) = results(turn(session, script, "Oslo?"))
    assert type(error).__name__ in str(result.error)


def test_a_tool_that_does_not_exist_is_reported_to_the_model_if_others_are_run(make, script):
    session = make(weather)
    script.says(call("functions.news"), call("browser.search"), HELLO)
    assert [result.error for result in results(turn(session, script, "Oslo?"))] == [
        "there is no tool 'news'; there are: weather",
        "there is no tool 'browser.search'; there are: weather",
    ]


@pytest.mark.parametrize("recipient", ["functions.weather", "weather"])
def test_a_call_with_and_without_the_namespace_is_understood(make, script, recipient):
    session = make(weather)
    script.says(call(recipient, '{"city": "Oslo"}'), HELLO)
    (result,) = results(turn(session, script, "Oslo?"))
    assert result.error is None and result.recipient == recipient


def test_a_call_of_what_is_only_described_ends_the_turn(make, script):
    session = make(weather, ToolDescription("news"), system_tools=[PYTHON])
    script.says(CALL, call("functions.news"))
    events = turn(session, script, "Oslo?")
    assert collect(events).finish_reason == "tool_calls" and len(results(events)) == 1
    session.add_tool_result(ToolCall("functions.news", "{}"), "none")
    script.says("<|channel|>analysis to=python code<|message|>1+1<|call|>")
    assert collect(session.resume()).finish_reason == "tool_calls"


def test_two_tools_of_one_name_and_what_is_no_tool_are_refused(make):
    with pytest.raises(OptionError, match="two tools are called 'weather'"):
        make(weather, ToolDescription("weather"))
    with pytest.raises(OptionError, match="is not a tool"):
        make(3)


@pytest.mark.parametrize("name", ["get weather", "", "a<b", "a,b", "a\nb", "get.", "a to=b", "(a)", "<|call|>", "a "])
def test_a_name_that_no_header_can_spell_is_refused(make, name):
    described = ToolDescription(name)
    for tool in (described, Tool(described, print), ToolNamespace("mine", None, (described,)), ToolNamespace(name)):
        with pytest.raises(OptionError, match="no message can be sent to"):
            make(tool)


@pytest.mark.parametrize("name", ["all", "user", "assistant", "system", "developer", "tool"])
def test_a_namespace_with_the_name_of_a_role_is_refused(make, name):
    for tools in ((), (ToolDescription("f"),)):
        with pytest.raises(OptionError, match="which is reserved"):
            make(ToolNamespace(name, None, tools))


@pytest.mark.parametrize("name", ["get_weather", "get-weather", "a.b", "größe", "2", "all", "json", "to", "final"])
def test_a_name_that_a_header_can_spell_is_taken_and_called_by_it(make, script, name):
    session = make(Tool(ToolDescription(name), lambda: "done"))
    script.says(call(f"functions.{name}"), HELLO)
    assert results(session.send("Hi")) == [ToolResult(f"functions.{name}", "done")]


def test_after_the_last_round_the_model_is_told_to_answer(make, script):
    session = make(weather, max_rounds=2)
    script.says(CALL, CALL, CALL, HELLO)
    events = turn(session, script, "Oslo?")
    assert [result.error is None for result in results(events)] == [True, True, False]
    assert "answer with what you have" in results(events)[-1].text
    assert collect(events).finish_reason == "stop"


def test_a_model_that_keeps_calling_is_stopped(make, script):
    session = make(weather, max_rounds=1)
    script.says(CALL, CALL, CALL)
    assert collect(turn(session, script, "Oslo?")).finish_reason == "tool_calls" and script.turns == []


def test_max_tokens_bounds_the_whole_turn(make, script):
    written = len(said(CALL)) - len(OPENING)
    session = make(weather, max_tokens=written + 3)
    script.says(CALL, HELLO)
    events = turn(session, script, "Oslo?")
    assert collect(events).finish_reason == "length" and session.usage.generated_tokens == written + 3
    session = make(weather, max_tokens=written)
    script.says(CALL)
    assert collect(turn(session, script, "Oslo?")).finish_reason == "length"


def test_a_result_that_does_not_fit_is_reported_as_too_long(make, script):
    session = make(Tool(ToolDescription("weather"), lambda: "many words " * 10**6), context_limit=2000)
    script.says(call("functions.weather"), HELLO)
    (result,) = results(turn(session, script, "Oslo?"))
    assert "too long, 11,000,000 characters" in str(result.error)
    session = make(Tool(ToolDescription("weather"), lambda: "many words " * 960), context_limit=2000)
    script.says(call("functions.weather"), HELLO)
    assert "too long" in str(results(turn(session, script, "Oslo?"))[0].error)


def test_a_turn_whose_tools_fill_the_context_ends_there_and_is_kept(make, script):
    session, asks = make(Tool(ToolDescription("weather"), lambda: "wet")), call("functions.weather")
    script.says(asks)
    session.context_limit = len(session_preamble(session)) + len(user("Oslo?")) + len(said(asks)) + 5
    events = turn(session, script, "Oslo?")
    assert collect(events).finish_reason == "length" and len(results(events)) == 1
    assert [message.role for message in session.messages] == ["user", "assistant", "tool"]
    with pytest.raises(ContextError):
        session.ask("And tomorrow?")
    assert session.turns == 1


@pytest.mark.parametrize(("verdict", "reason"), [(False, ""), ("it costs", ": it costs")])
def test_a_call_can_be_refused(make, script, verdict, reason):
    asked = []
    session = make(weather, confirm=lambda call: asked.append((call.name, call.arguments)) or verdict)
    script.says(CALL, HELLO)
    (result,) = results(turn(session, script, "Oslo?"))
    assert result.error == f"the user refused this call{reason}" and asked == [("weather", '{"city": "Oslo"}')]


async def agrees(call: ToolCall) -> bool:
    await asyncio.sleep(0)
    return True


@pytest.mark.parametrize("confirm", [lambda call: True, agrees])
def test_a_call_can_be_agreed_to(make, script, confirm):
    session = make(weather, confirm=confirm)
    script.says(CALL, HELLO, CALL, HELLO)
    assert results(turn(session, script, "Oslo?"))[0].error is None

    async def main() -> list[object]:
        return [event async for event in session.asend("Oslo?")]

    assert results(asyncio.run(main()))[0].error is None


def test_the_app_is_asked_on_its_own_thread_and_no_tool_runs_on_the_computing_one(make, script):
    threads = {}

    def weather(city: str) -> str:
        threads["tool"] = threading.current_thread()
        return VARIABLE.get()

    def confirm(call: ToolCall) -> bool:
        threads["confirm"] = threading.current_thread()
        return True

    VARIABLE = contextvars.ContextVar("variable", default="unset")
    VARIABLE.set("set by the caller")
    session = make(weather, confirm=confirm)
    script.says(CALL, HELLO)
    (result,) = results(turn(session, script, "Oslo?"))
    assert result.text == "set by the caller"
    assert threads["confirm"] is threading.current_thread()
    assert threads["tool"] is not compute_thread.run(threading.current_thread)


def test_async_tools_and_hooks_see_the_context_of_the_caller(make, script):
    variable = contextvars.ContextVar("variable", default="unset")
    seen = []

    async def weather(city: str) -> str:
        seen.append(variable.get())
        return "rain"

    async def confirm(call: ToolCall) -> bool:
        seen.append(variable.get())
        return True

    variable.set("set by the caller")
    session = make(weather, confirm=confirm)
    script.says(CALL, HELLO, CALL, HELLO)
    turn(session, script, "Oslo?")

    async def main() -> None:
        async for _ in session.asend("Oslo?"):
            pass

    asyncio.run(main())
    assert seen == ["set by the caller"] * 4


def test_an_error_of_the_apps_own_hook_reaches_the_app_and_the_session_goes_on(make, script):
    def confirm(call: ToolCall) -> bool:
        raise ZeroDivisionError

    session = make(weather, confirm=confirm)
    script.says(CALL)
    with pytest.raises(ZeroDivisionError):
        list(session.send("Oslo?"))
    assert session.messages[-1].content == "Error: stopped before it was done"
    script.says(HELLO)
    assert session.ask("Hi").finish_reason == "stop"


async def slow_weather(city: str) -> str:
    await asyncio.sleep(0)
    return f"{city}, {id(asyncio.get_running_loop())}"


def test_an_async_tool_runs_in_a_loop_of_its_own_from_sync_methods(make, script):
    session = make(Tool(ToolDescription("weather"), slow_weather))
    script.says(CALL, HELLO, CALL, HELLO)
    assert results(turn(session, script, "Oslo?"))[0].text.startswith("Oslo, ")

    async def main() -> list[object]:
        return list(session.send("Oslo?"))  # an event loop is already running on this thread

    assert results(asyncio.run(main()))[0].text.startswith("Oslo, ")


def test_an_async_tool_runs_in_the_callers_loop_from_async_methods(make, script):
    session = make(Tool(ToolDescription("weather"), slow_weather))
    script.says(CALL, HELLO)

    async def main() -> None:
        events = [event async for event in session.asend("Oslo?")]
        assert results(events)[0].text == f"Oslo, {id(asyncio.get_running_loop())}"

    asyncio.run(main())


def test_the_callers_loop_is_free_while_a_tool_runs(make, script):
    release = threading.Event()

    def weather(city: str) -> str:
        release.wait()
        return "done"

    session = make(weather)
    script.says(CALL, HELLO)

    async def main() -> list[object]:
        events = []
        async for event in session.asend("Oslo?"):
            if isinstance(event, ToolCall):
                asyncio.get_running_loop().call_later(0.01, release.set)
            events.append(event)
        return events

    assert results(asyncio.run(main()))[0].text == "done"


class Waiting(SystemTool):
    """A tool that runs until it is cancelled."""

    namespace = ToolNamespace("python")

    def __init__(self) -> None:
        self.running, self.cancelled = threading.Event(), threading.Event()

    def call(self, function: str, text: str) -> str:
        self.running.set()
        self.cancelled.wait()
        return "late"

    def cancel(self) -> None:
        self.cancelled.set()


PYTHON_CALL = "<|channel|>analysis to=python code<|message|>1+1<|call|>"


def test_cancel_stops_a_tool_that_is_running(make, script):
    tool = Waiting()
    session = make(tool)
    script.says(PYTHON_CALL, HELLO)
    threading.Thread(target=lambda: (tool.running.wait(), session.cancel())).start()
    events = turn(session, script, "Go")
    assert collect(events).finish_reason == "cancelled" and tool.cancelled.is_set()
    assert results(events)[0].error == "stopped before it was done"
    assert contents(session)[-1] == ("tool", "analysis", "Error: stopped before it was done")
    assert collect(turn(session, script, "Again")).finish_reason == "stop"


def test_a_function_that_cannot_be_stopped_is_not_waited_for(make, script):
    release, running = threading.Event(), threading.Event()

    def weather(city: str) -> str:
        running.set()
        release.wait()
        return "late"

    session = make(weather)
    script.says(CALL, HELLO)
    threading.Thread(target=lambda: (running.wait(), session.cancel())).start()
    assert collect(turn(session, script, "Oslo?")).finish_reason == "cancelled"
    assert collect(turn(session, script, "Again")).finish_reason == "stop"
    release.set()


def test_cancelling_the_task_stops_the_tool(make, script):
    tool, stopped = Waiting(), []

    async def weather(city: str) -> None:
        try:
            tool.running.set()
            await asyncio.sleep(3600)
        except asyncio.CancelledError:
            stopped.append(True)
            raise

    for session in (make(tool), make(weather)):
        script.says(PYTHON_CALL if session.system_tools else CALL)
        tool.running.clear()

        async def main(session: ChatSession = session) -> None:
            async def go() -> None:
                async for _ in session.asend("Go"):
                    pass

            task = asyncio.create_task(go())
            while not tool.running.is_set():
                await asyncio.sleep(0.001)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

        asyncio.run(main())
        assert session.messages[-1].content == "Error: stopped before it was done"
    assert tool.cancelled.is_set() and stopped == [True]


def test_an_async_tool_is_cancelled_from_sync_methods_too(make, script):
    running, stopped = threading.Event(), threading.Event()

    async def weather(city: str) -> None:
        try:
            running.set()
            await asyncio.sleep(3600)
        finally:
            stopped.set()

    session = make(weather)
    script.says(CALL)
    threading.Thread(target=lambda: (running.wait(), session.cancel())).start()
    assert collect(turn(session, script, "Oslo?")).finish_reason == "cancelled"
    assert stopped.wait(60)


async def awaited(session: ChatSession) -> list[object]:
    return [event async for event in session.asend("Go")]


def whole_turn(session: ChatSession, how: str) -> list[object]:
    return list(session.send("Go")) if how == "sync" else asyncio.run(awaited(session))


class Idle(Waiting):
    """A tool that records whether it was called or cancelled."""

    def call(self, function: str, text: str) -> str:
        self.running.set()
        return "done"


@pytest.mark.parametrize("how", ["sync", "async"])
def test_a_call_that_is_cancelled_before_it_starts_is_not_asked_for_and_does_nothing(make, script, how):
    tool, asked = Idle(), []
    session = make(tool, confirm=lambda call: asked.append(call) or True)
    script.says(PYTHON_CALL)
    events = []
    if how == "sync":
        for event in session.send("Go"):
            events.append(event)
            if isinstance(event, ToolCall):
                session.cancel()
    else:

        async def main() -> None:
            async for event in session.asend("Go"):
                events.append(event)
                if isinstance(event, ToolCall):
                    session.cancel()

        asyncio.run(main())
    assert results(events)[0].error == "stopped before it was done"
    assert collect(events).finish_reason == "cancelled"
    assert asked == [] and not tool.running.is_set() and not tool.cancelled.is_set()


@pytest.mark.parametrize("how", ["sync", "async"])
@pytest.mark.parametrize("confirm", ["sync", "async"])
def test_a_yes_after_the_cancel_comes_too_late(make, script, how, confirm):
    """And the tool itself is not cancelled, because it was not running."""
    tool = Idle()

    def agrees_late(call: ToolCall) -> bool:
        session.cancel()
        return True

    async def agrees_late_too(call: ToolCall) -> bool:
        with contextlib.suppress(asyncio.CancelledError):
            session.cancel()
            await asyncio.sleep(0)
        return True

    session = make(tool, confirm=agrees_late if confirm == "sync" else agrees_late_too)
    script.says(PYTHON_CALL)
    events = whole_turn(session, how)
    assert results(events)[0].error == "stopped before it was done"
    assert collect(events).finish_reason == "cancelled"
    assert not tool.running.is_set() and not tool.cancelled.is_set()


def unanswered() -> tuple[Callable[[ToolCall], Awaitable[bool]], threading.Event, list[bool]]:
    """A `confirm` that waits for ever, an event set once it is called, and a list that is filled when it ends."""
    asking, ended = threading.Event(), []

    async def never_answers(call: ToolCall) -> bool:
        asking.set()
        try:
            await asyncio.sleep(3600)
        finally:
            ended.append(True)
        return True

    return never_answers, asking, ended


@pytest.mark.parametrize("how", ["sync", "async"])
def test_cancel_ends_an_async_question(make, script, how):
    never_answers, asking, ended = unanswered()
    session = make(weather, confirm=never_answers)
    script.says(CALL)
    threading.Thread(target=lambda: (asking.wait(), session.cancel())).start()
    assert collect(whole_turn(session, how)).finish_reason == "cancelled" and ended == [True]


def test_cancelling_the_task_ends_an_async_question(make, script):
    never_answers, asking, ended = unanswered()
    session = make(weather, confirm=never_answers)
    script.says(CALL)

    async def main() -> None:
        task = asyncio.create_task(awaited(session))
        while not asking.is_set():
            await asyncio.sleep(0.001)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    asyncio.run(main())
    assert ended == [True] and session.messages[-1].content == "Error: stopped before it was done"


def test_closing_the_iterator_while_a_call_waits_keeps_the_conversation_whole(make, script):
    session = make(weather)
    script.says(CALL)
    events = session.send("Oslo?")
    assert isinstance(next(events), ToolCall)
    events.close()
    gc.collect()
    assert contents(session)[-1] == ("tool", "commentary", "Error: stopped before it was done")
    script.says(HELLO)
    assert session.ask("Hi").finish_reason == "stop"


def test_closed_at_a_call_that_is_only_described_a_session_waits_for_its_result(make, script):
    session = make(ToolDescription("weather", "Tells it."))
    script.says(CALL, HELLO)
    events = session.send("Oslo?")
    call = next(events)
    events.close()
    assert session.messages[-1].role == "assistant"
    session.add_tool_result(call, "rain")
    assert collect(session.resume()).finish_reason == "stop"


def test_a_result_that_fits_when_old_turns_are_dropped_is_taken(make, script):
    def weather() -> str:
        """Tells the weather."""
        return "many words " * 400

    def error_of(session: ChatSession) -> str | None:
        script.says(call("functions.weather"), HELLO)
        return results(turn(session, script, "Weather?"))[0].error

    fresh, long = (make(weather, context_limit=2000, context_policy="drop_oldest") for _ in range(2))
    while long.context_used < 1200:
        script.says(HELLO)
        turn(long, script, "so " * 100)
    assert error_of(fresh) is None and error_of(long) is None
    refusing = make(weather, context_limit=2000)
    while refusing.context_used < 1200:
        script.says(HELLO)
        turn(refusing, script, "so " * 100)
    assert "too long" in str(error_of(refusing))


def test_a_saved_session_gets_its_handlers_back(make, script, model, tmp_path):
    session = make(weather, ToolDescription("news", "Tells it."), Waiting())
    script.says(CALL, HELLO)
    turn(session, script, "Oslo?")
    session.save(tmp_path / "chat")
    bare = ChatSession.load(tmp_path / "chat", script, TOKENIZER)
    assert (bare.tools, bare.system_tools) == (session.tools, session.system_tools)
    script.says(CALL)
    assert bare.ask("And now?").finish_reason == "tool_calls"
    loaded = ChatSession.load(tmp_path / "chat", script, TOKENIZER, tools=[weather, len_of])
    assert [tool.name for tool in loaded.tools] == ["weather", "news", "len_of"]
    loaded = ChatSession.load(tmp_path / "chat", script, TOKENIZER, tools=[weather])
    script.says(CALL, HELLO)
    events = turn(loaded, script, "And now?")
    assert results(events)[0].error is None
    assert loaded.usage.reused_tokens > len(session_preamble(session))  # the prompt was not read again


def len_of(text: str) -> int:
    return len(text)


def test_forks_share_the_tools_and_nothing_else(make, script):
    session = make(weather)
    other = session.fork()
    script.says(CALL, HELLO, CALL, HELLO)
    assert len(results(turn(other, script, "Oslo?"))) == 1 and session.messages == ()
    assert len(results(turn(session, script, "Oslo?"))) == 1


def test_a_turn_sampled_with_a_seed_is_the_same_again(make, script):
    session = make(weather, options=SamplingOptions(seed=1))
    script.says(CALL, HELLO, CALL, HELLO)
    first = turn(session, script, "Oslo?")
    session.undo()
    assert [type(event) for event in turn(session, script, "Oslo?")] == [type(event) for event in first]


def test_an_answer_that_cites_a_page_has_the_citation_as_data(make, script, tmp_path):
    (tmp_path / "whales.md").write_text("# Whales\n\nThe blue whale is the largest animal.\n")
    session = make(BrowserTool(tmp_path))
    opened = '<|channel|>analysis to=browser.open code<|message|>{"id": "whales.md"}<|call|>'
    script.says(opened, "<|channel|>final<|message|>The blue whale【0†L4】.<|return|>")
    events = turn(session, script, "Which is the largest animal?")
    assert results(events)[0].text.startswith("[0] Whales (whales.md)\n")
    (cited,) = collect(events).citations
    assert (cited.source, cited.text) == ("whales.md", "The blue whale is the largest animal.")
    assert contents(session)[2][:2] == ("tool", "analysis")


def test_code_that_goes_too_far_is_a_sentence_to_the_model_and_the_chat_goes_on(make, script):
    isolation = None if isolation_here() in GUARANTEES else "limits"
    tool = PythonTool(isolation=isolation, limits=Limits(seconds=4, memory_bytes=1 << 30))
    session = make(tool)
    abuses = ["while True: pass", "import os; os._exit(1)", "print('x' * 10**6)", "1 + 1"]
    script.says(*(f"<|channel|>analysis to=python code<|message|>{code}<|call|>" for code in abuses), THINK + HELLO)
    looped, ended, printed, added = results(turn(session, script, "Go"))
    assert looped.error is not None and "stopped after 4 seconds" in looped.error and looped.error in looped.text
    assert ended.error is not None and "ended by the code" in ended.error
    assert printed.error is None and len(printed.text) < 21_000 and added.text == "2"
    script.says(HELLO)
    assert collect(turn(session, script, "Hi")).finish_reason == "stop"
    tool.close()
