"""Pages as the model sees them: lines with numbers, links with ids, a window of some tokens.

Widths, markers and words are those of the reference, openai/gpt-oss `gpt_oss/tools/simple_browser`, which the model was
trained with. Knows nothing of where pages come from.
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
_MOST_FOUND, _LINES_FOUND = 50, 4
_LINK = re.compile(r"【\d+†([^†】]+)(?:†[^†】]+)?】")
_LINK_BEGUN = re.compile(r"【\d*(?:†([^†】]*)(?:†[^†】]*)?)?$")
_LINK_ENDED = re.compile(r"^[^【】]*】")


@dataclass(frozen=True, slots=True)
class Link:
    """Where a link leads, and to which line there; None: to the top."""

    target: str
    line: int | None = None


@dataclass(frozen=True)
class Page:
    """What is at a place.

    source   a URL, or a path in a folder; "" for results
    text     with links as `link` writes them; links: by the id in the text
    results  whether it is made by searching, so that nothing can be found in it
    """

    source: str
    title: str
    text: str
    links: Mapping[int, Link] = field(default_factory=dict)
    results: bool = False

    @cached_property
    def lines(self) -> list[str]:
        """Wrapped, as citations count them."""
        wrapped = (
            textwrap.wrap(line, _WIDTH, replace_whitespace=False, drop_whitespace=False) if line else [""]
            for line in self.text.split("\n")
        )
        return [line for lines in wrapped for line in lines]

    @property
    def body(self) -> str:
        """The text below the line with its address."""
        return self.text.removeprefix(f"\nURL: {self.source}\n")

    def view(self, cursor: int, first: int, count: int, tokens: int) -> str:
        """The lines from `first` on: `count` of them, or, if that is not positive, about as many as the tokens hold."""
        if first >= len(self.lines):
            last = len(self.lines) - 1
            raise ToolError(f"Invalid location parameter: `{first}`. Cannot exceed page maximum of {last}.")
        end = min(first + (count if count > 0 else self._fitting(first, tokens)), len(self.lines))
        where = f" ({_short(unquote(self.source))})" if self.source else ""
        bar = f"**viewing lines [{first} - {end - 1}] of {len(self.lines) - 1}**"
        return f"[{cursor}] {self.title}{where}\n{bar}\n\n" + self._numbered(first, end)

    def found(self, pattern: str) -> Page:
        """A page with the places where the pattern stands, whatever its case."""
        lines = _without_links("\n".join(self.lines)).split("\n")
        places: list[int] = []
        for at, line in enumerate(lines):
            if pattern.lower() in line.lower() and (not places or at >= places[-1] + _LINES_FOUND):
                places.append(at)
        places = places[:_MOST_FOUND]
        shown = [
            f"# 【{number}†match at L{at}】\n" + "\n".join(lines[at : at + _LINES_FOUND])
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
    """A link as it stands in a page's text; where it leads is told if that is another site."""
    text = " ".join(plain(text).split()).replace("†", "‡")
    site = site_of(target)
    return f"【{number}†{text}】" if site == site_of(source) else f"【{number}†{text}†{plain(site)}】"


def plain(text: str) -> str:
    """Text of a page that cannot be taken for a link or a citation."""
    return text.replace("【", "〖").replace("】", "〗").replace("\u200b", "")


def results_page(query: str, found: list[tuple[str, str, str]], lines: Mapping[int, int | None] | None = None) -> Page:
    """The page of a search: title, target and summary of each result; `lines` where to begin reading them."""
    entries = [
        f"  * {link(number, title, target, '')} {' '.join(plain(_without_links(summary)).split())}"
        for number, (title, target, summary) in enumerate(found)
    ]
    text = "\nURL: \n# Search Results\n\n" + ("\n".join(entries) or "No results.")
    links = {number: Link(target, (lines or {}).get(number)) for number, (_, target, _) in enumerate(found)}
    return Page("", query, text, links, results=True)


def site_of(target: str) -> str:
    """The host of a URL; of a path in a folder the path itself."""
    return urlsplit(target).netloc or target


def _without_links(text: str) -> str:
    text = _LINK_ENDED.sub("", text)
    text = _LINK_BEGUN.sub(lambda match: match[1] or "", text)
    return _LINK.sub(_text_alone, text)


def _text_alone(link: re.Match[str]) -> str:
    """Of a link, with as many line ends: its site may have been wrapped, and lines are counted."""
    return link[1] + "\n" * (link[0].count("\n") - link[1].count("\n"))


def _short(text: str) -> str:
    return text if len(text) <= 1024 else text[:1021] + "..."
