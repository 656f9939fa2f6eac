"""Runs a conversion from start to end: checks, writes into a hidden folder beside the target, renames it to the target.

Nothing is written before source, plan, target and free space have been checked. An error while writing leaves nothing
behind. The finished shards are kept only after an interruption (SIGINT, a kill, a power cut), or if the finished folder
cannot be renamed, for example because something else got the target's name. The same call then continues from them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from mlx_oss.convert import configs, manifest, profiles, shards
from mlx_oss.convert.adapter_folders import adapter_files
from mlx_oss.convert.adapters import read_adapter
from mlx_oss.convert.companions import bundled_files, companions
from mlx_oss.convert.jobs import group_kinds, plan_jobs
from mlx_oss.convert.options import ConvertOptions
from mlx_oss.convert.report import OnProgress, ProgressMeter, Report, check_progress, os_errors_named
from mlx_oss.convert.shards import Shard
from mlx_oss.convert.staging import Staging, hidden_names, restore_replaced, write_json
from mlx_oss.convert.targets import check_target
from mlx_oss.convert.thread_pool import ThreadPool
from mlx_oss.convert.verify import verify
from mlx_oss.errors import CheckpointError, ConversionError, OptionError, quoted
from mlx_oss.files import COMPANION_BYTES, can_exist, expanded, identity, read_bytes
from mlx_oss.memory.estimates import contexts_by_mac, format_bytes
from mlx_oss.weights.layouts.checkpoint import Checkpoint, open_checkpoint
from mlx_oss.weights.layouts.openai import OPENAI
from mlx_oss.weights.safetensors import INDEX

_RULES = 2  # changes whenever the same plan gives other bytes than before
_MARGIN = 64 << 20  # bytes of disk needed besides the weights: tokenizer files, headers, index


def convert(
    source: str | Path,
    target: str | Path,
    options: ConvertOptions | None = None,
    progress: OnProgress | None = None,
) -> Report:
    """Converts a checkpoint into an MLX folder, or resumes an interrupted conversion.

    The folder is written under a hidden name beside the target and renamed when it is complete, so a folder named
    `target` is always complete. If the conversion is interrupted (KeyboardInterrupt, a kill, a power cut), or if the
    finished folder cannot be renamed (for example because something else got the target's name), the finished shards
    stay in the hidden folder, and the same call continues from them. After any other error nothing is left behind.

    Issues a UserWarning if the file system cannot lock the hidden folder, if the config has unknown keys, or if a
    folder that a killed conversion was replacing is moved back.

    Args:
        source: Folder of the checkpoint: Hugging Face's layout, OpenAI's `original/` or `metal/`, or an MLX folder.
        target: Folder to create. It must not exist or must be empty, unless `options.force` is set.
        options: Profile and other options. None means `ConvertOptions()`.
        progress: Called in this thread after each step. With `options.verify`, progress starts again from 0 when the
            verification begins. An exception that it raises ends the conversion.

    Returns:
        What was done or, with `options.dry_run`, what would be done.

    Raises:
        ConfigError: If the source's config.json is damaged, is not a gpt-oss config, or describes weights that are
            quantised in another format.
        CheckpointError: If the source is not a model's folder or of a format that is not supported; if a file or tensor
            of it is missing, damaged, unknown, or of the wrong shape or dtype; or if the verification finds a
            difference.
        ConversionError: If the target exists, overlaps the source, cannot be written or is being written by another
            conversion; or if the disk has too little space.
        OptionError: If an argument has the wrong type, a profile is unknown or not possible for a module, or an
            override matches no module.
        TokenizerError: If the source's tokenizer.json is not that of gpt-oss.
    """
    with os_errors_named():
        return _convert(source, target, options, progress)


def _convert(
    source: str | Path, target: str | Path, options: ConvertOptions | None, progress: OnProgress | None
) -> Report:
    options = ConvertOptions() if options is None else options
    if not isinstance(options, ConvertOptions):
        raise OptionError(
            f'options is {quoted(options)}, expected ConvertOptions(...), such as ConvertOptions(profile="q8")'
        )
    check_progress(progress)
    for path in (source, target):
        if not can_exist(expanded(path)):
            raise ConversionError(f"{quoted(str(path))} is nothing that a folder can be called: give another path")
    src, dst = expanded(source), Path(os.path.abspath(expanded(target)))
    if os.path.realpath(src.parent) == os.path.realpath(dst.parent) and src.name in hidden_names(dst):
        raise ConversionError(f"{src} is the hidden folder of the conversion to {dst}: choose another target")
    if not options.dry_run:
        restore_replaced(dst)
    listed = _listed(src, options)
    opened = open_checkpoint(src)
    copied = companions(opened, options.adapter)
    specs = profiles.specs(opened, options)
    adapter = None if options.adapter is None else read_adapter(options.adapter, opened.config)
    units = plan_jobs(opened, specs, adapter)
    planned = shards.split(units, options.shard_bytes)
    check_target(src, dst, options)
    config = configs.for_mlx(opened.raw_config, opened.config.layer_types, profiles.quantization_entry(specs))
    staging = Staging(dst, _plan_id(opened, planned, config, options.adapter))
    resumed = len(staging.finished)
    _check_space(staging, sum(shard.nbytes for shard in planned if shard.name not in staging.finished))
    if not options.dry_run:
        with staging:
            check_target(src, dst, options)  # again: another conversion may have finished since
            _write(opened, listed, copied, planned, config, staging, options, progress)
            _publish(src, staging, options)
    written_tensors = {name: written for shard in staging.finished.values() for name, written in shard.items()}
    nbytes = sum(shard.nbytes for shard in planned)
    errors = {name: written.error for name, written in written_tensors.items() if written.error is not None}
    changed = {t.name: t.loss.how for unit in units for job in unit for t in job.targets if t.loss is not None}
    # Reading floats of another dtype, or what was quantised, need not change a value.
    losses = {name: how for name, how in changed.items() if how in ("quantised", "merged") or errors.get(name) != 0}
    return Report(
        folder=dst,
        layout=opened.layout.name,
        tensors=sum(len(shard.targets) for shard in planned),
        shards=len(planned),
        nbytes=nbytes,
        resumed_shards=resumed,
        errors={name: errors[name] for name in losses if name in errors},
        losses=losses,
        source_kinds=group_kinds(opened.file_tensors.values()),
        kinds=group_kinds(target for unit in units for job in unit for target in job.targets),
        contexts=contexts_by_mac(opened.config, nbytes),
    )


def _plan_id(
    source: Checkpoint, planned: Sequence[Shard], config: dict[str, object], adapter: str | Path | None
) -> str:
    """A hash that changes with everything the written bytes depend on.

    Source files are identified by path, size and time of modification.
    """
    files = sorted({tensor.file for tensor in source.file_tensors.values()} | set(adapter_files(adapter)))
    stats = [(os.path.realpath(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    headers = [(shard.name, shards.header(shard)[8:].decode()) for shard in planned]
    text = json.dumps([manifest.FORMAT, _RULES, source.layout.name, stats, headers, config], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _check_space(staging: Staging, nbytes: int) -> None:
    """Raises ConversionError if the disk is too full. Leftovers that this run deletes count as free."""
    parent, needed = staging.target.parent, nbytes + _MARGIN
    free = shutil.disk_usage(parent).free + staging.reclaimable_bytes
    if free < needed:
        name = staging.target.name
        raise ConversionError(
            f"{parent} has {format_bytes(free)} free, but {name} needs {format_bytes(needed)}: free some space or "
            "choose another disk"
        )


def _write(
    source: Checkpoint,
    listed: Mapping[Path, object],
    copied: Sequence[Path],
    planned: Sequence[Shard],
    config: dict[str, object],
    staging: Staging,
    options: ConvertOptions,
    progress: OnProgress | None,
) -> None:
    try:
        _write_shards(planned, staging, progress)
        _write_other_files(source, copied, planned, config, staging, options)
        _check_unchanged(source, listed, copied, options)
        if options.verify:
            verify(staging.folder, source.folder, progress, options.adapter)
    except KeyboardInterrupt:
        raise
    except OSError as error:
        staging.discard()
        raise ConversionError(
            f"{staging.target} cannot be written ({error.strerror}): nothing was left behind; free some space or "
            "choose another target"
        ) from None
    except BaseException:
        staging.discard()
        raise


def _listed(source: Path, options: ConvertOptions) -> dict[Path, object]:
    """`_files` of all folders that are read."""
    return _files(source) | ({} if options.adapter is None else _files(expanded(options.adapter)))


def _files(folder: Path) -> dict[Path, object]:
    """What tells each file of a folder from a changed one. Empty if it cannot be read, which opening it will report."""
    try:
        return {path: identity(path) for path in folder.iterdir() if path.is_file()}
    except OSError:
        return {}


def _check_unchanged(
    source: Checkpoint, listed: Mapping[Path, object], copied: Sequence[Path], options: ConvertOptions
) -> None:
    """Raises CheckpointError if a file that was read is not the same as before it was opened."""
    now = _listed(source.folder, options)
    read = {tensor.file for tensor in source.file_tensors.values()} | {source.folder / "config.json", *copied}
    read |= set(adapter_files(options.adapter))
    for path in sorted(read):
        if now.get(path) != listed.get(path):
            raise CheckpointError(f"{path} was changed while it was converted: convert again when nothing changes it")


def _publish(src: Path, staging: Staging, options: ConvertOptions) -> None:
    """Renames the hidden folder to the target. If that fails, the hidden folder is kept."""
    kept = f"the finished shards are kept in {staging.folder}, and the same command continues from there"
    try:
        check_target(src, staging.target, options)
        staging.publish()
    except ConversionError as error:
        raise ConversionError(f"{error}; {kept}") from None
    except OSError as error:
        raise ConversionError(f"{staging.target} cannot be put in place ({error.strerror}): {kept}") from None


def _write_shards(planned: Sequence[Shard], staging: Staging, progress: OnProgress | None) -> None:
    meter = ProgressMeter(progress, sum(shard.nbytes for shard in planned), len(planned))
    for shard in planned:
        if shard.name in staging.finished:
            meter.advance(shard.nbytes)
            meter.finish_shard(shard.name)
    remaining = [shard for shard in planned if shard.name not in staging.finished]
    with ThreadPool(meter.advance) as pool:
        writes = {shard.name: partial(shards.write, shard, staging.path(shard.name)) for shard in remaining}
        for name, tensors in pool.as_completed(writes):
            staging.finish(name, tensors)
            meter.finish_shard(name)


def _write_other_files(
    source: Checkpoint,
    copied: Sequence[Path],
    planned: Sequence[Shard],
    config: dict[str, object],
    staging: Staging,
    options: ConvertOptions,
) -> None:
    folder = staging.folder
    for path in copied:
        try:
            content = read_bytes(path, COMPANION_BYTES)
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read ({error.strerror}): download it again") from None
        (folder / path.name).write_bytes(content)
    json_files: dict[str, object] = {"config.json": config, INDEX: shards.index(planned)}
    if source.layout.name.startswith(OPENAI.name) and "generation_config.json" not in {path.name for path in copied}:
        json_files["generation_config.json"] = configs.RELEASED_GENERATION  # OpenAI's layouts come without it
    for name, value in json_files.items():
        write_json(folder / name, value)
    bundled = bundled_files(source, copied)
    for name, content_of in bundled.items():
        (folder / name).write_bytes(content_of())
    others = {*json_files, *bundled, *(path.name for path in copied)}
    manifest.write(folder, source, staging.finished, others, adapter_files(options.adapter))
