"""Compares files with the checksums that huggingface_hub stored when it downloaded them.

huggingface_hub (2.4.0) leaves them in two places: `hf download --local-dir` writes one small text file for each file,
and its cache names the files that a snapshot links to by their checksum. A checksum is a sha256, or git's SHA-1 of
a blob for files that are not stored with Git LFS. Knows nothing of checkpoints.
"""

from __future__ import annotations

import hashlib
import os
import re
from collections.abc import Callable
from pathlib import Path

from mlx_oss.errors import CheckpointError
from mlx_oss.files import open_regular
from mlx_oss.system_files import is_system_file

_RECORDS = Path(".cache/huggingface/download")
_ENDING = ".metadata"
_RECORD_BYTES = 4096  # more than any record has
_CHECKSUM = re.compile(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")
_PIECE = 1 << 20  # bytes read at a time


def recorded(folder: Path) -> dict[str, str]:
    """The recorded checksums of the files in a folder, by the file's name. Empty if none is recorded.

    Raises:
        CheckpointError: If a file of which a checksum is recorded is missing.
    """
    checksums, folder = {}, Path(os.path.realpath(folder))  # the folder of "." or of a link has another parent
    names = {path.name for path in folder.iterdir() if path.is_file()}
    for records in (folder / _RECORDS, folder.parent / _RECORDS / folder.name):
        names |= {path.name.removesuffix(_ENDING) for path in records.glob(f"*{_ENDING}")}
    for name in sorted(name for name in names if not is_system_file(name)):
        if checksum := _from_local_dir(folder / name) or _from_cache(folder / name):
            checksums[name] = checksum
            if not (folder / name).is_file():
                raise CheckpointError(f"{folder / name} is missing, although it was downloaded: download it again")
    return checksums


def compare(path: Path, checksum: str, report_bytes: Callable[[int], None]) -> None:
    """Compares a file with its recorded checksum.

    Args:
        path: The file.
        checksum: A sha256, or git's SHA-1 of a blob, in hexadecimal.
        report_bytes: Called with the number of bytes read after each step.

    Raises:
        CheckpointError: If the file differs or cannot be read.
    """
    try:
        with open_regular(path) as file:
            size, is_sha256 = os.fstat(file.fileno()).st_size, len(checksum) == 64
            digest = hashlib.sha256() if is_sha256 else hashlib.sha1(b"blob %d\0" % size, usedforsecurity=False)
            while piece := file.read(_PIECE):
                digest.update(piece)
                report_bytes(len(piece))
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}): download it again") from None
    if digest.hexdigest() != checksum:
        raise CheckpointError(f"{path} differs from the checksum that was recorded at its download: download it again")


def _from_local_dir(path: Path) -> str | None:
    """The second line of the file's record. The records of `original/` are in the folder above it."""
    for folder, name in ((path.parent, path.name), (path.parent.parent, f"{path.parent.name}/{path.name}")):
        record = folder / _RECORDS / f"{name}{_ENDING}"
        try:
            with open_regular(record) as file:
                lines = file.read(_RECORD_BYTES).decode(errors="replace").split("\n")
        except OSError:
            continue
        if len(lines) > 1 and _CHECKSUM.fullmatch(lines[1].strip()):
            return lines[1].strip()
    return None


def _from_cache(path: Path) -> str | None:
    """The name of the file that a snapshot of the cache links to."""
    target = Path(os.path.realpath(path))
    is_blob = path.is_symlink() and target.parent.name == "blobs" and _CHECKSUM.fullmatch(target.name)
    return target.name if is_blob else None
