"""The names of models that are known here, and which one was probably meant by a name that names none."""

from __future__ import annotations

import argparse
import os
from contextlib import suppress

from mlx_oss.arguments import did_you_mean
from mlx_oss.errors import DownloadError, MlxOssError, WrongFolderError
from mlx_oss.files import can_exist, expanded
from mlx_oss.weights.hub.names import NANO, parse

_KNOWN = ("20b", "120b", "nano", "openai/gpt-oss-20b", "openai/gpt-oss-120b")
_ARGUMENTS = ("model", "folder", "name", "source")  # where commands take the name of a model


def known() -> list[str]:
    """The short names, the releases, and the models on this disk."""
    names = list(_KNOWN)
    with suppress(OSError, MlxOssError):
        from mlx_oss.weights.hub.copies import all_copies

        names += [copy.model.repository for copy in all_copies()]
    return list(dict.fromkeys(names))


def guess(error: MlxOssError, args: argparse.Namespace | None) -> str:
    """A question to put behind the error, such as "; did you mean 20b?", or nothing."""
    if args is None or not isinstance(error, DownloadError | WrongFolderError):
        return ""
    name = next((str(value) for key in _ARGUMENTS if (value := getattr(args, key, None))), "")
    if not name or not can_exist(name) or os.path.lexists(expanded(name)) or name not in str(error):
        return ""
    names = known()
    model = parse(name)
    if (model.repository if model else name).lower() in map(str.lower, names):
        return ""
    question = did_you_mean(name, names, cutoff=0.6)
    return f"; {question}" if question else ""


def label(name: str) -> str:
    """What a model is called in files that others may read: its name; of a folder only the last part."""
    from mlx_oss.models import hub_model

    if name == NANO:
        return name
    return str(hub_model(name) or expanded(name).resolve().name)
