"""From the name of a model to a folder that can be loaded: found on this disk, or else downloaded, or converted.

    checkpoint_of("120b")                   config and shapes; the weights are not downloaded
    folder_of("openai/gpt-oss-20b")         the model's folder, downloaded if it is not here

Knows nothing of loading: whether a model fits is asked of its caller before a byte of weights is downloaded.
"""

from __future__ import annotations

import logging
import os
import shutil
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from mlx_oss.errors import CheckpointError, ConfigError, ConversionError, DownloadError
from mlx_oss.files import expanded
from mlx_oss.weights.hub import copies, download
from mlx_oss.weights.hub.choice import INDEX
from mlx_oss.weights.hub.copies import Copy
from mlx_oss.weights.hub.failures import hub_errors, site
from mlx_oss.weights.hub.names import NANO, HubModel, parse
from mlx_oss.weights.hub.repository import Repository, look_up, write_headers
from mlx_oss.weights.layouts.checkpoint import Checkpoint, open_checkpoint

_log = logging.getLogger("mlx_oss")

Check = Callable[[Checkpoint], str]


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a model is on its way to a folder that can be loaded.

    Attributes:
        step: "downloading" or "converting".
        done: Bytes that are there.
        total: Bytes of the whole step.
    """

    step: Literal["downloading", "converting"]
    done: int
    total: int


OnProgress = Callable[[Progress], None]


def folder_of(
    name: str | Path | HubModel,
    *,
    progress: OnProgress | None = None,
    check: Check | None = None,
    as_released: bool = False,
    newest: bool = False,
) -> Path:
    """The folder of a model. Downloads the model if it is named by the Hub's name and not on this disk.

    Args:
        name: A folder; "nano"; "20b" or "120b"; or a name of the Hub, such as "openai/gpt-oss-20b", also with
            "@revision". A folder of that name comes first, but not of the name "nano".
        progress: Called in this thread while the model is downloaded or converted.
        check: Called with the config and shapes of a model before its weights are downloaded. It raises an error if the
            model cannot be used, or else returns a sentence on what the model takes, which is logged.
        as_released: Return the files as they were released, also if they cannot be loaded without a conversion.
        newest: Ask the Hub whether the model has changed, also if a copy is on this disk.

    Raises:
        DownloadError: If there is no such model, or it cannot be downloaded.
        CheckpointError: If its files are damaged, or hold no model that can be read here.
        ConfigError: If its config is not one of gpt-oss.
        ConversionError: If it has to be converted, and cannot be.
    """
    if name == NANO:
        from mlx_oss.nano import nano_folder

        return nano_folder()
    model = hub_model(name)
    if model is None:
        return expanded(str(name))
    copy = copies.find(model, as_released=as_released)
    if copy is None or not copy.is_whole or newest:
        folder, commit = _download(model, copy, progress, check)
    else:
        folder, commit = copy.folder, copy.model.revision
    if as_released:
        return folder
    return _loadable(HubModel(model.repository, commit), folder, progress)


def local_folder(name: str | Path) -> Path:
    """The folder of a model that is on this disk. Raises DownloadError if it is not."""
    model = hub_model(name) if name != NANO else None
    if model is None:
        return folder_of(name)
    copy = copies.find(model)
    if copy is None or not copy.is_whole:
        raise DownloadError(f"{model} is not on this disk, or not whole: download it with `mlx-oss pull {model}`")
    return copy.folder


def repair(name: str | Path, progress: OnProgress | None = None) -> list[str]:
    """Downloads the damaged and the missing files of a model again.

    A file in Hugging Face's cache is named by its checksum. Each is read, and removed if it has another one. Which ones
    are missing, the Hub says.

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
    for file, checksum in downloads.recorded(copy.folder).items() if copy.folder.is_dir() else ():
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
    folder, _ = _download(copy.model, copy, progress, None)
    return sorted(_present(folder) - intact)


def _present(folder: Path) -> set[str]:
    """The names of the files in a folder, and of the links that lead to a file."""
    return {path.name for path in folder.iterdir() if path.is_file()} if folder.is_dir() else set()


def hub_model(name: str | Path | HubModel) -> HubModel | None:
    """The model of the Hub that a name means; None for a folder, which comes first.

    Raises:
        DownloadError: If it is neither a folder nor a name.
    """
    if isinstance(name, HubModel):
        return name
    folder = expanded(name)
    if isinstance(name, Path) or os.path.lexists(folder) or folder.is_absolute() or str(name).startswith("."):
        return None
    if model := parse(str(name)):
        return model
    if "/" in str(name) or os.sep in str(name):
        return None
    raise DownloadError(
        f"{name} does not exist, and is not the name of a model: give a folder, 20b, 120b, nano, or a name on "
        "huggingface.co, such as openai/gpt-oss-20b"
    )


def named(name: str) -> HubModel:
    """The model of the Hub that a name means, also if a folder is called like that. Raises DownloadError for others."""
    if name == NANO:
        raise DownloadError("nano comes with mlx-oss: it is neither downloaded nor removed")
    if model := parse(name):
        return model
    raise DownloadError(
        f"{name} is not the name of a model: give 20b, 120b, or a name on huggingface.co, such as openai/gpt-oss-20b"
    )


def checkpoint_of(name: str | Path) -> Checkpoint:
    """The config and the shapes of a model. Of a model that is not on this disk only headers are downloaded, some MB.

    Raises:
        DownloadError: If there is no such model, or the Hub cannot be asked.
        CheckpointError: If it holds no model that can be read here.
        ConfigError: If its config is not one of gpt-oss.
    """
    if name == NANO:
        return open_checkpoint(folder_of(name))
    model = hub_model(name)
    if model is None:
        return open_checkpoint(expanded(name))
    copy = copies.find(model)
    if copy is not None and copy.is_whole:
        return open_checkpoint(copy.folder)
    with hub_errors(model, copies.hub_cache()):
        repository, small = _asked(model)
    return _headers(repository, small, str(model))


def _asked(model: HubModel, preferred: str = "") -> tuple[Repository, Path]:
    """What the Hub holds of a model, and the folder with its config and index, which are downloaded."""
    repository = look_up(model, preferred)
    small = download.first(repository)
    return repository.named_by(small / INDEX) if repository.indexed else repository, small


def _headers(repository: Repository, small: Path, name: str) -> Checkpoint:
    """The checkpoint of a repository, of whose weight files only the headers are downloaded."""
    if repository.folder == "metal/":
        raise DownloadError(f"{name} has OpenAI's Metal format, which can be looked into only once it is here: pull it")
    with tempfile.TemporaryDirectory(prefix="mlx-oss-") as temporary:
        folder = Path(temporary)
        for file in repository.first:
            shutil.copyfile(small / Path(file.path).name, folder / Path(file.path).name)
        with hub_errors(repository.model, copies.hub_cache()):
            write_headers(repository, folder)
        try:
            with warnings.catch_warnings(action="ignore"):  # opening the download warns, and names its folder
                return replace(open_checkpoint(folder), folder=Path(name))
        except (CheckpointError, ConfigError) as error:  # they name the files by their paths
            raise type(error)(str(error).replace(str(folder), name)) from None


def _download(
    model: HubModel, copy: Copy | None, progress: OnProgress | None, check: Check | None
) -> tuple[Path, str | None]:
    """Downloads what is missing of a model, in the layout of the copy that is here. Returns folder and commit."""
    cache = copies.hub_cache()
    with hub_errors(model, cache):
        repository, folder = _asked(model, copy.layout_folder if copy else "")
    if missing := download.missing_bytes(repository):
        sentence = f"{model}: downloading {missing / 1e9:.3g} GB from {site().partition('//')[2]} into {cache}"
        if check and repository.folder != "metal/":
            sentence += f". {check(_headers(repository, folder, str(model)))}"  # opening refuses what is no gpt-oss
        download.check_disk(repository)
        _log.warning("%s", sentence)

    def report(done: int, total: int) -> None:
        if progress:
            progress(Progress("downloading", done, total))

    download.rest(repository, model.revision, report)
    return folder, repository.model.revision


def _loadable(model: HubModel, folder: Path, progress: OnProgress | None) -> Path:
    """The folder itself, or that of our conversion if the model cannot be loaded as it is."""
    checkpoint = open_checkpoint(folder)
    if not checkpoint.layout.must_convert:
        return folder
    target = copies.converted_folder(model)
    if target is None:
        raise ConversionError(
            f"{folder} cannot be loaded as it is, because {checkpoint.layout.must_convert}, and there is no home "
            "folder for a conversion: set MLX_OSS_CACHE to a folder"
        )
    if copies.is_whole(target):
        return target
    from mlx_oss.convert import convert

    _log.warning(
        "%s cannot be loaded as it is, because %s: it is converted once, into %s",
        model.repository,
        checkpoint.layout.must_convert,
        target,
    )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConversionError(f"{target.parent} cannot be created ({error.strerror}): set MLX_OSS_CACHE") from None
    convert(folder, target, progress=progress and (lambda now: progress(Progress("converting", now.done, now.total))))
    return target


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
