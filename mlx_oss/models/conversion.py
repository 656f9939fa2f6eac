"""Converts a model that cannot be loaded as it is, once, into our own cache."""

from __future__ import annotations

import logging
from pathlib import Path

from mlx_oss.errors import CheckpointError, ConversionError
from mlx_oss.models.progress import Check, OnProgress, Progress
from mlx_oss.weights.hub import copies
from mlx_oss.weights.hub.names import HubModel
from mlx_oss.weights.hub.space import Writing
from mlx_oss.weights.layouts.checkpoint import Checkpoint, as_converted, open_checkpoint

_log = logging.getLogger("mlx_oss")


def writing(checkpoint: Checkpoint, model: HubModel) -> Writing | None:
    """What `loadable` will write of a model that is being downloaded. None: nothing.

    Raises:
        ConversionError: If there is no place for it.
    """
    if not checkpoint.layout.must_convert:
        return None
    target = _target(checkpoint, model)
    nbytes = sum(tensor.nbytes for tensor in as_converted(checkpoint).tensors.values())
    return Writing(target, nbytes, "set MLX_OSS_CACHE to a folder on another disk")


def loadable(model: HubModel, folder: Path, progress: OnProgress | None, check: Check | None = None) -> Path:
    """The folder itself, or that of our conversion if the model cannot be loaded as it is.

    Args:
        model: Its name, with the commit as the revision.
        folder: The folder of the copy that is here.
        progress: As for `folders.folder_of`.
        check: As for `folders.folder_of`: what cannot run here is not converted either.
    """
    try:
        checkpoint = open_checkpoint(folder)
    except CheckpointError as error:
        if "download" not in str(error) or not folder.is_relative_to(copies.hub_cache()):
            raise
        raise CheckpointError(
            f"{error}: `mlx-oss verify {model.repository} --repair` downloads what is damaged"
        ) from None
    if not checkpoint.layout.must_convert:
        return folder
    target = _target(checkpoint, model)
    if copies.is_whole(target):
        return target
    if check:
        check(checkpoint)
    from mlx_oss.convert import convert

    _log.warning(
        "%s cannot be loaded as it is, because %s: it is converted once, into %s",
        model.repository,
        checkpoint.layout.must_convert,
        target,
    )
    convert(folder, target, progress=progress and (lambda now: progress(Progress("converting", now.done, now.total))))
    return target


def _target(checkpoint: Checkpoint, model: HubModel) -> Path:
    """The folder of our conversion of a model. The folder above it is created, so that an error comes early."""
    target = copies.converted_folder(model)
    if target is None:
        raise ConversionError(
            f"{checkpoint.folder} cannot be loaded as it is, because {checkpoint.layout.must_convert}, and there is no "
            "home folder for a conversion: set MLX_OSS_CACHE to a folder"
        )
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise ConversionError(f"{target.parent} cannot be created ({error.strerror}): set MLX_OSS_CACHE") from None
    return target
