"""The computing thread: one thread that runs all MLX computations of all engines in this process.

An MLX stream belongs to the thread that created it, so one thread cannot finish arrays that another thread has begun.
With one thread for all computations, an engine can be used from any thread or task. Knows nothing of engines.
"""

from __future__ import annotations

import atexit
import os
import threading
import time
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, TypeVar

from mlx_oss.backend.device import settle
from mlx_oss.errors import EngineError
from mlx_oss.shield import shield

T = TypeVar("T")
IDLE_SECONDS = 5.0  # without anything to compute, until the thread runs what `when_idle` was given


class _Thread(threading.Thread):
    """Runs submitted functions in order.

    MLX aborts the process if a thread that computes, or on which it has drawn random numbers, ends while the process
    exits. So this is a daemon thread that never ends, and `end` makes the exit wait for what it computes.
    """

    def __init__(self) -> None:
        super().__init__(name="mlx-oss", daemon=True)
        self._tasks: SimpleQueue[tuple[Future[Any], Callable[[], Any]]] = SimpleQueue()
        self._ended = False
        self.busy_since: float | None = None
        self.when_idle: Callable[[], None] | None = None

    @property
    def tasks(self) -> int:
        """How many functions wait."""
        return self._tasks.qsize()

    def submit(self, function: Callable[[], T]) -> Future[T]:
        if self._ended:
            raise EngineError("the program is exiting, so nothing more can be computed: compute before it exits")
        future: Future[T] = Future()
        self._tasks.put((future, function))
        return future

    def run(self) -> None:
        while True:
            try:
                future, function = self._tasks.get(timeout=None if self.when_idle is None else IDLE_SECONDS)
            except Empty:
                self._be_idle()
                continue
            if not future.set_running_or_notify_cancel():
                continue
            self.busy_since = time.monotonic()
            try:
                future.set_result(function())
            except BaseException as error:  # any error belongs to the caller that waits for the future
                future.set_exception(error)
            self.busy_since = None
            del future, function  # keeps no references while waiting for the next function

    def _be_idle(self) -> None:
        function, self.when_idle = self.when_idle, None
        if function is not None:
            with suppress(Exception):  # nobody waits for it, and without the thread every later request would wait
                function()

    def end(self) -> None:
        """Waits for submitted functions and for MLX. Nothing can be submitted afterwards."""
        settled = self.submit(settle)
        self._ended = True
        shield(settled.result)


@dataclass(frozen=True, slots=True)
class Pulse:
    """How the computing thread is.

    Attributes:
        is_alive: False if it has died, so that nothing can be computed any more.
        busy_seconds: How long it has been at what it computes now; 0 if it computes nothing.
        tasks: How many functions wait for it.
    """

    is_alive: bool
    busy_seconds: float
    tasks: int


class _Process:
    """The state of the computing thread in this process. A forked child gets a new one.

    Attributes:
        thread: The computing thread; None before it is first needed.
        lock: Held while the thread is started.
        may_have_computed: True once something may have been computed.
        is_forked: True if it was forked from a process that has computed: MLX would wait there for ever, for threads
            that were not forked with it.
    """

    def __init__(self, is_forked: bool = False) -> None:
        self.thread: _Thread | None = None
        self.lock = threading.Lock()
        self.may_have_computed = self.is_forked = is_forked


class _Forking(threading.local):
    """What a thread does that is just forking the process.

    Attributes:
        goes_on: Released when the computing thread may go on; None if it was not stopped.
    """

    goes_on: threading.Lock | None = None


_process = _Process()
_forking = _Forking()


def _pause() -> None:
    """Lets nothing be half computed while the process forks: a child waits for ever when it frees such an array."""
    if not _process.may_have_computed or _process.is_forked or is_current():
        return
    settle()
    if (thread := _process.thread) is not None:
        settled, goes_on = threading.Lock(), threading.Lock()  # plain ones: Ctrl-C cannot break them
        settled.acquire()
        goes_on.acquire()

        def wait() -> None:
            settle()
            settled.release()
            goes_on.acquire()

        with suppress(EngineError):  # the program is exiting
            _forking.goes_on = goes_on
            thread.submit(wait)
            shield(settled.acquire)


def _go_on() -> None:
    goes_on, _forking.goes_on = _forking.goes_on, None
    if goes_on is not None:
        goes_on.release()


def _begin_anew() -> None:
    global _process
    _process = _Process(is_forked=_process.may_have_computed)


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=_pause, after_in_parent=_go_on, after_in_child=_begin_anew)


@atexit.register
def _end() -> None:
    if _process.thread is not None:
        _process.thread.end()


def mark_computing() -> None:
    """Notes that this process computes with MLX, so that those forked from it later do not.

    Raises:
        EngineError: If this process was forked from one that has computed.
    """
    check_process()
    _process.may_have_computed = True


def check_process() -> None:
    """Raises EngineError if this process was forked from one that has computed."""
    if _process.is_forked:
        raise EngineError(
            "this process was forked from one that has computed with MLX, so it cannot compute: start it with "
            'multiprocessing.get_context("spawn") or subprocess, or load the model only after the fork'
        )


def submit(function: Callable[[], T]) -> Future[T]:
    """Runs the function on the computing thread, after those submitted before it. Does not wait.

    Raises:
        EngineError: If the program is exiting, or this process was forked from one that has computed.
    """
    mark_computing()
    if (thread := _process.thread) is None:
        thread = shield(_start)
    return thread.submit(function)


def _start() -> _Thread:
    with _process.lock:
        if _process.thread is None:
            thread = _Thread()
            thread.start()
            _process.thread = thread
        return _process.thread


def run(function: Callable[[], T]) -> T:
    """Runs the function on the computing thread; returns its result or raises its exception.

    Raises:
        EngineError: As `submit`.
    """
    return function() if is_current() else shield(lambda: submit(function).result())


def pulse() -> Pulse:
    """How the computing thread is. Does not wait for it."""
    if (thread := _process.thread) is None:
        return Pulse(not _process.is_forked, 0.0, 0)
    since = thread.busy_since
    return Pulse(thread.is_alive(), time.monotonic() - since if since is not None else 0.0, thread.tasks)


def when_idle(function: Callable[[], None]) -> None:
    """Runs the function once on the computing thread when nothing has been computed for IDLE_SECONDS.

    Call it on that thread. It replaces a function that was given before and has not run yet. Its errors are ignored.
    """
    if (thread := _process.thread) is not None:
        thread.when_idle = function


def is_current() -> bool:
    """True on the computing thread."""
    return threading.current_thread() is _process.thread
