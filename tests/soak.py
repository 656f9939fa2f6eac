"""Threads that do anything with sessions of nano at any moment, and then every answer computed once more, alone.

    python -m tests.soak [--minutes 10] [--threads 64] [--seed 0] [--patience 120]

Threads send, cancel, leave, fork, save, load, clear, undo, edit and retry, read slowly, run event loops, drop streams
and give constraints that break. In the end each turn that ended by itself is compared with the same turn in a session
and an engine of its own. Prints the longest wait for an event, memory and live objects each minute. The exit status is
1 if an answer differs or something raised, and 2, with the stacks of all threads, if a thread has waited too long.
"""

from __future__ import annotations

import argparse
import faulthandler
import gc
import os
import sys
import tempfile
import threading
import time
from pathlib import Path

import mlx_oss
from mlx_oss import LocalEngine
from tests.soak_chats import Chatter, Record, answered, replayed


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=10)
    parser.add_argument("--threads", type=int, default=64)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--patience", type=float, default=120, help="seconds that a thread may wait for an event")
    args = parser.parse_args()
    model, tokenizer = mlx_oss.load()
    record, over = Record(), threading.Event()
    with tempfile.TemporaryDirectory() as folder:
        chatters = [Chatter(n, model, tokenizer, record, Path(folder), args.seed) for n in range(args.threads)]
        threads = [threading.Thread(target=_chat, args=(chatter, over), daemon=True) for chatter in chatters]
        for thread in threads:
            thread.start()
        _watch(model, record, threads, over, args.minutes, args.patience)
    del chatters
    wrong = record.wrong + _compared(model, tokenizer, record)
    for what in wrong[:20]:
        _say(what)
    _say(f"{len(wrong)} wrong")
    return 1 if wrong else 0


def _chat(chatter: Chatter, over: threading.Event) -> None:
    while not over.is_set():
        chatter.act()


def _watch(
    model: LocalEngine,
    record: Record,
    threads: list[threading.Thread],
    over: threading.Event,
    minutes: float,
    patience: float,
) -> None:
    """Prints what accumulates, ends the threads when the time is up, and ends the program if one of them hangs."""
    started = said = seen = time.monotonic()
    while any(thread.is_alive() for thread in threads):
        time.sleep(0.5)
        now = time.monotonic()
        if now - seen > 10:  # this process was stopped meanwhile, or the machine slept
            record.alive.clear()
            started += now - seen
        seen = now
        if now - started > 60 * minutes:
            over.set()
        for number, thread in enumerate(threads):
            if thread.is_alive() and now - record.alive.setdefault(number, now) > patience:
                _say(f"thread {number} has waited {patience:.0f} s: {record.doing.get(number)}")
                faulthandler.dump_traceback(all_threads=True)
                os._exit(2)
        if now - said > min(60, 6 * minutes):
            said = now
            _say(f"{now - started:.0f} s: {_state(model, record)}")
    _say(f"{time.monotonic() - started:.0f} s: {_state(model, record)}")
    _say(", ".join(f"{count} {action}" for action, count in sorted(record.counts.items())))


def _state(model: LocalEngine, record: Record) -> str:
    waits, stats = sorted(record.waits.values()) or [0.0], model.stats
    return (
        f"{record.finished} answers, {record.tokens} tokens, {len(record.wrong)} wrong, longest wait "
        f"{waits[-1]:.2f} s (median of the threads' {waits[len(waits) // 2]:.2f} s), {resident_mb()} MB, "
        f"{len(gc.get_objects())} objects, {threading.active_count()} threads, {stats.prefixes} prefixes, "
        f"{stats.cache_bytes / 1e6:.0f} of {stats.cache_limit / 1e6:.0f} MB of keys and values"
    )


def _compared(model: LocalEngine, tokenizer: mlx_oss.Tokenizer, record: Record) -> list[str]:
    """Computes every answer alone, and says which ones were others."""
    wrong, started = [], time.monotonic()
    for turn in record.turns.values():
        if (alone := replayed(model, tokenizer, turn)) != turn.written:
            texts = [tokenizer.decode([id_ for ids in written for id_ in ids]) for written in (turn.written, alone)]
            history = [entry.message.content for entry in turn.before.entries]
            wrong.append(
                f"{turn.question!r} after {history} (settings {turn.settings}): {texts[0]!r}, alone {texts[1]!r}"
            )
    for (prompt, most), tokens in record.requests.items():
        if (expected := answered(model, prompt, most)) != tokens:
            wrong.append(f"request {list(prompt)}: {tokens}, alone {expected}")
    distinct = len(record.turns) + len(record.requests)
    _say(f"{record.finished} answers, {distinct} different ones, computed alone in {time.monotonic() - started:.0f} s")
    return wrong


def resident_mb() -> int:
    """Resident memory of this process in MB."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") // 1_000_000


def _say(text: str) -> None:
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
