"""The conversion from start to end: check, write into a hidden folder beside the target, publish it by renaming.

Nothing is written before source, plan, target and free space are checked; an error on the way leaves nothing behind.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from mlx_oss import layout
from mlx_oss.errors import ConversionError
from mlx_oss.tensorfile import INDEX

from . import configs, shards
from .options import ConvertOptions, Progress, Report
from .plan import plan
from .shards import Shard
from .source import Source, open_source

_MARGIN = 64 << 20  # bytes of disk beyond the weights: tokenizer files, headers, index


def convert(
    source: str | Path,
    target: str | Path,
    options: ConvertOptions | None = None,
    progress: Callable[[Progress], None] | None = None,
) -> Report:
    """Converts the checkpoint in folder `source` into the new MLX folder `target`.

    Raises ConfigError, CheckpointError or ConversionError, and leaves nothing behind then.
    """
    options = options or ConvertOptions()
    src, dst = Path(source), Path(target)
    opened = open_source(src)
    parts = shards.split(plan(opened), options.shard_bytes)
    _check_target(src, dst, options)
    _check_space(dst, sum(part.nbytes for part in parts))
    partial = dst.absolute().parent / f".{dst.absolute().name}.partial"
    try:
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir()
        _write_shards(parts, partial, progress)
        _write_companions(opened, parts, partial)
        _publish(partial, dst)
    except BaseException as error:
        shutil.rmtree(partial, ignore_errors=True)
        if isinstance(error, OSError):
            raise ConversionError(f"{dst} cannot be written ({error.strerror}): nothing was left behind") from None
        raise
    tensors = sum(len(part.targets) for part in parts)
    return Report(dst, opened.layout, tensors, len(parts), sum(part.nbytes for part in parts))


def _check_target(src: Path, dst: Path, options: ConvertOptions) -> None:
    here, there = src.resolve(), dst.resolve()
    if here == there or here in there.parents or there in here.parents:
        raise ConversionError(f"{dst} and {src} lie inside one another: give a target outside the source")
    if not there.parent.is_dir():
        raise ConversionError(f"{there.parent} is not a folder: create it first")
    if not os.access(there.parent, os.W_OK):
        raise ConversionError(f"{there.parent} is not writable: give a target elsewhere")
    if not os.path.lexists(dst) or (dst.is_dir() and not any(dst.iterdir())):
        return
    if not options.force:
        raise ConversionError(f"{dst} exists: give another target, or --force to replace it")
    if not (dst.is_dir() and (dst / "config.json").is_file() and any(dst.glob("*.safetensors"))):
        raise ConversionError(f"{dst} is no model folder, --force does not replace it: give another target")


def _check_space(dst: Path, nbytes: int) -> None:
    free = shutil.disk_usage(dst.absolute().parent).free
    needed = nbytes + _MARGIN
    if free < needed:
        raise ConversionError(
            f"{dst.absolute().parent} has {free / 1e9:.1f} GB free, {dst.name} needs {needed / 1e9:.1f} GB: "
            "free some, or give a target on another disk"
        )


def _write_shards(parts: Sequence[Shard], folder: Path, progress: Callable[[Progress], None] | None) -> None:
    total = sum(part.nbytes for part in parts)
    done = finished = 0

    def written(count: int) -> None:
        nonlocal done
        done += count
        if progress:
            progress(Progress(done, total, finished, len(parts)))

    for part in parts:
        shards.write(part, folder / part.name, written)
        finished += 1
        written(0)


def _write_companions(source: Source, parts: Sequence[Shard], folder: Path) -> None:
    for path in source.companions:
        shutil.copyfile(path, folder / path.name)
    if source.is_openai_release:
        _write_json(folder / "generation_config.json", configs.RELEASED_GENERATION)
    _write_json(folder / "config.json", configs.for_mlx(source.raw_config, layout.lossless_quantization()))
    _write_json(folder / INDEX, shards.index(parts))
    for path in folder.iterdir():
        _sync(path)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=2) + "\n", encoding="utf-8")


def _publish(partial: Path, dst: Path) -> None:
    """Renames the finished folder to its name; what was there before goes only once the new one is in place."""
    _sync(partial)
    old = partial.with_suffix(".replaced")
    replaces = dst.is_dir() and any(dst.iterdir())
    if replaces:
        dst.rename(old)
    partial.rename(dst)
    _sync(dst.absolute().parent)
    if replaces:
        shutil.rmtree(old)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
