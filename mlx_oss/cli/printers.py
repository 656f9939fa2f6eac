"""How a turn's events are shown: plainly, or as lines of JSON; `drawn` has how a terminal shows them.

A printer is called with each event and told with `end` when there are no more. Knows nothing of sessions.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict
from enum import Enum
from typing import Protocol

from mlx_oss import events
from mlx_oss.cli.sanitize import sanitize, wants_plain
from mlx_oss.events import Event
from mlx_oss.harmony import Repair

_SHOWN_LINES, _SHOWN_CHARACTERS = 6, 400  # of what is folded


class Printer(Protocol):
    hide_reasoning: bool
    whole_calls: bool  # or folded: the beginning of what a tool is given and gives

    def __call__(self, event: Event) -> None: ...

    def end(self, stopped: bool = False) -> None:
        """After the last event of a turn, or the one it was stopped at."""

    def say(self, text: str) -> None:
        """A remark of the program's own, between turns."""


def printer(*, as_json: bool = False, hide_reasoning: bool = False) -> Printer:
    """The printer for where the output goes: drawn only on a terminal that can, and that may have colours."""
    if as_json:
        return JsonPrinter()
    if wants_plain() or not (sys.stdout.isatty() and sys.stderr.isatty()):
        return PlainPrinter(hide_reasoning)
    from mlx_oss.cli.live_markdown import LiveMarkdown

    return LiveMarkdown(hide_reasoning)


class PlainPrinter:
    """The answer to stdout, as it is where that is no terminal; all else to stderr. No colours, no cursor movements."""

    def __init__(self, hide_reasoning: bool = False) -> None:
        self.hide_reasoning, self.whole_calls = hide_reasoning, False
        self._last: type | None = None
        self._answer = sanitize if sys.stdout.isatty() else str

    def __call__(self, event: Event) -> None:
        match event:
            case events.AnswerDelta(text):
                self._write(event, self._answer(text))
            case events.ReasoningDelta(text) if not self.hide_reasoning:
                self._write(event, sanitize(text))
            case events.PreambleDelta(text):
                self._write(event, sanitize(text))
            case events.ToolCall() | events.ToolResult() | events.TurnsDropped() | events.ReasoningStopped():
                self._write(event, remark(event, self.whole_calls))
            case events.RepairedOutput() if remark(event):
                self._write(event, remark(event))

    def end(self, stopped: bool = False) -> None:
        self._separate(None)
        if stopped:
            self.say("[stopped]")

    def say(self, text: str) -> None:
        sys.stderr.write(f"{text}\n")

    def _write(self, event: Event, text: str) -> None:
        self._separate(type(event))
        stream = sys.stdout if isinstance(event, events.AnswerDelta) else sys.stderr
        stream.write(text)
        stream.flush()

    def _separate(self, kind: type | None) -> None:
        """A new line wherever another kind of text begins; the answer ends with one, whatever the terminal."""
        if self._last not in (None, kind):
            (sys.stdout if self._last is events.AnswerDelta else sys.stderr).write("\n")
            sys.stdout.flush()
        self._last = kind


class JsonPrinter:
    """Every event as one line: its type in snake case and its fields."""

    hide_reasoning, whole_calls = False, True

    def __call__(self, event: Event) -> None:
        line(snake_case(type(event).__name__), **asdict(event))

    def end(self, stopped: bool = False) -> None:
        pass

    def say(self, text: str) -> None:
        sys.stderr.write(f"{text}\n")


def line(kind: str, **fields: object) -> None:
    """One line of JSON on stdout."""
    text = json.dumps({"type": kind, **fields}, ensure_ascii=sys.stdout.isatty(), default=_name)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _name(value: object) -> str:
    """Of what is one of an enumeration: a kind of repair."""
    if isinstance(value, Enum):
        return value.name.lower()
    raise TypeError(f"nothing that JSON can say: {value!r}")


def snake_case(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def remark(event: Event, whole: bool = False) -> str:
    """What is told of an event that is no text; of what a tool is given and gives the beginning, unless `whole`."""
    match event:
        case events.ToolCall(recipient, arguments):
            return sanitize(f"[calls {recipient}: {arguments if whole else _folded(arguments)}]")
        case events.ToolResult(recipient, text):
            return sanitize(f"[{recipient} gives: {text if whole else _folded(text)}]")
        case events.TurnsDropped(count):
            return f"[the context is full: the {count} oldest turns are forgotten]"
        case events.ReasoningStopped("limit"):
            return "[the reasoning has reached its limit]"
        case events.ReasoningStopped("repetition"):
            return "[the reasoning goes round in circles and is stopped]"
        case events.RepairedOutput(notes):  # nobody is told of the others
            said = [note.text for note in notes if note.repair is Repair.OTHER_ROLE]
            return sanitize("\n".join(f"[in another's role: {text}]" for text in said if text.strip()))
    raise AssertionError(f"no remark for {event}")


def _folded(text: str) -> str:
    shown = "\n".join(text.splitlines()[:_SHOWN_LINES])[:_SHOWN_CHARACTERS]
    return text if len(shown) >= len(text.rstrip("\n")) else f"{shown} ... ({len(text):,} characters)"
