"""Finds the file of a LoRA adapter in a folder, and says of a folder without one what it holds instead."""

from __future__ import annotations

import os
from pathlib import Path

from mlx_oss.errors import WrongFolderError, shortened
from mlx_oss.files import expanded
from mlx_oss.weights.layouts.folders import adapters_below
from mlx_oss.weights.safetensors import ADAPTERS, MLX_ADAPTER, weight_files

CONFIG = "adapter_config.json"


def adapter_file(path: str | Path) -> Path:
    """The weight file of the adapter in a folder.

    Raises:
        WrongFolderError: If there is none.
    """
    folder = expanded(path)
    for name in ADAPTERS:
        if os.path.lexists(folder / name):
            return folder / name
    if not os.path.isdir(folder):
        if folder.name in ADAPTERS or folder.name == CONFIG:
            raise WrongFolderError(f"{folder} is a file of an adapter: give its folder, {folder.parent}")
        state = "is no folder" if os.path.lexists(folder) else "does not exist"
        raise WrongFolderError(f"{folder} {state}: give the folder with {CONFIG} and {' or '.join(ADAPTERS)}")
    if states := weight_files(folder, "*_adapters.safetensors"):
        raise WrongFolderError(
            f"{folder} holds only states of a training: copy the one that is meant, such as {states[-1]}, to "
            f"{MLX_ADAPTER} there"
        )
    if weight_files(folder, "adapter_model.bin"):
        raise WrongFolderError(
            f"{folder} holds an adapter in PyTorch's format, which is not supported: load it with PEFT and save it "
            "with save_pretrained, which writes safetensors"
        )
    if below := adapters_below(folder):
        names = [f"{path.relative_to(folder)}/" for path in below]
        said = f"{names[0]} in it does"
        if len(names) > 1:
            said = f"{len(names)} folders in it do, {shortened(', '.join(names), 300)}, and one of them may be meant"
        raise WrongFolderError(f"{folder} holds no adapter, but {said}: give {below[0]}")
    raise WrongFolderError(f"{folder} holds no adapter: give the folder with {CONFIG} and {' or '.join(ADAPTERS)}")


def adapter_files(path: str | Path | None) -> list[Path]:
    """The files of an adapter, as far as they are there. None has none."""
    folder = None if path is None else expanded(path)
    return [] if folder is None else [folder / name for name in (CONFIG, *ADAPTERS) if (folder / name).is_file()]
