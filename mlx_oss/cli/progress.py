"""Shows on stderr how far something is: a bar in a terminal, elsewhere a line every ten seconds."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Protocol

from mlx_oss.cli.interrupts import exiting_on_sigterm
from mlx_oss.memory.estimates import format_bytes
from mlx_oss.terminal import say, wants_plain

if TYPE_CHECKING:
    from mlx_oss.models import Progress

EVERY = 10.0  # seconds between two lines
_MOMENT = 0.1  # seconds between two states of a bar
_WAITING = "waiting for another process"
_RESUMABLE = "interrupted: what is there is kept, and the same command continues from there"


@contextmanager
def shown() -> Iterator[Callable[[Progress], None]]:
    """Yields what to call with each progress. After Ctrl-C and SIGTERM, says that nothing is lost of what has begun."""
    began = False

    def show(now: Progress) -> None:
        nonlocal began
        began = True
        inner(now)

    try:
        with exiting_on_sigterm(), _bar() if sys.stderr.isatty() and not wants_plain() else _lines() as inner:
            yield show
    except (KeyboardInterrupt, SystemExit):
        if began:
            say(_RESUMABLE)
        raise


@contextmanager
def _bar() -> Iterator[Callable[[Progress], None]]:
    from rich import progress as bars
    from rich.console import Console

    bar = bars.Progress(
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.DownloadColumn(),
        bars.TransferSpeedColumn(),
        bars.TimeRemainingColumn(),
        console=Console(file=sys.stderr),
        transient=True,
    )
    tasks: dict[str, bars.TaskID] = {}
    waited = False

    def show(now: Progress) -> None:
        bar.start()  # not before there is something to show: it hides the cursor
        nonlocal waited
        if now.step not in tasks:
            tasks[now.step] = bar.add_task(now.step, total=now.total, completed=now.done)
        elif waited and not now.waiting:  # the rate is that of this process
            bar.reset(tasks[now.step], total=now.total, completed=now.done)
        waited = now.waiting
        what = _WAITING if waited else now.step
        bar.update(tasks[now.step], completed=now.done, total=now.total, description=what)

    try:
        yield show
    finally:
        bar.stop()


@contextmanager
def _lines() -> Iterator[Callable[[Progress], None]]:
    first: dict[str, tuple[float, int]] = {}
    said = 0.0
    waited = False

    def show(now: Progress) -> None:
        nonlocal said, waited
        moment = time.monotonic()
        start, before = first.setdefault(now.step, (moment, now.done))
        if waited and not now.waiting:  # the rate is that of this process
            start, before = first[now.step] = moment, now.done
        waited = now.waiting
        if moment - max(said, start) < EVERY:
            return
        said = moment
        if waited:
            done, total = map(format_bytes, (now.done, now.total))
            say(f"{now.step}: {_WAITING}, which downloads the same files; {done} of {total} are here")
            return
        rate = (now.done - before) / (moment - start)
        left = f", {math.ceil((now.total - now.done) / rate / 60)} min left" if rate > 0 else ""
        done, total, speed = map(format_bytes, (now.done, now.total, round(rate)))
        say(f"{now.step}: {done} of {total}, {speed}/s{left}")

    yield show


class Show(Protocol):
    """Shows how many things are done, how many there are, and what was generated for them, if anything is."""

    def __call__(self, done: int, total: int, generated: int | None = None) -> None: ...


@contextmanager
def counted(what: str, before: int = 0) -> Iterator[Show]:
    """Yields what to call with how many things are done.

    Args:
        what: The things, such as "requests".
        before: How many were done before.
    """
    started = said = time.monotonic()

    def rate(generated: int | None) -> str:
        return "" if generated is None else f"{generated / max(0.001, time.monotonic() - started):,.0f} tokens/s"

    def say_now_and_then(done: int, total: int, generated: int | None = None) -> None:
        nonlocal said
        if (now := time.monotonic()) - said >= EVERY:
            said = now
            left = math.ceil((total - done) / max(1, done - before) * (now - started) / 60)
            say(", ".join(filter(None, [f"{done:,} of {total:,} {what}", rate(generated), f"{left} min left"])))

    if not sys.stderr.isatty() or wants_plain():
        yield say_now_and_then
        return
    from rich import progress as bars
    from rich.console import Console

    columns = (bars.BarColumn(), bars.MofNCompleteColumn(), bars.TextColumn("{task.description}"))
    bar = bars.Progress(*columns, bars.TimeRemainingColumn(), console=Console(file=sys.stderr), transient=True)
    task = bar.add_task(what, total=None, completed=before)
    shown_at = 0.0

    def update(done: int, total: int, generated: int | None = None) -> None:
        nonlocal shown_at
        if (now := time.monotonic()) - shown_at >= _MOMENT or done == total:
            bar.start()  # not before there is something to show: it hides the cursor
            shown_at = now
            bar.update(task, completed=done, total=total, description=rate(generated) or what)

    try:
        yield update
    finally:
        bar.stop()
