"""Downloads a model: first what tells what it is and takes, then, if the caller wants it, the weights."""

from __future__ import annotations

import logging
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from mlx_oss.errors import MlxOssError
from mlx_oss.models.progress import Check, OnProgress, Progress
from mlx_oss.weights.hub import copies
from mlx_oss.weights.hub.choice import INDEX
from mlx_oss.weights.hub.copies import Copy
from mlx_oss.weights.hub.download import first, rest
from mlx_oss.weights.hub.failures import hub_errors, site
from mlx_oss.weights.hub.names import HubModel
from mlx_oss.weights.hub.repository import Repository, look_up, write_headers
from mlx_oss.weights.hub.space import Writing, check_disk, missing_bytes
from mlx_oss.weights.layouts.checkpoint import Checkpoint, open_checkpoint

_log = logging.getLogger("mlx_oss")

Writes = Callable[[Checkpoint, HubModel], Writing | None]


def asked(model: HubModel, preferred: str = "") -> tuple[Repository, Path]:
    """What the Hub holds of a model, and the folder with its config and index, which are downloaded."""
    repository = look_up(model, preferred)
    small = first(repository)
    return repository.named_by(small / INDEX) if repository.indexed else repository, small


def headers(repository: Repository, small: Path, name: str) -> Checkpoint:
    """The checkpoint of a repository, of whose weight files only the headers are downloaded."""
    with header_folder(repository, small, name) as folder, warnings.catch_warnings(action="ignore"):
        return replace(open_checkpoint(folder), folder=Path(name))  # opening the download warns, and names its folder


@contextmanager
def header_folder(repository: Repository, small: Path, name: str) -> Iterator[Path]:
    """A temporary folder with config, index and the headers of the weight files; the rest of each is a hole.

    Errors that are raised in this context name the model in place of that folder.
    """
    with tempfile.TemporaryDirectory(prefix="mlx-oss-") as temporary:
        folder = Path(temporary)
        for file in repository.first:
            shutil.copyfile(small / Path(file.path).name, folder / Path(file.path).name)
        with hub_errors(repository.model, copies.hub_cache()):
            write_headers(repository, folder)
        try:
            yield folder
        except MlxOssError as error:
            raise type(error)(str(error).replace(str(folder), name)) from None


def download(
    model: HubModel,
    copy: Copy | None,
    progress: OnProgress | None,
    check: Check | None = None,
    writes: Writes | None = None,
) -> tuple[Path, str | None]:
    """Downloads what is missing of a model, in the layout of the copy that is here. Returns folder and commit.

    Args:
        model: The model.
        copy: The copy that is here. None: none is.
        progress: As for `folders.folder_of`.
        check: As for `folders.folder_of`. None: the files are downloaded without looking into them.
        writes: What will be written from the files of the model, the revision of which is the commit: the disk must
            have room for that, too.
    """
    cache = copies.hub_cache()
    with hub_errors(model, cache):
        repository, folder = asked(model, copy.layout_folder if copy else "")
    if missing := missing_bytes(repository):
        sentence, writing = (
            f"{model}: downloading {missing / 1e9:.3g} GB from {site().partition('//')[2]} into {cache}",
            None,
        )
        if check:
            checkpoint = headers(repository, folder, str(model))  # opening refuses what is no gpt-oss
            sentence += f". {check(checkpoint)}"
            writing = writes and writes(checkpoint, repository.model)
        check_disk(repository, writing)
        _log.warning("%s", sentence)

    def report(done: int, total: int, waiting: bool) -> None:
        if progress:
            progress(Progress("downloading", done, total, waiting))

    rest(repository, model.revision, report)
    return folder, repository.model.revision
