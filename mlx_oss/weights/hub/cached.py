"""Where the files of a repository lie in Hugging Face's cache, and how one is entered there.

The cache keeps each file once, in `blobs` under its checksum, and links to it from the snapshot of a revision. On a
disk without symbolic links the file itself lies in the snapshot, as `huggingface_hub` does it there.
"""

from __future__ import annotations

import errno
import os
from pathlib import Path

from mlx_oss.weights.hub.copies import cache_entry
from mlx_oss.weights.hub.repository import RemoteFile, Repository

# What systems say of a link on a disk that has none (symlink(2); SMB).
_NO_LINKS = (errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS)


def blob(repository: Repository, file: RemoteFile) -> Path:
    """Where the cache keeps a file; while it is downloaded, the name ends in `.incomplete`."""
    return cache_entry(repository.model.repository) / "blobs" / file.checksum


def snapshot(repository: Repository) -> Path:
    """The folder of a revision."""
    return cache_entry(repository.model.repository) / "snapshots" / str(repository.model.revision)


def is_there(repository: Repository, file: RemoteFile) -> bool:
    """True if the whole file is in the cache. Its content is not read."""
    return _is_whole(blob(repository, file), file) or _is_its_own(snapshot(repository) / file.path, file)


def bytes_there(repository: Repository, file: RemoteFile) -> int:
    """Bytes of a file that are in the cache."""
    if is_there(repository, file):
        return file.nbytes
    part = Path(f"{blob(repository, file)}.incomplete")
    return min(part.stat().st_size, file.nbytes) if part.is_file() else 0


def enter(repository: Repository, file: RemoteFile) -> None:
    """Links to a file from the snapshot of its revision; on a disk without links, moves it there."""
    link, kept = snapshot(repository) / file.path, blob(repository, file)
    link.parent.mkdir(parents=True, exist_ok=True)
    if _is_its_own(link, file) or (link.exists() and kept.exists() and link.samefile(kept)):
        return
    temporary = link.with_name(f".{link.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    try:
        temporary.symlink_to(os.path.relpath(kept, link.parent))
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        try:
            kept.replace(link)
        except FileNotFoundError:
            if not _is_its_own(link, file):  # another process has just moved it
                raise
    else:
        temporary.replace(link)


def name(repository: Repository, revision: str | None) -> None:
    """Writes which commit a branch or tag means, where `huggingface_hub` looks for it."""
    if revision == repository.model.revision:
        return
    reference = cache_entry(repository.model.repository) / "refs" / (revision or "main")
    commit = str(repository.model.revision)
    if reference.is_file() and reference.read_bytes() == commit.encode():
        return
    reference.parent.mkdir(parents=True, exist_ok=True)
    temporary = reference.with_name(f"{reference.name}.{os.getpid()}")
    temporary.write_text(commit)
    temporary.replace(reference)


def _is_its_own(link: Path, file: RemoteFile) -> bool:
    """True if the snapshot has the file itself, no link to it."""
    return not link.is_symlink() and _is_whole(link, file)


def _is_whole(path: Path, file: RemoteFile) -> bool:
    return path.is_file() and path.stat().st_size == file.nbytes
