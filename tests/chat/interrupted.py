"""A program: interrupts the main thread at each step of something that it does, and uses the session after that.

`python -m tests.chat.interrupted NAME FILE` prints the number of steps; FILE is where it saves. If a thread waits for
ever, it ends with the stacks of all threads. A signal's handler runs between two steps of Python code: a trace function
can raise at each of them.
"""

from __future__ import annotations

import asyncio
import faulthandler
import gc
import itertools
import sys
import threading
import time
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from typing import Any

import mlx_oss
from mlx_oss import ask_many
from mlx_oss.generation import compute_thread

CALL = "<|channel|>commentary to=functions.now<|message|>{}<|call|>"
SKIPPED = (__file__, *(str(path) for path in Path(asyncio.__file__).parent.iterdir()))  # not ours to protect
STRIDE = {"ask": 7, "ask_many": 13, "close": 5, "ask_in_a_loop": 41}  # thousands of steps, much the same for each token
RUNS: list[None] = []  # one for each call that was run


def now() -> str:
    """The time."""
    RUNS.append(None)
    return "late"


async def later() -> str:
    """The time, a little later."""
    RUNS.append(None)
    await asyncio.sleep(0)
    return "later"


def ask(session: mlx_oss.ChatSession, *answers: str) -> mlx_oss.Reply:
    engine: Any = session.model
    engine.says(*answers)
    return session.ask("Hi")


def close_at_first_event(session: mlx_oss.ChatSession) -> None:
    engine: Any = session.model
    engine.says("one two")
    with closing(session.send("Hi")) as events:
        next(events)


def ask_in_a_loop(session: mlx_oss.ChatSession) -> None:
    engine: Any = session.model
    engine.says(CALL.replace("now", "later"), "done")

    async def main() -> None:
        async for _ in session.asend("Hi"):
            pass

    asyncio.run(main())


def ask_list(session: mlx_oss.ChatSession) -> None:
    engine: Any = session.model
    engine.says("one", "two")
    for _ in ask_many(session, ["Hi", "Hello"]):
        pass


ACTIONS: dict[str, Callable[[mlx_oss.ChatSession], object]] = {
    "ask": lambda session: ask(session, CALL, "done"),
    "ask_in_a_loop": ask_in_a_loop,
    "ask_many": ask_list,
    "close": close_at_first_event,
    "undo": mlx_oss.ChatSession.undo,
    "save": lambda session: session.save(sys.argv[2]),
    "compute": lambda session: compute_thread.run(lambda: None),
}


def interrupted(step: int, action: Callable[[], object]) -> bool:
    """Raises KeyboardInterrupt at a step of the action. False if the action has fewer steps."""
    count = 0

    def trace(frame: Any, event: str, argument: object) -> Any:
        nonlocal count
        frame.f_trace_opcodes, frame.f_trace_lines = True, False
        if event == "opcode" and frame.f_code.co_filename not in SKIPPED:
            count += 1
            if count == step:
                sys.settrace(None)
                raise KeyboardInterrupt
        return trace

    sys.settrace(trace)
    try:
        action()
    except KeyboardInterrupt:
        pass
    finally:
        sys.settrace(None)
    return count >= step


def joined(thread: threading.Thread) -> bool:
    thread.join(10)
    return not thread.is_alive()


def main(name: str) -> int:
    """The number of steps of the action."""
    gc.freeze()  # what is imported is no garbage, and takes long to look at after each step
    for step in itertools.count(1, STRIDE.get(name, 1)):
        engine = mlx_oss.ScriptedEngine("hello")
        session = mlx_oss.ChatSession(engine, mlx_oss.load_tokenizer(), tools=[now, later], confirm=lambda call: True)
        session.ask("Hi")
        faulthandler.dump_traceback_later(20, exit=True)
        if not interrupted(step, partial(ACTIONS[name], session)):
            break
        gc.collect()  # the exception of an asyncio task refers to frames that refer to it, and hold the unfinished turn
        time.sleep(0.0005)  # if the wait for the end was interrupted, another thread may still be ending the turn
        assert all(thread.name != "mlx-oss turns" or joined(thread) for thread in threading.enumerate()), step
        assert ask(session, "fine").finish_reason == "stop", step
        assert [message.role for message in session.messages].count("tool") >= len(RUNS), step
        RUNS.clear()
    return step


if __name__ == "__main__":
    print(main(sys.argv[1]))
