"""The `browser` tool: the model searches, opens pages and finds text in them, and its answers cite lines.

    tool = BrowserTool("notes"); ChatSession(model, tokenizer, tools=[tool])
    tool = BrowserTool(Web("https://host/search?q={query}&format=json"))

Every page shown gets the next cursor; `【cursor†L3-L5】` in an answer cites lines of it. Knows nothing of sessions.
"""

from __future__ import annotations

import json
import re
import threading
from pathlib import Path
from typing import Protocol

from mlx_oss.errors import ToolError
from mlx_oss.events import Citation
from mlx_oss.harmony import BROWSER, ToolNamespace
from mlx_oss.tools.base import SystemTool
from mlx_oss.tools.browser.folder import Folder
from mlx_oss.tools.browser.pages import Link, Page
from mlx_oss.tools.browser.web import Web
from mlx_oss.tools.functions import tool_from

__all__ = ["Backend", "BrowserTool", "Folder", "Link", "Page", "Web"]

_CITED = re.compile(r"【(\d{1,9})†L(\d{1,9})(?:-L(\d{1,9}))?】")


class Backend(Protocol):
    """Where pages come from. Both raise ToolError with a sentence for the model."""

    def search(self, query: str, topn: int) -> Page:
        """A page of results, see `pages.results_page`."""
        ...

    def fetch(self, source: str) -> Page:
        """The page at a place that a link names."""
        ...


class BrowserTool(SystemTool):
    """Browsing for the model, in a folder of Markdown, text and HTML files, or in whatever a backend finds.

    tokens  how much of a page is shown at once

    What was shown is remembered as long as the tool lives; a session that is loaded from a file begins with nothing.
    Files of a folder are read whenever they are opened, pages of the web once. A backend of one's own is not stopped
    by `cancel`: what it finds then is not shown.
    """

    def __init__(self, source: str | Path | Backend, *, tokens: int = 1024) -> None:
        self.backend: Backend = Folder(source) if isinstance(source, str | Path) else source
        self.tokens = tokens
        self._shown: list[Page] = []  # the cursor is the place in it
        self._fetched: dict[str, Page] = {}
        self._stopped = self.backend.stopped if isinstance(self.backend, Folder | Web) else threading.Event()
        self._browsing = threading.Lock()
        tools = tool_from(self.search), tool_from(self.open), tool_from(self.find)
        self._functions = {tool.name: tool for tool in tools}

    @property
    def namespace(self) -> ToolNamespace:
        return BROWSER

    def call(self, function: str, text: str) -> str:
        tool = self._functions.get(function)
        if tool is None:
            raise ToolError(f"there is no browser.{function}; there are: {', '.join(self._functions)}")
        with self._browsing:
            try:
                result = tool.handler(**tool.arguments(_known_only(text, tool.description.parameters or {})))
            finally:
                self._stopped.clear()
        assert isinstance(result, str)
        return result

    def cancel(self) -> None:
        self._stopped.set()

    def search(self, query: str, topn: int = 10, source: str | None = None) -> str:
        return self._show(self.backend.search(query, max(1, min(topn, 50))))

    def open(
        self,
        id: int | str = -1,
        cursor: int = -1,
        loc: int = -1,
        num_lines: int = -1,
        view_source: bool = False,
        source: str | None = None,
    ) -> str:
        if isinstance(id, str) and not id.isdigit():
            return self._show(self.backend.fetch(id), max(loc, 0), num_lines)
        page, line = self._page(cursor), None
        if int(id) >= 0:
            link = page.links.get(int(id))
            if link is None:
                raise ToolError(f"Invalid link id `{id}`.")
            page, line = self._fetch(link.target), link.line
        if loc < 0:
            loc = line - 4 if line is not None and line > 4 else line or 0
        return self._show(page, loc, num_lines)

    def find(self, pattern: str, cursor: int = -1) -> str:
        page = self._page(cursor)
        if page.results:
            raise ToolError("Cannot run `find` on search results page or find results page")
        return self._show(page.found(pattern))

    def citations(self, answer: str) -> tuple[Citation, ...]:
        found = []
        for match in _CITED.finditer(answer):
            cursor, first, last = int(match[1]), int(match[2]), int(match[3] or match[2])
            page = self._shown[cursor] if cursor < len(self._shown) else None
            if page is None or first > last or first >= len(page.lines):
                continue
            text = "\n".join(page.lines[first : last + 1])
            last = min(last, len(page.lines) - 1)
            found.append(Citation(cursor, first, last, page.source, page.title, text, match.start(), match.end()))
        return tuple(found)

    def _show(self, page: Page, first: int = 0, count: int = -1) -> str:
        shown = page.view(len(self._shown), first, count, self.tokens)
        if self._stopped.is_set():
            raise ToolError("stopped before it was done")
        self._shown.append(page)
        self._fetched[page.source] = page
        return shown

    def _page(self, cursor: int) -> Page:
        if not self._shown:
            raise ToolError("No pages to access!")
        if cursor >= len(self._shown):
            last = len(self._shown) - 1
            raise ToolError(f"Cursor `{cursor}` is out of range. Available cursor indices: [0 - {last}].")
        return self._shown[max(cursor, -1)]

    def _fetch(self, source: str) -> Page:
        known = None if isinstance(self.backend, Folder) else self._fetched.get(source)
        return known or self.backend.fetch(source)


def _known_only(text: str, schema: object) -> str:
    """Arguments without those that do not exist: the model makes some up, and means the others."""
    try:
        given = json.loads(text)
    except (ValueError, RecursionError):
        return text
    known = schema["properties"] if isinstance(schema, dict) else {}
    return json.dumps({name: given[name] for name in given if name in known}) if isinstance(given, dict) else text
