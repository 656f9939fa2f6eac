"""Verifies a folder: against its manifest, the checkpoint it was made from, or the checksums of its download."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import numpy as np

from mlx_oss.config import ModelConfig, read_json
from mlx_oss.convert import configs, downloads, manifest
from mlx_oss.convert.adapters import read_adapter
from mlx_oss.convert.checksum import crc32
from mlx_oss.convert.companions import companions
from mlx_oss.convert.jobs import Job, Target, plan_jobs
from mlx_oss.convert.profiles import Specs
from mlx_oss.convert.report import OnProgress, ProgressMeter, Report, check_progress, os_errors_named
from mlx_oss.convert.tensors import as_bfloat16
from mlx_oss.convert.thread_pool import ReportBytes, ThreadPool
from mlx_oss.convert.transforms import PIECE, has_nan, is_finite, not_finite, read, read_stored
from mlx_oss.errors import CheckpointError, ConversionError, WrongFolderError
from mlx_oss.files import COMPANION_BYTES, expanded, read_bytes
from mlx_oss.quantization import nan_sign
from mlx_oss.weights.layouts.checkpoint import Checkpoint, open_checkpoint
from mlx_oss.weights.layouts.description import FLOATS
from mlx_oss.weights.layouts.finder import Finder
from mlx_oss.weights.layouts.folders import refuse_what_is_no_model
from mlx_oss.weights.layouts.metal import METAL, is_metal
from mlx_oss.weights.layouts.mlx_folder import MLX
from mlx_oss.weights.layouts.recognition import recognised
from mlx_oss.weights.layouts.renaming import by_layout_name
from mlx_oss.weights.names import modules
from mlx_oss.weights.safetensors import TensorInfo, read_folder


def verify(
    target: str | Path,
    source: str | Path | None = None,
    progress: OnProgress | None = None,
    adapter: str | Path | None = None,
) -> Report:
    """Checks that a folder is intact and, with `source`, that it is what converting the source gives.

    Without `source`, every byte of a folder that `convert` wrote is compared with the checksums in its manifest,
    `conversion.json`. With `source`, the bytes of all tensors, the copied files and the config are also compared with
    those that a conversion would write now. A folder without a manifest may be compared with a source, too. Then other
    files are compared only if both folders have them, and of the config only what defines the model.

    A folder without a manifest, and without `source`, is checked as a download: its index, and the names, shapes and
    sizes of all tensors; that no value is NaN or infinite; that its tokenizer is that of gpt-oss; and every file whose
    checksum the download has recorded is compared with it.

    Args:
        target: The folder: an MLX folder or, without `source`, a checkpoint in any layout.
        source: The checkpoint it was made from.
        progress: Called in this thread after each step. An exception that it raises ends the verification.
        adapter: The LoRA adapter that was added to the source. None: none.

    Returns:
        A report with `folder`, `layout`, `tensors`, `shards`, `nbytes` and, for a download, `compared`.

    Raises:
        CheckpointError: If a tensor or file differs (the first one is named), is missing or damaged; if an MLX folder
            has neither a manifest nor recorded checksums nor a `source` to compare with.
        ConfigError: If a config.json is damaged or not a gpt-oss config.
        OptionError: If an argument has the wrong type.
        ConversionError: If `target` is not a folder, if `adapter` is given without `source`, or if the system refuses
            to read a file.
        TokenizerError: If the tokenizer.json of the source or the download is not that of gpt-oss.
    """
    with os_errors_named():
        check_progress(progress)
        return _verify(expanded(target), source, progress, adapter)


def _verify(folder: Path, source: str | Path | None, progress: OnProgress | None, adapter: str | Path | None) -> Report:
    if not folder.is_dir():
        raise ConversionError(f"{folder} is not a folder: give the folder of a model")
    if adapter is not None and source is None:
        raise ConversionError("an adapter is only compared together with its source: give that too, --source SRC")
    parsed = manifest.read(folder)
    if parsed is not None:
        manifest.check_files(folder, parsed)
        if source is not None and adapter is None and parsed.get("adapter"):
            raise WrongFolderError(
                f"{folder} was converted with an adapter, so it differs from its source: give that too, --adapter DIR"
            )
    if parsed is None and source is None:
        return _verify_download(folder, progress)
    if source is not None:
        _check_is_mlx(folder)
    stored = read_folder(folder)
    checksums = None if parsed is None else parsed["crc32"]
    if checksums is not None and set(checksums) != set(stored):
        name = min(set(checksums) ^ set(stored))
        raise CheckpointError(
            f"{folder}: tensor {name} is in the weight files or in {manifest.NAME}, but not in both: convert again"
        )
    opened = None if source is None else open_checkpoint(source)
    specs = _stored_specs(folder, ModelConfig.from_file(folder / "config.json"), stored)
    jobs = _reading_jobs(stored) if opened is None else _conversion_jobs(folder, stored, opened, adapter)
    by_file: dict[str, list[Job]] = {}
    for job in jobs:
        by_file.setdefault(stored[job.targets[0].name].file.name, []).append(job)
    meter = ProgressMeter(progress, sum(tensor.nbytes for tensor in stored.values()), len(by_file))
    with ThreadPool(meter.advance) as pool:
        checks = {file: partial(_check, jobs, stored, specs, checksums, opened) for file, jobs in by_file.items()}
        for file, _ in pool.as_completed(checks):
            meter.finish_shard(file)
    return Report(folder, (opened.layout if opened else MLX).name, len(stored), len(by_file), meter.total)


def _check_is_mlx(folder: Path) -> None:
    """Raises WrongFolderError if the folder is a checkpoint in another layout, which is not compared with a source."""
    refuse_what_is_no_model(folder)
    layout = recognised(folder, {} if is_metal(folder) else by_layout_name(folder, read_folder(folder)))
    if layout is not MLX:
        raise WrongFolderError(
            f"{folder} is in the layout of {layout.name}, but only MLX folders are compared with a source: verify it "
            "without --source"
        )


def _verify_download(folder: Path, progress: OnProgress | None) -> Report:
    """Checks a folder without a manifest against its own index and against the checksums of its download."""
    checkpoint, checksums = open_checkpoint(folder), downloads.recorded(folder)
    companions(checkpoint)  # raises if the tokenizer is not that of gpt-oss, or a file is only a Git LFS pointer
    weights = sorted({tensor.file.name for tensor in checkpoint.file_tensors.values()})
    compared = [name for name in weights if name in checksums]
    specs = {path: spec for path, spec in checkpoint.specs.items() if spec is not None}
    tensors = checkpoint.file_tensors
    by_file = {file: {name: each for name, each in tensors.items() if each.file.name == file} for file in weights}
    numbers = sum(as_bfloat16(each).nbytes for name, each in tensors.items() if _has_numbers(name, each, specs))
    files = sum((folder / name).stat().st_size for name in checksums)
    meter = ProgressMeter(progress, files + numbers, len(checksums) + len(by_file))
    with ThreadPool(meter.advance) as pool:
        checks = {name: partial(downloads.compare, folder / name, checksum) for name, checksum in checksums.items()}
        for name, _ in pool.as_completed(checks):
            meter.finish_shard(name)
        for name, _ in pool.as_completed({name: partial(_check_numbers, of, specs) for name, of in by_file.items()}):
            meter.finish_shard(name)
    if checkpoint.layout is MLX and not compared:
        raise WrongFolderError(
            f"{folder} has no {manifest.NAME}, which only this converter writes, and no checksums of a download: "
            "compare it with the checkpoint it was made from, --source SRC"
        )
    nbytes = sum(tensor.nbytes for tensor in checkpoint.file_tensors.values())
    return Report(
        folder, checkpoint.layout.name, len(checkpoint.file_tensors), len(weights), nbytes, compared=len(compared)
    )


def _reading_jobs(stored: Mapping[str, TensorInfo]) -> Iterator[Job]:
    """Jobs that read the folder's own tensors, in the order of the files."""
    for tensor in stored.values():
        yield Job((Target(tensor.name, tensor.dtype, tensor.shape),), _StoredBytes(tensor))


@dataclass(frozen=True, slots=True)
class _StoredBytes:
    """Copies the bytes of a tensor, whatever they are."""

    source: TensorInfo

    def pieces(self) -> Iterator[tuple[np.ndarray]]:
        for piece in read_stored(self.source, 0, self.source.nbytes, PIECE):
            yield (piece,)


def _conversion_jobs(
    folder: Path, stored: Mapping[str, TensorInfo], source: Checkpoint, adapter: str | Path | None
) -> list[Job]:
    """The jobs that convert the source to this folder's profile. Raises CheckpointError if the two do not match."""
    config = ModelConfig.from_file(folder / "config.json")
    if replace(config, quantization=None) != replace(source.config, quantization=None):
        raise CheckpointError(
            f"{folder / 'config.json'} describes a different model than {source.folder}: convert again"
        )
    _compare_files(folder, source, adapter)
    changes = None if adapter is None else read_adapter(adapter, source.config)
    jobs = [job for unit in plan_jobs(source, _stored_specs(folder, config, stored), changes) for job in unit]
    planned = {target.name: target for job in jobs for target in job.targets}
    for name in sorted(set(planned) | set(stored)):
        actual, expected = stored.get(name), planned.get(name)
        if actual is None or expected is None or (actual.dtype, actual.shape) != (expected.dtype, expected.shape):
            raise CheckpointError(
                f"{folder}: tensor {name} is missing, unknown, or has the wrong shape or dtype: convert again"
            )
    return jobs


def _compare_files(folder: Path, source: Checkpoint, adapter: str | Path | None) -> None:
    """Compares the copied files and the config with the source's.

    A folder without a manifest was written by another program, which may use other settings: then only files that both
    folders have are compared, and the config is not.
    """
    has_manifest = (folder / manifest.NAME).exists()
    for path in companions(source, adapter):
        copy = folder / path.name
        exists = copy.exists()
        same = exists and read_bytes(copy, COMPANION_BYTES) == read_bytes(path, COMPANION_BYTES)
        if (has_manifest or exists) and not same:
            raise CheckpointError(f"{copy} is missing or differs from {path}: convert again")
    if has_manifest:
        actual = read_json(folder / "config.json")
        expected = configs.for_mlx(source.raw_config, source.config.layer_types, actual.get("quantization", {}))
        if keys := sorted(key for key in actual.keys() | expected.keys() if actual.get(key) != expected.get(key)):
            raise CheckpointError(f"{folder / 'config.json'}: {keys[0]} differs from {source.folder}: convert again")


def _stored_specs(folder: Path, config: ModelConfig, stored: Mapping[str, TensorInfo]) -> Specs:
    """How the folder stores its quantised modules."""
    finder = Finder(folder, MLX, config, stored)
    specs = {path: finder.spec(path, shape) for path, shape, _ in modules(config)}
    return {path: spec for path, spec in specs.items() if spec is not None}


def _check(
    jobs: Sequence[Job],
    stored: Mapping[str, TensorInfo],
    specs: Specs,
    checksums: Mapping[str, str] | None,
    source: Checkpoint | None,
    report_bytes: ReportBytes,
) -> None:
    """Checks the stored tensors of some jobs.

    With `source`, the jobs read it, and their pieces are compared with the stored bytes; without, the jobs read the
    stored tensors themselves. In both cases the checksums, if any, are compared.
    """
    for job in jobs:
        tensors = [stored[target.name] for target in job.targets]
        ends, crcs, damaged = [0] * len(tensors), [0] * len(tensors), set[int]()
        for pieces in job.transform.pieces():
            for n, (tensor, piece) in enumerate(zip(tensors, pieces, strict=True)):
                if source is not None:
                    (actual,) = read_stored(tensor, ends[n], ends[n] + piece.nbytes, piece.nbytes)
                    if not np.array_equal(actual, piece):
                        remedy = "convert again"
                        if source.layout is METAL and tensor.name in ("model.embed_tokens.weight", "lm_head.weight"):
                            remedy = (
                                "it may only lack rows that no token uses, so compare with another form of the release"
                            )
                        raise CheckpointError(
                            f"{tensor.file}: tensor {tensor.name} differs from {source.folder}: {remedy}"
                        )
                crcs[n] = crc32(piece.data, crcs[n])
                ends[n] += piece.nbytes
                if not _are_numbers(tensor, specs, piece):
                    damaged.add(n)
            report_bytes(sum(piece.nbytes for piece in pieces))
        for tensor, crc in zip(tensors, crcs, strict=True):
            if checksums is not None and f"{crc:08x}" != checksums[tensor.name]:
                raise CheckpointError(
                    f"{tensor.file}: tensor {tensor.name} does not match {manifest.NAME}: convert again"
                )
        for n in damaged:
            raise not_finite(tensors[n])


def _are_numbers(tensor: TensorInfo, specs: Specs, piece: np.ndarray) -> bool:
    """False if some bytes of a tensor of an MLX folder stand for NaN or infinity."""
    if (sign := _sign(tensor.name, specs)) is not None:
        return not has_nan(piece, sign)
    return tensor.dtype != "BF16" or is_finite(piece.view("<u2"))


def _check_numbers(tensors: Mapping[str, TensorInfo], specs: Specs, report_bytes: ReportBytes) -> None:
    """Raises CheckpointError if a tensor of a checkpoint holds NaN or infinity."""
    for name, tensor in tensors.items():
        if not _has_numbers(name, tensor, specs):
            continue
        source, sign = as_bfloat16(tensor), _sign(name, specs) or 0
        for piece in read(source, 0, source.nbytes, PIECE):
            if tensor.dtype not in FLOATS and has_nan(piece, sign):
                raise not_finite(tensor)
            report_bytes(piece.nbytes)


def _has_numbers(name: str, tensor: TensorInfo, specs: Specs) -> bool:
    """True for tensors of a checkpoint of which some bytes stand for NaN: floats, scales, and words of such floats."""
    is_scales = tensor.dtype in ("U8", "I8", "F8_E8M0") and name.endswith(("_scales", ".scales"))
    return is_scales or tensor.dtype in FLOATS or _sign(name, specs) is not None


def _sign(name: str, specs: Specs) -> int | None:
    """`nan_sign` of a tensor of an MLX folder. None for those of other layouts, whose modules have other names."""
    path, _, part = name.rpartition(".")
    return nan_sign(part, specs.get(path))
