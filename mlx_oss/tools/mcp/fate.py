"""What became of a server, in words. Knows nothing of how servers run."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass, field

_LONGEST_LINE = 300  # characters of what a server says


@dataclass
class Fate:
    """Why a server ended.

    Attributes:
        over: Set when no more messages come.
        reason: Why we ended it; "" if we did not.
        status: The exit status of its process; None if there is none, or it still runs.
        errors: The end of what it wrote to stderr.
        strange_lines: How many lines it wrote that were no messages.
    """

    over: asyncio.Event = field(default_factory=asyncio.Event)
    reason: str = ""
    status: int | None = None
    errors: bytes = b""
    strange_lines: int = 0

    def __str__(self) -> str:
        parts = [self.reason] if self.reason else [] if self.status is None else [f"exit status {self.status}"]
        if self.strange_lines:
            parts.append(f"{self.strange_lines:,} lines of its output were no messages")
        if said := self._said:
            parts.append(f"it said: {said}")
        return "; ".join(parts)

    @property
    def _said(self) -> str:
        """The last line of stderr that says something."""
        lines = [" ".join(line.split()) for line in self.errors.decode("utf-8", "replace").splitlines()]
        last = next((line for line in reversed(lines) if any(map(str.isalnum, line))), "")
        shown = "".join(letter if letter.isprintable() else "?" for letter in last)
        return shown if len(shown) <= _LONGEST_LINE else shown[:_LONGEST_LINE] + " ..."
