"""Pages as the model sees them: numbered lines, numbered links, and a view limited to a number of tokens.

The line width, markers and wording are those of the reference with which the model was trained: openai/gpt-oss
`gpt_oss/tools/simple_browser`. Knows nothing of where pages come from.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from urllib.parse import quote, unquote, urlsplit

from mlx_oss.errors import ToolError
from mlx_oss.tokenizer import LONGEST_TOKEN, load_tokenizer

_WIDTH = 80
_MAX_MATCHES, _LINES_PER_MATCH = 50, 4
_LONGEST = 1 << 16  # characters of a line
_AT_ONCE = 1000  # lines
_MAX_LINK = 1000  # lines that a link may have
_MAX_SHOWN = 1024  # characters of a title or an address

# Where a line may be broken, as `textwrap` does it: at whitespace, after a hyphen in a word, and around dashes.
_BREAK = (
    r"(?:(?<=[\t\n\x0b\x0c\r ])(?=[^\t\n\x0b\x0c\r ])|(?<=[^\t\n\x0b\x0c\r ])(?=[\t\n\x0b\x0c\r ])"
    r"|(?:(?<=[^\d\W]{2}-)|(?<=[^\d\W]-[^\d\W]-))(?=[^\d\W]-?[^\d\W])"
    r"|(?<=[\w!\"'&.,?])(?=-{2,}+\w)|(?:(?<=[\w!\"'&.,?]--)|(?<=[\w!\"'&.,?]---))(?=\w)|\Z)"
)
_FITTING = re.compile(rf"(?s:.){{1,{_WIDTH}}}{_BREAK}")
_UNBROKEN = re.compile(rf"[^\s-]{{{_WIDTH + 1}}}|[\t\n\x0b\x0c\r ]{{{_WIDTH + 1}}}|-{{{_WIDTH + 1}}}")
_NEXT_BREAK = re.compile(rf"(?s:.){{1,{_WIDTH}}}?{_BREAK}")
_LINK = re.compile(r"【\d+†([^†】]+)(?:†[^†】]+)?】")
_LINK_CUT_AT_END = re.compile(r"【\d*(?:†([^†】]*)(?:†[^†】]*)?)?$")
_LINK_CUT_AT_START = re.compile(r"^[^【】]*】")


@dataclass(frozen=True, slots=True)
class Link:
    """Where a link leads.

    Attributes:
        target: The source of a page: a URL, or a path in a folder.
        line: The line of that page to show; None means the top.
        offset: Where the line to show is in the page's text, in characters; None means that `line` says it.
    """

    target: str
    line: int | None = None
    offset: int | None = None


@dataclass(frozen=True)
class Page:
    """A page that can be shown to the model.

    Attributes:
        source: A URL, or a path in a folder; "" for search results.
        title: The title, shown above the text.
        text: The text, with links as `link` writes them.
        links: The links, by their number in the text.
        results: Whether it is a page of search results or matches, on which the model cannot use `find`.
    """

    source: str
    title: str
    text: str
    links: Mapping[int, Link] = field(default_factory=dict)
    results: bool = False

    @cached_property
    def lines(self) -> list[str]:
        """The lines of the text, wrapped. Line numbers in citations count these."""
        return list(_wrapped(self.text))

    def wrap(self, check: Callable[[], None]) -> None:
        """Wraps the lines now. `check` is called now and then; what it raises ends the work."""
        if "lines" not in self.__dict__:
            self.__dict__["lines"] = list(_checked(_wrapped(self.text), check))

    def line_at(self, offset: int, check: Callable[[], None] = lambda: None) -> int:
        """Returns the number of the line that holds the character at `offset` of the text.

        `check` is called now and then; what it raises ends the work.
        """
        before = sum(1 for _ in _checked(_wrapped(self.text[: offset + 1]), check))
        return max(0, min(before, len(self.lines)) - 1)

    @property
    def body(self) -> str:
        """The text without the line at its top that holds the address."""
        return self.text.removeprefix(f"\nURL: {self.source}\n")

    def end(self, first: int, count: int, tokens: int) -> int:
        """Returns the line after the last one of a view.

        Args:
            first: The first line to show, counted from 0.
            count: How many lines to show. If 0 or less, about as many as fit in `tokens`.
            tokens: Number of tokens that the view has room for.

        Raises:
            ToolError: If the page has no line `first`.
        """
        if first >= len(self.lines):
            last = len(self.lines) - 1
            raise ToolError(f"Invalid location parameter: `{first}`. Cannot exceed page maximum of {last}.")
        return min(first + (count if count > 0 else self._fitting(first, tokens)), len(self.lines))

    def view(self, cursor: int, first: int, end: int) -> str:
        """Returns a part of the page, as the model reads it.

        Args:
            cursor: The number of the page, shown above it.
            first: The first line to show, counted from 0.
            end: The line after the last one to show.
        """
        where = f" ({_short(_in_one_line(unquote(self.source)))})" if self.source else ""
        bar = f"**viewing lines [{first} - {end - 1}] of {len(self.lines) - 1}**"
        return f"[{cursor}] {_short(self.title)}{where}\n{bar}\n\n" + self._numbered(first, end)

    def found(self, pattern: str, check: Callable[[], None] = lambda: None) -> Page:
        """Returns a page with the places where the pattern occurs, ignoring case: at most 50.

        `check` is called now and then; what it raises ends the search.
        """
        wanted, places = pattern.lower(), list[int]()
        lines = list[str]()
        for at, line in enumerate(_checked(_lines_without_links(self.lines), check)):
            lines.append(line)
            if len(places) == _MAX_MATCHES:
                if at >= places[-1] + _LINES_PER_MATCH:
                    break
            elif wanted in line.lower() and (not places or at >= places[-1] + _LINES_PER_MATCH):
                places.append(at)
        shown = [
            f"# 【{number}†match at L{at}】\n" + "\n".join(lines[at : at + _LINES_PER_MATCH])
            for number, at in enumerate(places)
        ]
        pattern = _short(pattern)
        return Page(
            f"{self.source}/find?pattern={quote(pattern)}",
            f"Find results for text: `{pattern}` in `{self.title}`",
            "\n\n".join(shown) or f"No `find` results for pattern: `{pattern}`",
            {number: Link(self.source, at) for number, at in enumerate(places)},
            results=True,
        )

    def _fitting(self, first: int, tokens: int) -> int:
        most = (tokens + 1) * LONGEST_TOKEN  # characters
        text = ""
        for number in range(first, len(self.lines)):
            text += f"L{number}: {self.lines[number]}\n"
            if len(text) > most:
                break
        text = text.removesuffix("\n")
        if len(text) <= tokens:  # a token has at least one character
            return len(self.lines)
        tokenizer = load_tokenizer()
        ids = tokenizer.encode(text[:most])
        return tokenizer.decode(ids[:tokens]).count("\n") + 1 if len(ids) > tokens else len(self.lines)

    def _numbered(self, first: int, end: int) -> str:
        return "\n".join(f"L{number}: {self.lines[number]}" for number in range(first, end))


def _wrapped(text: str) -> Iterator[str]:
    """The lines of a text, those of more than 80 characters wrapped as `textwrap` does it, but in linear time.

    Whitespace is kept, except that tabs become blanks.
    """
    for line in _split(text):
        if len(line) <= _WIDTH and "\t" not in line:
            yield line
            continue
        line, start = line.expandtabs(), 0
        while len(line) - start > _WIDTH:
            fitting = None if _UNBROKEN.match(line, start) else _FITTING.match(line, start)
            end = fitting.end() if fitting else start
            if end < start + _WIDTH and (
                fitting is None or not _NEXT_BREAK.match(line, end)
            ):  # a word longer than a line fills the line
                hyphen = line.rfind("-", end, start + _WIDTH)
                is_word = hyphen > end and line[end:hyphen].strip("-")
                end = hyphen + 1 if is_word else start + _WIDTH
            yield line[start:end]
            start = end
        yield line[start:]


def _split(text: str) -> Iterator[str]:
    """The lines of a text, one after another. Of a line with more than 64 K characters, each 64 K are a line."""
    start = 0
    while (end := text.find("\n", start, start + _LONGEST)) >= 0 or len(text) - start > _LONGEST:
        yield text[start : end if end >= 0 else start + _LONGEST]
        start = end + 1 if end >= 0 else start + _LONGEST
    yield text[start:]


def _checked(lines: Iterator[str], check: Callable[[], None]) -> Iterator[str]:
    """The same lines. `check` is called now and then."""
    for number, line in enumerate(lines):
        if number % 1000 == 0:
            check()
        yield line


def _lines_without_links(lines: list[str]) -> Iterator[str]:
    """The lines with links replaced by their text, some at a time. A link may go on in the next lines."""
    start = 0
    while start < len(lines):
        end = start + _AT_ONCE
        while end < min(len(lines), start + _AT_ONCE + _MAX_LINK) and _is_within_link(lines[start:end]):
            end += 1
        yield from _without_links("\n".join(lines[start:end])).split("\n")
        start = end


def _is_within_link(lines: list[str]) -> bool:
    """Whether a link begins in the lines that does not end in them."""
    last = next((line for line in reversed(lines) if "【" in line or "】" in line), "")
    return last.rfind("【") > last.rfind("】")


def link(number: int, text: str, target: str, source: str) -> str:
    """Returns a link as it is written in the text of the page `source`.

    It names the site of the target if that is not the site of the page.
    """
    text = " ".join(plain(text).split()).replace("†", "‡")
    site = site_of(target)
    shown = _in_one_line(site).replace("†", "‡")
    return f"【{number}†{text}】" if site == site_of(source) else f"【{number}†{text}†{shown}】"


def plain(text: str) -> str:
    """Replaces the characters that mark links and citations, so that a page's text cannot forge them."""
    return text.replace("【", "〖").replace("】", "〗").replace("\u200b", "")


def results_page(
    query: str, found: list[tuple[str, str, str]], places: Mapping[int, int] | None = None, note: str = ""
) -> Page:
    """Makes a page of search results.

    Args:
        query: What was searched for; the title of the page.
        found: Title, target and summary of each result.
        places: Where in the text of a result the line is that is shown when it is opened, by the index of the result.
        note: A sentence below the results.

    Returns:
        The page, with one link for each result.
    """
    entries = [
        f"  * {link(number, title, target, '')} {' '.join(plain(_without_links(summary)).split())}"
        for number, (title, target, summary) in enumerate(found)
    ]
    text = "\nURL: \n# Search Results\n\n" + ("\n".join(entries) or "No results.") + (note and f"\n\n{note}")
    links = {number: Link(target, offset=(places or {}).get(number)) for number, (_, target, _) in enumerate(found)}
    return Page("", query, text, links, results=True)


def site_of(target: str) -> str:
    """Returns the host of a URL. For a path in a folder, returns the path itself."""
    return urlsplit(target).netloc or target


def _without_links(text: str) -> str:
    """Replaces links by their text, also those that are cut off at the start or end of `text`."""
    text = _LINK_CUT_AT_START.sub("", text)
    text = _LINK_CUT_AT_END.sub(lambda match: match[1] or "", text)
    return _LINK.sub(_link_text, text)


def _link_text(link: re.Match[str]) -> str:
    """The text of a link, with as many line breaks as the link: it may be wrapped, and line numbers must not change."""
    return link[1] + "\n" * (link[0].count("\n") - link[1].count("\n"))


def _in_one_line(address: str) -> str:
    """An address without what marks links, and without line breaks, which the name of a file may have."""
    return " ".join(plain(address).splitlines())


def _short(text: str) -> str:
    return text if len(text) <= _MAX_SHOWN else text[: _MAX_SHOWN - 3] + "..."
