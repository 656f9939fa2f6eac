"""A server on 127.0.0.1 that plays the Hub: one repository a folder, with the faults that a test asks for.

It follows the parts of the Hub's HTTP interface that `huggingface_hub` uses to read models. Nothing is taken from our
own code, so the two check each other.
"""

from __future__ import annotations

import hashlib
import json
import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cache
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote

COMMIT = "0123456789abcdef0123456789abcdef01234567"


@dataclass
class Hub:
    """A Hub with some repositories.

    Attributes:
        repositories: The folder of each repository.
        statuses: A status with which every request for a repository's path is answered instead.
        headers: Headers that go with it.
        spoiled: Files whose content differs from the checksum that is stated.
        stalled: Files of which only the first half is sent; then nothing more, and the connection stays open.
        cut: Files of which each request gets at most so many bytes.
        pace: Seconds to wait after each piece of 64 kB.
        answers: What answers a request instead, by a part of its path.
        revisions: Names of branches and tags that mean the commit.
        ranges: False if the server ignores `Range`.
        requests: How often each path was asked for.
        sent: Bytes of files that were sent.
        asked: Bytes of files that were asked for.
    """

    repositories: dict[str, Path]
    statuses: dict[str, int] = field(default_factory=dict)
    headers: dict[str, str] = field(default_factory=dict)
    spoiled: set[str] = field(default_factory=set)
    stalled: set[str] = field(default_factory=set)
    cut: dict[str, int] = field(default_factory=dict)
    pace: float = 0.0
    answers: dict[str, Callable[[BaseHTTPRequestHandler], object]] = field(default_factory=dict)
    revisions: set[str] = field(default_factory=lambda: {"main"})
    ranges: bool = True
    requests: Counter[str] = field(default_factory=Counter)
    sent: int = 0
    asked: int = 0
    url: str = ""

    def __enter__(self) -> Hub:
        hub = self

        class Handler(_Handler):
            pass

        Handler.hub = hub
        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.02,), daemon=True).start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()


class _Handler(BaseHTTPRequestHandler):
    hub: Hub
    protocol_version = "HTTP/1.1"

    def do_HEAD(self) -> None:
        self._answer(body=False)

    def do_GET(self) -> None:
        self._answer(body=True)

    def log_message(self, *_: object) -> None:
        pass

    def _answer(self, *, body: bool) -> None:
        path = self.path.partition("?")[0]
        self.hub.requests[f"{self.command} {path}"] += 1
        try:
            for part, answer in self.hub.answers.items():
                if part in path:
                    answer(self)
                    return
            for part, status in self.hub.statuses.items():
                if part in path:
                    return self._status(status, self.hub.headers)
            if path.startswith("/api/models/"):
                return self._api(path.removeprefix("/api/models/"))
            repository, _, rest = path[1:].partition("/resolve/")
            _, _, name = rest.partition("/")
            folder = self.hub.repositories.get(repository)
            if folder is None:
                return self._status(404, {"X-Error-Code": "RepoNotFound"})
            if not (folder / name).is_file():
                return self._status(404, {"X-Error-Code": "EntryNotFound"})
            return self._file(folder / name, name, body)
        except (BrokenPipeError, ConnectionResetError):
            self.close_connection = True

    def _api(self, path: str) -> None:
        owner, name, *rest = path.split("/")
        folder = self.hub.repositories.get(f"{owner}/{name}")
        if folder is None:
            return self._status(404, {"X-Error-Code": "RepoNotFound"})
        if rest[:1] == ["revision"] and unquote(rest[1]) not in {*self.hub.revisions, COMMIT}:
            return self._status(404, {"X-Error-Code": "RevisionNotFound"})
        files = sorted(file for file in folder.rglob("*") if file.is_file())
        if rest[:1] == ["tree"]:
            return self._json([_entry(file, folder) for file in files])
        siblings = []
        for file in files:
            entry = _entry(file, folder)
            sibling = {"rfilename": entry["path"], "size": entry["size"], "blobId": entry["oid"]}
            siblings.append(
                sibling | ({"lfs": {"sha256": entry["lfs"]["oid"], **entry["lfs"]}} if "lfs" in entry else {})
            )
        return self._json({"id": f"{owner}/{name}", "sha": COMMIT, "siblings": siblings, "private": False})

    def _file(self, file: Path, name: str, body: bool) -> None:
        size, first = file.stat().st_size, 0
        span = self.headers.get("Range", "") if self.hub.ranges else ""
        last = size - 1
        if span:
            begin, _, end = span.removeprefix("bytes=").partition("-")
            first, last = int(begin), min(int(end) if end else last, last)
        self.send_response(206 if span else 200)
        self.send_header("X-Repo-Commit", COMMIT)
        self.send_header("Accept-Ranges", "bytes")
        self.send_header("Content-Length", str(last + 1 - first))
        if span:
            self.send_header("Content-Range", f"bytes {first}-{last}/{size}")
        key = "X-Linked-Etag" if _is_large(file) else "ETag"
        self.send_header(key, f'"{sha256(file) if _is_large(file) else blob_id(file)}"')
        self.send_header("X-Linked-Size", str(size))
        self.end_headers()
        if not body:
            return
        self.hub.asked += last + 1 - first
        left = min(last + 1 - first, self.hub.cut.get(name, size))
        if name in self.hub.stalled:
            left = max(size // 2 - first, 0)
        with file.open("rb") as stream:
            stream.seek(first)
            while left and (piece := stream.read(min(left, 1 << 16))):
                left -= len(piece)
                self.hub.sent += len(piece)
                self.wfile.write(piece[:-1] + bytes([piece[-1] ^ 1]) if name in self.hub.spoiled else piece)
                time.sleep(self.hub.pace)
        if name in self.hub.stalled:
            time.sleep(30)
        if name in self.hub.stalled or name in self.hub.cut:
            self.close_connection = True

    def _json(self, content: object) -> None:
        data = json.dumps(content).encode()
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _status(self, status: int, headers: dict[str, str]) -> None:
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", "0")
        self.end_headers()


def _is_large(file: Path) -> bool:
    """Whether the Hub would keep a file outside of git."""
    return file.suffix == ".safetensors" or file.name in ("model.bin", "tokenizer.json")


def _entry(file: Path, folder: Path) -> dict[str, object]:
    entry: dict[str, object] = {
        "type": "file",
        "path": file.relative_to(folder).as_posix(),
        "size": file.stat().st_size,
        "oid": blob_id(file),
    }
    if _is_large(file):
        entry["lfs"] = {"oid": sha256(file), "size": file.stat().st_size, "pointerSize": 134}
    return entry


@cache
def sha256(file: Path) -> str:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


@cache
def blob_id(file: Path) -> str:
    """The SHA-1 that git gives the file, or its pointer; only small files are read."""
    data = file.read_bytes() if not _is_large(file) else sha256(file).encode()
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
