"""Runs the tool calls of the model: finds the tool, asks for confirmation, and turns the result into text.

A handler never runs on the computing thread. The synchronous methods of a session run an ordinary handler on a new
thread and an async handler in a new event loop; the async methods await async handlers in the caller's event loop. An
exception in a handler becomes a result that describes the error. A cancelled call is not waited for: the built-in tools
stop, an async handler is cancelled, and an ordinary function runs to its end, but its result is ignored. Knows nothing
of sessions.
"""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import threading
from collections.abc import AsyncIterable, Awaitable, Callable, Iterable, Mapping, Sequence
from concurrent.futures import CancelledError, Future, InvalidStateError
from queue import SimpleQueue
from typing import Any, TypeVar, cast

from mlx_oss.action import Action, done_event
from mlx_oss.errors import OptionError, ToolError, quoted
from mlx_oss.events import Citation, ToolCall, ToolResult
from mlx_oss.harmony import ToolDescription, ToolNamespace
from mlx_oss.harmony.header import ROLES, read_header
from mlx_oss.json_text import whole_characters
from mlx_oss.shield import shield
from mlx_oss.tools.base import STOPPED, SystemTool
from mlx_oss.tools.functions import Tool, tool_from
from mlx_oss.tools.results import bounded, list_of, text_of

T = TypeVar("T")

Confirm = Callable[[ToolCall], "bool | str | Awaitable[bool | str]"]
AnyTool = Callable[..., Any] | Tool | ToolDescription | SystemTool | ToolNamespace

_RESERVED_NAMES = (*ROLES, "all")
_MAX_ERROR_LENGTH = 1000  # characters


class Toolset:
    """The tools of a session. It runs some of them; others are only described, and a call of those ends the turn.

    Args:
        tools: Functions and tools to run, and descriptions of other tools.
        confirm: Called before each call that the session runs. True lets it run; False or a reason refuses it.

    Attributes:
        functions: Descriptions for the developer message.
        namespaces: Descriptions for the system message.

    Raises:
        OptionError: If something is not a tool, if two tools have the same name, or if a name cannot be written in a
            message header.
    """

    def __init__(self, tools: Iterable[AnyTool] = (), confirm: Confirm | None = None) -> None:
        self._confirm = confirm
        self._runnable: dict[str, Tool | SystemTool] = {}
        described = [(tool, _description(tool)) for tool in tools]
        self.functions = tuple(entry for _, entry in described if isinstance(entry, ToolDescription))
        self.namespaces = tuple(entry for _, entry in described if isinstance(entry, ToolNamespace))
        names = [entry.name for _, entry in described]
        if twice := [name for name in names if names.count(name) > 1]:
            raise OptionError(f"two tools are called {twice[0]!r}: give each its own name")
        for _, entry in described:
            _check(entry)
        for tool, entry in described:
            if isinstance(tool, Tool | SystemTool):
                self._runnable[entry.name] = tool
            elif not isinstance(tool, ToolDescription | ToolNamespace):
                self._runnable[entry.name] = tool_from(tool)

    def handles(self, call: ToolCall) -> bool:
        """True if the session runs the call.

        It also runs a call of an unknown tool, unless it has only descriptions: the result says that there is no such
        tool.
        """
        name = call.name
        known = [*(tool.name for tool in self.functions), *(namespace.name for namespace in self.namespaces)]
        is_described = name in known or name.partition(".")[0] in known
        return bool(self._runnable) and (self._tool(name) is not None or not is_described)

    def with_handlers(self, tools: Any) -> Any:
        """The tools, with the tools of this set in place of their descriptions, as `functions` has them."""
        if not isinstance(tools, list | tuple):
            return tools
        own = {id(described): self._runnable.get(described.name, described) for described in self.functions}
        return [own.get(id(tool), tool) for tool in tools]

    def citations(self, answer: str) -> tuple[Citation, ...]:
        """Returns the passages of the built-in tools' results that an answer cites."""
        tools = [tool for tool in self._runnable.values() if isinstance(tool, SystemTool)]
        return tuple(citation for tool in tools for citation in tool.citations(answer))

    def invoke(self, call: ToolCall) -> ToolInvocation:
        """Returns the action that runs the call; it has not started."""
        return ToolInvocation(self._tool(call.name), call, self._confirm, tuple(self._runnable))

    def _tool(self, name: str) -> Tool | SystemTool | None:
        tool = self._runnable.get(name)
        if tool is None and isinstance(system_tool := self._runnable.get(name.partition(".")[0]), SystemTool):
            return system_tool
        return tool


def rebind_tools(tools: Sequence[AnyTool], described: Sequence[ToolDescription | ToolNamespace]) -> list[AnyTool]:
    """Returns the descriptions, each replaced by the tool of the same name if there is one, then the other tools."""
    by_name = {_description(tool).name: tool for tool in tools}
    return [by_name.pop(old.name, old) for old in described] + list(by_name.values())


def _description(tool: AnyTool) -> ToolDescription | ToolNamespace:
    """The tool's description. Raises OptionError if this is not a tool."""
    match tool:
        case Tool():
            return tool.description
        case SystemTool():
            return tool.namespace
        case ToolDescription() | ToolNamespace():
            return tool
    if not callable(tool):
        raise OptionError(f"{tool!r} is not a tool: give a function, a Tool, or a ToolDescription")
    return tool_from(tool).description


def _check(described: ToolDescription | ToolNamespace) -> None:
    """Raises OptionError if no schema describes the arguments, or a message would be parsed with another name."""
    namespace = described if isinstance(described, ToolNamespace) else ToolNamespace("functions", None, (described,))
    if namespace.name in _RESERVED_NAMES:
        raise OptionError(f"a namespace cannot be called {namespace.name!r}, which is reserved: choose another name")
    for tool in namespace.tools:
        if tool.parameters is not None and not isinstance(tool.parameters, Mapping):
            raise OptionError(
                f"the parameters of tool {tool.name!r} are {quoted(tool.parameters)}, expected the JSON schema of an "
                "object (a dict), or None for a function without arguments"
            )
    for name in [f"{namespace.name}.{tool.name}" for tool in namespace.tools] or [namespace.name]:
        header, notes, _ = read_header([f"assistant to={name}", "commentary"], None)
        is_text = not any(0xD800 <= ord(letter) <= 0xDFFF for letter in name)  # half a character cannot be encoded
        if notes or header.recipient != name or name.startswith(".") or name.endswith(".") or not is_text:
            raise OptionError(f"no message can be sent to {name!r}: name the tool in letters, digits, _ and -")


class ToolInvocation(Action):
    """One call that runs a tool.

    A call that is cancelled before it starts does not ask for confirmation, and an approval that comes after the
    cancellation is ignored.

    Attributes:
        result: The result of the call. Until the call is done, and if it is cancelled, the result says that it was
            stopped.
    """

    def __init__(
        self, tool: Tool | SystemTool | None, call: ToolCall, confirm: Confirm | None, known: tuple[str, ...]
    ) -> None:
        self._tool, self._call, self._confirm, self._known = tool, call, confirm, known
        self._text: Future[str] = Future()  # cancelling it cancels whatever the call is waiting for
        self._is_cancelled = self._is_late = False
        self.result = self._failed(STOPPED)

    def cancel(self) -> None:
        """Cancels the call without waiting. Can be called from any thread; has no effect on a call that is done."""
        self._is_cancelled = True
        shield(self._text.cancel)

    def refuse(self, reason: str) -> None:
        """Sets an error as the result, instead of running the call."""
        self.result = self._failed(reason)

    def perform(self) -> None:
        approval, context = self._ask(), contextvars.copy_context()

        def run() -> None:
            answer = approval
            if isinstance(answer, Awaitable):
                answer = _on_a_thread(lambda: context.run(asyncio.run, self._await_approval(answer)))
            if self._is_approved(answer):
                self._start(context, None)
                with contextlib.suppress(CancelledError):
                    self._text.exception()
                self._store_result()

        shield(run, self.cancel)

    async def aperform(self) -> None:
        approval = self._ask()
        if isinstance(approval, Awaitable):
            approval = await self._await_approval(approval)
        if self._is_approved(approval):
            done, context, loop = done_event(self._text), contextvars.copy_context(), asyncio.get_running_loop()
            shield(lambda: self._start(context, loop))
            await done.wait()
            shield(self._store_result)

    def _ask(self) -> Any:
        """The answer of `confirm`, or an awaitable for it. Unknown tools and cancelled calls need no confirmation."""
        if self._confirm is None or self._tool is None or self._is_cancelled:
            return True
        return self._confirm(self._call)

    async def _await_approval(self, approval: Awaitable[Any]) -> Any:
        """The answer of an async `confirm`; None if the call is cancelled first, which cancels `confirm` as well."""
        question, loop = asyncio.ensure_future(approval), asyncio.get_running_loop()
        self._on_cancel(lambda: loop.call_soon_threadsafe(question.cancel))
        try:
            await asyncio.wait([question])
        finally:
            question.cancel()
        return None if question.cancelled() and self._is_cancelled else question.result()

    def _is_approved(self, approval: Any) -> bool:
        """Whether the call may run. Sets the result if the user refused it."""
        if self._is_cancelled:
            return False
        if approval is not True:
            self.refuse("the user refused this call" + (f": {approval}" if isinstance(approval, str) else ""))
        return approval is True

    def _start(self, context: contextvars.Context, loop: asyncio.AbstractEventLoop | None) -> None:
        """Runs the call on a new thread, in a context. An async handler is awaited in `loop`; None means a new loop."""
        if isinstance(self._tool, Tool) and self._tool.timeout is not None:
            timer = threading.Timer(self._tool.timeout, self._end_late, [self._tool.timeout])
            timer.daemon = True
            self._text.add_done_callback(lambda _: timer.cancel())
            timer.start()
        threading.Thread(target=context.run, args=(self._work, loop), name="mlx-oss tool", daemon=True).start()

    def _end_late(self, timeout: float) -> None:
        self._is_late = True
        with contextlib.suppress(InvalidStateError):  # it is done
            self._text.set_exception(ToolError(f"the call took longer than {timeout:g} s and was stopped"))

    def _work(self, loop: asyncio.AbstractEventLoop | None) -> None:
        with contextlib.suppress(InvalidStateError):  # the call was cancelled
            try:
                text = self._run(loop)
            except BaseException as error:  # even SystemExit, which would otherwise only end this thread
                self._text.set_exception(error.with_traceback(None))  # which refers to this frame
            else:
                self._text.set_result(text)

    def _run(self, loop: asyncio.AbstractEventLoop | None) -> str:
        if self._text.done():  # nothing has started that a cancellation could stop
            raise CancelledError
        match self._tool:
            case None:
                raise ToolError(f"there is no tool {self._call.name!r}; there are: {', '.join(self._known)}")
            case SystemTool() as tool:
                self._on_cancel(tool.cancel)
                return bounded(tool.call(self._call.name.partition(".")[2], self._call.arguments))
            case tool:
                result = tool.handler(**tool.arguments(self._call.arguments))
                if isinstance(result, AsyncIterable):
                    result = list_of(result)
                if isinstance(result, Awaitable):
                    result = asyncio.run(self._await_here(result)) if loop is None else self._wait_for(result, loop)
                return text_of(result)

    def _wait_for(self, result: Awaitable[Any], loop: asyncio.AbstractEventLoop) -> Any:
        """Blocks this thread until `loop`, which runs on another thread, has awaited the result."""
        done: SimpleQueue[asyncio.Task[tuple[Any, BaseException | None]]] = SimpleQueue()
        begun: list[asyncio.Task[tuple[Any, BaseException | None]]] = []

        def begin() -> None:
            task = loop.create_task(_outcome(result))
            task.add_done_callback(done.put)
            begun.append(task)

        def stop() -> None:
            for task in begun:
                task.cancel()

        loop.call_soon_threadsafe(begin)
        self._on_cancel(lambda: loop.call_soon_threadsafe(stop))
        value, error = done.get().result()
        if error is not None:
            raise error
        return value

    async def _await_here(self, result: Awaitable[Any]) -> Any:
        """Awaits the result in this thread's event loop, and stops when the call is cancelled."""
        task, loop = asyncio.ensure_future(result), asyncio.get_running_loop()
        self._on_cancel(lambda: loop.call_soon_threadsafe(task.cancel))
        return await task

    def _on_cancel(self, stop: Callable[[], object]) -> None:
        """Calls `stop` when the call is cancelled or takes too long, at once if that is so already."""

        def stop_if_cancelled(future: Future[str]) -> None:
            if future.cancelled() or self._is_late:
                with contextlib.suppress(RuntimeError):  # the event loop has been closed
                    stop()

        shield(lambda: self._text.add_done_callback(stop_if_cancelled))

    def _store_result(self) -> None:
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
        reason, output = " ".join(whole_characters(reason).split()), whole_characters(output)
        reason = reason if len(reason) <= _MAX_ERROR_LENGTH else reason[:_MAX_ERROR_LENGTH] + " ..."
        above = f"{output.rstrip()}\n" if output.strip() else ""
        return ToolResult(self._call.recipient, f"{above}Error: {reason}", reason)


async def _outcome(result: Awaitable[Any]) -> tuple[Any, BaseException | None]:
    """The result or the exception, which would end the event loop if it were SystemExit or KeyboardInterrupt."""
    try:
        return await result, None
    except asyncio.CancelledError:
        raise
    except BaseException as error:
        return None, error


def _on_a_thread(function: Callable[[], T]) -> T:
    """Runs a function on a new thread, where no event loop is running; returns its result or raises its exception."""
    results: SimpleQueue[T] = SimpleQueue()
    errors: list[BaseException] = []

    def run() -> None:
        try:
            results.put(function())
        except BaseException as error:  # it belongs to the caller
            errors.append(error)
            results.put(cast(T, None))

    threading.Thread(target=run, name="mlx-oss confirm", daemon=True).start()
    result = results.get()
    if errors:
        raise errors.pop()
    return result
