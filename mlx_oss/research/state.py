"""What has been found so far: made of the lines of a trace, one after another, and of nothing else.

So a research goes on after a kill where the last finished round has left it, and a trace can be replayed without a
model. What was read in a round counts when its note is there. Knows nothing of models and files.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

from mlx_oss.errors import OptionError, ResearchError, quoted
from mlx_oss.harmony import ReasoningEffort
from mlx_oss.research.bounds import Bounds
from mlx_oss.research.pages import Pages, Reading, renumbered

VERSION = 1
_MOST_LOOKS = 3  # at one question, when the context was full before it was answered


@dataclass(frozen=True, slots=True)
class Note:
    """What was found in a round.

    Attributes:
        part: The index of the question.
        text: The note, with the numbers of pages in its citations.
        goes_on: Whether the context was full before the question was answered.
    """

    part: int
    text: str
    goes_on: bool


class State:
    """A research as its trace tells it.

    Attributes:
        question: What is asked.
        date: The date that the model is told.
        bounds: Its bounds.
        effort: How much the model thinks.
        about: What else the program that began it wanted to remember.
        parts: The questions into which it is divided.
        notes: The notes, in order.
        pages: What has been read.
        gaps: How often it was asked what is missing.
        is_complete: Whether nothing was missing the last time.
        stopped: The bound that was reached; None if none was.
        report: The report as the model wrote it; None if it is not written.
        is_cut: Whether the report was cut off.
        shortened: How many notes were shortened for the report.
        tokens: Tokens generated.
        seconds: How long it has taken.
    """

    def __init__(self) -> None:
        self.question: str | None = None
        self.date, self.effort, self.bounds = "", "medium", Bounds()
        self.about: Mapping[str, Any] = {}
        self.parts: list[str] = []
        self.notes: list[Note] = []
        self.pages = Pages()
        self.gaps = self.shortened = self.tokens = 0
        self.seconds = 0.0
        self.is_complete = self.is_cut = False
        self.stopped: str | None = None
        self.report: str | None = None
        self._reading: dict[int, list[Reading | None]] = {}  # by round: what it has been shown, by cursor

    def apply(self, line: Mapping[str, Any]) -> None:
        """Takes a line of the trace into account. Raises ResearchError if it is not what it says it is."""
        fields = _Fields(line)
        self.seconds = max(self.seconds, fields.seconds)
        match fields.text("event"):
            case "begin":
                self._begin(fields)
            case "plan":
                self.parts = fields.texts("questions")
            case "look":
                self._reading[fields.number("look")] = []
            case "read":
                self._reading.setdefault(fields.number("look"), []).append(fields.reading())
            case "unread":
                self._reading.setdefault(fields.number("look"), []).append(None)
            case "note":
                self._note(fields)
            case "gaps":
                new = fields.texts("questions")
                self.parts, self.gaps, self.is_complete = [*self.parts, *new], self.gaps + 1, not new
            case "stopped":
                self.stopped = fields.text("reason")
            case "report":
                self.report, self.is_cut = fields.text("text"), fields.flag("is_cut")
                self.shortened = fields.number("shortened")
        self.tokens += fields.number("tokens")

    def open_parts(self) -> list[int]:
        """The questions that are still to be looked at, in their order."""
        last = {note.part: note for note in self.notes}
        looks = [note.part for note in self.notes]
        return [
            part
            for part in range(len(self.parts))
            if part not in last or (last[part].goes_on and looks.count(part) < _MOST_LOOKS)
        ]

    def _begin(self, fields: _Fields) -> None:
        if fields.number("version") != VERSION:
            raise ResearchError("the trace is of another release of mlx-oss: begin anew in another folder")
        self.question, self.date, self.effort = fields.text("question"), fields.text("date"), fields.text("effort")
        if self.effort not in get_args(ReasoningEffort):
            raise fields.wrong("effort")
        try:
            self.bounds = Bounds.from_dict(fields.mapping("bounds"))
        except OptionError as error:
            raise ResearchError(f"the bounds in the trace are wrong ({error}): begin anew in another folder") from None
        self.about = fields.mapping("about")

    def _note(self, fields: _Fields) -> None:
        readings = self._reading.pop(fields.number("look"), [])
        numbers = {cursor: self.pages.add(reading) for cursor, reading in enumerate(readings) if reading is not None}
        part = fields.number("part")
        if part >= len(self.parts):
            raise fields.wrong("part")
        self.notes.append(Note(part, renumbered(fields.text("text"), numbers), fields.flag("goes_on")))


def restored(lines: Sequence[Mapping[str, Any]]) -> State:
    """The state that the lines of a trace tell. Raises ResearchError if they are not those of a research."""
    state = State()
    for number, line in enumerate(lines):
        if (number == 0) != (line.get("event") == "begin"):
            raise ResearchError("the trace does not begin as one: begin anew in another folder")
        state.apply(line)
    return state


class _Fields:
    """The fields of a line; each of them raises ResearchError if it is of another kind."""

    def __init__(self, line: Mapping[str, Any]) -> None:
        self._line = line

    def wrong(self, name: str) -> ResearchError:
        return ResearchError(
            f"the field {name!r} of a line of the trace is {quoted(self._line.get(name))}, which cannot be: begin anew "
            "in another folder"
        )

    def text(self, name: str) -> str:
        value = self._line.get(name)
        if not isinstance(value, str):
            raise self.wrong(name)
        return value

    def texts(self, name: str) -> list[str]:
        value = self._line.get(name)
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise self.wrong(name)
        return value

    def number(self, name: str) -> int:
        value = self._line.get(name, 0)
        if type(value) is not int or value < 0:
            raise self.wrong(name)
        return value

    @property
    def seconds(self) -> float:
        value = self._line.get("seconds", 0)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value < float("inf"):
            raise self.wrong("seconds")
        return value

    def flag(self, name: str) -> bool:
        return self._line.get(name) is True

    def mapping(self, name: str) -> Mapping[str, Any]:
        value = self._line.get(name, {})
        if not isinstance(value, dict):
            raise self.wrong(name)
        return value

    def reading(self) -> Reading:
        about = self.text("source"), self.text("title"), self.number("first"), tuple(self.texts("lines"))
        return Reading(*about, self.number("total"), self.flag("is_list"))
