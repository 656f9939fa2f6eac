"""Checks an MLX folder against its manifest and, better, against the checkpoint it was made from, re-reading both."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path

import numpy as np

from mlx_oss.config import ModelConfig
from mlx_oss.convert import configs, manifest
from mlx_oss.convert.checksum import crc32
from mlx_oss.convert.jobs import Job, Target, plan_jobs
from mlx_oss.convert.options import Meter, OnProgress, Report, readable
from mlx_oss.convert.profiles import Specs
from mlx_oss.convert.source import MLX, Source, open_source
from mlx_oss.convert.thread_pool import Advance, ThreadPool
from mlx_oss.convert.transforms import Rows, read
from mlx_oss.errors import CheckpointError, ConversionError
from mlx_oss.weights.safetensors import TensorInfo, read_folder


def verify(target: str | Path, source: str | Path | None = None, progress: OnProgress | None = None) -> Report:
    """Every byte of the MLX folder `target` is as its manifest says and, with `source`, it is what converting that
    gives: the bytes of all tensors, the files carried along, the config.

    Raises CheckpointError naming the first tensor that differs, ConfigError if the configs differ, ConversionError if
    a folder is no checkpoint.
    """
    with readable():
        return _verify(Path(target), None if source is None else Path(source), progress)


def _verify(folder: Path, source: Path | None, progress: OnProgress | None) -> Report:
    if not folder.is_dir():
        raise ConversionError(f"{folder} is not a folder: give the folder of a converted model")
    written = manifest.read(folder)
    if written is not None:
        manifest.check_files(folder, written)
    stored = read_folder(folder)
    known = None if written is None else written["crc32"]
    if known is not None and set(known) != set(stored):
        odd = min(set(known) ^ set(stored))
        raise CheckpointError(f"{folder}: tensor {odd} is in only one of weights and {manifest.NAME}: convert again")
    if source is None and known is None:
        raise CheckpointError(
            f"{folder} has no {manifest.NAME}, as only folders written here do: compare it with the checkpoint it was "
            "made from, --source SRC"
        )
    opened = None if source is None else open_source(source)
    jobs = _copies(stored) if opened is None else _jobs(folder, stored, opened)
    by_file: dict[str, list[Job]] = {}
    for job in jobs:
        by_file.setdefault(stored[job.targets[0].name].file.name, []).append(job)
    meter = Meter(progress, sum(tensor.nbytes for tensor in stored.values()), len(by_file))
    with ThreadPool(meter.advance) as pool:
        works = {file: partial(_check, jobs, stored, known, opened) for file, jobs in by_file.items()}
        for file, _ in pool.as_completed(works):
            meter.finish_shard(file)
    return Report(folder, opened.layout if opened else MLX, len(stored), len(by_file), meter.total)


def _copies(stored: Mapping[str, TensorInfo]) -> Iterator[Job]:
    """What reads the folder's own tensors, in the order of the files."""
    for tensor in stored.values():
        target = Target(tensor.name, tensor.dtype, tensor.shape)
        yield Job((target,), Rows(tensor, 1, 0, tensor.nbytes))


def _jobs(folder: Path, stored: Mapping[str, TensorInfo], source: Source) -> list[Job]:
    """What converting the source to the profile of this folder would do."""
    config = ModelConfig.from_file(folder / "config.json")
    if replace(config, quantization=None) != replace(source.config, quantization=None):
        raise CheckpointError(f"{folder / 'config.json'} describes another model than {source.folder}: convert again")
    _compare_files(folder, source)
    jobs = [job for unit in plan_jobs(source, _specs(config, stored)) for job in unit]
    planned = {target.name: target for job in jobs for target in job.targets}
    for name in sorted(set(planned) | set(stored)):
        have, want = stored.get(name), planned.get(name)
        if have is None or want is None or (have.dtype, have.shape) != (want.dtype, want.shape):
            raise CheckpointError(f"{folder}: tensor {name} is missing, unknown or misshapen: convert again")
    return jobs


def _compare_files(folder: Path, source: Source) -> None:
    """What was carried along is as the source has it, and the config says what the source's does. Others write folders
    too, with other settings: where there is no manifest, only what both have is compared.
    """
    ours = (folder / manifest.NAME).exists()
    for path in source.companions:
        copy = folder / path.name
        if (ours or copy.exists()) and not (copy.exists() and copy.read_bytes() == path.read_bytes()):
            raise CheckpointError(f"{copy} is missing or differs from {path}: convert again")
    if ours:
        said = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        wanted = configs.for_mlx(source.raw_config, source.config.layer_types, said.get("quantization", {}))
        if odd := sorted(key for key in said.keys() | wanted.keys() if said.get(key) != wanted.get(key)):
            raise CheckpointError(f"{folder / 'config.json'}: {odd[0]} differs from {source.folder}: convert again")


def _specs(config: ModelConfig, stored: Mapping[str, TensorInfo]) -> Specs:
    """How the folder stores the modules outside the experts."""
    quantized = {name.removesuffix(".scales") for name in stored if name.endswith(".scales")}
    if config.quantization is None:
        return {}
    found = {path: config.quantization.for_module(path) for path in quantized}
    return {path: spec for path, spec in found.items() if spec is not None and spec.mode == "affine"}


def _check(
    jobs: Sequence[Job],
    stored: Mapping[str, TensorInfo],
    known: Mapping[str, str] | None,
    source: Source | None,
    advance: Advance,
) -> None:
    """The tensors of the jobs have the bytes that these give, which come of `source`, and the checksums that are
    known.
    """
    for job in jobs:
        tensors = [stored[target.name] for target in job.targets]
        ends, crcs = [0] * len(tensors), [0] * len(tensors)
        for pieces in job.transform.pieces():
            for n, (tensor, piece) in enumerate(zip(tensors, pieces, strict=True)):
                if source is not None:
                    (have,) = read(tensor, ends[n], ends[n] + piece.nbytes, piece.nbytes)
                    if not np.array_equal(have, piece):
                        name, where = tensor.name, source.folder
                        raise CheckpointError(f"{tensor.file}: tensor {name} differs from {where}: convert again")
                crcs[n] = crc32(piece.data, crcs[n])
                ends[n] += piece.nbytes
            advance(sum(piece.nbytes for piece in pieces))
        for tensor, crc in zip(tensors, crcs, strict=True):
            if known is not None and f"{crc:08x}" != known[tensor.name]:
                file = tensor.file
                raise CheckpointError(f"{file}: tensor {tensor.name} is not as {manifest.NAME} says: convert again")
