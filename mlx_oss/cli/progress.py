"""Shows on stderr how far a download or conversion is: a bar in a terminal, elsewhere a line every ten seconds."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from mlx_oss.terminal import say, wants_plain

if TYPE_CHECKING:
    from mlx_oss.models import Progress

EVERY = 10.0  # seconds between two lines
_RESUMABLE = "interrupted: what is there is kept, and the same command continues from there"


@contextmanager
def shown() -> Iterator[Callable[[Progress], None]]:
    """Yields what to call with each progress. After Ctrl-C, says that nothing is lost if something was under way."""
    began = False

    def show(now: Progress) -> None:
        nonlocal began
        began = True
        inner(now)

    with _bar() if sys.stderr.isatty() and not wants_plain() else _lines() as inner:
        try:
            yield show
        except KeyboardInterrupt:
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

    def show(now: Progress) -> None:
        bar.start()  # not before there is something to show: it hides the cursor
        if now.step not in tasks:
            tasks[now.step] = bar.add_task(now.step, total=now.total, completed=now.done)
        bar.update(tasks[now.step], completed=now.done, total=now.total)

    try:
        yield show
    finally:
        if tasks:
            bar.stop()


@contextmanager
def _lines() -> Iterator[Callable[[Progress], None]]:
    first: dict[str, tuple[float, int]] = {}
    said = 0.0

    def show(now: Progress) -> None:
        nonlocal said
        moment = time.monotonic()
        start, before = first.setdefault(now.step, (moment, now.done))
        if moment - max(said, start) < EVERY:
            return
        said = moment
        rate = (now.done - before) / (moment - start)
        left = f", {(now.total - now.done) / rate / 60:.0f} min left" if rate else ""
        say(f"{now.step}: {now.done / 1e9:.1f} of {now.total / 1e9:.1f} GB, {rate / 1e6:.0f} MB/s{left}")

    yield show
