"""Turns HTML into a page: its text in the form of Markdown, without markup that only changes how it looks.

One pass over the document, whatever it contains: the time is in proportion to its length. Elements that are not closed
end with the document, and end tags without an element are ignored, so no document is refused.
"""

from __future__ import annotations

import html
import re
from collections.abc import Iterator

from mlx_oss.tools.browser.pages import Page, plain
from mlx_oss.tools.browser.text import Check, Links, Resolve, make_page, nothing, pieces

_TAG = re.compile(r"</?+([a-zA-Z][^\s/>]*+)")
_ATTRIBUTE = re.compile(r"[\s/]*+([^\s/>=][^\s/>=]*+)?+(?:\s*+=\s*+)?+")
_UNQUOTED = re.compile(r"[^\s>]*+")
_RAW_END = {
    name: re.compile(rf"</{name}(?=[\s/>])", re.IGNORECASE) for name in ("script", "style", "title", "textarea")
}

_DROPPED = {"noscript", "template", "svg"}
_HEADINGS = {f"h{level}": level for level in range(1, 7)}
_PARAGRAPHS = set(
    """p div section article main header footer nav aside address figure figcaption details summary dl form fieldset
    table thead tbody tfoot caption blockquote pre ul ol body html center""".split()
)
_LINES = {"dt", "dd", "li", "tr", "option"}
_MAX_DEPTH = 8  # of lists and quotations: deeper ones are not indented further
_MAX_ATTRIBUTE = 1 << 13  # characters; a longer one is no address


def html_page(source: str, document: str, resolve: Resolve, check: Check = nothing) -> Page:
    """Makes a page from HTML; its title is that of the document, or else the source.

    `check` is called now and then; what it raises ends the work.
    """
    links = Links(source, resolve, check)
    writer = _Writer(links)
    for token in _tokens(document, check):
        writer.add(*token)
    body = writer.finish()
    return make_page(source, " ".join(writer.title.split())[:200], body, links)


def _tokens(document: str, check: Check) -> Iterator[tuple[str, str, str]]:
    """Yields the parts of a document: ("text" or "title", text, ""), ("start", name, href) and ("end", name, "")."""
    at, size, count = 0, len(document), 0
    while at < size:
        count += 1
        if count % 500 == 0:
            check()
        bracket = document.find("<", at)
        if bracket != at:
            end = bracket if bracket >= 0 else size
            for piece in pieces(document[at:end], check):
                yield "text", _unescaped(piece), ""
            at = end
            continue
        if document.startswith("<!--", at):
            at = _after(document, "-->", at + 2)
        elif document.startswith(("<!", "<?"), at):
            at = _after(document, ">", at)
        elif (tag := _TAG.match(document, at)) is None:
            if document.startswith("</", at):
                at = _after(document, ">", at)
            else:
                yield "text", "<", ""
                at += 1
        else:
            name, is_end = tag[1].lower(), document[at + 1] == "/"
            at, href = _attributes(document, tag.end(), check)
            if is_end:
                yield "end", name, ""
                continue
            yield "start", name, href
            if (raw_end := _RAW_END.get(name)) is not None:
                end_tag = raw_end.search(document, at)
                end = end_tag.start() if end_tag else size
                if name in ("title", "textarea"):
                    yield ("title" if name == "title" else "text"), _unescaped(document[at : min(end, at + 1000)]), ""
                at = end


def _attributes(document: str, at: int, check: Check) -> tuple[int, str]:
    """Reads the attributes of a tag. Returns the place after the tag, and the value of `href` if it has one."""
    href, count = "", 0
    while at < len(document):
        count += 1
        if count % 500 == 0:
            check()
        attribute = _ATTRIBUTE.match(document, at)
        assert attribute is not None  # it matches the empty text
        has_value, at = "=" in attribute[0], attribute.end()
        value = ""
        if has_value and document[at : at + 1] in ("'", '"'):
            end = document.find(document[at], at + 1)
            if end < 0:
                return len(document), href
            value, at = document[at + 1 : min(end, at + 1 + _MAX_ATTRIBUTE)], end + 1
        elif has_value:
            unquoted = _UNQUOTED.match(document, at)
            assert unquoted is not None
            value, at = unquoted[0][:_MAX_ATTRIBUTE], unquoted.end()
        if (attribute[1] or "").lower() == "href" and not href:
            href = _unescaped(value)
        if document[at : at + 1] == ">":
            return at + 1, href
        if at == attribute.start():  # something that is no attribute, such as a second equals sign
            at += 1
    return len(document), href


def _after(document: str, end: str, at: int) -> int:
    found = document.find(end, at)
    return found + len(end) if found >= 0 else len(document)


def _unescaped(text: str) -> str:
    try:
        return plain(html.unescape(text))
    except ValueError:  # the number of a character has thousands of digits
        return plain(text)


class _Writer:
    """Writes text, start tags and end tags as Markdown."""

    def __init__(self, links: Links) -> None:
        self._links = links
        self._parts: list[str] = []
        self._gap = 0  # how many line breaks come before the next text
        self._blank = False  # whether a blank comes before the next text
        self._started = False  # whether there is any text yet
        self._marker = ""  # what comes before the next text on its line: a bullet, or the marks of a heading
        self._lists: list[int] = []  # of each open list: the number of its last item, or -1 if it has bullets
        self._quotes = self._pre = 0
        self._pre_begins = False
        self._dropped: list[str] = []  # the open elements that are left out with all that they contain
        self._href, self._link_start = "", -1  # of the open link, and the index of its first part, once it has one
        self._row_cells, self._rows = 0, 0
        self.title = ""

    def add(self, kind: str, name: str, href: str) -> None:
        if kind == "title":
            self.title = self.title or name
        elif self._dropped:
            if kind == "start" and name == self._dropped[-1]:
                self._dropped.append(name)
            elif kind == "end" and name == self._dropped[-1]:
                self._dropped.pop()
        elif kind == "text":
            self._text(name)
        elif kind == "start":
            self._start(name, href)
        else:
            self._end(name)

    def finish(self) -> str:
        self._end_link()
        return "".join(self._parts).strip("\n")

    def _start(self, name: str, href: str) -> None:
        if name in _DROPPED:
            self._dropped.append(name)
        elif name in _HEADINGS:
            self._paragraph()
            self._marker = "#" * _HEADINGS[name] + " "
        elif name == "a":
            self._end_link()
            self._href = href
        elif name == "br":
            self._blank, self._gap = False, max(self._gap, 1)
        elif name == "hr":
            self._paragraph()
            self._write("---", linked=False)
            self._paragraph()
        elif name in ("ul", "ol"):
            self._paragraph() if not self._lists else self._line()
            self._lists.append(0 if name == "ol" else -1)
        elif name == "li":
            self._line()
            if self._lists and self._lists[-1] >= 0:
                self._lists[-1] += 1
                self._marker = f"{self._lists[-1]}. "
            else:
                self._marker = "* "
        elif name in ("td", "th"):
            self._close_link()
            self._blank = False
            self._write("| " if not self._row_cells else " | ", linked=False)
            self._row_cells += 1
        elif name in _PARAGRAPHS or name in _LINES:
            self._block(name)
            self._quotes += name == "blockquote"
            if name == "pre":
                self._write("```", linked=False)
                self._line()
                self._pre += 1
                self._pre_begins = True
            self._rows = 0 if name == "table" else self._rows
        elif name in ("code", "kbd", "samp") and not self._pre:
            self._write("`")

    def _end(self, name: str) -> None:
        if name == "a":
            self._end_link()
        elif name in _HEADINGS:
            self._paragraph()
        elif name in ("ul", "ol"):
            if self._lists:
                self._lists.pop()
            self._line() if self._lists else self._paragraph()
        elif name == "pre" and self._pre:
            self._line()
            self._write("```", linked=False)
            self._pre -= 1
            self._paragraph()
        elif name == "blockquote" and self._quotes:
            self._quotes -= 1
            self._paragraph()
        elif name == "tr" and self._row_cells:
            self._end_row()
        elif name in _PARAGRAPHS or name in _LINES:
            self._block(name)
        elif name in ("code", "kbd", "samp") and not self._pre:
            self._blank = False
            self._write("`")

    def _block(self, name: str) -> None:
        if self._row_cells and name in ("tr", "table", "tbody"):
            self._end_row()
        if self._row_cells and name not in ("tr", "table", "tbody", "thead", "tfoot"):
            self._blank = True  # a cell of a table is one line
        elif name in _LINES:
            self._line()
        elif not self._marker:
            self._paragraph()

    def _end_row(self) -> None:
        self._close_link()
        self._blank = False
        self._write(" |", linked=False)
        cells, self._row_cells = self._row_cells, 0
        self._line()
        self._rows += 1
        if self._rows == 1:
            self._write("| " + " | ".join(["---"] * min(cells, 1000)) + " |", linked=False)
            self._line()

    def _line(self) -> None:
        self._close_link()
        self._marker, self._blank = "", False
        self._gap = max(self._gap, 1)

    def _paragraph(self) -> None:
        self._line()
        self._gap = 2

    def _text(self, text: str) -> None:
        if self._pre:
            text = text.removeprefix("\n") if self._pre_begins else text
            self._pre_begins = False
            for number, line in enumerate(text.split("\n")):
                self._gap += number > 0
                if line:
                    self._write(line)
            return
        words = " ".join(text.split())
        self._blank = self._blank or text[:1].isspace()
        if words:
            self._write(words)
            self._blank = text[-1].isspace()

    def _write(self, text: str, linked: bool = True) -> None:
        """Adds text, after the line breaks or the blank that are due. If `linked`, it belongs to the open link."""
        if not self._started or self._gap:
            self._parts.append("\n" * self._gap if self._started else "")
            depth = min(max(len(self._lists) - 1, 0), _MAX_DEPTH)
            indent = "  " * (depth if self._marker else min(len(self._lists), _MAX_DEPTH))
            self._parts.append("> " * min(self._quotes, _MAX_DEPTH) + indent + self._marker)
            self._marker = ""
        elif self._blank and not self._parts[-1].endswith(" "):
            self._parts.append(" ")
        if linked and self._href and self._link_start < 0:
            self._link_start = len(self._parts)
        self._parts.append(text)
        self._started, self._gap, self._blank = True, 0, False

    def _close_link(self) -> None:
        """Marks the text of the link. A link without text yet stays open: its text may be in the next element."""
        if self._link_start < 0:
            return
        start, href, self._link_start, self._href = self._link_start, self._href, -1, ""
        if marked := self._links.marked("".join(self._parts[start:]), href):
            self._parts[start:] = [marked]

    def _end_link(self) -> None:
        self._close_link()
        self._href = ""
