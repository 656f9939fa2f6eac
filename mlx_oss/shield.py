"""`shield`: runs a function where Ctrl-C cannot interrupt it halfway.

A signal's handler runs on the main thread, between any two steps of what is running there. An exception that it raises
(KeyboardInterrupt) can leave a lock held for ever: the locks of `concurrent.futures` and `threading.Event` are written
in Python, and `with` does not protect their first and last steps. So what other threads also use is waited for, and
changed, on a thread beside the main one. Knows nothing of what the functions do.
"""

from __future__ import annotations

import _thread
import atexit
import contextvars
import functools
import os
import threading
from collections.abc import Callable
from queue import SimpleQueue
from typing import Any, ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


def shield(function: Callable[[], T], cancel: Callable[[], object] | None = None) -> T:
    """Runs the function; returns its result or raises its exception.

    On the main thread the function runs on another one, while this one waits. If an exception interrupts the wait
    (Ctrl-C), `cancel` is called, the wait goes on until the function has ended, and the exception is raised. A second
    exception is raised at once; the function then goes on by itself. Any other thread runs the function itself: signals
    do not come there. So does the main thread while the program exits: then no other thread may run any more.

    Args:
        function: The function.
        cancel: Called if the wait is interrupted; should make the function end soon.
    """
    if threading.get_ident() != threading.main_thread().ident or _exiting.is_set():
        return function()
    task = _Task(function)
    try:
        tasks = _idle.pop()
    except IndexError:
        tasks = SimpleQueue()
        try:
            # Not a `threading.Thread`: to start one takes locks that the caller may hold, if this is a finalizer.
            _thread.start_new_thread(_work, (tasks,))
        except RuntimeError:  # the program exits, or no more threads can be started
            return function()
    try:
        tasks.put(task)
        task.wait()
    except BaseException:
        if not task.claim():  # otherwise it never begins
            if cancel is not None:
                cancel()
            task.wait()
        raise
    result: T = task.outcome()
    return result


def shielded(method: Callable[P, T]) -> Callable[P, T]:
    """Decorates a function or method that `shield` runs."""

    @functools.wraps(method)
    def wrapper(*args: P.args, **kwargs: P.kwargs) -> T:
        return shield(lambda: method(*args, **kwargs))

    return wrapper


class _Task:
    """A function that another thread runs, with the context variables of this one.

    Whoever waits for it uses a plain lock, which an exception cannot break.
    """

    def __init__(self, function: Callable[[], Any]) -> None:
        self._function, self._context = function, contextvars.copy_context()
        self._result: Any = None
        self._error: BaseException | None = None
        self._claimed, self._running = threading.Lock(), threading.Lock()
        self._running.acquire()
        self._is_done = False

    def claim(self) -> bool:
        """True for the first caller, who alone may run the function."""
        return self._claimed.acquire(blocking=False)

    def run(self) -> None:
        try:
            self._result = self._context.run(self._function)
        except BaseException as error:  # it belongs to the caller
            self._error = error

    def finish(self) -> None:
        """Lets the caller go on."""
        self._is_done = True
        self._running.release()

    def wait(self) -> None:
        """Waits for `finish`. An exception may have ended an earlier wait, even after it got the lock."""
        if not self._is_done:
            self._running.acquire()

    def outcome(self) -> Any:
        """What the function returned. Raises its exception."""
        if self._error is None:
            return self._result
        error, self._error = self._error, None
        try:
            raise error
        finally:
            del error  # it refers to this frame


def _work(tasks: SimpleQueue[_Task]) -> None:
    """Runs tasks for ever, on a thread that the program does not wait for when it exits."""
    while True:
        task = tasks.get()
        if task.claim():
            task.run()
        _idle.append(tasks)  # before the caller goes on, who may need a thread at once
        task.finish()
        del task  # keeps no references while it is idle


_idle: list[SimpleQueue[_Task]] = []  # of threads that have nothing to do
_exiting = threading.Event()
atexit.register(_exiting.set)
if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_idle.clear)  # threads are not forked
