"""What a name means: a folder, or a model of the Hub. Asks the disk whether a folder is called so, and no network."""

from __future__ import annotations

import os
from pathlib import Path

from mlx_oss.errors import DownloadError, OptionError, quoted
from mlx_oss.files import expanded
from mlx_oss.weights.hub.names import NANO, HubModel, parse


def hub_model(name: str | Path | HubModel) -> HubModel | None:
    """The model of the Hub that a name means; None for a folder, which comes first.

    Raises:
        DownloadError: If it is neither a folder nor a name.
        OptionError: If it is neither a text nor a path.
    """
    if isinstance(name, HubModel):
        return name
    if not isinstance(name, str | os.PathLike):
        raise OptionError(f"the model is {quoted(name)}, expected its folder or name, such as 'openai/gpt-oss-20b'")
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
