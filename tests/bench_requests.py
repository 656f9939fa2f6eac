"""What accumulates over many requests, and whether keys and values stay within their bytes over many conversations.

    python -m tests.bench_requests [--requests 20000] [--conversations 2000] [--at-once 8]

Requests are short: some begin alike, some have a cache, a constraint or a seed, and some are left before their end.
Conversations are random sessions that are continued, taken back, edited, forked and forgotten, with room for a few of
them only. Both are of nano. Prints memory, live objects, threads and open files while it runs, and the
most bytes of keys and values beside the limit. The exit status is 1 if they were above it.
"""

from __future__ import annotations

import argparse
import gc
import random
import sys
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import mlx_oss
from mlx_oss import ChatSession, LocalEngine, Request, SamplingOptions, Tokenizer
from mlx_oss.errors import ContextError
from mlx_oss.generation import compute_thread
from mlx_oss.memory.estimates import kv_cache_bytes, snapshot_bytes
from mlx_oss.model.kv_cache import MOST_SNAPSHOTS
from tests.many import RandomConstraint
from tests.soak import resident_mb
from tests.soak_chats import DATE, QUESTIONS

CONTEXT = 1024  # of the conversations
ROOM = 3  # full contexts that fit
GREEDY = SamplingOptions(temperature=0)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--requests", type=int, default=20_000)
    parser.add_argument("--conversations", type=int, default=2_000)
    parser.add_argument("--at-once", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    model, tokenizer = mlx_oss.load()
    draw = random.Random(args.seed)

    def tell(done: int) -> None:
        _tell(model, f"{done} requests")

    in_threads(lambda: a_request(model, draw), args.requests, args.at_once, tell)
    return 1 if conversations(model, tokenizer, args.conversations, args.at_once, args.seed) else 0


def in_threads(do: Callable[[], None], count: int, at_once: int, tell: Callable[[int], None]) -> None:
    """Does something so many times, in some threads, and tells how far it is twenty times. Raises what it raises."""
    numbers, lock, errors = iter(range(1, count + 1)), threading.Lock(), list[BaseException]()

    def work() -> None:
        while not errors:
            with lock:
                number = next(numbers, None)
            if number is None:
                return
            try:
                do()
            except BaseException as error:
                errors.append(error)
            if number % max(1, count // 20) == 0:
                tell(number)

    threads = [threading.Thread(target=work) for _ in range(at_once)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors:
        raise errors[0]


def a_request(model: LocalEngine, draw: random.Random) -> None:
    begin = list(range(100, 100 + draw.choice([0, 40, 200])))
    prompt = [*begin, *(draw.randrange(5000) for _ in range(draw.randint(1, 12)))]
    request = Request(
        prompt,
        draw.choice([GREEDY, SamplingOptions(seed=draw.randrange(2**32), top_logprobs=3)]),
        draw.randint(1, 6),
        constraint=draw.choice([None, None, RandomConstraint(draw.randrange(2**32), 5000)]),
        cache=draw.choice([None, model.make_prompt_cache()]),
        preamble=len(begin),
    )
    stream, left = model.submit(request), draw.choice([None, None, None, 0, 2])
    for count, _ in enumerate(stream):
        if count == left:
            break


def conversations(model: LocalEngine, tokenizer: Tokenizer, count: int, at_once: int, seed: int) -> bool:
    """Returns whether the keys and values ever took more than their bytes."""
    config, size = model.config, model.dtype.size
    least = kv_cache_bytes(config, CONTEXT, size) + snapshot_bytes(config, MOST_SNAPSHOTS, size)
    small = LocalEngine(model.transformer, context=CONTEXT, cache_bytes=ROOM * least)
    draw, most, over = random.Random(seed), [0, 0], threading.Event()

    def watch() -> None:
        while not over.is_set():
            for number, nbytes in enumerate(compute_thread.run(lambda: held(small))):
                most[number] = max(most[number], nbytes)
            time.sleep(0.002)

    def tell(done: int) -> None:
        room = f"most {most[0]:,} held and {most[1]:,} set aside of {small.stats.cache_limit:,} bytes"
        _tell(small, f"{done} conversations, {room}")

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        in_threads(lambda: a_conversation(small, tokenizer, draw), count, at_once, tell)
    finally:
        over.set()
        watcher.join()
    return max(most) > small.stats.cache_limit


def held(model: LocalEngine) -> tuple[int, int]:
    """Bytes of all arrays of keys and values, and those that the engine says; on the computing thread."""
    pool = model._scheduler.rows.pool
    arrays = {id(a): a.nbytes for prefix in [*pool._idle, *pool._used] for a in prefix.kv.all_arrays}
    return sum(arrays.values()), pool.nbytes


def a_conversation(model: LocalEngine, tokenizer: Tokenizer, draw: random.Random) -> None:
    instructions = draw.choice(["", "Answer in one word.", "You like the sea. " * 20])
    session = ChatSession(
        model, tokenizer, instructions=instructions, options=GREEDY, max_tokens=draw.randint(1, 12), current_date=DATE
    )
    for _ in range(draw.randint(1, 6)):
        text = " ".join(draw.choice(QUESTIONS) for _ in range(draw.choice([1, 3, 30])))
        with suppress(ContextError):  # the conversation fills the context, or the others take all bytes
            what = draw.choice(["ask", "ask", "ask", "edit", "undo", "fork", "leave", "clear"])
            if what == "edit" and session.turns:
                list(session.edit(draw.randrange(session.turns), text))
            elif what == "undo":
                session.undo()
            elif what == "clear":
                session.clear()
            elif what == "leave":
                events = session.send(text)
                next(events)
                events.close()  # type: ignore[attr-defined]
            else:
                session = session.fork() if what == "fork" else session
                session.ask(text)


def _tell(model: LocalEngine, what: str) -> None:
    """Prints what has accumulated."""
    gc.collect()
    threads, files = (len(list(Path("/proc/self", name).iterdir())) for name in ("task", "fd"))
    sys.stdout.write(
        f"{what}: {resident_mb()} MB, {len(gc.get_objects())} objects, {threads} threads, {files} files, "
        f"{model.stats.prefixes} prefixes, {model.stats.cache_bytes / 1e6:.1f} MB of keys and values\n"
    )
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
