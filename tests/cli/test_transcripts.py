"""What a terminal of 40, 80 and 120 columns shows: compared with transcripts that people have looked at.

The transcripts are the files in `transcripts/`. If they have to change, `MLX_OSS_TRANSCRIPTS=write pytest
tests/cli/test_transcripts.py` writes them anew, and the difference has to be looked at.
"""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyte
import pytest

from mlx_oss import (
    AnswerDelta,
    Finished,
    Message,
    PreambleDelta,
    ReasoningDelta,
    ToolCall,
    ToolDescription,
    ToolResult,
    TurnsDropped,
    Usage,
)
from mlx_oss.cli import COMMANDS, main
from mlx_oss.cli.conversation import converse
from mlx_oss.cli.live_markdown import LiveMarkdown
from mlx_oss.cli.printers import PlainPrinter
from mlx_oss.cli.tool_arguments import Confirmation
from mlx_oss.errors import ContextError, DeviceError
from mlx_oss.terminal import wrapped
from mlx_oss.tools import PythonTool
from tests.cli.fake_session import DONE, FakeSession

FOLDER = Path(__file__).parent / "transcripts"
WIDTHS = (40, 80, 120)
MARKDOWN = r"""## The sky
The sky is **blue** because short waves are scattered more: \(I \sim \lambda^{-4} * I_0 * n_1\), and so on.

\[
\int_0^1 x_1 \, dx
= a * b * c
+ d
\]

| colour | wavelength in nm | scattered |
|---|---|---|
| blue | 450 | much, and this is why it is seen in all directions |
| red | 700 | little |

- first, with `code`
- second: see https://example.org/a-very-long-address/that-does-not-fit/into-forty-columns

```python
print("a line of code that is longer than forty columns, and is folded")
```
"""


class Terminal(io.StringIO):
    """A terminal of a width, which stdout and stderr are."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.width = width
        self.screen = pyte.HistoryScreen(width, 50, history=10_000)
        self.screen.set_mode(pyte.modes.LNM)
        self._stream = pyte.Stream(self.screen)

    def isatty(self) -> bool:
        return True

    def fileno(self) -> int:
        return 77

    def write(self, text: str) -> int:
        self._stream.feed(text)
        return len(text)

    def text(self) -> str:
        """All that is shown and has scrolled away."""
        above = ["".join(row[x].data for x in range(self.width)) for row in self.screen.history.top]
        return "\n".join(line.rstrip() for line in [*above, *self.screen.display]).rstrip("\n") + "\n"


@pytest.fixture
def terminal(monkeypatch) -> Callable[[int], Terminal]:
    def start(width: int) -> Terminal:
        terminal = Terminal(width)
        for name, value in {"TERM": "xterm-256color", "COLUMNS": str(width), "LINES": "50"}.items():
            monkeypatch.setenv(name, value)
        monkeypatch.delenv("NO_COLOR", raising=False)
        monkeypatch.setattr(os, "get_terminal_size", lambda descriptor: os.terminal_size((width, 50)))
        monkeypatch.setattr("mlx_oss.backend.host_memory.memory_bytes", lambda: 14_300_000_000)
        monkeypatch.setattr("mlx_oss.cli.kept.folder", lambda: Path("/home/ann/.local/state/mlx-oss/conversations"))
        for stream in ("stdout", "stderr"):
            monkeypatch.setattr(sys, stream, terminal)
        return terminal

    return start


class Asked(FakeSession):
    """Answers each question with events of its own. A function among the events is called with the session."""

    def __init__(self, answers: dict[str, list[Any]]) -> None:
        super().__init__()
        self.answers = answers
        self.tools = (ToolDescription("get_weather", "Gets the current weather of a place, in degrees Celsius."),)
        self.messages = [Message("user", "x"), Message("assistant", "Hm.", "analysis")]

    def send(self, text: str) -> Any:
        self.events = tuple(self.answers[text])
        return super().send(text)


CALL = ToolCall("python", "total = sum(range(10))\nprint(total)")
CONVERSATION: dict[str, list[Any]] = {
    "Why is the sky blue?": [
        ReasoningDelta("The user asks for the colour of the sky, which is a matter of scattering.\n"),
        ReasoningDelta("Let me explain it."),
        *map(AnswerDelta, MARKDOWN.splitlines(keepends=True)),
        DONE,
    ],
    "Add these": [
        PreambleDelta("I add them up."),
        CALL,
        lambda: ToolResult("python", "Error: the user refused this call", "the user refused this call"),
        AnswerDelta("It is 45."),
        DONE,
    ],
    "The weather?": [
        ToolCall("functions.get_weather", '{"location": "Lisbon, the capital of Portugal", "unit": "celsius"}'),
        ToolResult("functions.get_weather", "18 degrees, sunny, with a light wind from the north-west"),
        AnswerDelta("18 degrees."),
        DONE,
    ],
    "Count": [TurnsDropped(2), AnswerDelta("1 2 3"), Finished("length", Usage(generated_tokens=10))],
    "Again": [AnswerDelta("a a a"), Finished("repetition", Usage())],
    "Full": [ContextError("5,068 tokens leave no room to answer in a context of 4,096: shorten the conversation")],
    "Fail": [DeviceError("MLX has no memory left: close other programs, or give --memory a smaller size")],
}
TYPED = [
    *("/help", "Why is the sky blue?", "Add these", "The weather?", "Count", "Again", "Full", "Fail"),
    *("/undo", "/undo", "/tools", "/stats", "/reasoning high", "/reasoning loud", "/set", "/set temperature warm"),
    *(
        "/set temprature 1",
        "/sessions",
        "/save",
        "/load nothing",
        "/export a.txt",
        "/nope",
        "/hepl",
        "/system",
    ),
    *("/system Answer in one short sentence, as if you were talking to somebody who has never seen the sky.", "exit"),
]


def conversation(terminal: Terminal, monkeypatch: pytest.MonkeyPatch, kind: type) -> None:
    lines = list(TYPED)

    def read() -> str:
        terminal.write(wrapped(f"> {lines[0]}\n", terminal.width))
        return lines.pop(0)

    monkeypatch.setattr("mlx_oss.cli.prompt.make_reader", lambda commands, **_: read)
    session, printer = Asked(CONVERSATION), kind()
    ask = Confirmation([PythonTool(isolation="limits")])
    printer.is_reviewed = ask.asks
    session.max_tokens = 10

    def refused() -> ToolResult:
        monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
        assert not ask(CALL)
        terminal.write("n\n")
        return ToolResult("python", "Error: the user refused this call", "the user refused this call")

    session.answers = CONVERSATION | {
        "Add these": [refused if callable(event) else event for event in CONVERSATION["Add these"]]
    }
    converse(session, printer)


MISTAKES: list[list[str]] = [
    [],
    ["cht"],
    ["chat", "--temprature", "1", "Hi"],
    ["chat", "--max-tokens", "many", "Hi"],
    ["chat", "--model", "21b", "Hi"],
    ["chat", "--memory", "lots", "Hi"],
    ["chat", "-f", "nowhere.txt", "What is it?"],
    ["chat", "--tool", "browser", "Hi"],
    ["plan", "/nowhere/a-model-with-a-long-name"],
    ["render", "nowhere.json"],
    ["completion"],
    ["config", "x"],
    ["models", "--jsn"],
]


def mistakes(terminal: Terminal) -> None:
    for arguments in MISTAKES:
        terminal.write(wrapped(f"$ mlx-oss {' '.join(arguments)}\n", terminal.width))
        status = main(arguments)
        terminal.write(f"[exit status {status}]\n")


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["conversation", "plain", "mistakes"])
def test_a_terminal_shows_what_was_looked_at(name, width, terminal, monkeypatch, tmp_path):
    shown = terminal(width)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HOME", "/home/ann")
    monkeypatch.setattr("mlx_oss.weights.hub.copies.all_copies", list)
    if name == "mistakes":
        monkeypatch.delenv("MLX_OSS_MODEL", raising=False)
        mistakes(shown)
    else:
        conversation(shown, monkeypatch, LiveMarkdown if name == "conversation" else PlainPrinter)
    file = FOLDER / f"{name}-{width}.txt"
    if os.environ.get("MLX_OSS_TRANSCRIPTS") == "write":
        file.write_text(shown.text(), encoding="utf-8")
    assert shown.text() == file.read_text(encoding="utf-8")


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("name", ["conversation", "mistakes"])
def test_no_line_of_a_transcript_breaks_within_a_word(name, width):
    """Whatever stands at the end of a full line, the next line does not go on with it; addresses and code may."""
    whole = (FOLDER / f"{name}-120.txt").read_text(encoding="utf-8")
    words = set(re.findall(r"\S+", whole))
    for line in (FOLDER / f"{name}-{width}.txt").read_text(encoding="utf-8").splitlines():
        assert len(line) <= width
        for word in line.split():
            is_address = any(part in word for part in ("example.org", "ss/that", "ns", "conversat"))
            assert word in words or is_address or set(word) == {"─"}, word


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("command", ["", *COMMANDS])
def test_the_help_breaks_between_words(command, width, monkeypatch, capsys):
    monkeypatch.setenv("COLUMNS", str(width))
    with pytest.raises(SystemExit):
        main([*filter(None, [command]), "--help"])
    lines = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out).splitlines()
    assert [line for line in lines if len(line) > width and " " in line.strip()] == []
    monkeypatch.setenv("COLUMNS", "10000")
    with pytest.raises(SystemExit):
        main([*filter(None, [command]), "--help"])
    whole = re.sub(r"\x1b\[[0-9;]*m", "", capsys.readouterr().out)
    assert [word for line in lines for word in line.split() if word not in whole.split()] == []
