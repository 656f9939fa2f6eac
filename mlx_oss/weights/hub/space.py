"""Whether the disk has room for what a download brings, and for what is then written from it."""

from __future__ import annotations

import shutil
from dataclasses import dataclass
from pathlib import Path

from mlx_oss.errors import DownloadError
from mlx_oss.weights.hub.cached import bytes_there
from mlx_oss.weights.hub.copies import hub_cache
from mlx_oss.weights.hub.repository import Repository

_SPARE = 1 << 26  # bytes that stay free on the disk


def missing_bytes(repository: Repository) -> int:
    """Bytes of the files that are not in the cache yet; without config and index."""
    files = (*repository.companions, *repository.weights)
    return sum(file.nbytes - bytes_there(repository, file) for file in files)


@dataclass(frozen=True, slots=True)
class Writing:
    """What is written from the files of a model once they are here: its conversion.

    Attributes:
        folder: Where it is written.
        nbytes: Its size.
        elsewhere: What the user can do to have it written to another disk, for a message.
    """

    folder: Path
    nbytes: int
    elsewhere: str


def check_disk(repository: Repository, writing: Writing | None = None) -> None:
    """Raises DownloadError if the disk has no room for what is missing, and for what is then written from it."""
    name, missing, cache = repository.model.repository, missing_bytes(repository), hub_cache()
    needed, what, remedy = missing, f"{_gb(missing)} more", "or set HF_HUB_CACHE to a folder on another disk"
    if writing is not None and writing.nbytes:
        if _disk(writing.folder) == _disk(cache):
            needed += writing.nbytes
            what = (
                f"{_gb(missing)} for the download and {_gb(writing.nbytes)} for the conversion, {_gb(needed)} in all,"
            )
            remedy = f"{remedy.removeprefix('or ')}, or {writing.elsewhere}"
        elif (free := _free(writing.folder)) < writing.nbytes + _SPARE:
            raise DownloadError(
                f"{name} needs {_gb(writing.nbytes)} for its conversion on the disk of {writing.folder}, which has "
                f"{_gb(free)} free: free some space, or {writing.elsewhere}"
            )
    if (free := _free(cache)) < needed + _SPARE:
        raise DownloadError(
            f"{name} needs {what} on the disk of {cache}, which has {_gb(free)} free: free some space, {remedy}"
        )


def _gb(nbytes: int) -> str:
    return f"{nbytes / 1e9:.3g} GB"


def _disk(folder: Path) -> int:
    return _existing(folder).stat().st_dev


def _free(folder: Path) -> int:
    return shutil.disk_usage(_existing(folder)).free


def _existing(folder: Path) -> Path:
    """The folder, or the next above it that exists."""
    return next(parent for parent in (folder, *folder.parents) if parent.exists())
