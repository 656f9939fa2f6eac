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
from typing import IO, Any, Literal

from mlx_oss.errors import ToolError
from mlx_oss.tools.browser import reader_process
from mlx_oss.tools.browser.pages import Page, plain
from mlx_oss.tools.browser.reader_process import END, LINK, TEXT
from mlx_oss.tools.browser.text import Check, Links, Resolve, make_page, nothing, pieces

_SECONDS = 20.0  # for a document
_LOOK = 0.02  # seconds between two looks at whether the call was cancelled
_MAX_TITLE = 200  # characters
_LINK = re.compile(f"{LINK}(\\d++){TEXT}([^{LINK}{END}]*+){END}")
_MARKS = str.maketrans("", "", LINK + TEXT + END)

Kind = Literal["html", "pdf"]


class Reader:
    """Reads documents, one after another. Its process starts with the first one, and ends with the reader."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._shared: IO[bytes] = tempfile.TemporaryFile()  # noqa: SIM115, it is closed with the reader
        self._end: weakref.finalize[..., Reader] = weakref.finalize(self, self._shared.close)

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

        text = plain(answer["text"])
        body = "".join(_LINK.sub(marked, piece) for piece in pieces(text, check)).translate(_MARKS)
        return make_page(source, " ".join(answer["title"].split())[:_MAX_TITLE], body, links)

    def _read(self, kind: Kind, document: bytes, check: Check) -> Any:
        with self._lock:
            try:
                self._shared.seek(0)
                self._shared.write(document)
                self._shared.flush()
                return json.loads(self._shared_bytes(self._ask(f"{kind} {len(document)}\n".encode(), check)))
            except BaseException:
                self._stop()
                raise

    def _ask(self, request: bytes, check: Check) -> int:
        """Sends a request, and waits for the size of the answer."""
        process = self._process = self._process or self._started()
        assert process.stdin is not None and process.stdout is not None
        until = time.monotonic() + _SECONDS
        with contextlib.suppress(BrokenPipeError):  # what has happened shows below
            process.stdin.write(request)
        with selectors.DefaultSelector() as selector:
            selector.register(process.stdout, selectors.EVENT_READ)
            while not selector.select(_LOOK):
                check()
                if time.monotonic() > until:
                    raise ToolError("reading it takes too long")
        line = process.stdout.readline()
        if not line.endswith(b"\n"):
            raise ToolError("the library that reads such documents cannot read it")
        return int(line)

    def _shared_bytes(self, size: int) -> bytes:
        self._shared.seek(0)
        return self._shared.read(size)

    def _started(self) -> subprocess.Popen[bytes]:
        shared = self._shared.fileno()
        process = subprocess.Popen(
            [sys.executable, "-P", reader_process.__file__, str(shared)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            bufsize=0,
            pass_fds=[shared],
            start_new_session=True,  # Ctrl-C in a terminal is not for it
        )
        self._end.detach()
        self._end = weakref.finalize(self, _end, process, self._shared)
        return process

    def _stop(self) -> None:
        """Ends the process. The next document gets a new one."""
        if self._process is not None:
            _end(self._process)
            self._process = None


def _end(process: subprocess.Popen[bytes], shared: IO[bytes] | None = None) -> None:
    process.kill()
    process.wait()
    for stream in (process.stdin, process.stdout, shared):
        if stream is not None:
            stream.close()
