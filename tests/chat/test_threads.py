"""Sessions used from threads and tasks: correct in any combination, and cancelled where they should be."""

from __future__ import annotations

import asyncio
import queue
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mlx_oss import AnswerDelta, ChatSession, Finished, SamplingOptions
from mlx_oss.generation import compute_thread
from tests.chat import interrupted
from tests.chat.scripted import CALL, DATE, HELLO, OPENING, THINK, TOKENIZER, contents, ids, said, system, turn, user


@pytest.fixture
def seeded(model):
    """seeded(n): a session with real sampling (not scripted) and the seed n."""

    def make(seed: int) -> ChatSession:
        return ChatSession(model, TOKENIZER, current_date=DATE, options=SamplingOptions(seed=seed), max_tokens=12)

    return make


def talk(session: ChatSession) -> list[object]:
    return [session.ask(text).text for text in ("one", "two", "three")] + [session.messages]


def test_sessions_in_several_threads_say_what_they_say_alone(seeded):
    alone = [talk(seeded(seed)) for seed in range(4)]
    together: dict[int, list[object]] = {}
    threads = [threading.Thread(target=lambda n=n: together.update({n: talk(seeded(n))})) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [together[seed] for seed in range(4)] == alone


def test_one_session_may_move_from_thread_to_thread(seeded):
    alone, moving = seeded(1), seeded(1)
    said: list[str] = []
    for text in ("one", "two", "three"):
        thread = threading.Thread(target=lambda text=text: said.append(moving.ask(text).text))
        thread.start()
        thread.join()
    assert said == [alone.ask(text).text for text in ("one", "two", "three")]


def test_turns_of_two_sessions_interleave_event_by_event(model, script):
    first, second = (ChatSession(script, TOKENIZER, current_date=DATE) for _ in range(2))
    script.says(HELLO, HELLO)
    one, two = first.send("Hi"), second.send("Hi")
    for _ in range(3):
        assert next(one) == next(two)
    assert list(one)[:-1] == list(two)[:-1]


def test_all_computing_is_done_on_one_thread(session, script):
    seen = set()
    script.pause = lambda count: seen.add(threading.current_thread().name)
    script.says(HELLO, HELLO)
    session.ask("Hi")
    asyncio.run(collect_all(session.asend("Hi")))
    assert len(seen) == 1 and threading.current_thread().name not in seen


async def collect_all(events) -> list[object]:
    return [event async for event in events]


def test_async_turns_give_the_same_events(session, script):
    script.says(THINK + CALL, HELLO, HELLO)

    async def chat() -> None:
        events = await collect_all(session.asend("Weather?"))
        assert events[-1].reason == "tool_calls"
        session.add_tool_result(events[-2], "rain")
        assert (await collect_all(session.aresume()))[-1].reason == "stop"
        again = await collect_all(session.aretry())
        assert "".join(e.text for e in again if isinstance(e, AnswerDelta)).startswith("Hello")

    asyncio.run(chat())
    script.read(system(), user("Weather?"), OPENING)


def test_the_loop_runs_on_while_a_turn_computes(session, script):
    script.says(THINK + HELLO)

    async def chat() -> int:
        ticks = 0

        async def tick() -> None:
            nonlocal ticks
            while True:
                ticks += 1
                await asyncio.sleep(0)

        ticking = asyncio.create_task(tick())
        await collect_all(session.asend("Hi"))
        ticking.cancel()
        return ticks

    assert asyncio.run(chat()) > 5


def test_a_cancelled_task_keeps_what_was_said_and_leaves_a_usable_session(session, script):
    script.says(THINK + HELLO, HELLO)

    async def chat() -> int:
        received = []

        async def listen() -> None:
            async for event in session.asend("Hi"):
                received.append(event)
                if len(received) == 2:
                    listening.cancel()

        listening = asyncio.create_task(listen())
        with pytest.raises(asyncio.CancelledError):
            await listening
        return session.usage.generated_tokens

    generated = asyncio.run(chat())
    assert 5 <= generated <= 6  # the token being computed is finished
    assert contents(session)[1][:2] == ("assistant", "analysis")
    turn(session, script, "Go on")
    written = ids(THINK)[:generated]
    script.read(system(), user("Hi"), OPENING, written, ids("<|end|>"), user("Go on"), OPENING)


def test_a_loop_that_is_left_ends_its_turn_at_once(session, script):
    script.says(HELLO, HELLO)

    async def chat() -> None:
        async for _ in session.asend("Hi"):
            break
        assert (await collect_all(session.asend("So?")))[-1].reason == "stop"

    asyncio.run(chat())
    assert session.turns == 2


def test_a_session_whose_loop_was_left_can_be_changed_at_once(session, script):
    script.says(HELLO, HELLO)

    async def chat() -> None:
        async for _ in session.asend("Hi"):
            compute_thread.submit(lambda: time.sleep(0.1))  # another session computes
            break
        assert session.undo() == "Hi"
        async for _ in session.asend("So?"):
            break
        session.fork().clear()

    asyncio.run(chat())
    assert session.turns == 1


def test_a_task_is_cancelled_while_a_long_call_is_written(session, script):
    """Even though a call yields no event before it is complete."""
    script.says(CALL.replace("Oslo", "x y " * 200))

    def cancel(count: int) -> None:
        if count == 10:
            loop.call_soon_threadsafe(task.cancel)
            time.sleep(0.05)

    script.pause = cancel

    async def chat() -> None:
        nonlocal loop, task
        loop, task = asyncio.get_running_loop(), asyncio.create_task(collect_all(session.asend("Weather?")))
        with pytest.raises(asyncio.CancelledError):
            await task

    loop, task = None, None
    asyncio.run(chat())
    assert 10 <= session.usage.generated_tokens < 20
    assert len(session._cache.ids) == len(script.requests[-1].prompt) + session.usage.generated_tokens


def test_other_sessions_have_their_turn_while_a_long_call_is_written(model, script):
    calling, other = (ChatSession(script, TOKENIZER, current_date=DATE) for _ in range(2))
    long = ids(CALL.replace("Oslo", "x y " * 100))
    script.says(long, HELLO)
    order = []

    async def chat(session: ChatSession, name: str) -> None:
        await collect_all(session.asend("Hi"))
        order.append(name)

    async def both() -> None:
        await asyncio.gather(chat(calling, "calling"), chat(other, "other"))

    asyncio.run(both())
    assert order == ["other", "calling"]


def test_closing_ends_the_turn_at_once_even_while_the_engine_computes(session, script):
    """A task waits for the next event, while another one closes the turn."""
    script.says(HELLO, HELLO)

    async def chat() -> None:
        events = session.asend("Hi")
        await anext(events)
        compute_thread.submit(lambda: time.sleep(0.2))
        waiting = asyncio.create_task(anext(events, None))
        await asyncio.sleep(0.05)
        await events.aclose()
        assert session.undo() == "Hi"
        assert await waiting is None

    asyncio.run(chat())
    assert session.ask("So?").finish_reason == "stop" and session.turns == 1
    script.read(system(), user("So?"), OPENING)


def test_cancel_from_another_thread_ends_the_turn_within_a_token(session, script):
    received: queue.Queue[object] = queue.Queue()
    go_on = threading.Event()
    script.says(THINK + HELLO)

    def listen() -> None:
        for event in session.send("Hi"):
            received.put(event)
            if received.qsize() == 2:
                go_on.set()
                cancelled.wait()

    cancelled = threading.Event()
    thread = threading.Thread(target=listen)
    thread.start()
    go_on.wait()
    session.cancel()
    cancelled.set()
    thread.join()
    events = [received.get() for _ in range(received.qsize())]
    assert isinstance(events[-1], Finished) and events[-1].reason == "cancelled"
    assert session.usage.generated_tokens <= 6


def test_an_error_in_the_model_comes_to_the_caller(session, script):
    script.says(RuntimeError("no memory"), RuntimeError("no memory"))
    with pytest.raises(RuntimeError, match="no memory"):
        session.ask("Hi")
    with pytest.raises(RuntimeError, match="no memory"):
        asyncio.run(collect_all(session.asend("Hi")))


def test_what_runs_on_the_thread_may_call_it_again():
    assert compute_thread.run(lambda: compute_thread.run(lambda: 5)) == 5


def test_an_unfinished_turn_does_not_keep_the_program_from_ending():
    program = """
import mlx_oss
session = mlx_oss.ChatSession(*mlx_oss.load())
events = session.send("Hi")
next(events)
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=300)
    assert done.returncode == 0 and done.stderr == ""


def test_a_turn_is_said_in_the_prompt_as_it_was_written(session, script):
    script.says(THINK + HELLO, HELLO)
    asyncio.run(collect_all(session.asend("Hi")))
    turn(session, script, "So?")
    script.read(system(), user("Hi"), said(HELLO), user("So?"), OPENING)


def test_an_unused_turn_starts_no_thread():
    program = """
import threading, mlx_oss
session = mlx_oss.ChatSession(*mlx_oss.load())
before = threading.enumerate()
session.send("Hi"), session.asend("Hi")
assert threading.enumerate() == before
"""
    subprocess.run([sys.executable, "-c", program], check=True, timeout=300)


def test_stats_can_be_read_while_a_turn_runs(session, script):
    """For example by a thread that displays them: it never sees an inconsistent state."""
    over, seen = threading.Event(), []

    def watch() -> None:
        while not over.is_set():
            seen.append((session.stats.snapshot_bytes, session.context_used, len(session.messages)))

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        for number in range(5):
            script.says(THINK + HELLO)
            session.ask(f"turn {number}")
    finally:
        over.set()
        watcher.join()
    assert len(seen) > 1 and seen[-1][2] <= 15


INTERRUPTED = """
import random, signal, time
import mlx_oss

def interrupt(*_):
    raise KeyboardInterrupt

signal.signal(signal.SIGALRM, interrupt)
draw, interrupted = random.Random(3), 0
session = mlx_oss.ChatSession(mlx_oss.ScriptedEngine(*["one two three four five six"] * 1000), mlx_oss.load_tokenizer())
session.ask("Hi")
for number in range(1, 301):
    signal.setitimer(signal.ITIMER_REAL, draw.uniform(0.0001, 0.003))
    try:
        session.ask("Hi")
        time.sleep(0.01)
    except KeyboardInterrupt:
        interrupted += 1
    signal.setitimer(signal.ITIMER_REAL, 0)
    assert session.turns <= number + 1
assert session.ask("Hi").text == "one two three four five six" and interrupted > 200
print("fine")
"""


def test_ctrl_c_at_any_moment_leaves_a_usable_session():
    """KeyboardInterrupt comes to the main thread at random places; the turn itself runs on another one."""
    done = subprocess.run([sys.executable, "-c", INTERRUPTED], capture_output=True, text=True, timeout=120)
    assert done.stdout == "fine\n", done.stderr[-2000:]


@pytest.mark.parametrize("name", list(interrupted.ACTIONS))
def test_an_interruption_at_each_step_of_the_main_thread_leaves_a_usable_session(name, tmp_path):
    program = [sys.executable, "-m", "tests.chat.interrupted", name, str(tmp_path / "session")]
    done = subprocess.run(program, capture_output=True, text=True, timeout=120, cwd=Path(__file__).parents[2])
    assert done.returncode == 0 and int(done.stdout) > 100, done.stderr[-5000:]


COLLECTED = """
import faulthandler, gc
import mlx_oss

class Collecting(list):
    def append(self, entry):
        super().append(entry)
        gc.collect()

faulthandler.dump_traceback_later(20, exit=True)
function = mlx_oss.ToolDescription("f", "", {"type": "object", "properties": {}})
engine = mlx_oss.ScriptedEngine("<|channel|>commentary to=functions.f<|message|>{}<|call|>")
session = mlx_oss.ChatSession(engine, mlx_oss.load_tokenizer(), tools=[function])
gc.disable()
events = session.send("Hi")
call = next(event for event in events if isinstance(event, mlx_oss.ToolCall))
cycle = [events]
cycle.append(cycle)
del events, cycle
session._conversation._late_results = Collecting()
session.add_tool_result(call, "rain")
print(session.messages[-1].content)
session.clear()
"""


def test_the_garbage_collector_may_end_a_turn_while_the_conversation_changes():
    done = subprocess.run([sys.executable, "-c", COLLECTED], capture_output=True, text=True, timeout=60)
    assert done.stdout == "rain\n", done.stderr[-5000:]
