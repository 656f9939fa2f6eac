"""Turns documents into pages. HTML is converted with `markdownify`; Markdown keeps its form, apart from links."""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Callable
from urllib.parse import urljoin, urlsplit

from mlx_oss.errors import OptionError, ToolError
from mlx_oss.tools.browser.pages import Link, Page, link, plain

HTML_MISSING = "HTML needs an extra: install mlx-oss with it, as in pip install 'mlx-oss[browser]'"

_MARKDOWN_LINK = re.compile(r"(?<!!)\[([^\]\n]+)\]\(<?([^)\s>]+)>?(?:\s+\"[^\"]*\")?\)")
_HEADING = re.compile(r"^#\s+(.+?)\s*#*$", re.MULTILINE)
_DROPPED = ("script", "style", "noscript", "template", "svg", "head")

Resolve = Callable[[str], "str | None"]  # from the address in a link to its target; None if it leads nowhere


def reads_html() -> bool:
    """Whether HTML can be read: whether the extra `browser` is installed."""
    return importlib.util.find_spec("markdownify") is not None


def markdown_page(source: str, text: str, resolve: Resolve) -> Page:
    """Makes a page from Markdown; its title is the first heading of level 1, or else the source."""
    heading = _HEADING.search(text)
    links = _Links(source, resolve)
    body = _MARKDOWN_LINK.sub(lambda match: links.marked(match[1], match[2]) or match[0], plain(text))
    return _page(source, plain(heading[1]) if heading else source, body, links)


def text_page(source: str, text: str) -> Page:
    """Makes a page without links from plain text; its title is the source."""
    return _page(source, source, plain(text), _Links(source, lambda _: None))


def html_page(source: str, html: str, resolve: Resolve) -> Page:
    """Makes a page from HTML.

    Raises OptionError without the extra `browser`, and ToolError if the document cannot be converted.
    """
    if not reads_html():
        raise OptionError(HTML_MISSING)
    from bs4 import BeautifulSoup
    from markdownify import MarkdownConverter

    links = _Links(source, resolve)

    class Converter(MarkdownConverter):
        def convert_a(self, element: object, text: str, *_: object, **__: object) -> str:
            return links.marked(text, str(element.get("href") or "")) or text  # type: ignore[attr-defined]

    converter = Converter(
        heading_style="ATX",
        bullets="*",
        strip=["img", "b", "strong", "i", "em"],
        escape_asterisks=False,
        escape_underscores=False,
        escape_misc=False,
    )
    try:
        soup = BeautifulSoup(plain(html), "html.parser")
        title = " ".join((soup.title.get_text() if soup.title else "").split()) or source
        for element in soup(_DROPPED):
            element.decompose()
        body = re.sub(r"\n\s*\n+", "\n\n", converter.convert_soup(soup)).strip()
    except Exception as error:  # the libraries may raise anything, such as RecursionError for deeply nested elements
        raise ToolError(f"{source[:1024]} is no HTML that can be read ({type(error).__name__})") from None
    return _page(source, title, body, links)


def web_resolver(source: str) -> Resolve:
    """Returns a resolver for the links of the web page at `source`."""

    def resolve(address: str) -> str | None:
        target = urljoin(source, address)
        return target if not address.startswith("#") and urlsplit(target).scheme in ("http", "https") else None

    return resolve


class _Links:
    """Collects the links of a page; each target gets one number."""

    def __init__(self, source: str, resolve: Resolve) -> None:
        self._source, self._resolve, self.ids = source, resolve, dict[str, int]()

    def marked(self, text: str, address: str) -> str | None:
        """Returns the link as it is written in the page; None if it leads nowhere or has no text."""
        try:
            target = self._resolve(address) if address and text.strip() else None
        except ValueError:  # not a valid address
            return None
        return target and link(self.ids.setdefault(target, len(self.ids)), text, target, self._source)


def _page(source: str, title: str, body: str, links: _Links) -> Page:
    return Page(source, title, f"\nURL: {source}\n{body}", {number: Link(to) for to, number in links.ids.items()})
