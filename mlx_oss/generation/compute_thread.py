"""The one thread that computes: everything MLX of all sessions runs on it, in turns of one event each.

MLX's streams belong to the thread that made them, so arrays half computed by one thread cannot be finished by another.
With one thread for all, a session may be used from any thread or task, and sessions side by side take turns. A reader
who is slow holds nothing up but his own session. Knows nothing of sessions.
"""

from __future__ import annotations

import asyncio
import atexit
import contextlib
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from concurrent.futures import Future, wait
from queue import SimpleQueue
from typing import Any, TypeVar, cast

from mlx_oss.action import Action
from mlx_oss.backend.cores import settle

T = TypeVar("T")

_END = object()


class _Thread(threading.Thread):
    """Computes what it is given, in order. A daemon, as MLX aborts a process that ends while a thread with streams
    does: this one never ends, and what it computes when the process wants to end is waited for.
    """

    def __init__(self) -> None:
        super().__init__(name="mlx-oss", daemon=True)
        self._tasks: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
        self._ended = False

    def submit(self, function: Callable[[], T]) -> Future[T]:
        if self._ended:
            raise RuntimeError("the program is ending")
        future: Future[T] = Future()
        self._tasks.put((future, function))
        return future

    def run(self) -> None:
        while True:
            future, function = self._tasks.get()
            if not future.set_running_or_notify_cancel():
                continue
            try:
                future.set_result(function())
            except BaseException as error:  # whatever it is, it belongs to who asked
                future.set_exception(error)
            del future, function  # nothing is held while there is nothing to do

    def end(self) -> None:
        """Waits for what was submitted and for MLX; nothing can be submitted from now on."""
        settled = self.submit(settle)
        self._ended = True
        settled.result()


_lock = threading.Lock()
_started: list[_Thread] = []
_closing: list[Future[None]] = []  # what loops that were left have not closed yet


def _thread() -> _Thread:
    with _lock:
        if not _started:
            _started.append(_Thread())
            _started[0].start()
            atexit.register(_started[0].end)
        return _started[0]


def run(function: Callable[[], T]) -> T:
    """What the function returns or raises, run on the computing thread."""
    thread = _thread()
    if threading.current_thread() is thread:
        return function()
    return thread.submit(function).result()


def pulled(generator: Generator[T | Action, None, None]) -> Iterator[T]:
    """The generator's items, each computed on the computing thread when it is asked for. Errands are done on the way.

    Closing it, or an exception while it is waited for (Ctrl-C), closes the generator once its item is done.
    """
    try:
        while (item := run(lambda: next(generator, _END))) is not _END:
            if isinstance(item, Action):
                item.perform()
            else:
                yield cast(T, item)
    finally:
        with contextlib.suppress(RuntimeError):  # the interpreter is ending: there is no thread any more
            run(generator.close)


class PulledAsync(AsyncIterator[T]):
    """As `pulled`, for `async for`. A task that is cancelled, and a loop that is left, close the generator."""

    def __init__(self, generator: Generator[T | Action, None, None]) -> None:
        self._generator = generator

    async def __anext__(self) -> T:
        try:
            while isinstance(item := await self._next(), Action):
                await item.aperform()
        except BaseException:
            await self.aclose()
            raise
        if item is _END:
            raise StopAsyncIteration
        return cast(T, item)

    async def _next(self) -> object:
        generator = self._generator  # alone, as who holds `self` keeps a loop that is left from closing it
        return await asyncio.wrap_future(_thread().submit(lambda: next(generator, _END)))

    async def aclose(self) -> None:
        """Closes the generator once its item is done, and waits for that even if cancelled meanwhile."""
        closed = asyncio.ensure_future(asyncio.wrap_future(_thread().submit(self._generator.close)))
        cancelled: asyncio.CancelledError | None = None
        while not closed.done():
            try:
                await asyncio.shield(closed)
            except asyncio.CancelledError as error:
                cancelled = error
        if cancelled is not None:
            raise cancelled

    def __del__(self) -> None:
        if _started:  # else it never began; and no lock is waited for where garbage is collected
            with contextlib.suppress(RuntimeError):
                closing = _started[0].submit(self._generator.close)  # before all that the same caller asks for next
                _closing.append(closing)
                closing.add_done_callback(_closing.remove)


def finish_left() -> None:
    """Waits until the loops that were left are closed, which the computing thread may not have come to."""
    if not _started or threading.current_thread() is not _started[0]:
        wait(list(_closing))
