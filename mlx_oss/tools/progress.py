"""How a tool that runs tells how far it is: `report_progress`. Knows nothing of who listens."""

from __future__ import annotations

from collections.abc import Callable
from contextvars import ContextVar

Report = Callable[[float, float | None, str], None]

listener: ContextVar[Report | None] = ContextVar("mlx_oss_progress", default=None)


def report_progress(done: float, total: float | None = None, text: str = "") -> None:
    """Tells how far a call is, in a function that runs as a tool; does nothing elsewhere. A turn then yields
    `ToolProgress`, a few times a second at most.

    Args:
        done: How much is done, in any unit.
        total: How much there is to do. None: nobody knows.
        text: What is being done.
    """
    if (report := listener.get()) is not None:
        report(done, total, text)
