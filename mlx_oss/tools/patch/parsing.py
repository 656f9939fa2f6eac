"""Parses the text of a patch into operations on files. Knows nothing of files and their lines."""

from __future__ import annotations

import re
from dataclasses import dataclass

from mlx_oss.errors import ToolError, quoted

_BEGIN, _END = "*** Begin Patch", "*** End Patch"
_ADD, _DELETE, _UPDATE, _MOVE = "*** Add File: ", "*** Delete File: ", "*** Update File: ", "*** Move to: "
_END_OF_FILE = "*** End of File"
_NO_NEWLINE = "\\ No newline at end of file"  # from unified diffs
_NAMES = ("diff --git ", "index ", "old mode ", "new mode ", "similarity index ")  # above a diff of git
_NUMBERS = re.compile(r"@@ *-(\d{1,9})(?:,\d{1,9})? \+\d{1,9}(?:,\d{1,9})?(?: *@@(.*))?")
# The time to apply a patch grows with the number of its hunks times the size of the file.
_MAX_PATCH = 1 << 20  # characters; `LineIndex` has a character for each line
_MAX_HUNKS = 2_000


@dataclass(frozen=True, slots=True)
class Hunk:
    """Lines to find in a file, and the lines that replace them.

    Attributes:
        headers: The lines after `@@`. They are looked up first, in this order; the hunk applies below them.
        old: The lines to find.
        new: The new lines. A number stands for that line of the lines found, counted from 0, so that context lines stay
            as they are in the file.
        at_end: Whether the old lines are said to be the last ones of the file.
        line: The line, counted from 1, at which a head like that of a unified diff (`@@ -1,3 +1,3 @@`) says that the
            old lines begin; None without such a head.
        section: The line below which they stand, according to such a head; "" if it does not say.
        unmarked: The first line that has no blank, `+` or `-` at its beginning; None if all of them do. Such lines are
            context that has lost its blank.
    """

    headers: tuple[str, ...]
    old: tuple[str, ...]
    new: tuple[str | int, ...]
    at_end: bool
    line: int | None = None
    section: str = ""
    unmarked: str | None = None

    @property
    def context(self) -> frozenset[int]:
        """Which of the old lines stay."""
        return frozenset(line for line in self.new if isinstance(line, int))

    @property
    def names_files(self) -> bool:
        """Whether it looks like the lines with names of files that a unified diff begins with."""
        return (
            len(self.old) == len(self.new) >= 1
            and self.old[-1].startswith("-- ")
            and str(self.new[-1]).startswith("++ ")
            and all(line.startswith(_NAMES) for line in self.old[:-1])
            and not self.headers
            and self.line is None
        )


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
    if len(text) > _MAX_PATCH:
        raise ToolError(f"the patch has more than {_MAX_PATCH:,} characters: split it into several")
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
    operations = [_operation(section[0], section[1:]) for section in sections]
    if sum(len(operation.hunks) for operation in operations if isinstance(operation, Update)) > _MAX_HUNKS:
        raise ToolError(f"the patch has more than {_MAX_HUNKS:,} hunks: split it into several")
    return operations


def _operation(header: str, body: list[str]) -> Operation:
    if header.startswith(_ADD):
        while body and not body[-1].strip():
            body.pop()  # blank lines before the next section
        if wrong := [line for line in body if not line.startswith("+")]:
            raise ToolError(f"every line of a new file begins with `+`, not so {quoted(wrong[0])}")
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
    numbers: re.Match[str] | None = None
    lines: list[str] = []
    at_end = False

    def close() -> None:
        nonlocal headers, numbers, lines, at_end
        while lines and not lines[-1]:
            lines.pop()  # blank lines between sections
        if lines:
            hunks.append(_hunk(headers, numbers, lines, at_end))
            headers, numbers, lines, at_end = [], None, [], False

    for line in body:
        if line.startswith("@@"):
            close()
            if found := _NUMBERS.fullmatch(line.rstrip()):
                numbers = found
            elif header := line.removeprefix("@@").removesuffix("@@").strip():
                headers.append(header)
        elif line.strip() == _END_OF_FILE:
            at_end = True
        elif line.startswith("*** "):
            raise ToolError(f"{quoted(line)} is unknown in the update of {path}: leave it out")
        elif line.rstrip() != _NO_NEWLINE:
            lines.append(line)
    close()
    if headers:
        raise ToolError(f"`@@ {headers[-1]}` of {path} is followed by no lines")
    return tuple(hunks)


def _hunk(headers: list[str], numbers: re.Match[str] | None, lines: list[str], at_end: bool) -> Hunk:
    old: list[str] = []
    new: list[str | int] = []
    unmarked = None
    for line in lines:
        if line.startswith("+"):
            new.append(line[1:])
            continue
        if not line.startswith("-"):
            new.append(len(old))
        if line.startswith(("-", " ")) or not line:
            old.append(line[1:])
        else:
            unmarked = unmarked or line
            old.append(line)
    at, section = (int(numbers[1]), (numbers[2] or "").strip()) if numbers else (None, "")
    return Hunk(tuple(headers), tuple(old), tuple(new), at_end, at, section, unmarked)
