"""Finds where the hunks of a patch fit into the lines of a file, from the top down. Knows nothing of changes."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import NamedTuple

from mlx_oss.errors import ToolError
from mlx_oss.tools.patch.line_index import LineIndex, finder, last_place, longest, numbers_of, plain
from mlx_oss.tools.patch.parsing import Hunk

BOM = "\ufeff"

_SHOWN = 160  # characters of a line that a message shows
_MOST_STEPS = 10**7  # lines of a hunk times lines of a file, where lines may have lost a blank or not


class Place(NamedTuple):
    """Where a hunk fits.

    Attributes:
        start: Index of the first of its lines; of the line that it is inserted above, if it has none to find.
        is_exact: Whether the lines are exactly those of the hunk.
    """

    start: int
    is_exact: bool


class Places:
    """Finds the hunks of one file, each below the one before.

    A hunk is looked for as it is written, then without regard to whitespace at the ends of lines, then also without
    regard to characters that look alike, the way accents are encoded, and one blank that a line of context has lost at
    its beginning. In this last pass it must fit one place only.

    Args:
        lines: The lines of the file.
        hunks: The hunks, in the order in which `find` is called with them.
        name: The name of the file, for messages.
    """

    def __init__(self, lines: Sequence[str], hunks: Sequence[Hunk], name: str) -> None:
        self._lines, self._hunks, self._name = lines, hunks, name
        self._number = 0  # of the hunk that is looked for, counted from 1
        self._end = 0  # of the hunk before
        self._passed: list[range] = []  # lines above it that no hunk has changed

    def find(self, hunk: Hunk) -> Place:
        """The place of the next hunk. Raises ToolError if it fits nowhere, or it is not clear where."""
        self._number += 1
        start, is_passed = self._end, False
        for header in hunk.headers:
            below = self._line_below(header, start)
            start, is_passed = (start, True) if below is None else (below, is_passed)
        place = self._find(hunk, start) if hunk.old else Place(self._insertion(hunk, start), False)
        if is_passed:
            if not hunk.old:
                raise self._error("only inserts lines, below a line that is above: give the hunks from the top down")
            self._refuse_if_fits_above(hunk, self._end)
        if place.start > self._end:
            self._passed.append(range(self._end, place.start))
        self._end = place.start + len(hunk.old)
        return place

    def _find(self, hunk: Hunk, start: int) -> Place:
        if hunk.unmarked is None:
            for index in (self._exact, self._trimmed):
                at = self._as_written(index, hunk, start)
                if at is None:
                    continue
                if index is not self._exact and not (hunk.headers or hunk.at_end):
                    self._refuse_if_better_above(hunk, at)
                return Place(at, index is self._exact)
        places = self._loosely(hunk, [range(start, len(self._lines))])
        if not places:
            raise self._misfit(hunk, start)
        if len(places) > 1:
            where = " and ".join(str(at + 1) for at in places[:2])
            raise self._error(f"fits only roughly, and both at lines {where}: copy more of the lines around, exactly")
        self._refuse_if_better_above(hunk, places[0])
        return Place(places[0], False)

    def _as_written(self, index: LineIndex, hunk: Hunk, start: int) -> int | None:
        """The first place from `start` on, or the one that the hunk says; None if there is none."""
        wanted, text = index.encode(hunk.old), index.text
        if hunk.at_end:
            last = len(text) - len(wanted)
            return last if last >= start and text.startswith(wanted, last) else None
        if hunk.line is None:
            return _found(text.find(wanted, start))
        below = self._first_line(hunk.section, start)
        if below is not None and (at := text.find(wanted, below + 1)) >= 0:
            return at
        said = max(hunk.line - 1, start)
        after, before = text.find(wanted, said), last_place(text, wanted, start, said)
        places = [at for at in (before, after) if at >= 0]
        return min(places, key=lambda at: abs(at - said), default=None)

    def _loosely(self, hunk: Hunk, parts: Iterable[range]) -> list[int]:
        """The places within some parts of the file where a hunk fits in the last pass; of many, only the first two.

        Raises ToolError if it takes too long to find out.
        """
        text, spelled = self._loose.text, self._spelled(hunk)
        if len(spelled) > len(text):
            return []
        if max(map(len, spelled)) > 1 and len(spelled) * len(text) > _MOST_STEPS:
            raise self._error("may have lost blanks at the beginning of lines: copy them exactly, or fewer of them")
        find = finder(text, spelled)
        places: list[int] = []
        for lines in parts:
            at = lines.start - 1
            while len(places) < 2 and (at := find(at + 1, lines.stop)) >= 0:
                places.append(at)
        return places

    def _spelled(self, hunk: Hunk) -> list[str]:
        """For each of the old lines, its characters in the index of the last pass.

        A context line has two if the file has lines both with and without one more blank at their beginning.
        """
        index, context = self._loose, hunk.context
        spelled = []
        for number, line in enumerate(hunk.old):
            spellings = index.encode([line, f" {line}"] if number in context else [line])
            known = "".join(dict.fromkeys(spelling for spelling in spellings if spelling in index.characters))
            spelled.append(known or spellings[0])
        return spelled

    def _refuse_if_fits_above(self, hunk: Hunk, start: int) -> None:
        """Raises ToolError if a hunk fits above a line, where no hunk has changed anything."""
        if hunk.old and (above := self._loosely(hunk, [*self._passed, range(self._end, start)])):
            raise self._error(f"fits line {above[0] + 1}, which is above: give the hunks from the top down")

    def _refuse_if_better_above(self, hunk: Hunk, at: int) -> None:
        """Raises ToolError if a hunk that fits only loosely fits better above, where no hunk has changed anything."""
        indexes = [self._trimmed] if hunk.unmarked is not None else [self._exact, self._trimmed]
        for index in indexes:
            wanted = index.encode(hunk.old)
            if index.text.startswith(wanted, at):
                return
            if wanted not in index.text:
                continue
            above = (
                index.text.find(wanted, lines.start, lines.stop) for lines in (*self._passed, range(self._end, at))
            )
            better = next((found for found in above if found >= 0), None)
            if better is not None:
                raise self._error(
                    f"fits line {at + 1} only roughly, but line {better + 1} exactly, which is above: copy the lines "
                    "exactly, and give the hunks from the top down"
                )

    def _insertion(self, hunk: Hunk, start: int) -> int:
        """Below the header of a hunk that only inserts, or at the end if it has none or says so."""
        end = len(self._lines)
        if hunk.line not in (None, end) and not hunk.headers and not hunk.at_end:
            raise self._error("only inserts lines: give it a line of the file above or below them, as context")
        return start if hunk.headers and not hunk.at_end else end

    def _line_below(self, header: str, start: int) -> int | None:
        """Index of the line after the first one that equals the header; whitespace around the line is ignored.

        None if the hunks so far have passed that line.
        """
        if (at := self._first_line(header, start)) is not None:
            return at + 1
        if self._stripped[header]:
            return None
        alike = self._alike[plain(header)]
        if len(alike) == 1:
            return alike[0] + 1 if alike[0] >= start else None
        message = f"the line {_shown(header)} after @@ is not in {self._name}"
        if alike:
            message += f"; lines {alike[0] + 1} and {alike[1] + 1} are like it: copy one of them exactly"
        raise ToolError(message)

    def _first_line(self, text: str, start: int) -> int | None:
        """The first line from `start` on that equals the text; whitespace around it is ignored."""
        numbers = self._stripped.get(text, [])
        position = bisect_left(numbers, start)
        return numbers[position] if position < len(numbers) else None

    def _misfit(self, hunk: Hunk, start: int) -> ToolError:
        """Says which is the first line that differs where the hunk fits best. Raises it if the hunk fits above."""
        self._refuse_if_fits_above(hunk, start)
        message = f"does not fit {self._name}: {self._first_difference(hunk, start)}"
        new = [hunk.old[line] if isinstance(line, int) else line for line in hunk.new]
        at = self._loose.text.find(self._loose.encode(new), start)
        if at >= 0 and any(line.strip() for line in new) and new != list(hunk.old):
            message += f"; its new lines are there already, from line {at + 1} on"
        if hunk.unmarked is not None:
            message += f"; a line of a hunk begins with a blank, `+` or `-`, not so {_shown(hunk.unmarked)}"
        return ToolError(f"hunk {self._number} {message}")

    def _first_difference(self, hunk: Hunk, start: int) -> str:
        wanted = "".join(characters[0] for characters in self._spelled(hunk))
        below = f" below line {start}" if start else ""
        at = self._best(wanted, start)
        if at is None:
            return f"its line {_shown(hunk.old[0])} is not there{below}"
        if at < start:
            return f"its line {_shown(hunk.old[0])} should be above line {start + 1}"
        text = self._loose.text
        differing = next(n for n, number in enumerate(wanted) if text[at + n : at + n + 1] != number)
        line = at + differing
        if line == len(self._lines):
            return f"its line {_shown(hunk.old[differing])} should follow line {line}, but there the file ends"
        theirs, ours = self._lines[line], hunk.old[differing]
        first = next((n for n, (a, b) in enumerate(zip(theirs, ours, strict=False)) if a != b), 0)
        return f"line {line + 1} should be {_shown(ours, first)}, but is {_shown(theirs, first)}"

    def _best(self, wanted: str, start: int) -> int | None:
        """Where the hunk would begin if as many of its first, or of its last lines fit as possible; None if none do."""
        text = self._loose.text[start:]
        first = longest(lambda size: wanted[:size] in text, len(wanted))
        last = longest(lambda size: wanted[-size:] in text, len(wanted))
        if first >= last > 0 or (first and not last):
            return start + text.find(wanted[:first])
        if last:
            return start + text.find(wanted[-last:]) - len(wanted) + last
        known = set(text)
        inner = (n for n, number in enumerate(wanted) if number in known)
        return next((start + text.find(wanted[n]) - n for n in inner), None)

    def _error(self, reason: str) -> ToolError:
        return ToolError(f"hunk {self._number} of {self._name} {reason}")

    @cached_property
    def _exact(self) -> LineIndex:
        return LineIndex(self._lines, self._wanted, str)

    @cached_property
    def _trimmed(self) -> LineIndex:
        return LineIndex(self._lines, self._wanted, str.rstrip)

    @cached_property
    def _loose(self) -> LineIndex:
        return LineIndex(self._lines, self._wanted, plain)

    @cached_property
    def _wanted(self) -> list[str]:
        """All lines that may be looked for."""
        lines = {line: None for hunk in self._hunks for line in (*hunk.old, *hunk.new) if isinstance(line, str)}
        context = {f" {hunk.old[number]}": None for hunk in self._hunks for number in hunk.context}
        return [*lines, *context]

    @cached_property
    def _stripped(self) -> dict[str, list[int]]:
        """The numbers of the lines that headers name."""
        return numbers_of(self._headers, self._lines, str.strip)

    @cached_property
    def _alike(self) -> dict[str, list[int]]:
        """The same by `plain`."""
        return numbers_of(map(plain, self._headers), self._lines, lambda line: plain(line).strip())

    @property
    def _headers(self) -> list[str]:
        return [header for hunk in self._hunks for header in (*hunk.headers, hunk.section) if header]


def _found(at: int) -> int | None:
    return at if at >= 0 else None


def _shown(line: str, at: int = 0) -> str:
    """A line for a message; of a long one the part around a character."""
    if len(line) <= _SHOWN:
        return repr(line)
    start = max(0, min(at - _SHOWN // 2, len(line) - _SHOWN))
    before, after = "..." if start else "", "..." if start + _SHOWN < len(line) else ""
    return f"{before}{line[start : start + _SHOWN]!r}{after}"
