"""A session without a model, for tests of what the terminal shows."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mlx_oss import (
    Finished,
    Message,
    ReasoningDelta,
    SamplingOptions,
    Stats,
    Usage,
)
from mlx_oss.errors import SessionError

DONE = Finished("stop", Usage(generated_tokens=10, prefill_seconds=0.25, generate_seconds=0.5))


class FakeSession:
    """Answers every question with the same events. An exception among the events is raised, a function is called."""

    def __init__(self, *events: Any) -> None:
        self.events, self.questions, self.cancelled = events, [], 0
        self.usage, self.stats, self.context_used, self.context_limit = DONE.usage, Stats(turns=3), 1204, 4096
        self.reasoning_effort, self.instructions, self.turns = "medium", "", 1
        self.tools, self.system_tools, self.model, self.tokenizer = (), (), None, None
        self.tool_groups, self.tools_left_out = (), ()
        self.max_tokens: int | None = None
        self.options = SamplingOptions()
        self.saved: list[str] = []
        self.messages: list[Message] = []

    def send(self, text: str) -> Iterator[Any]:
        self.questions.append(text)
        for event in self.events:
            if isinstance(event, Exception):
                raise event
            yield event() if callable(event) else event

    def retry(self) -> Iterator[Any]:
        return self.send("again")

    def cancel(self) -> None:
        self.cancelled += 1

    def undo(self) -> str | None:
        return self.questions.pop() if self.questions else None

    def clear(self) -> None:
        self.questions = []

    def save(self, path: Path, **_: Any) -> None:
        if str(path) == "nowhere/chat":
            raise SessionError("nowhere/chat cannot be written: give another place")
        self.saved.append(str(path))


def interrupt() -> ReasoningDelta:
    """Sends the signal of Ctrl-C while the model writes."""
    os.kill(os.getpid(), signal.SIGINT)
    return ReasoningDelta("more")
