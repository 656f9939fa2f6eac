"""Turns Markdown and plain text into pages. Markdown keeps its form, apart from links.

All of this takes time in proportion to the length of the text. Functions that may take long call `check` now and then;
what it raises ends the work.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from urllib.parse import urljoin, urlsplit

from mlx_oss.tools.browser.pages import Link, Page, link, plain

# Two searches that start at different places never read the same text, so none of these is quadratic in its length.
_LINK = re.compile(
    r"(?<!!)\[([^\[\]\n]++)\]\(<?+([^()\s<>]++(?:\([^()\s<>]*+\)[^()\s<>]*+)*+)>?+(?:[ \t]++\"[^\"\n]*+\")?+\)"
)
_ESCAPES = re.compile(r"((?:\\u[0-9a-fA-F]{4})++)|\\.")
_HEADING = re.compile(r"^#[ \t]++(\S[^\n]*+)", re.MULTILINE)
_PIECE = 1 << 16  # characters
_MAX_LINKS = 10_000  # of a page; the others stay text
_MAX_TITLE = 200  # characters

Resolve = Callable[[str], "str | None"]  # from the address in a link to its target; None if it leads nowhere
Check = Callable[[], None]


def nothing() -> None:
    """A check that never ends the work."""


def markdown_page(source: str, text: str, resolve: Resolve, check: Check = nothing) -> Page:
    """Makes a page from Markdown; its title is the first heading of level 1, or else the source."""
    links = Links(source, resolve, check)
    title, parts = "", []
    for piece in pieces(text, check):
        if not title and (heading := _HEADING.search(piece)):
            title = heading[1][:_MAX_TITLE].rstrip().rstrip("#").rstrip()
        parts.append(_LINK.sub(lambda match: links.marked(match[1], match[2]) or match[0], plain(piece)))
    return make_page(source, title, "".join(parts), links)


def text_page(source: str, text: str, check: Check = nothing) -> Page:
    """Makes a page without links from plain text; its title is the source."""
    return make_page(source, source, "".join(map(plain, pieces(text, check))), Links(source, lambda _: None))


def json_page(source: str, text: str, check: Check = nothing) -> Page:
    """Makes a page from JSON, with letters in place of escapes such as \\u00e9: nobody would find a word with those."""
    shown = (_ESCAPES.sub(_unescaped, piece) for piece in pieces(text, check))
    return text_page(source, "".join(shown), check)


def _unescaped(found: re.Match[str]) -> str:
    """Escapes as the characters that they stand for, except those of ASCII, of control characters and of halves."""
    if not found[1]:
        return found[0]
    units = bytes.fromhex(found[0].replace("\\u", "")).decode("utf-16-be", "surrogatepass")
    return "".join(unit if unit.isprintable() and not unit.isascii() else f"\\u{ord(unit):04x}" for unit in units)


def web_resolver(source: str) -> Resolve:
    """Returns a resolver for the links of the web page at `source`."""

    def resolve(address: str) -> str | None:
        target = urljoin(source, address)
        return target if not address.startswith("#") and urlsplit(target).scheme in ("http", "https") else None

    return resolve


class Links:
    """Collects the links of a page; each target gets one number."""

    def __init__(self, source: str, resolve: Resolve, check: Check = nothing) -> None:
        self._source, self._resolve, self._check = source, resolve, check
        self._tried = 0
        self.ids = dict[str, int]()

    def marked(self, text: str, address: str) -> str | None:
        """Returns the link as it is written in the page; None if it leads nowhere, has no text, or is one too many."""
        self._check()
        self._tried += 1
        try:
            target = self._resolve(address) if address and text.strip() and self._tried <= _MAX_LINKS else None
        except ValueError:  # not a valid address
            return None
        return target and link(self.ids.setdefault(target, len(self.ids)), text, target, self._source)


def make_page(source: str, title: str, body: str, links: Links) -> Page:
    """Makes a page with the address at its top. Without a title, the source is the title."""
    targets = {number: Link(to) for to, number in links.ids.items()}
    return Page(source, plain(title) or source, f"\nURL: {source}\n{body}", targets)


def pieces(text: str, check: Check = nothing, size: int = _PIECE) -> Iterator[str]:
    """Cuts a text into pieces of at most `size` characters, at the ends of lines where there are some."""
    start = 0
    while start < len(text):
        check()
        end = start + size
        if end < len(text):
            end = text.rfind("\n", start, end) + 1 or end
        yield text[start:end]
        start = end
