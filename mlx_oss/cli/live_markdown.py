"""Prints a turn on a terminal: the answer as Markdown that is redrawn as it grows, the reasoning in dim text.

Finished blocks are printed once and scroll away like any text. Only the block being written is redrawn, and of that no
more than the window can show. Knows nothing of sessions.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable

from markdown_it import MarkdownIt
from rich.console import Console
from rich.markdown import Markdown
from rich.segment import Segment, Segments
from rich.text import Text

from mlx_oss import events
from mlx_oss.cli.attached import saved
from mlx_oss.cli.printers import never
from mlx_oss.cli.remarks import remark
from mlx_oss.events import Event
from mlx_oss.formulas import with_formulas
from mlx_oss.terminal import one_line, sanitize, wrapped

Line = list[Segment]

# HTML is printed as text, because tags that the model writes are meant to be seen. Images and link definitions are text
# too, because they would be drawn without their addresses.
_PARSER = with_formulas(
    MarkdownIt("commonmark", {"html": False}).enable(["table", "strikethrough"]).disable(["reference", "image"])
)


_SHORT = 500  # characters of a block that is parsed again after each line


class LiveMarkdown:
    """The printer for a terminal that can move its cursor.

    Attributes:
        hide_reasoning: Show "thinking ..." instead of the reasoning.
        whole_calls: Print tool calls and results whole, else only their beginning.
        is_reviewed: Whether the user is shown a call anyway, as in `printers.Printer`.
    """

    def __init__(self, hide_reasoning: bool = False) -> None:
        self.hide_reasoning, self.whole_calls = hide_reasoning, False
        self.is_reviewed: Callable[[events.ToolCall], bool] = never
        self._console = Console(highlight=False, markup=False)
        self._live_region = _LiveRegion(self._console)
        self._kind: type | None = None  # kind of the text being written
        self._tail = ""  # the end of that text, which may still change
        self._next_split = 0  # the length from which on finished blocks are looked for in it
        self._last_printed: type | None = None  # kind of the last event that was printed in this turn

    def __call__(self, event: Event) -> None:
        match event:
            case events.ReasoningDelta() if self.hide_reasoning:
                self._show_status("thinking ...")
            case events.AnswerDelta(text) | events.PreambleDelta(text) | events.ReasoningDelta(text):
                self._append(type(event), sanitize(text))
            case events.PrefillProgress(done, total):
                self._show_status(f"reading {done:,} of {total:,} tokens")
            case events.ToolProgress():
                self._show_status(remark(event))
            case events.RepairedOutput() if not remark(event):
                pass
            case events.ToolCall(recipient) if self.is_reviewed(event):
                self._finish()
                self._print(type(event), self._lines(Text(f"[calls {one_line(recipient)}]", "dim")))
            case (
                events.RepairedOutput()
                | events.ToolCall()
                | events.ToolResult()
                | events.TurnsDropped()
                | events.ReasoningStopped()
            ):
                self._finish()
                self._print(type(event), self._lines(Text(remark(event, self.whole_calls), "dim")))
                for line in saved(event.attachments) if isinstance(event, events.ToolResult) else ():
                    self._print(type(event), self._lines(Text(line, "dim")))

    def end_turn(self, remark: str = "") -> None:
        self._finish()
        if remark:
            self.notice(remark)
        self._last_printed = None

    def notice(self, text: str) -> None:
        self._console.print(Text(wrapped(sanitize(text), self._console.width), "dim"), soft_wrap=True)

    def _append(self, kind: type, text: str) -> None:
        if kind is not self._kind:
            self._finish()
            self._kind = kind
        may_end_a_block = "\n" in text or self._tail.endswith("\n")
        self._tail += text
        if may_end_a_block and len(self._tail) >= self._next_split:
            split = _finished_lines if kind is events.ReasoningDelta else finished_blocks
            done, self._tail = split(self._tail)
            for block in done:
                self._print(kind, self._render(kind, block))
            length = len(self._tail)  # a long block is parsed again when an eighth has been added: in linear time
            self._next_split = length + length // 8 if length > _SHORT else 0
        if self._live_region.is_due:
            gap: list[Line] = [[]] if self._needs_empty_line(kind) else []
            self._live_region.draw(gap + self._render(kind, self._tail))

    def _finish(self) -> None:
        """Prints the text being written for the last time."""
        if self._kind and self._tail:
            done, tail = ([], self._tail) if self._kind is events.ReasoningDelta else finished_blocks(self._tail)
            for block in (*done, tail):
                self._print(self._kind, self._render(self._kind, block))
        self._live_region.draw([])
        self._kind, self._tail, self._next_split = None, "", 0

    def _show_status(self, text: str) -> None:
        if self._kind:
            self._finish()
        self._live_region.draw(self._lines(Text(text, "dim")))

    def _print(self, kind: type, lines: list[Line]) -> None:
        if lines:
            self._live_region.print(([[]] if self._needs_empty_line(kind) else []) + lines)
            self._last_printed = kind

    def _needs_empty_line(self, kind: type) -> bool:
        """True if an empty line separates the next output from the last one."""
        return self._last_printed not in (None, kind) or self._last_printed in (
            events.AnswerDelta,
            events.PreambleDelta,
        )

    def _render(self, kind: type, text: str) -> list[Line]:
        if kind is events.ReasoningDelta:
            return self._lines(Text(text.removesuffix("\n"), "dim"))
        lines = self._lines(_markdown(text))
        nonempty = [number for number, line in enumerate(lines) if line]
        return lines[nonempty[0] : nonempty[-1] + 1] if nonempty else []

    def _lines(self, content: Text | Markdown) -> list[Line]:
        return [_stripped(line) for line in self._console.render_lines(content, pad=False)]


class _LiveRegion:
    """The lines at the end of the output that are redrawn again and again. Permanent lines are printed above them."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._widths: list[int] = []  # of the lines to redraw; the cursor is at the end of the last one
        self._next_draw = 0.0  # earliest time of the next redrawing, in seconds

    @property
    def is_due(self) -> bool:
        """True if redrawing now uses at most a fifth of the time. Drawing a long block is slow."""
        return time.perf_counter() >= self._next_draw

    def draw(self, lines: list[Line]) -> None:
        """Replaces the lines drawn before by these, as many as the window can show. They are redrawn later."""
        self._replace([], lines[-max(self._console.height - 2, 1) :])

    def print(self, lines: list[Line]) -> None:
        """Replaces the lines drawn before by these, which stay."""
        self._replace(lines, [])

    def _replace(self, permanent: list[Line], redrawn: list[Line]) -> None:
        started = time.perf_counter()
        # A window that became narrower wrapped the lines. A window that became wider did not join them again.
        rows = sum(max(1, -(-width // self._console.width)) for width in self._widths)
        start = f"\x1b[{rows - 1}A\r" if rows > 1 else "\r" if rows else ""
        output = "".join(f"{self._to_escape_sequences(line)}\x1b[K\n" for line in permanent)
        output += "\x1b[K\n".join(map(self._to_escape_sequences, redrawn)) + "\x1b[J"
        self._widths = [sum(segment.cell_length for segment in line) for line in redrawn]
        if start or permanent or redrawn:
            self._console.file.write(start + output)
            self._console.file.flush()
        now = time.perf_counter()
        self._next_draw = now + 4 * (now - started) if redrawn else now

    def _to_escape_sequences(self, line: Line) -> str:
        with self._console.capture() as capture:
            self._console.print(Segments(line), end="", crop=False, soft_wrap=True)
        return capture.get()


def _markdown(text: str) -> Markdown:
    markdown = Markdown("", code_theme="ansi_dark", hyperlinks=False)  # the address of a link is meant to be seen
    markdown.parsed = _PARSER.parse(text)
    for token in markdown.parsed:
        # A bare link is printed as written.
        token.children = [child for child in token.children or () if child.info != "auto"]
        for child in token.children:
            if child.type == "softbreak":  # in a chat a newline is a line break, as in poems and addresses
                child.type = "hardbreak"
    return markdown


def _stripped(line: Iterable[Segment]) -> Line:
    """Removes trailing spaces. A window that becomes narrower would wrap them into rows of their own."""
    kept = list(line)
    while kept and not kept[-1].text.strip():
        del kept[-1]
    if kept:
        kept[-1] = Segment(kept[-1].text.rstrip(), kept[-1].style)
    return kept


def finished_blocks(text: str) -> tuple[list[str], str]:
    """Splits Markdown text into its finished blocks, and the last block, which more text can still change."""
    starts = [token.map[0] for token in _PARSER.parse(text) if token.level == 0 and token.map and token.nesting >= 0]
    lines = text.split("\n")
    ends = [*starts[1:], len(lines)]
    blocks = ["\n".join(lines[start:end]) for start, end in zip([0, *starts[1:]], ends, strict=True)]
    return [f"{block}\n" for block in blocks[:-1]], blocks[-1]


def _finished_lines(text: str) -> tuple[list[str], str]:
    end = text.rfind("\n") + 1
    return [text[:end]] if end else [], text[end:]
