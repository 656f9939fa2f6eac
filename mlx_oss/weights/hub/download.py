"""Downloads the files of a model into Hugging Face's cache, as `huggingface_hub` lays it out.

`huggingface_hub` (2.4) starts a file again that was interrupted, and does not compare checksums. A weight file has
gigabytes, so here it is continued where it stopped. A file gets its name in the cache only if it has the size and the
checksum that the Hub states. Knows nothing of what is in the files.
"""

from __future__ import annotations

import hashlib
import queue
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from mlx_oss.errors import DownloadError
from mlx_oss.weights.hub import cached
from mlx_oss.weights.hub.copies import cache_entry, hub_cache
from mlx_oss.weights.hub.failures import TooSlow, hub_errors, site
from mlx_oss.weights.hub.names import HubModel
from mlx_oss.weights.hub.repository import RemoteFile, Repository, opened

_THREADS = 4
_PIECE = 1 << 20  # bytes that are written at a time
_ATTEMPTS = 5  # in a row without a new byte
_PAUSE = 1.0  # seconds between them
_LEAST, _SECONDS = 60_000, 60.0  # a connection that brings fewer bytes in so many seconds is given up
_LOOK = 0.1  # seconds between two reports

OnBytes = Callable[[int, int, bool], None]


def first(repository: Repository) -> Path:
    """Downloads config and index, and returns the folder that they are in.

    Raises:
        Exception: What `huggingface_hub` raises; see `failures.hub_errors`.
    """
    shared = _Shared()
    for file in repository.first:
        _fetch(repository, file, shared)
        cached.enter(repository, file)
    return cached.snapshot(repository) / repository.folder


def rest(repository: Repository, revision: str | None, on_bytes: OnBytes | None) -> None:
    """Downloads everything but config and index, several files at a time, and enters it into the cache.

    Args:
        repository: The files.
        revision: The branch or tag that was asked for, which the cache will know. None: main.
        on_bytes: Called in this thread with the bytes that are there, those of all files, and whether nothing happens
            but that another process downloads what is missing.

    Raises:
        DownloadError: If a file cannot be downloaded, or its checksum is wrong.
        Exception: What `on_bytes` raises.
    """
    errors = hub_errors(HubModel(repository.model.repository, revision), hub_cache())
    files = (*repository.companions, *repository.weights)
    total, shared = sum(file.nbytes for file in files), _Shared()
    for file in files:
        shared.files.put(file)
    threads = [
        # Daemons: a thread that waits for a server must not hold up a program that ends.
        threading.Thread(target=_work, args=(repository, shared), name="mlx-oss download", daemon=True)
        for _ in range(min(_THREADS, len(files)))
    ]
    for thread in threads:
        thread.start()
    try:
        while any(thread.is_alive() for thread in threads) and shared.error is None:
            if on_bytes:
                waits = shared.waiting > 0 and not shared.loading
                done = sum(cached.bytes_there(repository, file) for file in files) if waits else shared.done
                on_bytes(done, total, waits)
            shared.ended.wait(_LOOK)
    finally:
        shared.stop.set()
    with errors:
        if shared.error is not None:
            raise shared.error
        for file in files:  # the weights last: then a copy with all of them is whole
            cached.enter(repository, file)
        cached.name(repository, revision)
    if on_bytes:
        on_bytes(total, total, False)


@dataclass(slots=True)
class _Shared:
    """What the threads of a download share."""

    files: queue.SimpleQueue[RemoteFile] = field(default_factory=queue.SimpleQueue)
    stop: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None
    done: int = 0
    loading: int = 0  # threads that download
    waiting: int = 0  # threads that wait for another process
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, nbytes: int) -> None:
        with self.lock:
            self.done += nbytes

    @contextmanager
    def locked(self, lock: Path) -> Iterator[None]:
        """Holds the lock of a file. If another process has it, waits until that has downloaded the file or ended."""
        from huggingface_hub.utils import WeakFileLock

        with ExitStack() as stack:
            try:
                stack.enter_context(WeakFileLock(lock, timeout=_LOOK))
            except TimeoutError:
                with self._among("waiting"):
                    stack.enter_context(WeakFileLock(lock))
            with self._among("loading"):
                yield

    @contextmanager
    def _among(self, which: str) -> Iterator[None]:
        """Counts this thread among those that are `loading`, or `waiting`."""
        with self.lock:
            setattr(self, which, getattr(self, which) + 1)
        try:
            yield
        finally:
            with self.lock:
                setattr(self, which, getattr(self, which) - 1)


class _Stopped(Exception):
    """The download was interrupted, or another file has failed."""


def _work(repository: Repository, shared: _Shared) -> None:
    """Downloads files until none is left."""
    try:
        while True:
            try:
                file = shared.files.get_nowait()
            except queue.Empty:
                return
            _fetch(repository, file, shared)
    except _Stopped:
        pass
    except BaseException as error:
        shared.error = error
        shared.ended.set()


def _fetch(repository: Repository, file: RemoteFile, shared: _Shared) -> None:
    """Brings one file into the cache's blobs, unless it is there or another process brings it."""
    blob, entry = cached.blob(repository, file), cache_entry(repository.model.repository)
    if cached.is_there(repository, file):  # asked before the lock, so that a cache that cannot be written to will do
        shared.count(file.nbytes)
        return
    blob.parent.mkdir(parents=True, exist_ok=True)
    lock = entry.parent / ".locks" / entry.name / f"{file.checksum}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with shared.locked(lock):
        if cached.is_there(repository, file):
            shared.count(file.nbytes)
            return
        part = blob.with_name(f"{blob.name}.incomplete")
        if part.is_symlink() or (part.exists() and not part.is_file()):
            part.unlink()
        for _ in range(2):  # once more from the beginning, if what was there before was wrong
            began_with = part.stat().st_size if part.exists() else 0
            if _complete(repository, file, part, shared) == file.checksum:
                part.replace(blob)
                return
            part.unlink()
            shared.count(-file.nbytes)
            if not began_with:
                break
    raise DownloadError(
        f"{repository.model.repository}: what {site()} sends for {file.path} does not have the checksum that it "
        "states: try again later, or use another network"
    )


def _complete(repository: Repository, file: RemoteFile, part: Path, shared: _Shared) -> str:
    """Downloads what is missing of a file. Returns its checksum."""
    with part.open("ab+", buffering=0) as out:
        digest, have = _digest(file), 0
        out.seek(0)
        while have < file.nbytes and (piece := out.read(min(_PIECE, file.nbytes - have))):
            digest.update(piece)
            have += len(piece)
            shared.count(len(piece))
            if shared.stop.is_set():
                raise _Stopped
        out.truncate(have)
        attempts = _ATTEMPTS
        while have < file.nbytes:
            before = have
            try:
                with opened(repository.model, file, have) as response:
                    if response.status_code == 200 and have:  # the server ignores Range
                        shared.count(-have)
                        digest, have = _digest(file), 0
                        out.truncate(0)
                    for piece in _fast_enough(response.iter_bytes()):
                        if shared.stop.is_set():
                            raise _Stopped
                        piece = piece[: file.nbytes - have]
                        out.write(piece)
                        digest.update(piece)
                        have += len(piece)
                        shared.count(len(piece))
                        if have == file.nbytes:
                            break
            except Exception as error:
                if not _passes(error):
                    raise
                attempts = _ATTEMPTS if have > before and not isinstance(error, TooSlow) else attempts - 1
                if not attempts:
                    raise
                if shared.stop.wait(_PAUSE):
                    raise _Stopped from None
            else:
                attempts = _ATTEMPTS if have > before else attempts - 1
                if not attempts:
                    raise ConnectionError(f"{file.path} ends too early")
    return digest.hexdigest()


def _fast_enough(pieces: Iterable[bytes]) -> Iterator[bytes]:
    """The pieces of a response. Raises TooSlow if they come too slowly: a timeout alone lets single bytes pass."""
    begun, received = time.monotonic(), 0
    for piece in pieces:
        yield piece
        received += len(piece)
        if (now := time.monotonic()) - begun > _SECONDS:
            if received < _LEAST:
                raise TooSlow(f"{site()} sends less than {_LEAST // 1000} kB in {_SECONDS:.0f} seconds")
            begun, received = now, 0


def _passes(error: Exception) -> bool:
    """True for an error that may be gone in a second: a broken connection, a server that is busy or slow."""
    from huggingface_hub.errors import HTTPError

    response = getattr(error, "response", None)
    if response is not None:
        return response.status_code in (408, 500, 502, 503, 504)
    return isinstance(error, (HTTPError, TooSlow))


def _digest(file: RemoteFile) -> hashlib._Hash:
    """What computes the kind of checksum that the Hub states for a file."""
    if len(file.checksum) == 64:
        return hashlib.sha256()
    return hashlib.sha1(b"blob %d\0" % file.nbytes, usedforsecurity=False)
