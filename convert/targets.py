"""Checks that a folder can be written where the user wants it, and takes the place of nothing else."""

from __future__ import annotations

import os
from pathlib import Path

from mlx_oss.convert.options import ConvertOptions
from mlx_oss.errors import ConversionError
from mlx_oss.files import expanded
from mlx_oss.system_files import is_empty
from mlx_oss.weights.safetensors import weight_files


def check_target(src: Path, dst: Path, options: ConvertOptions) -> None:
    """Raises ConversionError if the folder `dst` cannot be written, is in use, or overlaps what is read."""
    real_src, real_dst = Path(os.path.realpath(src)), Path(os.path.realpath(dst))  # unlike resolve, no error for a loop
    if _lies_in(real_src, real_dst) or _lies_in(real_dst, real_src):
        raise ConversionError(f"{dst} and {src} overlap: choose a target outside the source")
    if options.adapter is not None:
        adapter = expanded(options.adapter)
        real_adapter = Path(os.path.realpath(adapter))
        if _lies_in(real_adapter, real_dst) or _lies_in(real_dst, real_adapter):
            raise ConversionError(f"{dst} and {adapter} overlap: choose a target outside the adapter")
    if not real_dst.parent.is_dir():
        raise ConversionError(f"{real_dst.parent} is not a folder: create it first")
    if not os.access(real_dst.parent, os.W_OK):
        raise ConversionError(f"{real_dst.parent} is not writable: choose a target elsewhere")
    if os.path.ismount(dst):
        raise ConversionError(f"{dst} is a mount point: choose a folder inside it, such as {dst / 'model'}")
    if dst.is_symlink():
        raise ConversionError(f"{dst} is a symbolic link: give the folder that it points to, {real_dst}")
    if not dst.exists() or is_empty(dst):
        return
    is_model = (dst / "config.json").is_file() and bool(weight_files(dst))
    if not options.force:
        remedy = "choose another target" + (", or use --force to replace it" if is_model else "")
        raise ConversionError(f"{dst} already exists: {remedy}")
    if not is_model:
        raise ConversionError(f"{dst} is not a model folder, so --force does not replace it: choose another target")


def _lies_in(path: Path, folder: Path) -> bool:
    """True if `path` is `folder` or inside it. Compares the files themselves, so spelling does not matter."""
    return folder.exists() and any(each.exists() and each.samefile(folder) for each in (path, *path.parents))
