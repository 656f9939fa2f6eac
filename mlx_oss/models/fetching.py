"""Downloads a model: first what tells what it is and takes, then, if the caller wants it, the weights."""

from __future__ import annotations

import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from mlx_oss.errors import CheckpointError, ConfigError, DownloadError
from mlx_oss.models.progress import OnProgress, Progress
from mlx_oss.weights.hub import copies
from mlx_oss.weights.hub import download as hub_download
from mlx_oss.weights.hub.choice import INDEX
from mlx_oss.weights.hub.copies import Copy
from mlx_oss.weights.hub.failures import hub_errors, site
from mlx_oss.weights.hub.names import HubModel
from mlx_oss.weights.hub.repository import Repository, look_up, write_headers
from mlx_oss.weights.layouts.checkpoint import Checkpoint, open_checkpoint

_log = logging.getLogger("mlx_oss")

Check = Callable[[Checkpoint], str]


def asked(model: HubModel, preferred: str = "") -> tuple[Repository, Path]:
    """What the Hub holds of a model, and the folder with its config and index, which are downloaded."""
    repository = look_up(model, preferred)
    small = hub_download.first(repository)
    return repository.named_by(small / INDEX) if repository.indexed else repository, small


def headers(repository: Repository, small: Path, name: str) -> Checkpoint:
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


def download(
    model: HubModel, copy: Copy | None, progress: OnProgress | None, check: Check | None
) -> tuple[Path, str | None]:
    """Downloads what is missing of a model, in the layout of the copy that is here. Returns folder and commit."""
    cache = copies.hub_cache()
    with hub_errors(model, cache):
        repository, folder = asked(model, copy.layout_folder if copy else "")
    if missing := hub_download.missing_bytes(repository):
        sentence = f"{model}: downloading {missing / 1e9:.3g} GB from {site().partition('//')[2]} into {cache}"
        if check and repository.folder != "metal/":
            sentence += f". {check(headers(repository, folder, str(model)))}"  # opening refuses what is no gpt-oss
        hub_download.check_disk(repository)
        _log.warning("%s", sentence)

    def report(done: int, total: int) -> None:
        if progress:
            progress(Progress("downloading", done, total))

    hub_download.rest(repository, model.revision, report)
    return folder, repository.model.revision
