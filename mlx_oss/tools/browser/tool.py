"""BrowserTool: lets the model search, open pages and find text in them, and reads the citations in its answers.

    tool = BrowserTool("notes")
    tool = BrowserTool(Web("https://host/search?q={query}&format=json"))
    session = ChatSession(model, tokenizer, tools=[tool])

Each page shown gets the next number, its cursor. `【cursor†L3-L5】` in an answer cites lines of that page.
Knows nothing of sessions.
"""

from __future__ import annotations

import json
import re
import sys
import threading
from collections.abc import Sequence
from copy import copy
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from mlx_oss.errors import OptionError, ToolError, quoted
from mlx_oss.events import Citation
from mlx_oss.harmony import BROWSER, ToolNamespace
from mlx_oss.tools.base import STOPPED, SystemTool
from mlx_oss.tools.browser.folder import Folder
from mlx_oss.tools.browser.pages import Page
from mlx_oss.tools.browser.web import Web
from mlx_oss.tools.functions import tool_from

_MAX_CITED = 200  # lines; an answer with many long citations would otherwise take much memory
_CITATION = re.compile(r"【(\d{1,9})†L(\d{1,9})(?:-L(\d{1,9}))?】")


@dataclass(frozen=True, slots=True)
class View:
    """A part of a page that was shown.

    Attributes:
        page: The page.
        first: The first line that was shown, counted from 0.
        end: The line after the last one.
    """

    page: Page
    first: int
    end: int


class Backend(Protocol):
    """A source of pages for BrowserTool. Both methods raise ToolError, with a sentence for the model."""

    def search(self, query: str, topn: int) -> Page:
        """Returns a page with at most `topn` results; `pages.results_page` makes one."""
        ...

    def fetch(self, source: str) -> Page:
        """Returns the page at `source`: the target of a link, or an address that the model wrote."""
        ...


class _Running:
    """Which of a tool and its forks is browsing, and whether there are forks."""

    tool: BrowserTool | None = None
    is_shared = False


class BrowserTool(SystemTool):
    """Lets the model browse the text, HTML and PDF files of a folder, the web, or the pages of your own backend.

    The tool remembers the pages it has shown as long as it exists; they are not saved with a session. Files of a folder
    are read each time they are opened. Other pages are fetched again only if the model writes their address, not if it
    follows a link to them.

    Args:
        source: Path of a folder, a `Web`, or a backend of your own. `cancel` does not stop a backend of your own, but
            its result is then not shown.
        tokens: About how many tokens of a page are shown at once.

    Attributes:
        backend: Where pages come from: a `Folder`, or `source` itself.
        tokens: As given.

    Raises:
        OptionError: If `source` is a path that is not a folder or has no files that can be read; or if it is a path and
            this Python's SQLite lacks FTS5.
    """

    def __init__(self, source: str | Path | Backend, *, tokens: int = 1024) -> None:
        if not isinstance(source, str | Path) and not (hasattr(source, "search") and hasattr(source, "fetch")):
            raise OptionError(f"the source is {quoted(source)}, expected a folder, Web(...), or another backend")
        self.backend: Backend = Folder(source) if isinstance(source, str | Path) else source
        self.tokens = tokens
        self._shown: list[View] = []  # indexed by cursor
        self._fetched: dict[str, Page] = {}
        self._stopped = self.backend.stopped if isinstance(self.backend, Folder | Web) else threading.Event()
        self._browsing, self._running = threading.Lock(), _Running()  # both are shared with forks
        tools = tool_from(self.search), tool_from(self.open), tool_from(self.find)
        self._functions = {tool.name: tool for tool in tools}

    @property
    def namespace(self) -> ToolNamespace:
        """The description of the tool in the system message: the text gpt-oss was trained with."""
        return BROWSER

    def call(self, function: str, text: str) -> str:
        """Runs `search`, `open` or `find`.

        Args:
            function: Name of the function.
            text: Its arguments as a JSON object; arguments that do not exist are ignored.

        Returns:
            A page, as the model reads it.

        Raises:
            ToolError: If the function or the arguments are wrong, there is no such page, or the call was cancelled.
        """
        tool = self._functions.get(function)
        if tool is None:
            raise ToolError(f"there is no browser.{function}; there are: {', '.join(self._functions)}")
        with self._browsing:
            self._running.tool = self
            try:
                result = tool.handler(**tool.arguments(_known_only(text, tool.description.parameters or {})))
            finally:
                self._running.tool = None
                self._stopped.clear()
        assert isinstance(result, str)
        return result

    def cancel(self) -> None:
        """Stops the running call. Can be called from any thread."""
        if self._running.tool is self or not self._running.is_shared:  # the call may be about to run
            self._stopped.set()

    def fork(self) -> BrowserTool:
        """Returns a tool that reads the same source, for another session: it has shown nothing yet."""
        forked, self._running.is_shared = copy(self), True
        forked._shown, forked._fetched = [], dict(self._fetched)
        tools = tool_from(forked.search), tool_from(forked.open), tool_from(forked.find)
        forked._functions = {tool.name: tool for tool in tools}
        return forked

    @property
    def shown(self) -> Sequence[View]:
        """What has been shown so far; the index is the cursor."""
        return tuple(self._shown)

    def search(self, query: str, topn: int = 10, source: str | None = None) -> str:
        """Shows a page of search results.

        Args:
            query: What to search for.
            topn: How many results to show at most; values outside 1 to 50 are clamped.
            source: Ignored.

        Returns:
            The page, as the model reads it.

        Raises:
            ToolError: If the search fails or was cancelled.
        """
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
        """Shows a page.

        Args:
            id: Number of a link on the page `cursor`, or the address of a page. -1 means the page `cursor` itself.
            cursor: A page that was shown before. -1 means the last one.
            loc: The first line to show. -1 means the line that the link points to (beyond line 4, with the 4 lines
                above it), or the top.
            num_lines: How many lines to show. -1 means as many as `tokens` allows.
            view_source: Ignored.
            source: Ignored.

        Returns:
            The lines, as the model reads them.

        Raises:
            ToolError: If there is no such page, link or line, or the call was cancelled.
        """
        if isinstance(id, str) and not (id.isascii() and id.isdigit()):
            return self._show(self.backend.fetch(id), max(loc, 0), num_lines)
        page, line = self._page(cursor), None
        number = int(id) if isinstance(id, int) or len(id) < 10 else sys.maxsize
        if number >= 0:
            link = page.links.get(number)
            if link is None:
                raise ToolError(f"Invalid link id `{str(id)[:20]}`.")
            page, line = self._fetch(link.target), link.line
            if link.offset is not None and loc < 0:
                page.wrap(self._check)
                line = page.line_at(link.offset, self._check)
        if loc < 0:
            loc = line - 4 if line is not None and line > 4 else line or 0
        return self._show(page, loc, num_lines)

    def find(self, pattern: str, cursor: int = -1) -> str:
        """Shows the places where a text occurs on a page, ignoring case.

        Args:
            pattern: The text to find.
            cursor: A page that was shown before. -1 means the last one.

        Returns:
            A page of matches, as the model reads it.

        Raises:
            ToolError: If there is no such page, or if it is itself a page of search results or matches.
        """
        page = self._page(cursor)
        if page.results:
            raise ToolError("Cannot run `find` on search results page or find results page")
        return self._show(page.found(pattern, self._check))

    def citations(self, answer: str) -> tuple[Citation, ...]:
        """Returns the citations in an answer, in their order.

        Citations of pages that were not shown, or of lines that do not exist, are left out. A citation that ends after
        the last line of its page, or has more than 200 lines, is shortened.
        """
        citations = []
        for match in _CITATION.finditer(answer):
            cursor, first, last = int(match[1]), int(match[2]), int(match[3] or match[2])
            page = self._shown[cursor].page if cursor < len(self._shown) else None
            if page is None or first > last or first >= len(page.lines):
                continue
            last = min(last, len(page.lines) - 1, first + _MAX_CITED - 1)
            text = "\n".join(page.lines[first : last + 1])
            citations.append(Citation(cursor, first, last, page.source, page.title, text, match.start(), match.end()))
        return tuple(citations)

    def _show(self, page: Page, first: int = 0, count: int = -1) -> str:
        before = self._fetched.get(page.source)
        if before is not None and before.text == page.text and before.links == page.links:
            page = before  # a page that is opened again takes no more memory
        page.wrap(self._check)
        end = page.end(first, count, self.tokens)
        shown = page.view(len(self._shown), first, end)
        self._check()
        self._shown.append(View(page, first, end))
        self._fetched[page.source] = page
        return shown

    def _check(self) -> None:
        if self._stopped.is_set():
            raise ToolError(STOPPED)

    def _page(self, cursor: int) -> Page:
        if not self._shown:
            raise ToolError("No pages to access!")
        if cursor >= len(self._shown):
            last = len(self._shown) - 1
            raise ToolError(f"Cursor `{cursor}` is out of range. Available cursor indices: [0 - {last}].")
        return self._shown[max(cursor, -1)].page

    def _fetch(self, source: str) -> Page:
        cached = None if isinstance(self.backend, Folder) else self._fetched.get(source)
        return cached or self.backend.fetch(source)


def _known_only(text: str, schema: object) -> str:
    """Drops arguments that are not in the schema. The model sometimes invents arguments; the others are still valid."""
    try:
        arguments = json.loads(text)
    except (ValueError, RecursionError):
        return text
    known = schema["properties"] if isinstance(schema, dict) else {}
    if not isinstance(arguments, dict):
        return text
    return json.dumps({name: arguments[name] for name in arguments if name in known})
