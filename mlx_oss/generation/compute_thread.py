"""The computing thread: one thread that runs all MLX computations of all sessions.

An MLX stream belongs to the thread that created it, so one thread cannot finish arrays that another thread has begun.
With one thread for all computations, a session can be used from any thread or task. Sessions that run at the same time
alternate, one event each. A caller that reads its events slowly delays only its own session. Knows nothing of
sessions.
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
    """Runs submitted functions in order.

    MLX aborts the process if a thread with streams ends while the process exits. So this is a daemon thread that never
    ends, and `end` makes the exit wait for what it computes.
    """

    def __init__(self) -> None:
        super().__init__(name="mlx-oss", daemon=True)
        self._tasks: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
        self._ended = False

    def submit(self, function: Callable[[], T]) -> Future[T]:
        if self._ended:
            raise RuntimeError("the program is exiting: nothing more can be computed")
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
            except BaseException as error:  # any error belongs to the caller that waits for the future
                future.set_exception(error)
            del future, function  # keeps no references while waiting for the next function

    def end(self) -> None:
        """Waits for submitted functions and for MLX. Nothing can be submitted afterwards."""
        settled = self.submit(settle)
        self._ended = True
        settled.result()


_lock = threading.Lock()
_started: list[_Thread] = []
_closing: list[Future[None]] = []  # one for each generator of an abandoned loop that is not closed yet


def _thread() -> _Thread:
    """The computing thread, started when it is first needed."""
    with _lock:
        if not _started:
            _started.append(_Thread())
            _started[0].start()
            atexit.register(_started[0].end)
        return _started[0]


def run(function: Callable[[], T]) -> T:
    """Runs the function on the computing thread; returns its result or raises its exception.

    Raises:
        RuntimeError: If the program is exiting.
    """
    thread = _thread()
    if threading.current_thread() is thread:
        return function()
    return thread.submit(function).result()


def iterate(generator: Generator[T | Action, None, None]) -> Iterator[T]:
    """Yields the generator's items, each computed on the computing thread when the caller requests it.

    Actions are performed on the caller's thread and not yielded. Closing the iterator, or an exception while it waits
    for an item (Ctrl-C), closes the generator as soon as that item is done.

    Raises:
        RuntimeError: If the program is exiting.
    """
    try:
        while (item := run(lambda: next(generator, _END))) is not _END:
            if isinstance(item, Action):
                item.perform()
            else:
                yield cast(T, item)
    finally:
        with contextlib.suppress(RuntimeError):  # the program is exiting, and nothing can be submitted any more
            run(generator.close)


class AsyncIterate(AsyncIterator[T]):
    """Like `iterate`, for `async for`.

    Actions are performed in the caller's event loop. The generator is closed if the task is cancelled, or if the loop
    is abandoned (left before its end, so that this object is garbage-collected).
    """

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
        # The lambda must not refer to `self`: that would keep the object of an abandoned loop from being collected.
        generator = self._generator
        return await asyncio.wrap_future(_thread().submit(lambda: next(generator, _END)))

    async def aclose(self) -> None:
        """Closes the generator after its current item. Waits until it is closed, even if this call is cancelled."""
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
        # Not `_thread()`: it takes a lock, and a finaliser must not wait for one.
        if _started:  # otherwise the generator never ran
            with contextlib.suppress(RuntimeError):
                closing = _started[0].submit(self._generator.close)  # before anything that this caller submits next
                _closing.append(closing)
                closing.add_done_callback(_closing.remove)


def wait_for_abandoned() -> None:
    """Waits until the generators of abandoned async loops are closed.

    Returns at once on the computing thread, which would wait for itself.
    """
    if not _started or threading.current_thread() is not _started[0]:
        wait(list(_closing))
