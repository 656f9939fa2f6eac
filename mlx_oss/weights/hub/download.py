"""Downloads the files of a model into Hugging Face's cache, as `huggingface_hub` lays it out.

`huggingface_hub` (2.4) starts a file again that was interrupted, and does not compare checksums. A weight file has
gigabytes, so here it is continued where it stopped, and gets its name in the cache only if its sha256 is right. Small
files, links and references are left to `huggingface_hub`. Knows nothing of what is in the files.
"""

from __future__ import annotations

import hashlib
import os
import queue
import shutil
import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlx_oss.errors import DownloadError
from mlx_oss.weights.hub.copies import cache_entry, hub_cache
from mlx_oss.weights.hub.failures import hub_errors, site
from mlx_oss.weights.hub.repository import RemoteFile, Repository, opened

_THREADS = 4
_PIECE = 1 << 20  # bytes that are written at a time
_ATTEMPTS = 5  # in a row without a new byte
_PAUSE = 1.0  # seconds between them
_LOOK = 0.1  # seconds between two reports
_SPARE = 1 << 26  # bytes that stay free on the disk

OnBytes = Callable[[int, int], None]


def companions(repository: Repository) -> Path:
    """Downloads the small files, and returns the folder that they are in.

    Raises:
        Exception: What `huggingface_hub` raises; see `failures.hub_errors`.
    """
    cache_entry(repository.model.repository).mkdir(parents=True, exist_ok=True)
    for file in repository.companions:
        _place(repository, file)
    return cache_entry(repository.model.repository) / "snapshots" / str(repository.model.revision) / repository.folder


def missing_bytes(repository: Repository) -> int:
    """Bytes of the weight files that are not in the cache yet; without those that are as small as a config."""
    blobs = cache_entry(repository.model.repository) / "blobs"
    return sum(file.nbytes - _present(blobs, file) for file in repository.weights if file.sha256)


def check_disk(repository: Repository) -> None:
    """Raises DownloadError if the disk has no room for what is missing."""
    missing, free = missing_bytes(repository), shutil.disk_usage(_existing(hub_cache())).free
    if missing + _SPARE > free:
        raise DownloadError(
            f"{repository.model.repository} needs {missing / 1e9:.1f} GB more on the disk of {hub_cache()}, which has "
            f"{free / 1e9:.1f} GB free: free some space, or set HF_HUB_CACHE to a folder on another disk"
        )


def weights(repository: Repository, revision: str | None, on_bytes: OnBytes | None) -> None:
    """Downloads the weight files, several at a time, and enters them into the cache.

    Args:
        repository: The files.
        revision: The branch or tag that was asked for, which the cache will know. None: main.
        on_bytes: Called in this thread with the bytes that are there and those of all weight files.

    Raises:
        DownloadError: If a file cannot be downloaded, or its checksum is wrong.
        Exception: What `on_bytes` raises.
    """
    entry, errors = cache_entry(repository.model.repository), hub_errors(repository.model, hub_cache())
    total = sum(file.nbytes for file in repository.weights)
    shared = _Shared()
    for file in repository.weights:
        shared.files.put(file)
    threads = [
        # Daemons: a thread that waits for a server must not hold up a program that ends.
        threading.Thread(target=_work, args=(repository, entry, shared), name="mlx-oss download", daemon=True)
        for _ in range(min(_THREADS, len(repository.weights)))
    ]
    for thread in threads:
        thread.start()
    try:
        while any(thread.is_alive() for thread in threads) and shared.error is None:
            if on_bytes:
                on_bytes(shared.done, total)
            shared.ended.wait(_LOOK)
    finally:
        shared.stop.set()
    with errors:
        if shared.error is not None:
            raise shared.error
        for file in repository.weights:
            _place(repository, file)
        _name(repository, revision)
    if on_bytes:
        on_bytes(total, total)


@dataclass(slots=True)
class _Shared:
    """What the threads of a download share."""

    files: queue.SimpleQueue[RemoteFile] = field(default_factory=queue.SimpleQueue)
    stop: threading.Event = field(default_factory=threading.Event)
    ended: threading.Event = field(default_factory=threading.Event)
    error: BaseException | None = None
    done: int = 0
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, nbytes: int) -> None:
        with self.lock:
            self.done += nbytes


class _Stopped(Exception):
    """The download was interrupted, or another file has failed."""


def _work(repository: Repository, entry: Path, shared: _Shared) -> None:
    """Downloads files until none is left."""
    try:
        while True:
            try:
                file = shared.files.get_nowait()
            except queue.Empty:
                return
            _fetch(repository, file, entry, shared)
    except _Stopped:
        pass
    except BaseException as error:
        shared.error = error
        shared.ended.set()


def _fetch(repository: Repository, file: RemoteFile, entry: Path, shared: _Shared) -> None:
    """Brings one file into the cache's blobs, unless it is there or another process brings it."""
    from huggingface_hub.utils import WeakFileLock

    if file.sha256 is None:  # a small one that git holds
        _place(repository, file)
        shared.count(file.nbytes)
        return
    blob = entry / "blobs" / file.sha256
    blob.parent.mkdir(parents=True, exist_ok=True)
    lock = entry.parent / ".locks" / entry.name / f"{file.sha256}.lock"
    lock.parent.mkdir(parents=True, exist_ok=True)
    with WeakFileLock(lock):
        if blob.exists():
            shared.count(file.nbytes)
            return
        part = blob.with_name(f"{blob.name}.incomplete")
        for _ in range(2):  # once more from the beginning, if what was there before was wrong
            began_with = part.stat().st_size if part.exists() else 0
            if _complete(repository, file, part, shared) == file.sha256:
                part.rename(blob)
                return
            part.unlink()
            shared.count(-file.nbytes)
            if not began_with:
                break
    raise DownloadError(
        f"{repository.model.repository}: what {site()} sends for {file.path} does not have the sha256 that it states: "
        "try again later, or use another network"
    )


def _complete(repository: Repository, file: RemoteFile, part: Path, shared: _Shared) -> str:
    """Downloads what is missing of a file. Returns its sha256."""
    with part.open("ab+", buffering=0) as out:
        digest, have = hashlib.sha256(), 0
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
                        digest, have = hashlib.sha256(), 0
                        out.truncate(0)
                    for piece in response.iter_raw():
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
                attempts = _ATTEMPTS if have > before else attempts - 1
                if not attempts:
                    raise
                if shared.stop.wait(_PAUSE):
                    raise _Stopped from None
            else:
                attempts = _ATTEMPTS if have > before else attempts - 1
                if not attempts:
                    raise ConnectionError(f"{file.path} ends too early")
    return digest.hexdigest()


def _passes(error: Exception) -> bool:
    """True for an error that may be gone in a second: a broken connection, a server that is busy."""
    from huggingface_hub.errors import HTTPError

    response = getattr(error, "response", None)
    if response is not None:
        return response.status_code in (408, 500, 502, 503, 504)
    return isinstance(error, HTTPError)


def _place(repository: Repository, file: RemoteFile) -> None:
    """Has `huggingface_hub` enter a file into the snapshot, and download it if it is a small one."""
    from huggingface_hub import hf_hub_download

    model = repository.model
    hf_hub_download(
        model.repository,
        file.path,
        revision=model.revision,
        cache_dir=hub_cache(),
        endpoint=site(),
        tqdm_class=_no_bar(),
    )


def _name(repository: Repository, revision: str | None) -> None:
    """Writes which commit a branch or tag means, where `huggingface_hub` looks for it."""
    if revision == repository.model.revision:
        return
    reference = cache_entry(repository.model.repository) / "refs" / (revision or "main")
    reference.parent.mkdir(parents=True, exist_ok=True)
    temporary = reference.with_name(f"{reference.name}.{os.getpid()}")
    temporary.write_text(str(repository.model.revision))
    temporary.replace(reference)


def _no_bar() -> type[Any]:
    """A progress bar that shows nothing."""
    from tqdm.auto import tqdm  # type: ignore[import-untyped,unused-ignore]

    class NoBar(tqdm):  # type: ignore[type-arg,misc,unused-ignore]
        def __init__(self, *args: Any, **options: Any) -> None:
            options.pop("name", None)
            super().__init__(*args, **{**options, "disable": True})

    return NoBar


def _present(blobs: Path, file: RemoteFile) -> int:
    """Bytes of a file that are in the cache."""
    for name in (str(file.sha256), f"{file.sha256}.incomplete"):
        if (path := blobs / name).is_file():
            return min(path.stat().st_size, file.nbytes)
    return 0


def _existing(folder: Path) -> Path:
    """The folder, or the next above it that exists."""
    return next(parent for parent in (folder, *folder.parents) if parent.exists())
