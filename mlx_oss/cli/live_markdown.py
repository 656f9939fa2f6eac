"""A turn on a terminal: the answer as Markdown, drawn anew as it grows, the reasoning dim.

What is finished is printed for good and scrolls away like any text; only the block being written is drawn again, and of
that no more than the window holds. Knows nothing of sessions.
"""

from __future__ import annotations

import time
from collections.abc import Iterable

from markdown_it import MarkdownIt
from rich.console import Console
from rich.markdown import Markdown
from rich.segment import Segment, Segments
from rich.text import Text

from mlx_oss import events
from mlx_oss.cli.printers import remark
from mlx_oss.cli.sanitize import sanitize
from mlx_oss.events import Event

Line = list[Segment]

# A tag that the model writes is meant to be seen, so HTML is text; and so are pictures and definitions of links, which
# would be drawn without their addresses.
_PARSER = MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"]).disable(["reference", "image"])


class LiveMarkdown:
    """The printer for a terminal that can move its cursor."""

    def __init__(self, hide_reasoning: bool = False) -> None:
        self.hide_reasoning, self.whole_calls = hide_reasoning, False
        self._console = Console(highlight=False, markup=False)
        self._end = _End(self._console)
        self._kind: type | None = None  # of the text being written
        self._tail = ""  # of it: what may still change
        self._above: type | None = None  # the kind of what was printed last in this turn

    def __call__(self, event: Event) -> None:
        match event:
            case events.ReasoningDelta() if self.hide_reasoning:
                self._note("thinking ...")
            case events.AnswerDelta(text) | events.PreambleDelta(text) | events.ReasoningDelta(text):
                self._grow(type(event), sanitize(text))
            case events.PrefillProgress(done, total):
                self._note(f"reading {done:,} of {total:,} tokens")
            case events.RepairedOutput() if not remark(event):
                pass
            case (
                events.RepairedOutput()
                | events.ToolCall()
                | events.ToolResult()
                | events.TurnsDropped()
                | events.ReasoningStopped()
            ):
                self._finish()
                self._print(type(event), self._lines(Text(remark(event, self.whole_calls), "dim")))

    def end(self, stopped: bool = False) -> None:
        self._finish()
        if stopped:
            self.say("[stopped]")
        self._above = None

    def say(self, text: str) -> None:
        self._console.print(Text(text, "dim"), soft_wrap=True)

    def _grow(self, kind: type, text: str) -> None:
        if kind is not self._kind:
            self._finish()
            self._kind = kind
        may_end_a_block = "\n" in text or self._tail.endswith("\n")
        self._tail += text
        if may_end_a_block:
            split = _finished_lines if kind is events.ReasoningDelta else finished_blocks
            done, self._tail = split(self._tail)
            for block in done:
                self._print(kind, self._render(kind, block))
        if self._end.is_due:
            gap: list[Line] = [[]] if self._gap(kind) else []
            self._end.draw(gap + self._render(kind, self._tail))

    def _finish(self) -> None:
        """Prints for good what is still being written."""
        if self._kind and self._tail:
            done, tail = ([], self._tail) if self._kind is events.ReasoningDelta else finished_blocks(self._tail)
            for block in (*done, tail):
                self._print(self._kind, self._render(self._kind, block))
        self._end.draw([])
        self._kind, self._tail = None, ""

    def _note(self, text: str) -> None:
        if self._kind:
            self._finish()
        self._end.draw(self._lines(Text(text, "dim")))

    def _print(self, kind: type, lines: list[Line]) -> None:
        if lines:
            self._end.print(([[]] if self._gap(kind) else []) + lines)
            self._above = kind

    def _gap(self, kind: type) -> bool:
        """Whether an empty line comes before what is printed next."""
        return self._above not in (None, kind) or self._above in (events.AnswerDelta, events.PreambleDelta)

    def _render(self, kind: type, text: str) -> list[Line]:
        if kind is events.ReasoningDelta:
            return self._lines(Text(text.removesuffix("\n"), "dim"))
        lines = self._lines(_markdown(text))
        full = [number for number, line in enumerate(lines) if line]
        return lines[full[0] : full[-1] + 1] if full else []

    def _lines(self, what: Text | Markdown) -> list[Line]:
        return [_stripped(line) for line in self._console.render_lines(what, pad=False)]


class _End:
    """The end of what the terminal shows: lines to stay are printed above lines that are drawn again and again."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._drawn: list[int] = []  # the widths of the lines to be drawn again; the cursor stands behind the last
        self._rest_until = 0.0

    @property
    def is_due(self) -> bool:
        """Whether drawing again takes no more than a fifth of the time: a long block takes a while."""
        return time.perf_counter() >= self._rest_until

    def draw(self, lines: list[Line]) -> None:
        """Shows these lines, as many as the window holds, in place of those drawn before."""
        self._show([], lines[-max(self._console.height - 2, 1) :])

    def print(self, lines: list[Line]) -> None:
        """Shows these lines for good, in place of those drawn before."""
        self._show(lines, [])

    def _show(self, stay: list[Line], draw: list[Line]) -> None:
        started = time.perf_counter()
        # A window that has become narrower has broken the lines; one that is wider has not joined them.
        rows = sum(max(1, -(-width // self._console.width)) for width in self._drawn)
        start = f"\x1b[{rows - 1}A\r" if rows > 1 else "\r" if rows else ""
        shown = "".join(f"{self._text(line)}\x1b[K\n" for line in stay)
        shown += "\x1b[K\n".join(map(self._text, draw)) + "\x1b[J"
        self._drawn = [sum(segment.cell_length for segment in line) for line in draw]
        if start or stay or draw:
            self._console.file.write(start + shown)
            self._console.file.flush()
        now = time.perf_counter()
        self._rest_until = now + 4 * (now - started) if draw else now

    def _text(self, line: Line) -> str:
        with self._console.capture() as text:
            self._console.print(Segments(line), end="", crop=False, soft_wrap=True)
        return text.get()


def _markdown(text: str) -> Markdown:
    markdown = Markdown("", code_theme="ansi_dark", hyperlinks=False)  # where a link leads is meant to be seen
    markdown.parsed = _PARSER.parse(text)
    for token in markdown.parsed:
        token.children = [child for child in token.children or () if child.info != "auto"]  # a bare link, as written
        for child in token.children:
            if child.type == "softbreak":  # in a chat a new line is one: poems, addresses
                child.type = "hardbreak"
    return markdown


def _stripped(line: Iterable[Segment]) -> Line:
    """Without spaces at the end: a window that becomes narrower would break them into rows of their own."""
    kept = list(line)
    while kept and not kept[-1].text.strip():
        del kept[-1]
    if kept:
        kept[-1] = Segment(kept[-1].text.rstrip(), kept[-1].style)
    return kept


def finished_blocks(text: str) -> tuple[list[str], str]:
    """The blocks of a Markdown text, and the last one, which more text may still change."""
    starts = [token.map[0] for token in _PARSER.parse(text) if token.level == 0 and token.map and token.nesting >= 0]
    lines = text.split("\n")
    ends = [*starts[1:], len(lines)]
    blocks = ["\n".join(lines[start:end]) for start, end in zip([0, *starts[1:]], ends, strict=True)]
    return [f"{block}\n" for block in blocks[:-1]], blocks[-1]


def _finished_lines(text: str) -> tuple[list[str], str]:
    end = text.rfind("\n") + 1
    return [text[:end]] if end else [], text[end:]
