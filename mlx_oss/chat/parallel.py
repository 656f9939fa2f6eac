"""`ParallelTurns`: runs the turns of many sessions at the same time, on one thread.

A turn is a generator that says when it has to wait (`mlx_oss.action`), so one thread can run many of them: it goes on
with each turn when what that turn waits for is there. With a thread for each turn, the threads would have to hand
Python's lock to each other for every token. Knows nothing of what a turn does.
"""

from __future__ import annotations

import asyncio
import contextvars
import threading
from collections import deque
from collections.abc import Callable, Generator
from concurrent.futures import Future
from queue import SimpleQueue

from mlx_oss.action import Action, Wait
from mlx_oss.errors import forget_frames
from mlx_oss.events import Event, Reply, collect
from mlx_oss.shield import shield, shielded

Turn = Generator[Event | Action, None, None]
Outcome = Reply | BaseException | None
MOST_AT_ONCE = 256  # an engine refuses requests when thousands wait


class ParallelTurns:
    """Runs turns at the same time, and the rest of them when there is a place.

    The thread starts with the first turn, and ends after `end`. Tools run on threads of their own, or in `loop`.

    Args:
        at_once: How many turns are run at the same time, from 1 to `MOST_AT_ONCE`.

    Attributes:
        loop: The event loop in which async tools are awaited. None: each call gets a loop of its own.
    """

    def __init__(self, at_once: int) -> None:
        self.loop: asyncio.AbstractEventLoop | None = None
        self._at_once = at_once
        self._inbox: SimpleQueue[_Running | None] = SimpleQueue()  # turns that can go on; None: end all of them
        self._is_ending = False
        self._guard = threading.Lock()  # held while a turn is added
        self._thread: threading.Thread | None = None
        self._ended: Future[None] = Future()

    @shielded
    def add(self, turn: Turn, done: Callable[[Outcome], object]) -> None:
        """Runs a turn as soon as there is a place. After `end`, it is ended before it begins.

        Args:
            turn: The turn, which has not begun.
            done: Called on the thread of this object when the turn is over, with its reply, with the exception that
                ended it, or with None if `end` did.
        """
        new = _Running(turn, done)
        with self._guard:
            if not self._is_ending:
                self._inbox.put(new)
                if self._thread is None:
                    work = contextvars.copy_context().run
                    thread = threading.Thread(target=work, args=(self._work,), name="mlx-oss turns", daemon=True)
                    thread.start()
                    self._thread = thread
                return
        new.close()

    def end(self) -> None:
        """Ends all turns, each within a token or a chunk of the prompt. Does not wait."""
        self._is_ending = True  # without the guard, which a finalizer must not wait for
        self._inbox.put(None)

    def close(self) -> None:
        """Ends all turns, and waits until they have ended and the thread is gone."""
        self.end()
        if self._thread is not None:
            shield(self._thread.join)

    async def aclose(self) -> None:
        """Like `close`, in the caller's event loop."""
        self.end()
        if self._thread is not None:
            await Wait(self._ended, self.end).aperform()

    def _work(self) -> None:
        waiting: deque[_Running] = deque()
        running: set[_Running] = set()
        was_ended = False
        while running or not was_ended:
            turn = self._inbox.get()
            if turn is None:
                was_ended = True
                for other in [*waiting, *running]:
                    other.interrupt()
                waiting.clear()
            elif turn.has_begun:
                self._go_on(turn)
            else:
                waiting.append(turn)
            running = {turn for turn in running if not turn.is_over}
            while waiting and len(running) < self._at_once:
                new = waiting.popleft()
                self._go_on(new)
                if not new.is_over:
                    running.add(new)
        with self._guard:  # what was added at the same time as all were ended
            late = [self._inbox.get() for _ in range(self._inbox.qsize())]
        for turn in late:
            if turn is not None:
                turn.close()
        self._ended.set_result(None)

    def _go_on(self, turn: _Running) -> None:
        """Runs a turn until it has to wait."""
        if self._is_ending:
            turn.close()
        elif (action := turn.advance()) is not None:
            self._perform(action, turn)

    def _perform(self, action: Action, turn: _Running) -> None:
        """Begins an action; the turn comes back into the inbox when it is done."""

        def ready(_: object = None) -> None:
            self._inbox.put(turn)

        def perform() -> None:
            try:
                if self.loop is None:
                    action.perform()
                else:
                    asyncio.run_coroutine_threadsafe(action.aperform(), self.loop).result()
            except BaseException as error:  # it belongs to the turn
                turn.error = error
            ready()

        if isinstance(action, Wait):
            action.future.add_done_callback(ready)
        else:
            run = contextvars.copy_context().run
            try:
                threading.Thread(target=run, args=(perform,), name="mlx-oss action", daemon=True).start()
            except RuntimeError as error:  # no more threads can be started
                turn.error = error
                ready()


class _Running:
    """A turn and what has come of it.

    Attributes:
        has_begun: Whether it has been started.
        is_over: Whether `done` has been called.
        error: What the action that it waits for has raised.
    """

    def __init__(self, turn: Turn, done: Callable[[Outcome], object]) -> None:
        self.has_begun = self.is_over = False
        self.error: BaseException | None = None
        self._turn, self._done = turn, done
        self._events: list[Event] = []
        self._action: Action | None = None  # what it waits for

    def advance(self) -> Action | None:
        """Runs the turn to its next action. None if it is over."""
        self.has_begun = True
        if self.is_over:  # its tool was not waited for
            return None
        if self.error is not None:
            self.close()
            return None
        self._action = None
        try:
            for item in self._turn:
                if isinstance(item, Action):
                    self._action = item
                    return item
                self._events.append(item)
            self._finish(collect(self._events))
        except BaseException as error:
            self._finish(error)
        return None

    def interrupt(self) -> None:
        """Ends the turn: at once, or when the token that it waits for is there."""
        if isinstance(self._action, Wait):
            self._action.cancel()
        else:
            self.close()

    def close(self) -> None:
        """Ends the turn at once."""
        if self.is_over:
            return
        try:
            self._turn.close()
        except BaseException as error:
            self._finish(error)
        else:
            self._finish(self.error)

    def _finish(self, outcome: Outcome) -> None:
        self.is_over = True
        done, self._events, self._action, self.error = self._done, [], None, None
        del self._turn, self._done
        if isinstance(outcome, BaseException):
            forget_frames(outcome)
        done(outcome)
