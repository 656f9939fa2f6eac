"""Pages as the model sees them: numbered lines, numbered links, and a view limited to a number of tokens.

The line width, markers and wording are those of the reference with which the model was trained: openai/gpt-oss
`gpt_oss/tools/simple_browser`. Knows nothing of where pages come from.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from urllib.parse import quote, unquote, urlsplit

from mlx_oss.errors import ToolError
from mlx_oss.tokenizer import LONGEST_TOKEN, load_tokenizer

_WIDTH = 80
_MAX_MATCHES, _LINES_PER_MATCH = 50, 4
_LINK = re.compile(r"【\d+†([^†】]+)(?:†[^†】]+)?】")
_LINK_CUT_AT_END = re.compile(r"【\d*(?:†([^†】]*)(?:†[^†】]*)?)?$")
_LINK_CUT_AT_START = re.compile(r"^[^【】]*】")


@dataclass(frozen=True, slots=True)
class Link:
    """Where a link leads.

    Attributes:
        target: The source of a page: a URL, or a path in a folder.
        line: The line of that page to show; None means the top.
    """

    target: str
    line: int | None = None


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
        wrapped = (
            textwrap.wrap(line, _WIDTH, replace_whitespace=False, drop_whitespace=False) if line else [""]
            for line in self.text.split("\n")
        )
        return [line for lines in wrapped for line in lines]

    @property
    def body(self) -> str:
        """The text without the line at its top that holds the address."""
        return self.text.removeprefix(f"\nURL: {self.source}\n")

    def view(self, cursor: int, first: int, count: int, tokens: int) -> str:
        """Returns a part of the page, as the model reads it.

        Args:
            cursor: The number of the page, shown above it.
            first: The first line to show, counted from 0.
            count: How many lines to show. If 0 or less, about as many as fit in `tokens`.
            tokens: Number of tokens that the view has room for.

        Raises:
            ToolError: If the page has no line `first`.
        """
        if first >= len(self.lines):
            last = len(self.lines) - 1
            raise ToolError(f"Invalid location parameter: `{first}`. Cannot exceed page maximum of {last}.")
        end = min(first + (count if count > 0 else self._fitting(first, tokens)), len(self.lines))
        where = f" ({_short(unquote(self.source))})" if self.source else ""
        bar = f"**viewing lines [{first} - {end - 1}] of {len(self.lines) - 1}**"
        return f"[{cursor}] {self.title}{where}\n{bar}\n\n" + self._numbered(first, end)

    def found(self, pattern: str) -> Page:
        """Returns a page with the places where the pattern occurs, ignoring case: at most 50."""
        lines = _without_links("\n".join(self.lines)).split("\n")
        places: list[int] = []
        for at, line in enumerate(lines):
            if pattern.lower() in line.lower() and (not places or at >= places[-1] + _LINES_PER_MATCH):
                places.append(at)
        places = places[:_MAX_MATCHES]
        shown = [
            f"# 【{number}†match at L{at}】\n" + "\n".join(lines[at : at + _LINES_PER_MATCH])
            for number, at in enumerate(places)
        ]
        return Page(
            f"{self.source}/find?pattern={quote(pattern)}",
            f"Find results for text: `{pattern}` in `{self.title}`",
            "\n\n".join(shown) or f"No `find` results for pattern: `{pattern}`",
            {number: Link(self.source, at) for number, at in enumerate(places)},
            results=True,
        )

    def _fitting(self, first: int, tokens: int) -> int:
        text = self._numbered(first, len(self.lines))
        if len(text) <= tokens:  # a token has at least one character
            return len(self.lines)
        tokenizer = load_tokenizer()
        ids = tokenizer.encode(text[: (tokens + 1) * LONGEST_TOKEN])
        return tokenizer.decode(ids[:tokens]).count("\n") + 1 if len(ids) > tokens else len(self.lines)

    def _numbered(self, first: int, end: int) -> str:
        return "\n".join(f"L{number}: {self.lines[number]}" for number in range(first, end))


def link(number: int, text: str, target: str, source: str) -> str:
    """Returns a link as it is written in the text of the page `source`.

    It names the site of the target if that is not the site of the page.
    """
    text = " ".join(plain(text).split()).replace("†", "‡")
    site = site_of(target)
    return f"【{number}†{text}】" if site == site_of(source) else f"【{number}†{text}†{plain(site)}】"


def plain(text: str) -> str:
    """Replaces the characters that mark links and citations, so that a page's text cannot forge them."""
    return text.replace("【", "〖").replace("】", "〗").replace("\u200b", "")


def results_page(query: str, found: list[tuple[str, str, str]], lines: Mapping[int, int | None] | None = None) -> Page:
    """Makes a page of search results.

    Args:
        query: What was searched for; the title of the page.
        found: Title, target and summary of each result.
        lines: The line to show when a result is opened, by the index of the result.

    Returns:
        The page, with one link for each result.
    """
    entries = [
        f"  * {link(number, title, target, '')} {' '.join(plain(_without_links(summary)).split())}"
        for number, (title, target, summary) in enumerate(found)
    ]
    text = "\nURL: \n# Search Results\n\n" + ("\n".join(entries) or "No results.")
    links = {number: Link(target, (lines or {}).get(number)) for number, (_, target, _) in enumerate(found)}
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


def _short(text: str) -> str:
    return text if len(text) <= 1024 else text[:1021] + "..."
