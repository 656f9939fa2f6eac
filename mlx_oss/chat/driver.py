"""Drives the generator of a turn for its caller: `iterate` on threads, `AsyncIterate` in an event loop.

Both yield the events and perform the actions in between (`mlx_oss.action`). Knows nothing of what a turn does.
"""

from __future__ import annotations

import atexit
import os
import threading
from collections.abc import AsyncIterator, Callable, Generator, Iterator
from queue import SimpleQueue
from typing import Any, TypeVar, cast

from mlx_oss.action import Action, Wait
from mlx_oss.errors import SessionError

T = TypeVar("T")

_END = object()


def iterate(generator: Generator[T | Action, None, None]) -> Iterator[T]:
    """Yields the generator's items, and performs its actions on the caller's thread.

    The generator itself runs on another thread, and waits there. So Ctrl-C interrupts the caller, but never the
    generator in the middle of a change. Closing the iterator, or an exception in an action or while waiting (Ctrl-C),
    closes the generator after what it waits for.
    """
    background = _Background(generator)
    try:
        while (item := _elsewhere(background.next)) is not _END:
            if isinstance(item, Action):
                item.perform()
            else:
                yield cast(T, item)
    finally:
        background.interrupt()
        _elsewhere(background.close)


class _Background:
    """A generator that is advanced and closed on other threads, one at a time."""

    def __init__(self, generator: Generator[Any, None, None]) -> None:
        self._generator = generator
        self._lock = threading.Lock()
        self._wait: Wait[Any] | None = None
        self._is_interrupted = False

    def next(self) -> object:
        """The next item that is not a `Wait`, or _END."""
        with self._lock:
            while not self._is_interrupted and isinstance(item := next(self._generator, _END), Wait):
                self._wait = item
                if self._is_interrupted:
                    item.cancel()
                item.perform()
                self._wait = None
            return _END if self._is_interrupted else item

    def interrupt(self) -> None:
        """Ends what `next` waits for; it then returns _END."""
        self._is_interrupted = True
        if (wait := self._wait) is not None:
            wait.cancel()

    def close(self) -> None:
        """Closes the generator when `next` has returned."""
        with self._lock:
            self._generator.close()


class _Task:
    """A function that another thread runs.

    The caller waits with a plain lock. Those of `concurrent.futures` are written in Python, and break if Ctrl-C
    interrupts them at the wrong place.
    """

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function = function
        self._result: Any = None
        self._error: BaseException | None = None
        self._is_running = threading.Lock()
        self._is_running.acquire()

    def run(self) -> None:
        try:
            self._result = self._function()
        except BaseException as error:  # it belongs to the caller
            self._error = error

    def finish(self) -> None:
        """Lets the caller go on."""
        self._is_running.release()

    def outcome(self) -> Any:
        """Waits until the function has run; returns its result or raises its exception."""
        self._is_running.acquire()
        if self._error is None:
            return self._result
        error, self._error = self._error, None
        try:
            raise error
        finally:
            del error  # it refers to this frame


class _Worker(threading.Thread):
    """Runs tasks. A daemon, unlike the threads of an executor: the program does not wait for it when it exits."""

    def __init__(self) -> None:
        super().__init__(name="mlx-oss turn", daemon=True)
        self.tasks: SimpleQueue[_Task] = SimpleQueue()

    def run(self) -> None:
        while True:
            task = self.tasks.get()
            task.run()
            _idle.append(self)  # before the caller goes on, who may need a thread at once
            task.finish()
            del task  # keeps no references while it is idle


_idle: list[_Worker] = []
_exiting = threading.Event()
atexit.register(_exiting.set)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_idle.clear)  # threads are not forked


def _elsewhere(function: Callable[[], T]) -> T:
    """Runs the function on another thread; returns its result or raises its exception.

    While the program exits, it runs on this thread: then daemons run no more.
    """
    if _exiting.is_set():
        return function()
    try:
        worker = _idle.pop()
    except IndexError:
        worker = _Worker()
        worker.start()
    task = _Task(function)
    worker.tasks.put(task)
    result: T = task.outcome()
    return result


class AsyncIterate(AsyncIterator[T]):
    """Like `iterate`, for `async for`: actions are performed in the caller's event loop.

    The generator is closed if the task is cancelled, and when this object is no longer used, for example because the
    loop was left before its end.
    """

    def __init__(self, generator: Generator[T | Action, None, None]) -> None:
        self._generator = generator
        self._action: Action | None = None  # the one that is being performed
        self._is_closed = False

    async def __anext__(self) -> T:
        if self._action is not None:
            raise SessionError("another task is waiting for the next event: read the events of a turn in one task")
        try:
            while isinstance(item := next(self._generator, _END), Action):
                self._action = item
                try:
                    await item.aperform()
                finally:
                    self._action = None
                if self._is_closed:
                    self._generator.close()
        except BaseException:
            self._generator.close()
            raise
        if item is _END:
            raise StopAsyncIteration
        return cast(T, item)

    async def aclose(self) -> None:
        """Closes the generator. If a task waits for something, that ends first, within a token or a chunk."""
        self._is_closed = True
        try:
            if isinstance(waiting := self._action, Wait):
                waiting.cancel()
                await waiting.aperform()
        finally:
            self._generator.close()
