"""What has been read of which pages: the lines that the model has seen, and nothing else of a page.

A page has one number for the whole research, whatever its cursors were in the sessions that read it. Knows nothing of
models and files.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

CITATION = re.compile(r"【(\d{1,9})†L(\d{1,9})(?:\s*[-\u2013]\s*L?(\d{1,9}))?】")


@dataclass(frozen=True, slots=True)
class Reading:
    """A part of a page that the model has read.

    Attributes:
        source: The address of the page, or its path; "" for search results.
        title: Its title.
        first: The first line, counted from 0.
        lines: The lines.
        total: How many lines the page has.
        is_list: Whether it is a list of search results or matches, and no page.
    """

    source: str
    title: str
    first: int
    lines: tuple[str, ...]
    total: int
    is_list: bool = False


@dataclass(slots=True)
class ReadPage:
    """A page, as far as it was read.

    Attributes:
        number: Its number in citations.
        source: Its address or path.
        title: Its title.
        total: How many lines it has.
        is_list: Whether it is a list of search results or matches.
        lines: The lines that were read, by their number.
    """

    number: int
    source: str
    title: str
    total: int
    is_list: bool = False
    lines: dict[int, str] = field(default_factory=dict)

    def text(self, first: int, last: int) -> str:
        """The lines from `first` to `last` that were read, with their line breaks."""
        return "\n".join(self.lines[at] for at in range(first, last + 1) if at in self.lines)

    @property
    def whole(self) -> str:
        """Everything that was read of it, with its title and address."""
        return "\n".join([self.title, self.source, *(self.lines[at] for at in sorted(self.lines))])


class Pages:
    """The pages that were read, numbered from 1."""

    def __init__(self) -> None:
        self._pages: list[ReadPage] = []

    def __len__(self) -> int:
        return len(self._pages)

    def get(self, number: int) -> ReadPage | None:
        """The page with a number; None if there is none."""
        return self._pages[number - 1] if 1 <= number <= len(self._pages) else None

    def add(self, reading: Reading) -> int:
        """Adds what was read; returns the number of the page.

        A page that has changed since it was last read is another page.
        """
        lines = dict(enumerate(reading.lines, reading.first))
        page = None if reading.is_list else self._same(reading, lines)
        if page is None:
            about = (reading.source, reading.title, reading.total, reading.is_list)
            page = ReadPage(len(self._pages) + 1, *about)
            self._pages.append(page)
        page.lines |= lines
        return page.number

    def _same(self, reading: Reading, lines: Mapping[int, str]) -> ReadPage | None:
        for page in reversed(self._pages):
            if (page.source, page.total, page.is_list) == (reading.source, reading.total, False):
                return page if all(page.lines.get(at, line) == line for at, line in lines.items()) else None
        return None


def renumbered(text: str, numbers: Mapping[int, int]) -> str:
    """A text with the numbers of pages in place of cursors. What cites a cursor that there was not is left out."""

    def citation(match: re.Match[str]) -> str:
        number = numbers.get(int(match[1]))
        lines = f"L{int(match[2])}" + (f"-L{int(match[3])}" if match[3] else "")
        return "" if number is None else f"【{number}†{lines}】"

    return CITATION.sub(citation, text)
