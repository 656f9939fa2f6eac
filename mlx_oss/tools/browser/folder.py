"""Pages from the Markdown, text and HTML files of a folder, searched offline with SQLite's FTS5.

Nothing outside the folder is read. Symbolic links, hidden files and folders, and unreadable files are skipped.
The search index is in memory and is updated before each search. Knows nothing of the model.
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
from mlx_oss.files import expanded
from mlx_oss.tools.base import STOPPED
from mlx_oss.tools.browser.pages import Page, results_page
from mlx_oss.tools.browser.text import HTML_MISSING, html_page, markdown_page, reads_html, text_page

_MARKDOWN, _HTML, _TEXT = (".md", ".markdown"), (".html", ".htm"), (".txt", ".text", ".rst")
_MAX_BYTES = 16 << 20  # of a file; the rest is not read
_SNIPPET = 40  # tokens, as FTS5 counts them
_SEARCH = """\
SELECT path, title, snippet(pages, 2, '', '', ' ... ', ?) FROM pages WHERE pages MATCH ?
ORDER BY bm25(pages, 0, 4, 1) LIMIT ?"""


class Folder:
    """The files of a folder as pages; the source of a page is its path in the folder.

    Args:
        folder: The folder. The index is empty until the first search.

    Attributes:
        root: The folder, as an absolute path.
        stopped: A `threading.Event`. If set, a search stops before it reads the next file.

    Raises:
        OptionError: If it is not a folder, holds no Markdown, text or HTML file, or holds HTML files and the extra
            `browser` is not installed; or if this Python's SQLite lacks FTS5.
    """

    def __init__(self, folder: str | Path) -> None:
        self.root = Path(os.path.realpath(expanded(folder)))  # unlike resolve, no error for a loop
        if not os.path.isdir(self.root):
            raise OptionError(f"{folder} is not a folder: give one with Markdown, text or HTML files")
        paths = list(self._paths())
        if not paths:
            raise OptionError(f"{folder} holds no Markdown, text or HTML files: give one that does")
        if not reads_html() and any(path.endswith(_HTML) for path in paths):
            raise OptionError(f"{folder} holds HTML files. {HTML_MISSING}")
        # Size and modification time of each indexed file, and of each file that could not be read.
        self._known: dict[str, tuple[int, int]] = {}
        self.stopped = threading.Event()
        self._lock = threading.Lock()
        self._index = sqlite3.connect(":memory:", check_same_thread=False)
        try:
            self._index.execute("CREATE VIRTUAL TABLE pages USING fts5(path UNINDEXED, title, body, tokenize='porter')")
        except sqlite3.OperationalError:
            raise OptionError("this Python's SQLite lacks FTS5, which searching needs: use another Python") from None

    def search(self, query: str, topn: int) -> Page:
        """Returns a page of results: the files with most words of the query come first, and rare words count more.

        Args:
            query: Text in natural language; it has no special syntax.
            topn: The maximum number of results.

        Raises:
            ToolError: If `stopped` was set while files were being read into the index.
        """
        words = re.findall(r"\w+", query)
        expression = " OR ".join(f'"{word}"' for word in words)
        with self._lock:
            self._update()
            rows = self._index.execute(_SEARCH, (_SNIPPET, expression, topn)).fetchall() if words else []
        lines = {number: self._best_line(path, words) for number, (path, *_) in enumerate(rows)}
        return results_page(query, [(title, path, snippet) for path, title, snippet in rows], lines)

    def fetch(self, source: str) -> Page:
        """Returns the page of a file. Raises ToolError if there is no such file in the folder, or it cannot be read."""
        for spelling in (source, unquote(source)):  # the name itself may contain what looks like an escape (%20)
            path = posixpath.normpath(spelling.removeprefix("file://").removeprefix("/"))
            if self._is_page(path):
                return self._page(path)
        raise ToolError(f"there is no file {source!r} to be read")

    def _page(self, path: str) -> Page:
        try:
            with (self.root / path).open("rb") as file:
                text = file.read(_MAX_BYTES).decode("utf-8", "replace")
        except OSError as error:
            raise ToolError(f"{path} cannot be read ({error.strerror})") from None
        if path.lower().endswith(_HTML):
            return html_page(path, text, lambda address: self._target(path, address))
        if path.lower().endswith(_MARKDOWN):
            return markdown_page(path, text, lambda address: self._target(path, address))
        return text_page(path, text)

    def _target(self, path: str, address: str) -> str | None:
        """The file of the folder that a link in the file `path` leads to; None if it leads to no such file."""
        parts = urlsplit(address)
        if parts.scheme or parts.netloc or not parts.path:
            return None
        within = parts.path.removeprefix("/") if parts.path.startswith("/") else None
        target = posixpath.normpath(unquote(within or posixpath.join(posixpath.dirname(path), parts.path)))
        return target if self._is_page(target) else None

    def _is_page(self, path: str) -> bool:
        """Whether a path names a file that may be read: of a known type, in the folder, not hidden, without links."""
        if not path.lower().endswith((*_MARKDOWN, *_HTML, *_TEXT)) or path.startswith(("../", "/", ".")):
            return False
        file_and_parents = [self.root / path, *(self.root / path).parents]
        depth = file_and_parents.index(self.root) if self.root in file_and_parents else 0
        below_root = file_and_parents[:depth]
        try:
            path.encode()
            hidden = any(place.is_symlink() or place.name.startswith(".") for place in below_root)
            return bool(below_root) and not hidden and file_and_parents[0].is_file()
        except (OSError, UnicodeEncodeError):  # a folder on the way is not accessible, or the name is not UTF-8
            return False

    def _paths(self) -> Iterator[str]:
        for folder, subfolders, names in os.walk(self.root):
            subfolders[:] = sorted(name for name in subfolders if not name.startswith("."))
            for name in sorted(names):
                path = (Path(folder) / name).relative_to(self.root).as_posix()
                if self._is_page(path):
                    yield path

    def _update(self) -> None:
        """Brings the index up to date with the files. Raises ToolError if stopped."""
        current: dict[str, tuple[int, int]] = {}
        for path in self._paths():
            with contextlib.suppress(OSError):  # the file was deleted in the meantime
                status = (self.root / path).stat()
                current[path] = status.st_size, status.st_mtime_ns
        for path in [path for path in self._known if current.get(path) != self._known[path]]:
            self._index.execute("DELETE FROM pages WHERE path = ?", (path,))
            del self._known[path]
        for path in current.keys() - self._known.keys():
            if self.stopped.is_set():
                raise ToolError(STOPPED)
            with contextlib.suppress(ToolError):  # a file that cannot be read must not prevent finding the others
                page = self._page(path)
                self._index.execute("INSERT INTO pages VALUES (?, ?, ?)", (path, page.title, page.body))
            self._known[path] = current[path]

    def _best_line(self, path: str, words: list[str]) -> int | None:
        """The first of the lines that contain the most words; None if no line contains any."""
        try:
            lines = [line.lower() for line in self._page(path).lines]
        except ToolError:  # the file has changed since it was indexed
            return None
        scores = [sum(word.lower() in line for word in words) for line in lines]
        return scores.index(max(scores)) if max(scores) else None
