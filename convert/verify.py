"""Verifies an MLX folder: against its manifest and, if the source is given, against the checkpoint it was made from."""

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
from mlx_oss.convert.profiles import Specs
from mlx_oss.convert.report import OnProgress, ProgressMeter, Report, os_errors_named
from mlx_oss.convert.source import MLX, Source, open_source
from mlx_oss.convert.thread_pool import ReportBytes, ThreadPool
from mlx_oss.convert.transforms import Rows, read
from mlx_oss.errors import CheckpointError, ConversionError
from mlx_oss.weights.safetensors import TensorInfo, read_folder


def verify(target: str | Path, source: str | Path | None = None, progress: OnProgress | None = None) -> Report:
    """Checks that an MLX folder is intact and, with `source`, that it is what converting the source gives.

    Without `source`, every byte of the folder is compared with the checksums in its manifest, `conversion.json`. With
    `source`, the bytes of all tensors, the copied files and the config are also compared with those that a conversion
    would write now. A folder without a manifest, as other programs write it, can only be verified with `source`. Then
    other files are compared only if both folders have them, and of the config only what defines the model.

    Args:
        target: The MLX folder.
        source: The checkpoint it was made from.
        progress: Called in this thread after each step. An exception that it raises ends the verification.

    Returns:
        A report with `folder`, `layout`, `tensors`, `shards` and `nbytes`.

    Raises:
        CheckpointError: If a tensor or file differs (the first one is named), is missing or damaged; if the folder has
            neither a manifest nor a `source` to compare with.
        ConfigError: If a config.json is damaged or not a gpt-oss config.
        ConversionError: If `target` or `source` is not the folder of a model, or the system refuses to read a file.
        TokenizerError: If the source's tokenizer.json disagrees with the bundled vocabulary.
    """
    with os_errors_named():
        return _verify(Path(target), None if source is None else Path(source), progress)


def _verify(folder: Path, source: Path | None, progress: OnProgress | None) -> Report:
    if not folder.is_dir():
        raise ConversionError(f"{folder} is not a folder: give the folder of a converted model")
    parsed = manifest.read(folder)
    if parsed is not None:
        manifest.check_files(folder, parsed)
    stored = read_folder(folder)
    checksums = None if parsed is None else parsed["crc32"]
    if checksums is not None and set(checksums) != set(stored):
        name = min(set(checksums) ^ set(stored))
        raise CheckpointError(
            f"{folder}: tensor {name} is in the weight files or in {manifest.NAME}, but not in both: convert again"
        )
    if source is None and checksums is None:
        raise CheckpointError(
            f"{folder} has no {manifest.NAME}, which only this converter writes: compare it with the checkpoint it was "
            "made from, --source SRC"
        )
    opened = None if source is None else open_source(source)
    jobs = _reading_jobs(stored) if opened is None else _conversion_jobs(folder, stored, opened)
    by_file: dict[str, list[Job]] = {}
    for job in jobs:
        by_file.setdefault(stored[job.targets[0].name].file.name, []).append(job)
    meter = ProgressMeter(progress, sum(tensor.nbytes for tensor in stored.values()), len(by_file))
    with ThreadPool(meter.advance) as pool:
        checks = {file: partial(_check, jobs, stored, checksums, opened) for file, jobs in by_file.items()}
        for file, _ in pool.as_completed(checks):
            meter.finish_shard(file)
    return Report(folder, opened.layout if opened else MLX, len(stored), len(by_file), meter.total)


def _reading_jobs(stored: Mapping[str, TensorInfo]) -> Iterator[Job]:
    """Jobs that read the folder's own tensors, in the order of the files."""
    for tensor in stored.values():
        target = Target(tensor.name, tensor.dtype, tensor.shape)
        yield Job((target,), Rows(tensor, 1, 0, tensor.nbytes))


def _conversion_jobs(folder: Path, stored: Mapping[str, TensorInfo], source: Source) -> list[Job]:
    """The jobs that convert the source to this folder's profile. Raises CheckpointError if the two do not match."""
    config = ModelConfig.from_file(folder / "config.json")
    if replace(config, quantization=None) != replace(source.config, quantization=None):
        raise CheckpointError(
            f"{folder / 'config.json'} describes a different model than {source.folder}: convert again"
        )
    _compare_files(folder, source)
    jobs = [job for unit in plan_jobs(source, _stored_specs(config, stored)) for job in unit]
    planned = {target.name: target for job in jobs for target in job.targets}
    for name in sorted(set(planned) | set(stored)):
        actual, expected = stored.get(name), planned.get(name)
        if actual is None or expected is None or (actual.dtype, actual.shape) != (expected.dtype, expected.shape):
            raise CheckpointError(
                f"{folder}: tensor {name} is missing, unknown, or has the wrong shape or dtype: convert again"
            )
    return jobs


def _compare_files(folder: Path, source: Source) -> None:
    """Compares the copied files and the config with the source's.

    A folder without a manifest was written by another program, which may use other settings: then only files that both
    folders have are compared, and the config is not.
    """
    has_manifest = (folder / manifest.NAME).exists()
    for path in source.companions:
        copy = folder / path.name
        if (has_manifest or copy.exists()) and not (copy.exists() and copy.read_bytes() == path.read_bytes()):
            raise CheckpointError(f"{copy} is missing or differs from {path}: convert again")
    if has_manifest:
        actual = json.loads((folder / "config.json").read_text(encoding="utf-8"))
        expected = configs.for_mlx(source.raw_config, source.config.layer_types, actual.get("quantization", {}))
        if keys := sorted(key for key in actual.keys() | expected.keys() if actual.get(key) != expected.get(key)):
            raise CheckpointError(f"{folder / 'config.json'}: {keys[0]} differs from {source.folder}: convert again")


def _stored_specs(config: ModelConfig, stored: Mapping[str, TensorInfo]) -> Specs:
    """How the folder stores its quantised modules outside the experts."""
    quantized = {name.removesuffix(".scales") for name in stored if name.endswith(".scales")}
    if config.quantization is None:
        return {}
    specs = {path: config.quantization.for_module(path) for path in quantized}
    return {path: spec for path, spec in specs.items() if spec is not None and spec.mode == "affine"}


def _check(
    jobs: Sequence[Job],
    stored: Mapping[str, TensorInfo],
    checksums: Mapping[str, str] | None,
    source: Source | None,
    report_bytes: ReportBytes,
) -> None:
    """Checks the stored tensors of some jobs.

    With `source`, the jobs read it, and their pieces are compared with the stored bytes; without, the jobs read the
    stored tensors themselves. In both cases the checksums, if any, are compared.
    """
    for job in jobs:
        tensors = [stored[target.name] for target in job.targets]
        ends, crcs = [0] * len(tensors), [0] * len(tensors)
        for pieces in job.transform.pieces():
            for n, (tensor, piece) in enumerate(zip(tensors, pieces, strict=True)):
                if source is not None:
                    (actual,) = read(tensor, ends[n], ends[n] + piece.nbytes, piece.nbytes)
                    if not np.array_equal(actual, piece):
                        raise CheckpointError(
                            f"{tensor.file}: tensor {tensor.name} differs from {source.folder}: convert again"
                        )
                crcs[n] = crc32(piece.data, crcs[n])
                ends[n] += piece.nbytes
            report_bytes(sum(piece.nbytes for piece in pieces))
        for tensor, crc in zip(tensors, crcs, strict=True):
            if checksums is not None and f"{crc:08x}" != checksums[tensor.name]:
                raise CheckpointError(
                    f"{tensor.file}: tensor {tensor.name} does not match {manifest.NAME}: convert again"
                )
