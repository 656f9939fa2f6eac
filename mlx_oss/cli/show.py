"""How a turn's events are shown: plainly, drawn on a terminal, or as lines of JSON.

A printer is called with each event and told with `end` when there are no more. Knows nothing of sessions.
"""

from __future__ import annotations

import json
import re
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Protocol

from mlx_oss import events
from mlx_oss.cli.safe import safe, wants_plain
from mlx_oss.events import Event

if TYPE_CHECKING:
    from rich.console import RenderableType


class Printer(Protocol):
    hide_reasoning: bool

    def __call__(self, event: Event) -> None: ...

    def end(self, stopped: bool = False) -> None:
        """After the last event of a turn, or the one it was stopped at."""
        ...


def printer(*, as_json: bool = False, hide_reasoning: bool = False) -> Printer:
    """The printer for where the output goes: drawn only on a terminal that can, and that may have colours."""
    if as_json:
        return Json()
    if wants_plain() or not (sys.stdout.isatty() and sys.stderr.isatty()):
        return Plain(hide_reasoning)
    return Drawn(hide_reasoning)


class Plain:
    """The answer to stdout, as it is where that is no terminal; all else to stderr. No colours, no cursor movements."""

    def __init__(self, hide_reasoning: bool = False) -> None:
        self.hide_reasoning = hide_reasoning
        self._last: type | None = None
        self._answer = safe if sys.stdout.isatty() else str

    def __call__(self, event: Event) -> None:
        match event:
            case events.AnswerDelta(text):
                self._write(event, self._answer(text))
            case events.ReasoningDelta(text) if not self.hide_reasoning:
                self._write(event, safe(text))
            case events.PreambleDelta(text):
                self._write(event, safe(text))
            case events.ToolCall() | events.ToolResult() | events.TurnsDropped():
                self._write(event, remark(event))

    def end(self, stopped: bool = False) -> None:
        self._separate(None)
        if stopped:
            sys.stderr.write("[stopped]\n")

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


class Drawn:
    """On a terminal: the answer as Markdown, drawn anew as it grows, the reasoning dim.

    What is finished is printed for good and scrolls away like any text; only the block being written is redrawn, and of
    that no more than the window holds.
    """

    def __init__(self, hide_reasoning: bool = False) -> None:
        from rich.console import Console
        from rich.live import Live

        self.hide_reasoning = hide_reasoning
        self._console = Console(highlight=False, markup=False)
        self._live = Live(console=self._console, transient=True, refresh_per_second=10, vertical_overflow="crop")
        self._tail = ""  # of the answer: the block that may still grow
        self._text: type | None = None  # the kind of running text that the cursor stands behind

    def __call__(self, event: Event) -> None:
        match event:
            case events.AnswerDelta(text):
                self._break()
                self._grow(safe(text))
            case events.ReasoningDelta(text) | events.PreambleDelta(text):
                if isinstance(event, events.ReasoningDelta) and self.hide_reasoning:
                    self._note("thinking ...")
                else:
                    self._run_on(type(event), safe(text))
            case events.PrefillProgress(done, total):
                self._note(f"reading {done:,} of {total:,} tokens")
            case events.ToolCall() | events.ToolResult() | events.TurnsDropped():
                self._finish()
                self._console.print(remark(event), style="dim")

    def end(self, stopped: bool = False) -> None:
        self._finish()
        if stopped:
            self._console.print("[stopped]", style="dim")

    def _run_on(self, kind: type, text: str) -> None:
        if self._text is not kind:
            self._finish()
        self._live.stop()
        self._text = kind
        self._console.print(text, style="dim" if kind is events.ReasoningDelta else None, end="", soft_wrap=True)

    def _grow(self, text: str) -> None:
        from rich.segment import Segment, Segments

        done, self._tail = finished_blocks(self._tail + text)
        if done:
            self._live.update("")  # the old tail must not stay above what is printed
            self._console.print(self._markdown(done))
        lines = self._console.render_lines(self._markdown(self._tail), pad=False)
        room = max(self._console.height - 2, 1)
        self._draw(Segments([segment for row in lines[-room:] for segment in (*row, Segment.line())]))

    def _note(self, text: str) -> None:
        from rich.text import Text

        self._break()
        self._draw(Text(text, style="dim"))

    def _draw(self, what: RenderableType) -> None:
        if not self._live.is_started:
            self._live.start()
        self._live.update(what)

    def _break(self) -> None:
        """Ends the line of running text, if there is one."""
        if self._text is not None:
            self._console.print()
            self._text = None

    def _finish(self) -> None:
        """Prints for good what is still being drawn."""
        self._live.update("")
        self._live.stop()
        self._break()
        if self._tail:
            self._console.print(self._markdown(self._tail))
            self._tail = ""

    @staticmethod
    def _markdown(text: str) -> RenderableType:
        from rich.markdown import Markdown

        return Markdown(text, code_theme="ansi_dark")


class Json:
    """Every event as one line: its type in snake case and its fields."""

    hide_reasoning = False

    def __call__(self, event: Event) -> None:
        line(snake_case(type(event).__name__), **asdict(event))

    def end(self, stopped: bool = False) -> None:
        pass


def line(kind: str, **fields: object) -> None:
    """One line of JSON on stdout."""
    sys.stdout.write(json.dumps({"type": kind, **fields}, ensure_ascii=sys.stdout.isatty()) + "\n")
    sys.stdout.flush()


def snake_case(name: str) -> str:
    return re.sub(r"(?<!^)(?=[A-Z])", "_", name).lower()


def finished_blocks(text: str) -> tuple[str, str]:
    """Markdown split before its last block, which more text may still change."""
    from markdown_it import MarkdownIt

    blocks = [token.map for token in MarkdownIt().enable("table").parse(text) if token.level == 0 and token.map]
    if len(blocks) < 2:
        return "", text
    lines = text.splitlines(keepends=True)
    start = blocks[-1][0]
    return "".join(lines[:start]), "".join(lines[start:])


def remark(event: Event) -> str:
    """What is told of an event that is no text."""
    match event:
        case events.ToolCall(recipient, arguments):
            return safe(f"[calls {recipient}: {arguments}]")
        case events.ToolResult(recipient, text):
            return safe(f"[{recipient} gives: {text if len(text) <= 200 else text[:200] + ' ...'}]")
        case events.TurnsDropped(count):
            return f"[the context is full: the {count} oldest turns are forgotten]"
    raise AssertionError(f"no remark for {event}")
