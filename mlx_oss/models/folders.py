"""The folder of a model by its name, and its config and shapes: from this disk, or else from the Hub."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from mlx_oss.errors import DownloadError
from mlx_oss.files import expanded
from mlx_oss.models.conversion import loadable, writing
from mlx_oss.models.fetching import Writes, asked, download, header_folder, headers
from mlx_oss.models.naming import hub_model
from mlx_oss.models.progress import Check, OnProgress
from mlx_oss.weights.hub import copies
from mlx_oss.weights.hub.failures import hub_errors
from mlx_oss.weights.hub.names import NANO, HubModel
from mlx_oss.weights.layouts.checkpoint import Checkpoint, open_checkpoint


def folder_of(
    name: str | Path | HubModel,
    *,
    progress: OnProgress | None = None,
    check: Check | None = None,
    writes: Writes = writing,
    as_released: bool = False,
    newest: bool = False,
) -> Path:
    """The folder of a model. Downloads the model if it is named by the Hub's name and not on this disk.

    Args:
        name: A folder; "nano"; "20b" or "120b"; or a name of the Hub, such as "openai/gpt-oss-20b", also with
            "@revision". A folder of that name comes first, but not of the name "nano".
        progress: Called in this thread while the model is downloaded or converted.
        check: Called with the config and shapes of a model before its weights are downloaded or converted. It raises an
            error if the model cannot be used, or else returns a sentence on what the model takes, which is logged.
            None: the weights are downloaded unseen, and only the disk that they take is checked.
        writes: Says what will be written from the model's files once they are here, for which the disk must have room,
            too. As a default that is our conversion, of what cannot be loaded as it is.
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
        folder, commit = download(model, copy, progress, check, writes)
    else:
        folder, commit = copy.folder, copy.model.revision
    if as_released:
        return folder
    return loadable(HubModel(model.repository, commit), folder, progress, check)


def local_folder(name: str | Path) -> Path:
    """The folder of a model that is on this disk. Raises DownloadError if it is not."""
    if (folder := local_copy(name)) is None:
        raise DownloadError(
            f"{hub_model(name)} is not on this disk, or not whole: download it with `mlx-oss pull {hub_model(name)}`"
        )
    return folder


def local_copy(name: str | Path) -> Path | None:
    """The folder of a model that is on this disk. None if the name is one of the Hub's, and the model is not here.

    Raises:
        DownloadError: If it is neither a folder nor a name.
    """
    model = hub_model(name) if name != NANO else None
    if model is None:
        return folder_of(name)
    copy = copies.find(model)
    return copy.folder if copy is not None and copy.is_whole else None


def checkpoint_of(name: str | Path) -> Checkpoint:
    """The config and the shapes of a model. Of a model that is not on this disk only headers are downloaded, some MB.

    Raises:
        DownloadError: If there is no such model, or the Hub cannot be asked.
        CheckpointError: If it holds no model that can be read here.
        ConfigError: If its config is not one of gpt-oss.
    """
    model = hub_model(name) if name != NANO else None
    copy = None if model is None else copies.find(model)
    if model is None or (copy is not None and copy.is_whole):
        return open_checkpoint(folder_of(name) if copy is None else copy.folder)
    with hub_errors(model, copies.hub_cache()):
        repository, small = asked(model)
    return headers(repository, small, str(model))


@contextmanager
def folder_without_weights(name: str | Path) -> Iterator[Path]:
    """A folder that shows what a model consists of: its own, or if it is not here, a temporary one with holes in it.

    Raises:
        DownloadError: If there is no such model, or the Hub cannot be asked.
        CheckpointError: If a weight file has no header.
    """
    model = hub_model(name) if name != NANO else None
    copy = None if model is None else copies.find(model, as_released=True)
    if model is None or (copy is not None and copy.is_whole):
        yield folder_of(name) if copy is None else copy.folder
        return
    with hub_errors(model, copies.hub_cache()):
        repository, small = asked(model)
    with header_folder(repository, small, str(model)) as folder:
        yield folder
