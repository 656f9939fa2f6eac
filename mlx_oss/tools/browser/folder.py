"""A folder of Markdown, text and HTML files, searched by SQLite's FTS5, offline.

Nothing outside of the folder is read: symbolic links are passed over, and so is what is hidden, and what cannot be
read. The index is in memory, and brought up to date before each search. Knows nothing of the model.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import re
import sqlite3
import threading
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import unquote, urlsplit

from mlx_oss.errors import OptionError, ToolError
from mlx_oss.tools.browser.pages import Page, results_page
from mlx_oss.tools.browser.text import HTML_MISSING, html_page, markdown_page, reads_html, text_page

_MARKDOWN, _HTML, _TEXT = (".md", ".markdown"), (".html", ".htm"), (".txt", ".text", ".rst")
_LARGEST = 16 << 20  # bytes of a file; no notes are larger
_SNIPPET = 40  # tokens, FTS5's
_SEARCH = """\
SELECT path, title, snippet(pages, 2, '', '', ' ... ', ?) FROM pages WHERE pages MATCH ?
ORDER BY bm25(pages, 0, 4, 1) LIMIT ?"""


class Folder:
    """The files of a folder as pages; a page's source is its path in the folder.

    stopped  set, it ends a search between two files
    """

    def __init__(self, folder: str | Path) -> None:
        """Raises OptionError if it is no folder, holds nothing readable, or HTML without the extra `browser`."""
        self.root = Path(folder).resolve()
        if not os.path.isdir(self.root):
            raise OptionError(f"{folder} is no folder: name one with Markdown, text or HTML files")
        paths = list(self._paths())
        if not paths:
            raise OptionError(f"{folder} holds no Markdown, text or HTML file")
        if not reads_html() and any(path.endswith(_HTML) for path in paths):
            raise OptionError(f"{folder} holds HTML files. {HTML_MISSING}")
        self._known: dict[str, tuple[int, int]] = {}  # size and time of change; of what cannot be read, too
        self.stopped = threading.Event()
        self._lock = threading.Lock()
        self._index = sqlite3.connect(":memory:", check_same_thread=False)
        try:
            self._index.execute("CREATE VIRTUAL TABLE pages USING fts5(path UNINDEXED, title, body, tokenize='porter')")
        except sqlite3.OperationalError:
            raise OptionError("this Python's SQLite has no FTS5, which searches: take another Python") from None

    def search(self, query: str, topn: int) -> Page:
        """The files that have most of the query's words, the rare ones counting most."""
        words = re.findall(r"\w+", query)
        wanted = " OR ".join(f'"{word}"' for word in words)
        with self._lock:
            self._update()
            rows = self._index.execute(_SEARCH, (_SNIPPET, wanted, topn)).fetchall() if words else []
        lines = {number: self._best_line(path, words) for number, (path, *_) in enumerate(rows)}
        return results_page(query, [(title, path, snippet) for path, title, snippet in rows], lines)

    def fetch(self, source: str) -> Page:
        """The page of a path. Raises ToolError for what is not in the folder."""
        for spelt in (source, unquote(source)):  # a file's own name may look like an escape
            path = posixpath.normpath(spelt.removeprefix("file://").removeprefix("/"))
            if self._is_page(path):
                return self._page(path)
        raise ToolError(f"there is no file {source!r} to be read")

    def _page(self, path: str) -> Page:
        try:
            with (self.root / path).open("rb") as file:
                text = file.read(_LARGEST).decode("utf-8", "replace")
        except OSError as error:
            raise ToolError(f"{path} cannot be read ({error.strerror})") from None
        if path.lower().endswith(_HTML):
            return html_page(path, text, lambda address: self._target(path, address))
        if path.lower().endswith(_MARKDOWN):
            return markdown_page(path, text, lambda address: self._target(path, address))
        return text_page(path, text)

    def _target(self, path: str, address: str) -> str | None:
        """Where a link in a file leads: to another file of the folder, or else nowhere."""
        parts = urlsplit(address)
        if parts.scheme or parts.netloc or not parts.path:
            return None
        within = parts.path.removeprefix("/") if parts.path.startswith("/") else None
        target = posixpath.normpath(unquote(within or posixpath.join(posixpath.dirname(path), parts.path)))
        return target if self._is_page(target) else None

    def _is_page(self, path: str) -> bool:
        if not path.lower().endswith((*_MARKDOWN, *_HTML, *_TEXT)) or path.startswith(("../", "/", ".")):
            return False
        places = [self.root / path, *(self.root / path).parents]
        inside = places[: places.index(self.root)] if self.root in places else []
        try:
            path.encode()
            hidden = any(place.is_symlink() or place.name.startswith(".") for place in inside)
            return bool(inside) and not hidden and places[0].is_file()
        except (OSError, UnicodeEncodeError):  # it is in a folder that is closed, or its name is not UTF-8
            return False

    def _paths(self) -> Iterator[str]:
        for folder, subfolders, names in os.walk(self.root):
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            for name in sorted(names):
                path = (Path(folder) / name).relative_to(self.root).as_posix()
                if self._is_page(path):
                    yield path

    def _update(self) -> None:
        """Takes into the index what has changed since the last search."""
        there: dict[str, tuple[int, int]] = {}
        for path in self._paths():
            with contextlib.suppress(OSError):  # it is gone
                facts = (self.root / path).stat()
                there[path] = facts.st_size, facts.st_mtime_ns
        for path in [path for path in self._known if there.get(path) != self._known[path]]:
            self._index.execute("DELETE FROM pages WHERE path = ?", (path,))
            del self._known[path]
        for path in there.keys() - self._known.keys():
            if self.stopped.is_set():
                raise ToolError("stopped before it was done")
            with contextlib.suppress(ToolError):  # an odd file is no reason not to find the others
                page = self._page(path)
                self._index.execute("INSERT INTO pages VALUES (?, ?, ?)", (path, page.title, page.body))
            self._known[path] = there[path]

    def _best_line(self, path: str, words: list[str]) -> int | None:
        """The first line with most of the words."""
        try:
            lines = [line.lower() for line in self._page(path).lines]
        except ToolError:  # it has changed meanwhile
            return None
        scores = [sum(word.lower() in line for word in words) for line in lines]
        return scores.index(max(scores)) if max(scores) else None
