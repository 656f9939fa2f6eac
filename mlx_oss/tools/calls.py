"""Runs a tool call of the model: asks for confirmation, and turns the result into text.

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
import math
import threading
import time
from collections.abc import AsyncIterable, Awaitable, Callable
from concurrent.futures import CancelledError, Future, InvalidStateError
from dataclasses import replace
from queue import Empty, SimpleQueue
from typing import Any, TypeVar, cast

from mlx_oss.action import Action, done_event
from mlx_oss.errors import ToolError
from mlx_oss.events import ToolCall, ToolProgress, ToolResult
from mlx_oss.json_text import whole_characters
from mlx_oss.shield import shield
from mlx_oss.tools import progress
from mlx_oss.tools.base import STOPPED, SystemTool
from mlx_oss.tools.functions import Tool
from mlx_oss.tools.results import WithAttachments, bounded, list_of, text_of

T = TypeVar("T")

Confirm = Callable[[ToolCall], "bool | str | Awaitable[bool | str]"]
_MAX_ERROR_LENGTH = 1000  # characters
_PAUSE = 0.1  # seconds between two reports of progress that are passed on


class ToolInvocation(Action):
    """One call that runs a tool.

    A call that is cancelled before it starts does not ask for confirmation, and an approval that comes after the
    cancellation is ignored.

    It is performed again and again until `is_running` is False: it also returns when the tool tells of its progress,
    which `take_progress` then has.

    Attributes:
        result: The result of the call. Until the call is done, and if it is cancelled, the result says that it was
            stopped.
    """

    def __init__(
        self, tool: Tool | SystemTool | None, call: ToolCall, confirm: Confirm | None, known: tuple[str, ...]
    ) -> None:
        self._tool, self._call, self._confirm, self._known = tool, call, confirm, known
        self._text: Future[str | WithAttachments] = Future()  # cancelling it cancels whatever the call is waiting for
        self._is_cancelled = self._is_late = self._has_begun = self._is_over = False
        self._told: SimpleQueue[ToolProgress] = SimpleQueue()
        self._last_told = -math.inf
        self._news: Future[None] = Future()  # done when the call is done, or has told something
        self.result = self._failed(STOPPED)

    def cancel(self) -> None:
        """Cancels the call without waiting. Can be called from any thread; has no effect on a call that is done."""
        self._is_cancelled = True
        shield(self._text.cancel)

    @property
    def is_running(self) -> bool:
        """Whether the call has begun and `result` is not yet what came of it."""
        return self._has_begun and not self._is_over  # the tool itself may have ended a moment ago

    def take_progress(self) -> list[ToolProgress]:
        """What the tool has told of its progress since this was called last."""
        told = []
        with contextlib.suppress(Empty):
            while True:
                told.append(self._told.get_nowait())
        return told

    def refuse(self, reason: str) -> None:
        """Sets an error as the result, instead of running the call."""
        self.result = self._failed(reason)

    def perform(self) -> None:
        if self._has_begun:
            return shield(self._wait, self.cancel)
        approval, context = self._ask(), contextvars.copy_context()

        def run() -> None:
            answer = approval
            if isinstance(answer, Awaitable):
                answer = _on_a_thread(lambda: context.run(asyncio.run, self._await_approval(answer)))
            if self._is_approved(answer):
                self._start(context, None)
                self._wait()

        shield(run, self.cancel)

    async def aperform(self) -> None:
        if not self._has_begun:
            approval = self._ask()
            if isinstance(approval, Awaitable):
                approval = await self._await_approval(approval)
            if not self._is_approved(approval):
                return
            context, loop = contextvars.copy_context(), asyncio.get_running_loop()
            shield(lambda: self._start(context, loop))
        await done_event(shield(self._next_news)).wait()
        shield(self._store_result)

    def _wait(self) -> None:
        """Waits until the call is done, or has told of its progress."""
        self._next_news().exception()
        self._store_result()

    def _next_news(self) -> Future[None]:
        """The future that is done with the next news; at once if there are some that nobody has taken."""
        self._news = news = Future[None]()
        self._text.add_done_callback(lambda _: _set(news))
        if not self._told.empty():
            _set(news)
        return news

    def _tell(self, done: float, total: float | None, text: str) -> None:
        """The tool tells of its progress. Called on its thread."""
        now = time.monotonic()
        if now - self._last_told >= _PAUSE and not self._text.done():
            self._last_told = now
            self._told.put(ToolProgress(self._call.recipient, done, total, whole_characters(text[:_MAX_ERROR_LENGTH])))
            _set(self._news)

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
        self._has_begun = True
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
        progress.listener.set(self._tell)
        with contextlib.suppress(InvalidStateError):  # the call was cancelled
            try:
                text = self._run(loop)
            except BaseException as error:  # even SystemExit, which would otherwise only end this thread
                self._text.set_exception(error.with_traceback(None))  # which refers to this frame
            else:
                self._text.set_result(text)

    def _run(self, loop: asyncio.AbstractEventLoop | None) -> str | WithAttachments:
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
                if isinstance(result, WithAttachments):
                    return replace(result, text=text_of(result.text))
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

        def stop_if_cancelled(future: Future[str | WithAttachments]) -> None:
            if future.cancelled() or self._is_late:
                with contextlib.suppress(RuntimeError):  # the event loop has been closed
                    stop()

        shield(lambda: self._text.add_done_callback(stop_if_cancelled))

    def _store_result(self) -> None:
        self._is_over = self._text.done()
        if not self._is_over or self._text.cancelled():
            return
        error = self._text.exception()
        if error is None:
            given = self._text.result()
            given = given if isinstance(given, WithAttachments) else WithAttachments(given)
            self.result = ToolResult(self._call.recipient, given.text, attachments=given.attachments)
        elif isinstance(error, ToolError):
            self.result = self._failed(str(error), error.output)
        else:
            self.result = self._failed(f"{type(error).__name__}: {error}")

    def _failed(self, reason: str, output: str = "") -> ToolResult:
        reason, output = " ".join(whole_characters(reason).split()), whole_characters(output)
        reason = reason if len(reason) <= _MAX_ERROR_LENGTH else reason[:_MAX_ERROR_LENGTH] + " ..."
        above = f"{output.rstrip()}\n" if output.strip() else ""
        return ToolResult(self._call.recipient, f"{above}Error: {reason}", reason)


def _set(news: Future[None]) -> None:
    with contextlib.suppress(InvalidStateError):  # it is set already
        news.set_result(None)


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
