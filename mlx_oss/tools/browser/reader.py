"""Makes pages of HTML and PDF documents, which a process of its own reads.

The libraries that do it, turbohtml and pypdf, cannot be interrupted. So they run in a child process, which is killed
when a call is cancelled or takes too long. If a library crashes, only that process ends.

The time that turbohtml takes is in proportion to the document, whatever that contains. That of selectolax, resiliparse,
html5lib and html-to-markdown is quadratic in the depth of nesting, lxml leaves out what is nested deeply, and justhtml
needs minutes for a large document. Knows nothing of where documents come from.
"""

from __future__ import annotations

import contextlib
import json
import re
import selectors
import subprocess
import sys
import tempfile
import threading
import time
import weakref
from typing import Any, Literal

from mlx_oss.errors import ToolError
from mlx_oss.tools.browser import reader_process
from mlx_oss.tools.browser.pages import Page, plain
from mlx_oss.tools.browser.reader_process import END, LINK, TEXT
from mlx_oss.tools.browser.text import Check, Links, Resolve, make_page, nothing, pieces

_SECONDS = 20.0  # for a document
_LOOK = 0.02  # seconds between two looks at whether the call was cancelled
_MAX_TITLE = 200  # characters
_LINK = re.compile(f"{LINK}(\\d++){TEXT}([^{LINK}{END}]*+){END}")
_MARKS = re.compile(f"[{LINK}{TEXT}{END}]")
_PIECE = 1 << 20  # bytes

Kind = Literal["html", "pdf"]


class Reader:
    """Reads documents, one after another. Its process starts with the first one, and ends with the reader."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._child: _Child | None = None

    def page(self, source: str, kind: Kind, document: bytes, resolve: Resolve, check: Check = nothing) -> Page:
        """Makes a page; its title is that of the document, or else the source.

        Args:
            source: The source of the page.
            kind: What the document is.
            document: The document. HTML is in UTF-8.
            resolve: Says where a link leads.
            check: Is called now and then; what it raises ends the work.

        Raises:
            ToolError: If the document cannot be read, or not within 20 seconds.
        """
        answer = self._read(kind, document, check)
        if "error" in answer:
            raise ToolError(f"{source[:1024]}: {plain(answer['error'])}")
        links = Links(source, resolve, check)

        def marked(match: re.Match[str]) -> str:
            number = int(match[1][:9])
            address = answer["links"][number] if number < len(answer["links"]) else ""
            return links.marked(match[2], address) or match[2]

        body = "".join(_MARKS.sub("", _LINK.sub(marked, plain(piece))) for piece in pieces(answer["text"], check))
        return make_page(source, " ".join(answer["title"].split())[:_MAX_TITLE], body, links)

    def _read(self, kind: Kind, document: bytes, check: Check) -> Any:
        with self._lock:
            if self._child is None:
                self._child = _Child()
                self._end = weakref.finalize(self, self._child.end)
            child = self._child
            try:
                return child.read(kind, document, check)
            except BaseException:
                self._child = None  # the next document gets a new one
                self._end.detach()
                child.kill()
                threading.Thread(target=child.end, daemon=True).start()  # until its memory is free, it takes a while
                raise


class _Child:
    """The process, and the file through which it gets documents and returns what is in them."""

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile(buffering=0)  # noqa: SIM115, `end` closes it
        self._process = subprocess.Popen(
            [sys.executable, "-P", reader_process.__file__, str(self._file.fileno())],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            pass_fds=[self._file.fileno()],
            start_new_session=True,  # Ctrl-C in a terminal is not for it
        )

    def read(self, kind: Kind, document: bytes, check: Check) -> Any:
        """Returns what the process answers. After an exception, the process must be ended."""
        self._file.seek(0)
        view = memoryview(document)
        for at in range(0, len(document), _PIECE):
            check()
            self._file.write(view[at : at + _PIECE])
        size = self._ask(f"{kind} {len(document)}\n".encode(), check)
        self._file.seek(0)
        answer = bytearray()
        while len(answer) < size:
            check()
            answer += self._file.read(min(_PIECE, size - len(answer)))
        return json.loads(answer)

    def _ask(self, request: bytes, check: Check) -> int:
        """Sends a request, and waits for the size of the answer."""
        requests, answers = self._process.stdin, self._process.stdout
        assert requests is not None and answers is not None
        until = time.monotonic() + _SECONDS
        with contextlib.suppress(BrokenPipeError):  # what has happened shows below
            requests.write(request)
        with selectors.DefaultSelector() as selector:
            selector.register(answers, selectors.EVENT_READ)
            while not selector.select(_LOOK):
                check()
                if time.monotonic() > until:
                    raise ToolError("reading it takes too long")
        line = answers.readline()
        if not line.endswith(b"\n"):
            raise ToolError("the library that reads such documents cannot read it")
        return int(line)

    def kill(self) -> None:
        """Kills the process, without waiting for its end."""
        self._process.kill()

    def end(self) -> None:
        """Kills the process, waits for its end, and deletes the file."""
        self.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout, self._file):
            assert stream is not None
            stream.close()
