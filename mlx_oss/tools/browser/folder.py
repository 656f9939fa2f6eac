"""Pages from the text, HTML and PDF files of a folder, searched offline with SQLite's FTS5.

Nothing outside the folder is read. Symbolic links, hidden files and folders, and unreadable files are skipped.
The search index is in memory and is updated before each search, for some seconds at most: what is not read by then is
read by the next searches. Knows nothing of the model.
"""

from __future__ import annotations

import contextlib
import os
import posixpath
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from mlx_oss.errors import OptionError, ToolError
from mlx_oss.files import expanded
from mlx_oss.tools.base import STOPPED
from mlx_oss.tools.browser.charsets import Kind, decode
from mlx_oss.tools.browser.pages import Page, results_page
from mlx_oss.tools.browser.passages import Passages
from mlx_oss.tools.browser.reader import Reader
from mlx_oss.tools.browser.text import json_page, markdown_page, text_page

_MARKDOWN, _HTML, _PDF, _JSON = (".md", ".markdown"), (".html", ".htm", ".xhtml"), (".pdf",), (".json", ".jsonl")
_TEXT = tuple(
    """.txt .text .rst .adoc .org .tex .log .csv .tsv .json .jsonl .xml .yaml .yml .toml .ini .cfg .conf
    .py .pyi .c .h .cc .cpp .hpp .m .mm .metal .swift .cu .rs .go .java .kt .scala .cs .js .mjs .jsx .ts .tsx .vue .css
    .rb .php .pl .lua .r .jl .hs .ml .ex .erl .clj .sh .bash .zsh .fish .bat .ps1 .sql .proto .cmake .gradle""".split()
)
_DECLARING = (".py", ".pyi", ".rb", ".pl", ".jl", ".ex", ".sh", ".bash", ".r")  # "coding: ..." in a comment
_KINDS = "Markdown, text, data (such as CSV and JSON), source code, HTML or PDF"
_MAX_BYTES = 16 << 20  # of a file; the rest is not read
_MAX_PDF = 64 << 20  # bytes; a part of such a file cannot be read
_SECONDS = 5.0  # for bringing the index up to date, in one search
_MAX_PATH = 4096  # characters
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_FILE = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC  # opening a named pipe must not wait for a writer


class Folder:
    """The files of a folder as pages; the source of a page is its path in the folder.

    Args:
        folder: The folder. The index is empty until the first search.

    Attributes:
        root: The folder, as an absolute path.
        stopped: A `threading.Event`. If set, searching or reading stops soon.

    Raises:
        OptionError: If it is not a folder or holds no file that can be read; or if this Python's SQLite lacks FTS5.
    """

    def __init__(self, folder: str | Path) -> None:
        if not os.path.isdir(expanded(folder)):
            raise OptionError(f"{folder} is not a folder: give one with {_KINDS} files")
        self.root = Path(os.path.realpath(expanded(folder)))  # unlike resolve, no error for a loop
        self.stopped = threading.Event()
        if next(self._files(), None) is None:
            raise OptionError(f"{folder} holds no {_KINDS} files: give one that does")
        # Size and modification time of each indexed file, and of each file that could not be read.
        self._known: dict[str, tuple[int, int]] = {}
        self._present: dict[str, tuple[int, int]] = {}  # the same of all files, when they were last listed
        self._lock = threading.Lock()
        self._index = Passages(self.stopped)
        self._reader = Reader()

    def search(self, query: str, topn: int) -> Page:
        """Returns a page of results: the files with most words of the query come first, and rare words count more.

        Args:
            query: Text in natural language; it has no special syntax. Its first 32 different words count, and in
                scripts without blanks its first 32 pairs of characters.
            topn: The maximum number of results.

        Raises:
            ToolError: If `stopped` was set meanwhile.
        """
        with self._lock:
            self._update()
            found = self._index.search(query, topn)
            left, count = len(self._present.keys() - self._known.keys()), len(self._present)
        note = f"({left:,} of {count:,} files are not read yet. Search again to find what is in them.)" if left else ""
        places = {number: len(_top(path)) + at for number, (path, _, _, at) in enumerate(found)}
        return results_page(query, [(title, path, passage) for path, title, passage, _ in found], places, note)

    def fetch(self, source: str) -> Page:
        """Returns the page of a file.

        Raises ToolError if there is no such file in the folder, if it cannot be read, or if `stopped` was set.
        """
        for spelling in (source, unquote(source)):  # the name itself may contain what looks like an escape (%20)
            path = posixpath.normpath(spelling.removeprefix("file://").removeprefix("/"))
            if self._is_page(path):
                return self._page(path, lambda target: target in self._present or self._is_page(target))
        raise ToolError(f"there is no file {source[:200]!r} to be read")

    def _page(self, path: str, is_page: Callable[[str], bool]) -> Page:
        """The page of a file. Its links lead to what `is_page` says is one."""
        name, check = path.lower(), self._index.check
        most = _MAX_PDF if name.endswith(_PDF) else _MAX_BYTES
        try:
            with self._open(path) as file:
                data = file.read(most)
                is_cut = bool(file.read(1))
        except OSError as error:
            raise ToolError(f"{path} cannot be read ({error.strerror})") from None

        def resolve(address: str) -> str | None:
            target = _target(path, address)
            return target if target and is_page(target) else None

        if name.endswith(_PDF):
            if is_cut:
                raise ToolError(f"{path} cannot be read: it has more than {most >> 20} MB")
            return self._reader.page(path, "pdf", data, resolve, check)
        kind: Kind = "html" if name.endswith(_HTML) else "program" if name.endswith(_DECLARING) else "text"
        text = decode(data, kind=kind, is_cut=is_cut, check=check)
        if name.endswith(_HTML):
            return self._reader.page(path, "html", text.encode("utf-8", "replace"), resolve, check)
        if name.endswith(_MARKDOWN):
            return markdown_page(path, text, resolve, check)
        return (json_page if name.endswith(_JSON) else text_page)(path, text, check)

    def _is_page(self, path: str) -> bool:
        """Whether a path names a file that may be read: of a known type, in the folder, not hidden, without links."""
        if not _is_allowed(path):
            return False
        try:
            with self._parent(path) as (folder, name):
                return stat.S_ISREG(os.stat(name, dir_fd=folder, follow_symlinks=False).st_mode)
        except OSError:
            return False

    def _open(self, path: str) -> BinaryIO:
        """Opens a file. No link is followed on the way, so that it is in the folder, whatever happens to the folder."""
        with self._parent(path) as (folder, name):
            file = os.open(name, _FILE, dir_fd=folder)
        if not stat.S_ISREG(os.fstat(file).st_mode):
            os.close(file)
            raise OSError(0, "it is no file")
        return open(file, "rb")

    @contextlib.contextmanager
    def _parent(self, path: str) -> Iterator[tuple[int, str]]:
        """The open folder that holds the file, and the file's name in it. "" names the folder itself."""
        *folders, name = path.split("/")
        opened = os.open(self.root, _FOLDER)
        try:
            for folder in folders:
                inner = os.open(folder, _FOLDER, dir_fd=opened)
                os.close(opened)
                opened = inner
            yield opened, name
        finally:
            os.close(opened)

    def _files(self) -> Iterator[tuple[str, tuple[int, int]]]:
        """The path, size and modification time of each file that may be read."""
        folders = [""]
        while folders:
            folder, inner = folders.pop(), []
            try:
                with self._parent(folder) as (opened, _), os.scandir(opened) as entries:
                    for entry in sorted(entries, key=lambda entry: entry.name):
                        if self.stopped.is_set():
                            raise ToolError(STOPPED)
                        path = folder + entry.name
                        if entry.name.startswith("."):
                            continue
                        if entry.is_dir(follow_symlinks=False):
                            inner.append(f"{path}/")
                        elif _is_allowed(path) and entry.is_file(follow_symlinks=False):
                            with contextlib.suppress(FileNotFoundError):  # it was deleted in the meantime
                                status = entry.stat(follow_symlinks=False)
                                yield path, (status.st_size, status.st_mtime_ns)
            except OSError:  # the folder cannot be entered, or is gone
                continue
            folders += reversed(inner)

    def _update(self) -> None:
        """Brings the index up to date with the files, or nearer to it. Raises ToolError if stopped."""
        current = self._present = dict(self._files())
        for path in [path for path in self._known if current.get(path) != self._known[path]]:
            del self._known[path]
            self._index.remove(path)
        until = time.monotonic() + _SECONDS
        # PDF files take longest.
        for path in sorted(current.keys() - self._known.keys(), key=lambda path: (path.lower().endswith(_PDF), path)):
            self._index.remove(path)  # what is left of it if the last search was stopped
            try:
                page = self._page(path, current.__contains__)
            except ToolError:  # a file that cannot be read must not prevent finding the others
                self._index.check()
            else:
                self._index.add(path, page.title, page.body)
            self._known[path] = current[path]
            if time.monotonic() > until:
                break


def _top(path: str) -> str:
    """What is above the body of a page."""
    return f"\nURL: {path}\n"


def _target(path: str, address: str) -> str | None:
    """The path in the folder that a link in the file `path` leads to; None if it leads elsewhere."""
    parts = urlsplit(address)
    if parts.scheme or parts.netloc or not parts.path:
        return None
    within = parts.path.removeprefix("/") if parts.path.startswith("/") else None
    return posixpath.normpath(unquote(within or posixpath.join(posixpath.dirname(path), parts.path)))


def _is_allowed(path: str) -> bool:
    """Whether a path may name a page, whatever lies there: its type is known, and no part of it is hidden."""
    if not path.lower().endswith((*_MARKDOWN, *_HTML, *_PDF, *_TEXT)) or len(path) > _MAX_PATH or "\0" in path:
        return False
    try:
        path.encode()
    except UnicodeEncodeError:  # the name is not UTF-8
        return False
    return not any(part == "" or part.startswith(".") for part in path.split("/"))
