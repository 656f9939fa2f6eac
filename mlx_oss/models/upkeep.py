"""Repairs a model that was downloaded, and removes copies of models from this disk."""

from __future__ import annotations

import os
from pathlib import Path

from mlx_oss.errors import CheckpointError, DownloadError
from mlx_oss.models.fetching import download
from mlx_oss.models.naming import hub_model
from mlx_oss.models.progress import OnProgress
from mlx_oss.weights.hub import copies
from mlx_oss.weights.hub.copies import Copy
from mlx_oss.weights.hub.failures import hub_errors
from mlx_oss.weights.hub.names import NANO
from mlx_oss.weights.hub.repository import look_up


def repair(name: str | Path, progress: OnProgress | None = None) -> list[str]:
    """Downloads the damaged and the missing files of a model again.

    A file in Hugging Face's cache is named by its checksum; where the disk has no symbolic links, the Hub is asked for
    it. Each is read, and removed if it has another one. Which ones are missing, the Hub says.

    Args:
        name: Name of a model in Hugging Face's cache.
        progress: Called in this thread while files are downloaded.

    Returns:
        The names of the files that were downloaded.

    Raises:
        DownloadError: If the model is not in that cache, or a file cannot be downloaded.
    """
    from mlx_oss.convert import downloads

    model = hub_model(name) if name != NANO else None
    copy = copies.find(model, as_released=True) if model else None
    if copy is None or copy.place != copies.HUGGING_FACE:
        raise DownloadError(f"{name} is not in {copies.hub_cache()}: only what was downloaded there can be repaired")
    if not copy.has_weights:
        raise DownloadError(f"{copy.model} is not on this disk: download it with `mlx-oss pull {name}`")
    for file, checksum in _checksums(copy).items() if copy.folder.is_dir() else ():
        try:
            downloads.compare(copy.folder / file, checksum, lambda _: None)
        except CheckpointError:
            try:
                (copy.folder / file).resolve().unlink(missing_ok=True)
                (copy.folder / file).unlink(missing_ok=True)
            except OSError as error:
                raise DownloadError(
                    f"{error.filename} is damaged, and cannot be removed ({error.strerror}): check its permissions"
                ) from None
    intact = _present(copy.folder)
    folder, _ = download(copy.model, copy, progress)
    return sorted(_present(folder) - intact)


def _checksums(copy: Copy) -> dict[str, str]:
    """The checksums that the files of a copy should have, as far as they are known, by the file's name."""
    from mlx_oss.convert import downloads

    stated: dict[str, str] = {}
    if any(path.is_file() and not path.is_symlink() for path in copy.folder.iterdir()):
        with hub_errors(copy.model, copies.hub_cache()):
            repository = look_up(copy.model, copy.layout_folder)
        files = (*repository.first, *repository.companions, *repository.weights)
        stated = {Path(file.path).name: file.checksum for file in files}
    there = _present(copy.folder)
    return {name: checksum for name, checksum in stated.items() if name in there} | downloads.recorded(copy.folder)


def _present(folder: Path) -> set[str]:
    """The names of the files in a folder, and of the links that lead to a file."""
    return {path.name for path in folder.iterdir() if path.is_file()} if folder.is_dir() else set()


def remove(copy: Copy, *, only_revision: bool = False) -> int:
    """Removes a copy of a model.

    Args:
        copy: The copy.
        only_revision: Leave other revisions beside it as they are.

    Returns:
        How many bytes were freed.

    Raises:
        CheckpointError: If it cannot be removed.
    """
    if copy.root.is_symlink():
        raise CheckpointError(f"{copy.root} is a link to {os.path.realpath(copy.root)}: remove both yourself")
    before = copies.disk_bytes(copy.root)
    try:
        copies.remove_revision(copy) if only_revision else copies.remove(copy)
    except OSError as error:
        raise CheckpointError(
            f"{copy.root} cannot be removed ({error.filename}: {error.strerror or error}): check its permissions"
        ) from None
    return before - copies.disk_bytes(copy.root)
