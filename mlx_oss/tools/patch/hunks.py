"""Parses the text of a patch into operations on files, and applies hunks to a text. Knows nothing of files."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from itertools import accumulate

from mlx_oss.errors import ToolError

_BEGIN, _END = "*** Begin Patch", "*** End Patch"
_ADD, _DELETE, _UPDATE, _MOVE = "*** Add File: ", "*** Delete File: ", "*** Update File: ", "*** Move to: "
_END_OF_FILE = "*** End of File"
_MOST_COMPARED = 1 << 34  # characters: each hunk may be looked for in the whole file


@dataclass(frozen=True, slots=True)
class Hunk:
    """Lines to find in a file, and the lines that replace them.

    Attributes:
        headers: The lines after `@@`. They are looked up first, in this order; the hunk applies below them.
        old: The lines to find.
        new: The new lines. A number stands for that line of the lines found, counted from 0, so that context lines stay
            as they are in the file.
        at_end: Whether the old lines must be the last ones of the file.
    """

    headers: tuple[str, ...]
    old: tuple[str, ...]
    new: tuple[str | int, ...]
    at_end: bool


@dataclass(frozen=True, slots=True)
class Add:
    path: str
    lines: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Delete:
    path: str


@dataclass(frozen=True, slots=True)
class Update:
    path: str
    hunks: tuple[Hunk, ...]
    move_to: str | None = None


Operation = Add | Delete | Update


def parse(text: str) -> list[Operation]:
    """Returns the operations of a patch in their order. Raises ToolError, with the faulty line, if it is malformed."""
    lines = text.strip("\n").replace("\r\n", "\n").split("\n")
    if lines[0].strip() != _BEGIN or lines[-1].strip() != _END or len(lines) < 2:
        raise ToolError(f"the patch must begin with `{_BEGIN}` and end with `{_END}`, each on a line of its own")
    sections: list[list[str]] = []
    for number, line in enumerate(lines[1:-1], start=2):
        if line.startswith((_ADD, _DELETE, _UPDATE)):
            sections.append([line])
        elif sections:
            sections[-1].append(line)
        elif line.strip():
            raise ToolError(f"line {number} of the patch belongs to no file: begin with `{_UPDATE}...` or another")
    if not sections:
        raise ToolError("the patch names no file")
    return [_operation(section[0], section[1:]) for section in sections]


def apply_hunks(text: str, hunks: tuple[Hunk, ...], name: str) -> str:
    """Returns the text with the hunks applied, from the top down. Raises ToolError if a hunk fits nowhere.

    Existing lines keep their line endings; new lines get the ending of a neighbour. If the old lines are not found
    exactly, trailing whitespace is ignored. `name` is the file's name, for messages.
    """
    if len(hunks) * len(text) > _MOST_COMPARED:
        raise ToolError(f"the patch has too many hunks for a file as large as {name}: send it in several patches")
    lines, ends = _split_lines(text)
    file = _Lines(lines)
    result: list[tuple[str, str]] = []
    at = 0
    for number, hunk in enumerate(hunks, start=1):
        start = at
        for header in hunk.headers:
            start = _line_after(lines, header, start, name)
        place = _find_hunk(file, hunk, start)
        if place is None:
            shown = hunk.old[0] if hunk.old else ""
            raise ToolError(
                f"hunk {number} does not fit {name}: its {len(hunk.old)} lines from {shown!r} on are not there"
            )
        result += zip(lines[at:place], ends[at:place], strict=True)
        end = ends[min(place, len(ends) - 1)] if ends else "\n"
        for line in hunk.new:
            if isinstance(line, int):
                end = ends[place + line]
            result.append((lines[place + line] if isinstance(line, int) else line, end))
        at = place + len(hunk.old)
    result += zip(lines[at:], ends[at:], strict=True)
    if result and text and not text.endswith("\n"):
        result[-1] = result[-1][0], ""
    return "".join(line + end for line, end in result)


def _split_lines(text: str) -> tuple[list[str], list[str]]:
    """Returns the lines and their line endings. A last line without an ending gets the ending of the line above."""
    raw_lines = text.removesuffix("\n").split("\n") if text else []
    ends = ["\r\n" if line.endswith("\r") else "\n" for line in raw_lines]
    if raw_lines and not text.endswith("\n"):
        ends[-1:] = ends[-2:-1] or ["\n"]
        return [*(line.removesuffix("\r") for line in raw_lines[:-1]), raw_lines[-1]], ends
    return [line.removesuffix("\r") for line in raw_lines], ends


def _operation(header: str, body: list[str]) -> Operation:
    if header.startswith(_ADD):
        while body and not body[-1].strip():
            body.pop()  # blank lines before the next section
        if wrong := [line for line in body if not line.startswith("+")]:
            raise ToolError(f"every line of a new file begins with `+`, not so {wrong[0]!r}")
        return Add(header.removeprefix(_ADD).strip(), tuple(line[1:] for line in body))
    if header.startswith(_DELETE):
        if any(line.strip() for line in body):
            raise ToolError(f"nothing may follow `{header}`")
        return Delete(header.removeprefix(_DELETE).strip())
    path, move_to = header.removeprefix(_UPDATE).strip(), None
    if body and body[0].startswith(_MOVE):
        move_to, body = body[0].removeprefix(_MOVE).strip(), body[1:]
    hunks = _hunks(body, path)
    if not hunks and move_to is None:
        raise ToolError(f"the update of {path} has no hunk: begin one with `@@`")
    return Update(path, hunks, move_to)


def _hunks(body: list[str], path: str) -> tuple[Hunk, ...]:
    hunks: list[Hunk] = []
    headers: list[str] = []
    lines: list[str] = []
    at_end = False

    def close() -> None:
        nonlocal headers, lines, at_end
        while lines and not lines[-1]:
            lines.pop()  # blank lines between sections
        if lines:
            hunks.append(_hunk(headers, lines, at_end))
            headers, lines, at_end = [], [], False

    for line in body:
        if line.startswith("@@"):
            close()
            if header := line.removeprefix("@@").removesuffix("@@").strip():
                headers.append(header)
        elif line.strip() == _END_OF_FILE:
            at_end = True
        elif line[:1] in ("", " ", "+", "-"):
            lines.append(line)
        else:
            raise ToolError(f"a line of a hunk begins with a blank, `+` or `-`, not so {line!r} of {path}")
    close()
    if headers:
        raise ToolError(f"`@@ {headers[-1]}` of {path} is followed by no lines")
    return tuple(hunks)


def _hunk(headers: list[str], lines: list[str], at_end: bool) -> Hunk:
    old: list[str] = []
    new: list[str | int] = []
    for line in lines:
        if line.startswith("+"):
            new.append(line[1:])
            continue
        if not line.startswith("-"):
            new.append(len(old))
        old.append(line[1:])
    return Hunk(tuple(headers), tuple(old), tuple(new), at_end)


def _line_after(lines: list[str], header: str, start: int, name: str) -> int:
    """Index of the line after the first one that equals the header; whitespace around the line is ignored."""
    for at in range(start, len(lines)):
        if lines[at].strip() == header:
            return at + 1
    raise ToolError(f"the line {header!r} after @@ is not in {name}")


class _Lines:
    """The lines of a file, joined: Python finds many lines in them in time proportional to the length of the file.

    Attributes:
        lines: The lines.
    """

    def __init__(self, lines: Sequence[str]) -> None:
        self.lines = lines
        self._text = "\n".join(["", *lines, ""])
        self._starts = [*accumulate((len(line) + 1 for line in lines), initial=0)]  # of the break before each line

    @cached_property
    def stripped(self) -> _Lines:
        """The same lines without trailing whitespace."""
        return _Lines([line.rstrip() for line in self.lines])

    def find(self, wanted: Sequence[str], start: int) -> int | None:
        """Index of the first of these lines, searched from `start` on; None if they are not there."""
        offset = self._text.find("\n".join(["", *wanted, ""]), self._starts[start])
        return None if offset < 0 else bisect_left(self._starts, offset)


def _find_hunk(file: _Lines, hunk: Hunk, start: int) -> int | None:
    """Index where the old lines of a hunk begin, searched from `start` on; None if they are not found.

    A hunk that only inserts goes below its header, or to the end if it has none or `at_end` is set.
    """
    length, size = len(file.lines), len(hunk.old)
    if not size:
        return start if hunk.headers and not hunk.at_end else length
    if size > length - start:
        return None
    start = length - size if hunk.at_end else start
    exact = file.find(hunk.old, start)
    return file.stripped.find([line.rstrip() for line in hunk.old], start) if exact is None else exact
