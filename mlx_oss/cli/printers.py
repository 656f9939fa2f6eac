"""Prints a turn's events as plain text or as lines of JSON. `live_markdown` prints them on a terminal.

A printer is called with each event, then `end_turn` is called. Knows nothing of sessions.
"""

from __future__ import annotations

import base64
import json
import re
import sys
from collections.abc import Callable
from dataclasses import asdict
from enum import Enum
from typing import Protocol

from mlx_oss import events
from mlx_oss.cli.attached import saved
from mlx_oss.cli.remarks import remark
from mlx_oss.events import Event
from mlx_oss.terminal import one_line, sanitize, wants_plain, width_of, wrapped


class Printer(Protocol):
    """Prints the events of a turn: call it with each event, then call `end_turn`.

    Attributes:
        hide_reasoning: Do not print the reasoning.
        whole_calls: Print tool calls and results whole, else only their beginning.
        is_reviewed: Whether the user is shown a call anyway, to approve it; then only the name of the tool is printed.
    """

    hide_reasoning: bool
    whole_calls: bool
    is_reviewed: Callable[[events.ToolCall], bool]

    def __call__(self, event: Event) -> None: ...

    def end_turn(self, remark: str = "") -> None:
        """Ends a turn, after its last event. `remark` says why the answer is not whole; empty if it is."""

    def notice(self, text: str) -> None:
        """Prints a message of the program, between turns."""


def never(call: events.ToolCall) -> bool:
    """The user is shown no call to approve it."""
    return False


def make_printer(*, as_json: bool = False, hide_reasoning: bool = False) -> Printer:
    """Creates the printer for the output: LiveMarkdown only on a terminal that can and may get escape sequences."""
    if as_json:
        return JsonPrinter()
    if wants_plain() or not (sys.stdout.isatty() and sys.stderr.isatty()):
        return PlainPrinter(hide_reasoning)
    from mlx_oss.cli.live_markdown import LiveMarkdown

    return LiveMarkdown(hide_reasoning)


class PlainPrinter:
    """Prints the answer to stdout and everything else to stderr, without colours and cursor movements.

    If stdout is not a terminal, the answer is written unchanged. A terminal gets no control characters.
    """

    def __init__(self, hide_reasoning: bool = False) -> None:
        self.hide_reasoning, self.whole_calls = hide_reasoning, False
        self.is_reviewed: Callable[[events.ToolCall], bool] = never
        self._last_kind: type | None = None
        self._prepare_answer = sanitize if sys.stdout.isatty() else str

    def __call__(self, event: Event) -> None:
        match event:
            case events.AnswerDelta(text):
                self._write(event, self._prepare_answer(text))
            case events.ReasoningDelta(text) if not self.hide_reasoning:
                self._write(event, sanitize(text))
            case events.PreambleDelta(text):
                self._write(event, sanitize(text))
            case events.ToolCall(recipient) if self.is_reviewed(event):
                self._separate(None)
                self.notice(f"[calls {one_line(recipient)}]")
            case events.ToolCall() | events.ToolResult() | events.TurnsDropped() | events.ReasoningStopped():
                self._write(event, wrapped(remark(event, self.whole_calls), width_of(sys.stderr)))
                for line in saved(event.attachments) if isinstance(event, events.ToolResult) else ():
                    self._separate(None)
                    self.notice(line)
            case events.RepairedOutput() if remark(event):
                self._write(event, remark(event))

    def end_turn(self, remark: str = "") -> None:
        self._separate(None)
        if remark:
            self.notice(remark)

    def notice(self, text: str) -> None:
        sys.stderr.write(f"{wrapped(sanitize(text), width_of(sys.stderr))}\n")

    def _write(self, event: Event, text: str) -> None:
        self._separate(type(event))
        stream = sys.stdout if isinstance(event, events.AnswerDelta) else sys.stderr
        stream.write(text)
        stream.flush()

    def _separate(self, kind: type | None) -> None:
        """Starts a new line where another kind of text begins. An answer always ends with a newline."""
        if self._last_kind not in (None, kind):
            (sys.stdout if self._last_kind is events.AnswerDelta else sys.stderr).write("\n")
            sys.stdout.flush()
        self._last_kind = kind


class JsonPrinter:
    """Prints each event as one line of JSON: its type in snake case and its fields."""

    hide_reasoning, whole_calls = False, True

    def __init__(self) -> None:
        self.is_reviewed: Callable[[events.ToolCall], bool] = never

    def __call__(self, event: Event) -> None:
        fields = asdict(event)
        if isinstance(event, events.ToolResult) and not event.attachments:
            del fields["attachments"]
        write_json_line(snake_case(type(event).__name__), **fields)

    def end_turn(self, remark: str = "") -> None:
        pass  # the last event says it

    def notice(self, text: str) -> None:
        sys.stderr.write(f"{wrapped(sanitize(text), width_of(sys.stderr))}\n")


def write_json_line(kind: str, **fields: object) -> None:
    """Writes one line of JSON to stdout. On a terminal, characters outside ASCII are escaped."""
    text = json.dumps({"type": kind, **fields}, ensure_ascii=sys.stdout.isatty(), default=_jsonable)
    sys.stdout.write(text + "\n")
    sys.stdout.flush()


def _jsonable(value: object) -> str:
    """JSON for an enumeration member, such as a kind of repair: its name in lower case; for bytes: Base64."""
    if isinstance(value, bytes):
        return base64.b64encode(value).decode()
    if isinstance(value, Enum):
        return value.name.lower()
    raise TypeError(f"{value!r} cannot be written as JSON")


def snake_case(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()
