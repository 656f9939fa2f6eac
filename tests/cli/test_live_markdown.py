"""Tests the live Markdown on a terminal emulator: the screen at the end, for any division of the text into deltas."""

from __future__ import annotations

import io
import random
import re
import sys
from collections.abc import Callable
from typing import Any

import pyte
import pytest

from mlx_oss import AnswerDelta, Finished, PreambleDelta, PrefillProgress, ReasoningDelta, ToolCall, TurnsDropped, Usage
from mlx_oss.cli import live_markdown
from mlx_oss.cli.live_markdown import LiveMarkdown, finished_blocks

WIDTH, HEIGHT = 40, 12
DONE = Finished("stop", Usage())

ANSWER = """# Title

A paragraph with **bold**, *italic*, `code`, that is longer than the window is wide, \
and 漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字漢字 wide characters.
A line of its own.

- one

- two

  more of two

1. first
2. second

```python
def f(x):
    return x + 1  # longer than the window is wide, as comments are

for i in range(10):
    print(f(i))
```

| name | value | 漢字 |
|------|------:|:----:|
| a | 1 | 漢 |
| bbbb | 22222 | 😀 |

> a quote

The <b>end</b> of [it](https://example.com), and <https://example.com/a/very/long/path/without/any/spaces>."""

THOUGHT = "The user wants a lot, in a line that is longer than the window is wide.\n\nSo: 漢字."


class Screen(io.StringIO):
    """A terminal of HEIGHT rows and WIDTH columns whose screen can be read."""

    def __init__(self) -> None:
        super().__init__()
        self.screen = pyte.HistoryScreen(WIDTH, HEIGHT, history=10_000)
        self.screen.set_mode(
            pyte.modes.LNM
        )  # a newline also returns to the first column, as with the driver of a terminal
        self._stream = pyte.Stream(self.screen)

    def isatty(self) -> bool:
        return True

    def write(self, text: str) -> int:
        self._stream.feed(text)
        return len(text)

    def lines(self) -> list[str]:
        """All lines that were not overwritten, including those that scrolled away."""
        above = ["".join(row[x].data for x in range(WIDTH)) for row in self.screen.history.top]
        return [line.rstrip() for line in [*above, *self.screen.display]]


@pytest.fixture
def screen(monkeypatch) -> Screen:
    for name, value in {"TERM": "xterm-256color", "COLUMNS": str(WIDTH), "LINES": str(HEIGHT)}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("NO_COLOR", raising=False)
    return Screen()


@pytest.fixture
def drawing(screen, monkeypatch) -> Callable[..., LiveMarkdown]:
    """drawing(hide_reasoning=...) creates a printer that draws on the screen."""

    def draw(**options: Any) -> LiveMarkdown:
        monkeypatch.setattr(sys, "stdout", screen)
        return LiveMarkdown(**options)

    return draw


@pytest.fixture
def sent(screen, monkeypatch) -> list[str]:
    """The texts that are sent to the terminal."""
    sent: list[str] = []
    feed = screen.write
    monkeypatch.setattr(screen, "write", lambda text: sent.append(text) or feed(text))
    return sent


@pytest.fixture
def shown(screen, drawing) -> Callable[..., str]:
    """shown(event, ...) returns the lines on the screen after these events, without empty lines at the end."""

    def show(*events: Any, stopped: bool = False, **options: Any) -> str:
        screen.screen.reset()
        screen.screen.set_mode(pyte.modes.LNM)
        screen.screen.history.top.clear()
        printer = drawing(**options)
        for event in events:
            printer(event)
        printer.end_turn("[stopped]" if stopped else "")
        return "\n".join(screen.lines()).rstrip("\n")

    return show


def pieces(text: str, draw: random.Random, kind: Callable[[str], Any]) -> list[Any]:
    cuts = sorted(draw.sample(range(1, len(text)), draw.randrange(1, len(text) // 2)))
    return [kind(text[start:end]) for start, end in zip([0, *cuts], [*cuts, len(text)], strict=True)]


@pytest.mark.parametrize("seed", range(12))
def test_in_whatever_pieces_it_comes_the_screen_is_the_same_in_the_end(shown, seed):
    """The whole text is there, although it is longer than the window, and no line is there twice."""
    whole = shown(ReasoningDelta(THOUGHT), AnswerDelta(ANSWER), DONE)
    draw = random.Random(seed)
    assert shown(*pieces(THOUGHT, draw, ReasoningDelta), *pieces(ANSWER, draw, AnswerDelta), DONE) == whole


def test_markdown_looks_like_what_it_means(shown):
    lines = shown(AnswerDelta(ANSWER), DONE).split("\n")
    assert lines[:3] == ["Title".center(WIDTH).rstrip(), "", "A paragraph with bold, italic, code,"]
    for line in (" • one", "   more of two", " 1 first", "     return x + 1  # longer than the", " bbbb  22222   😀"):
        assert line in lines, line
    assert "A line of its own." in lines  # not joined to the line before it
    assert (
        lines[-4].startswith("The <b>end</b> of it") and lines[-3] == "(https://example.com), and"
    )  # an HTML tag and a link
    assert "".join(lines[-2:]) == "https://example.com/a/very/long/path/without/any/spaces."
    assert "\n\n\n" not in "\n".join(lines)
    blocks = [number for number, line in enumerate(lines) if line == ""]
    assert len(blocks) == 8  # one between two blocks, and one in the code block


@pytest.mark.parametrize(
    "text",
    [
        "See [1].\n\n[1]: https://e.org/a",
        "[1]: https://e.org/a 'a title'\n[b]: <x>",
        "As [here][1] or [1].\n\n[1]: /url",
        "![plan](https://e.org/p.png)",
        "[![logo](e.org/l)](e.org/b)",
        "![plan][1]\n\n[1]: e.org",
        "> [quoted]: /url",
        "- [in]: /a-list",
    ],
)
def test_no_part_of_an_answer_is_left_out(shown, text):
    """Except the markup characters of Markdown."""
    seen = shown(AnswerDelta(text), DONE)
    for word in re.findall(r"[\w./:]+", text):
        assert word in seen, seen


def test_no_line_is_wider_than_the_window_or_ends_in_spaces(drawing, sent):
    printer = drawing()
    printer(AnswerDelta(ANSWER))
    printer.end_turn()
    lines = "".join(sent).replace("\x1b[K", "").split("\n")
    assert len(lines) > 20 and not any(line.endswith(" ") for line in lines)


def test_while_it_grows_the_end_of_it_is_seen(drawing, screen):
    printer = drawing()
    for number in range(50):
        printer._live_region._next_draw = 0  # draw every time, even on a busy machine
        printer(AnswerDelta(f"word{number} "))
        assert any(f"word{number}" in line for line in screen.screen.display)
    assert not screen.screen.history.top  # only finished text scrolls away


def test_reasoning_is_dim_and_apart_from_the_answer(shown, sent):
    assert shown(ReasoningDelta("Hm,\nso."), AnswerDelta("Four."), DONE) == "Hm,\nso.\n\nFour."
    assert "\x1b[2mso.\x1b[0m" in "".join(sent) and "\x1b[2mFour" not in "".join(sent)


def test_hidden_reasoning_is_seen_as_a_note_while_it_lasts(shown, drawing, screen):
    printer = drawing(hide_reasoning=True)
    printer(ReasoningDelta("Hm"))
    assert screen.screen.display[0].rstrip() == "thinking ..."
    assert shown(ReasoningDelta("Hm"), ReasoningDelta(", so"), AnswerDelta("4"), DONE, hide_reasoning=True) == "4"


def test_how_far_a_prompt_is_read_is_told_while_it_is_read(shown, drawing, screen):
    printer = drawing()
    printer(PrefillProgress(512, 3000))
    assert screen.screen.display[0].rstrip() == "reading 512 of 3,000 tokens"
    printer(PrefillProgress(1024, 3000))
    assert screen.lines()[0] == "reading 1,024 of 3,000 tokens" and screen.lines()[1] == ""
    assert shown(PrefillProgress(512, 3000), AnswerDelta("4"), DONE) == "4"


def test_calls_and_remarks_stand_between_what_is_said(shown):
    events = [TurnsDropped(2), ReasoningDelta("Hm."), PreambleDelta("Let me look."), ToolCall("functions.f", "{}")]
    dropped = "[the context is full: the 2 oldest turns\nwere dropped]"
    text = f"{dropped}\n\nHm.\n\nLet me look.\n\n[calls functions.f: {{}}]\n\nSo.\n[stopped]"
    assert shown(*events, AnswerDelta("So."), stopped=True) == text


@pytest.mark.parametrize("text", ["\x1b]0;title\x07", "a\x9b2J", "\x7f\r\b", "```\n\x1b[31m\n```", "[a](\x1b[5m)"])
def test_what_the_model_writes_cannot_command_the_terminal(drawing, sent, text):
    printer = drawing()
    for event in (ReasoningDelta(text), ToolCall("python", text), AnswerDelta(text)):
        printer(event)
    printer.end_turn()
    for harmful in ("\x1b]", "\x9b", "\x7f", "\b", "\x07", "\x1b[31m\x1b", "\x1b[5m"):
        assert harmful not in "".join(sent)


def test_blocks_are_finished_only_once_they_cannot_change():
    """For deltas of any size: the finished blocks add up to the text, and no block is split."""
    for size in (1, 2, 3, 7, 50):
        printed: list[str] = []
        tail = ""
        for start in range(0, len(ANSWER), size):
            done, tail = finished_blocks(tail + ANSWER[start : start + size])
            printed += done
        assert "".join(printed) + tail == ANSWER
        whole = (
            "- one\n\n- two\n\n  more of two\n",
            "    print(f(i))\n```\n",
            "| a | 1 | 漢 |\n| bbbb | 22222 | 😀 |\n",
        )
        for block in whole:
            assert any(block in piece for piece in printed)


@pytest.mark.parametrize("separator", ["\u2028", "\x0c", "\x85", "\r\n"])
def test_other_line_separators_break_nothing(separator):
    text = f"one{separator}two\n\nthree{separator}four\n\nfive"
    done, tail = finished_blocks(text)
    assert "".join(done) + tail == text and tail == "five"


def test_a_long_block_is_parsed_in_time_proportional_to_its_length(drawing, monkeypatch):
    """A list that never ends is one block. Parsing it after each line took a minute for a thousand lines."""
    parsed: list[int] = []
    split = live_markdown.finished_blocks
    monkeypatch.setattr(live_markdown, "finished_blocks", lambda text: parsed.append(len(text)) or split(text))
    printer = drawing()
    printer._live_region._next_draw = float("inf")  # drawing takes at most a fifth of the time
    for _ in range(600):
        printer(AnswerDelta("- a\n"))
    assert sum(parsed) < 30 * 600 * len("- a\n")


def test_what_follows_a_long_block_is_printed_in_the_end(drawing, screen):
    printer = drawing()
    printer._live_region._next_draw = float("inf")
    for piece in (*["- a\n"] * 200, "\nafter it\n\n", "the end"):
        printer(AnswerDelta(piece))
    printer(DONE)
    printer.end_turn()
    lines = [line.strip() for line in screen.lines()]
    assert lines.count("after it") == lines.count("the end") == 1 and sum("• a" in line for line in lines) == 200


@pytest.mark.parametrize(
    "formula",
    [
        r"\(a_1 * b_2 * c\)",
        r"\[ x * y * z \]",
        "$$ a_1 * b * c $$",
        r"\(\alpha_{i} \, \lambda^{-4}\)",
        "\\[\na\n= b\n+ c\n- d * e * f\n# g\n\\]",
        "$$\n+ c \\\\\n1. d\n$$",
    ],
)
def test_formulas_are_drawn_as_they_are_written(formula, shown):
    assert shown(AnswerDelta(f"{formula}\n"), DONE) == formula
    if "\n" not in formula:
        assert shown(AnswerDelta(f"So {formula}, *as* said."), DONE).replace("\n", " ") == f"So {formula}, as said."


def test_a_formula_that_is_being_written_does_not_swallow_what_follows(shown):
    lines = shown(AnswerDelta("\\[ a * b\n\nThen *this*.\n\n$$ 5 and *that*."), DONE).splitlines()
    assert lines == ["\\[ a * b", "", "Then this.", "", "$$ 5 and that."]
    assert shown(AnswerDelta("Costs $5, or $6 * 2 * 3, *really*."), DONE) == "Costs $5, or $6 * 2 * 3, really."
    listed = shown(AnswerDelta("- \\( a * b * c\n- *second*"), DONE)
    assert listed == " \N{BULLET} \\( a * b * c\n \N{BULLET} second"


def test_escaped_characters_and_code_are_drawn_as_before(shown):
    assert shown(AnswerDelta(r"\*no\* `\(x\)` \\(y) (z)"), DONE) == r"*no* \(x\) \(y) (z)"


def test_finished_formulas_scroll_away_and_time_is_linear():
    from mlx_oss.cli.live_markdown import finished_blocks

    blocks, tail = finished_blocks("\\[\na\n\\]\nb\n\n" + "\\(" * 20_000)
    assert blocks[0] == "\\[\na\n\\]\n" and tail.startswith("\\(")
