"""Checks an MLX folder against its manifest and, better, against the checkpoint it was made from, re-reading both."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np

from mlx_oss.config import ModelConfig
from mlx_oss.errors import CheckpointError, ConversionError
from mlx_oss.tensorfile import TensorInfo, read_folder

from . import manifest
from .options import Meter, OnProgress, Report
from .plan import Target, plan
from .profiles import Specs
from .recipes import CHUNK, read
from .source import MLX, Source, open_source


def verify(target: str | Path, source: str | Path | None = None, progress: OnProgress | None = None) -> Report:
    """Every byte of the MLX folder `target` is as its manifest says and, with `source`, its tensors have exactly the
    bytes that converting it gives.

    Raises CheckpointError naming the first tensor that differs, ConfigError if the configs differ, ConversionError if
    a folder is no checkpoint.
    """
    folder = Path(target)
    if not folder.is_dir():
        raise ConversionError(f"{folder} is not a folder: give the folder of a converted model")
    written = manifest.read(folder)
    if written is not None:
        manifest.check_files(folder, written)
    stored = read_folder(folder)
    known = None if written is None else written["sha256"]
    if known is not None and set(known) != set(stored):
        odd = min(set(known) ^ set(stored))
        raise CheckpointError(f"{folder}: tensor {odd} is in only one of weights and {manifest.NAME}: convert again")
    opened = None if source is None else open_source(Path(source))
    targets = {} if opened is None else _targets(folder, stored, opened)
    if source is None and known is None:
        raise CheckpointError(
            f"{folder} has no {manifest.NAME}, as only folders written here do: compare it with the checkpoint it was "
            "made from, --source SRC"
        )
    shards: dict[Path, list[TensorInfo]] = {}
    for tensor in stored.values():
        shards.setdefault(tensor.file, []).append(tensor)
    meter = Meter(progress, sum(tensor.nbytes for tensor in stored.values()), len(shards))
    for file, tensors in shards.items():
        meter.shard = file.name
        for tensor in tensors:
            wanted = None if opened is None else targets[tensor.name].recipe.chunks()
            checksum = _compare(tensor, wanted, opened, meter)
            if known is not None and checksum != known[tensor.name]:
                raise CheckpointError(f"{file}: tensor {tensor.name} is not as {manifest.NAME} says: convert again")
        meter.finish_shard()
    return Report(folder, opened.layout if opened else MLX, len(stored), len(shards), meter.total)


def _targets(folder: Path, stored: dict[str, TensorInfo], source: Source) -> dict[str, Target]:
    """What converting the source to the profile of this folder would write, in the folder's names."""
    config = ModelConfig.from_file(folder / "config.json")
    if replace(config, quantization=None) != replace(source.config, quantization=None):
        raise CheckpointError(f"{folder / 'config.json'} describes another model than {source.folder}: convert again")
    planned = {target.name: target for unit in plan(source, _specs(config, stored)) for target in unit}
    for name in sorted(set(planned) | set(stored)):
        have, want = stored.get(name), planned.get(name)
        if have is None or want is None or (have.dtype, have.shape) != (want.dtype, want.shape):
            raise CheckpointError(f"{folder}: tensor {name} is missing, unknown or misshapen: convert again")
    return planned


def _specs(config: ModelConfig, stored: dict[str, TensorInfo]) -> Specs:
    """How the folder stores the modules outside the experts."""
    quantized = {name.removesuffix(".scales") for name in stored if name.endswith(".scales")}
    if config.quantization is None:
        return {}
    found = {path: config.quantization.for_module(path) for path in quantized}
    return {path: spec for path, spec in found.items() if spec is not None and spec.mode == "affine"}


def _compare(tensor: TensorInfo, wanted: Iterator[np.ndarray] | None, source: Source | None, meter: Meter) -> str:
    """The tensor's sha256. Raises CheckpointError where its bytes are not those of `wanted`, which come of `source`."""
    checksum, position = hashlib.sha256(), 0
    pieces = read(tensor, 0, tensor.nbytes, CHUNK) if wanted is None else wanted
    for piece in pieces:
        if source is not None:
            want = piece
            (piece,) = read(tensor, position, position + want.nbytes, want.nbytes)
            if not np.array_equal(piece, want):
                where = source.folder
                raise CheckpointError(f"{tensor.file}: tensor {tensor.name} differs from {where}: convert again")
        checksum.update(piece.data)
        position += piece.nbytes
        meter.advance(piece.nbytes)
    return checksum.hexdigest()
