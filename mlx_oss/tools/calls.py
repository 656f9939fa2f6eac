"""Running what the model calls: which tool is meant, asking whether it may, and the result in words.

A handler never runs on the computing thread. From a session's sync methods an ordinary handler runs on a thread of its
own and an async one in an event loop of its own; from the async methods, async handlers run in the caller's loop.
Whatever a handler raises becomes a sentence. A call that is given up is not waited for: the built-in tools stop, an
async handler is cancelled, an ordinary function ends when it ends and nobody listens. Knows nothing of sessions.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import Awaitable, Callable, Iterable, Sequence
from concurrent.futures import CancelledError, Future, InvalidStateError, ThreadPoolExecutor
from typing import Any

from mlx_oss.action import Action
from mlx_oss.errors import OptionError, ToolError
from mlx_oss.events import Citation, ToolCall, ToolResult
from mlx_oss.harmony import ToolDescription, ToolNamespace
from mlx_oss.harmony.header import ROLES, read_header
from mlx_oss.tools.base import SystemTool
from mlx_oss.tools.functions import Tool, text_of, tool_from

Confirm = Callable[[ToolCall], "bool | str | Awaitable[bool | str]"]
AnyTool = Callable[..., Any] | Tool | ToolDescription | SystemTool | ToolNamespace

STOPPED = "stopped before it was done"
_OTHERS = (*ROLES, "all")
_LONGEST = 1000  # characters of a sentence about an error


class Toolset:
    """The tools of a session: those that run here, and those that are only described and end the turn."""

    def __init__(self, tools: Iterable[AnyTool] = (), confirm: Confirm | None = None) -> None:
        """Raises OptionError for what is no tool, for two of one name, and for a name that no header can spell."""
        self._confirm = confirm
        self._handled: dict[str, Tool | SystemTool] = {}
        described = [(tool, _described(tool)) for tool in tools]
        self.functions = tuple(said for _, said in described if isinstance(said, ToolDescription))
        self.namespaces = tuple(said for _, said in described if isinstance(said, ToolNamespace))
        names = [said.name for _, said in described]
        if twice := [name for name in names if names.count(name) > 1]:
            raise OptionError(f"two tools are called {twice[0]!r}: give each its own name")
        for _, said in described:
            _check_name(said)
        for tool, said in described:
            if isinstance(tool, Tool | SystemTool):
                self._handled[said.name] = tool
            elif not isinstance(tool, ToolDescription | ToolNamespace):
                self._handled[said.name] = tool_from(tool)

    def handles(self, call: ToolCall) -> bool:
        """Whether the call is run here: its tool is, or there is no such tool and that is to be told."""
        name = call.name
        known = [*(tool.name for tool in self.functions), *(space.name for space in self.namespaces)]
        described = name in known or name.partition(".")[0] in known
        return bool(self._handled) and (self._tool(name) is not None or not described)

    def citations(self, answer: str) -> tuple[Citation, ...]:
        tools = [tool for tool in self._handled.values() if isinstance(tool, SystemTool)]
        return tuple(citation for tool in tools for citation in tool.citations(answer))

    def invoke(self, call: ToolCall) -> ToolInvocation:
        """The call as an errand."""
        return ToolInvocation(self._tool(call.name), call, self._confirm, tuple(self._handled))

    def _tool(self, name: str) -> Tool | SystemTool | None:
        tool = self._handled.get(name)
        if tool is None and isinstance(space := self._handled.get(name.partition(".")[0]), SystemTool):
            return space
        return tool


def rebind_tools(tools: Sequence[AnyTool], described: Sequence[ToolDescription | ToolNamespace]) -> list[AnyTool]:
    """The described tools, with those that are given in the places of their names; other given ones follow."""
    given = {_described(tool).name: tool for tool in tools}
    return [given.pop(old.name, old) for old in described] + list(given.values())


def _described(tool: AnyTool) -> ToolDescription | ToolNamespace:
    """Raises OptionError for what is no tool."""
    match tool:
        case Tool():
            return tool.description
        case SystemTool():
            return tool.namespace
        case ToolDescription() | ToolNamespace():
            return tool
    if not callable(tool):
        raise OptionError(f"{tool!r} is no tool: give a function, a Tool, or a ToolDescription")
    return tool_from(tool).description


def _check_name(said: ToolDescription | ToolNamespace) -> None:
    """Raises OptionError for a tool that would be called, or answer, by another name than its own."""
    space = said if isinstance(said, ToolNamespace) else ToolNamespace("functions", None, (said,))
    if space.name in _OTHERS:
        raise OptionError(f"a namespace cannot be called {space.name!r}, which is somebody else: choose another name")
    for name in [f"{space.name}.{tool.name}" for tool in space.tools] or [space.name]:
        header, notes, _ = read_header([f"assistant to={name}", "commentary"], None)
        if notes or header.recipient != name or name.startswith(".") or name.endswith("."):
            raise OptionError(f"no message can be sent to {name!r}: name the tool in letters, digits, _ and -")


class ToolInvocation(Action):
    """One call being run. `result` is there when it is done; until then, and if it never is, it says so. One that is
    given up before it begins is not asked for, and a yes that comes later does not begin it.
    """

    def __init__(
        self, tool: Tool | SystemTool | None, call: ToolCall, confirm: Confirm | None, known: tuple[str, ...]
    ) -> None:
        self._tool, self._call, self._confirm, self._known = tool, call, confirm, known
        self._text: Future[str] = Future()  # cancelled when the call is given up, and all that hangs on it with it
        self.result = self._failed(STOPPED)

    def cancel(self) -> None:
        """Gives the call up, at once; for any thread. Does nothing where it is done."""
        self._text.cancel()

    def refuse(self, reason: str) -> None:
        """Instead of being done."""
        self.result = self._failed(reason)

    def perform(self) -> None:
        verdict = self._asked()
        if isinstance(verdict, Awaitable):
            asked = _on_a_thread(lambda: asyncio.run(self._verdict(verdict)))
            verdict = asked.result()
        if self._may_run(verdict):
            self._start(None)
            with contextlib.suppress(CancelledError):
                self._text.exception()
            self._settle()

    async def aperform(self) -> None:
        verdict = self._asked()
        if isinstance(verdict, Awaitable):
            verdict = await self._verdict(verdict)
        if self._may_run(verdict):
            loop, done = asyncio.get_running_loop(), asyncio.Event()
            self._text.add_done_callback(lambda _: loop.call_soon_threadsafe(done.set))
            self._start(loop)
            await done.wait()
            self._settle()

    def _asked(self) -> Any:
        if self._confirm is None or self._tool is None or self._text.cancelled():
            return True
        return self._confirm(self._call)

    async def _verdict(self, asked: Awaitable[Any]) -> Any:
        """What the question is answered with; whatever it is where the call is given up before, which ends it."""
        question, loop = asyncio.ensure_future(asked), asyncio.get_running_loop()
        self._if_given_up(lambda: loop.call_soon_threadsafe(question.cancel))
        try:
            await asyncio.wait([question])
        finally:
            question.cancel()
        return None if question.cancelled() and self._text.cancelled() else question.result()

    def _may_run(self, verdict: Any) -> bool:
        if self._text.cancelled():
            return False
        if verdict is not True:
            self.refuse("the user refused this call" + (f": {verdict}" if isinstance(verdict, str) else ""))
        return verdict is True

    def _start(self, loop: asyncio.AbstractEventLoop | None) -> None:
        """Runs it on a thread; where the handler is async, awaits it in the loop or, without one, in a new one."""
        context = contextvars.copy_context()
        threading.Thread(target=context.run, args=(self._work, loop), name="mlx-oss tool", daemon=True).start()

    def _work(self, loop: asyncio.AbstractEventLoop | None) -> None:
        with contextlib.suppress(InvalidStateError):  # it was given up
            try:
                text = self._called(loop)
            except BaseException as error:  # whatever the handler raises, the thread is ours
                self._text.set_exception(error)
            else:
                self._text.set_result(text)

    def _called(self, loop: asyncio.AbstractEventLoop | None) -> str:
        if self._text.cancelled():  # before anything that a cancel would end
            raise CancelledError
        match self._tool:
            case None:
                raise ToolError(f"there is no tool {self._call.name!r}; there are: {', '.join(self._known)}")
            case SystemTool() as tool:
                self._if_given_up(tool.cancel)
                return tool.call(self._call.name.partition(".")[2], self._call.arguments)
            case tool:
                result = tool.handler(**tool.arguments(self._call.arguments))
                if isinstance(result, Awaitable):
                    result = asyncio.run(self._within(result)) if loop is None else self._in(loop, result)
                return text_of(result)

    def _in(self, loop: asyncio.AbstractEventLoop, result: Awaitable[Any]) -> Any:
        future = asyncio.run_coroutine_threadsafe(_awaited(result), loop)
        self._if_given_up(future.cancel)
        return future.result()

    async def _within(self, result: Awaitable[Any]) -> Any:
        task, loop = asyncio.ensure_future(result), asyncio.get_running_loop()
        self._if_given_up(lambda: loop.call_soon_threadsafe(task.cancel))
        return await task

    def _if_given_up(self, stop: Callable[[], object]) -> None:
        def stop_it(future: Future[str]) -> None:
            if future.cancelled():
                with contextlib.suppress(RuntimeError):  # the loop has ended meanwhile
                    stop()

        self._text.add_done_callback(stop_it)

    def _settle(self) -> None:
        if self._text.cancelled():
            return
        error = self._text.exception()
        if error is None:
            self.result = ToolResult(self._call.recipient, self._text.result())
        elif isinstance(error, ToolError):
            self.result = self._failed(str(error), error.output)
        else:
            self.result = self._failed(f"{type(error).__name__}: {error}")

    def _failed(self, reason: str, output: str = "") -> ToolResult:
        reason = " ".join(reason.split())
        reason = reason if len(reason) <= _LONGEST else reason[:_LONGEST] + " ..."
        above = f"{output.rstrip()}\n" if output.strip() else ""
        return ToolResult(self._call.recipient, f"{above}Error: {reason}", reason)


async def _awaited(result: Awaitable[Any]) -> Any:
    return await result


def _on_a_thread(function: Callable[[], Any]) -> Future[Any]:
    """For what must not run where a loop may be running already."""
    with ThreadPoolExecutor(1) as pool:
        return pool.submit(function)
