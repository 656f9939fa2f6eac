"""The conversion from start to end: check, write into a hidden folder beside the target, publish it by renaming.

Nothing is written before source, plan, target and free space are checked; an error on the way leaves nothing behind.
Only an interruption (SIGINT, a kill, a power cut), or a name that was taken meanwhile, leaves the finished shards, and
the same call then goes on from them.
"""

from __future__ import annotations

import hashlib
import json
import os
import shutil
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from mlx_oss.convert import configs, manifest, profiles, shards
from mlx_oss.convert.jobs import kinds, plan_jobs
from mlx_oss.convert.options import ConvertOptions, Meter, OnProgress, Report, readable
from mlx_oss.convert.shards import Shard
from mlx_oss.convert.source import Source, open_source
from mlx_oss.convert.staging import Staging, hidden_names, put_back, write_json
from mlx_oss.convert.thread_pool import ThreadPool
from mlx_oss.convert.verify import verify
from mlx_oss.errors import CheckpointError, ConversionError
from mlx_oss.memory.estimates import contexts_by_mac, format_bytes
from mlx_oss.weights.safetensors import INDEX, weight_files

_MARGIN = 64 << 20  # bytes of disk beyond the weights: tokenizer files, headers, index


def convert(
    source: str | Path,
    target: str | Path,
    options: ConvertOptions | None = None,
    progress: OnProgress | None = None,
) -> Report:
    """Converts the checkpoint in folder `source` into the new MLX folder `target`, or resumes doing so.

    Raises ConfigError, CheckpointError, ConversionError or OptionError, and leaves nothing behind then. After
    KeyboardInterrupt the finished shards stay in a hidden folder beside the target; so they do where the target's name
    was taken meanwhile.
    """
    with readable():
        return _convert(source, target, options, progress)


def _convert(
    source: str | Path, target: str | Path, options: ConvertOptions | None, progress: OnProgress | None
) -> Report:
    options = options or ConvertOptions()
    src, dst = Path(source), Path(os.path.abspath(target))
    if src.parent.resolve() == dst.parent.resolve() and src.name in hidden_names(dst):
        raise ConversionError(f"{src} is what converting to {dst} works in: give another target")
    if not options.dry_run:
        put_back(dst)
    opened = open_source(src)
    specs = profiles.specs(opened.config, options)
    units = plan_jobs(opened, specs)
    parts = shards.split(units, options.shard_bytes)
    _check_target(src, dst, options)
    config = configs.for_mlx(opened.raw_config, opened.config.layer_types, profiles.entry(specs))
    staging = Staging(dst, _plan_id(opened, parts, config))
    resumed = len(staging.finished)
    _check_space(staging, sum(part.nbytes for part in parts if part.name not in staging.finished))
    if not options.dry_run:
        with staging:
            _check_target(src, dst, options)  # again: another conversion may just have ended
            _write(opened, parts, config, staging, options, progress)
            _publish(src, staging, options)
    known = {name: written for shard in staging.finished.values() for name, written in shard.items()}
    nbytes = sum(part.nbytes for part in parts)
    return Report(
        folder=dst,
        layout=opened.layout,
        tensors=sum(len(part.targets) for part in parts),
        shards=len(parts),
        nbytes=nbytes,
        resumed_shards=resumed,
        errors={name: written.error for name, written in known.items() if written.error is not None},
        source_kinds=kinds(opened.tensors.values()),
        kinds=kinds(target for unit in units for job in unit for target in job.targets),
        contexts=contexts_by_mac(opened.config, nbytes),
    )


def _plan_id(source: Source, parts: Sequence[Shard], config: dict[str, object]) -> str:
    """Changes with everything the written bytes depend on; a source file is known by its size and time of change."""
    files = sorted({tensor.file for tensor in source.tensors.values()})
    stats = [(str(file.resolve()), file.stat().st_size, file.stat().st_mtime_ns) for file in files]
    headers = [(part.name, shards.header(part)[8:].decode()) for part in parts]
    text = json.dumps([manifest.FORMAT, source.layout, stats, headers, config], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def _check_target(src: Path, dst: Path, options: ConvertOptions) -> None:
    here, there = src.resolve(), dst.resolve()
    if _lies_in(here, there) or _lies_in(there, here):
        raise ConversionError(f"{dst} and {src} lie inside one another: give a target outside the source")
    if not there.parent.is_dir():
        raise ConversionError(f"{there.parent} is not a folder: create it first")
    if not os.access(there.parent, os.W_OK):
        raise ConversionError(f"{there.parent} is not writable: give a target elsewhere")
    if os.path.ismount(dst):
        raise ConversionError(f"{dst} is where a disk is mounted: give a folder inside it, as {dst / 'model'}")
    if dst.is_symlink():
        raise ConversionError(f"{dst} is a link: give the folder it leads to, {there}")
    if not dst.exists() or (dst.is_dir() and not any(dst.iterdir())):
        return
    if not options.force:
        raise ConversionError(f"{dst} exists: give another target, or --force to replace it")
    if not ((dst / "config.json").is_file() and weight_files(dst)):
        raise ConversionError(f"{dst} is no model folder, --force does not replace it: give another target")


def _lies_in(path: Path, folder: Path) -> bool:
    """Whether it is the folder or below it, however the two are spelt."""
    return folder.exists() and any(each.exists() and each.samefile(folder) for each in (path, *path.parents))


def _check_space(staging: Staging, nbytes: int) -> None:
    """Leftovers of an earlier run that this one drops count as free."""
    parent, needed = staging.target.parent, nbytes + _MARGIN
    free = shutil.disk_usage(parent).free + staging.droppable
    if free < needed:
        name = staging.target.name
        raise ConversionError(
            f"{parent} has {format_bytes(free)} free, {name} needs {format_bytes(needed)}: free some space or choose "
            "another disk"
        )


def _write(
    source: Source,
    parts: Sequence[Shard],
    config: dict[str, object],
    staging: Staging,
    options: ConvertOptions,
    progress: OnProgress | None,
) -> None:
    try:
        _write_shards(parts, staging, progress)
        _write_companions(source, parts, config, staging)
        if options.verify:
            verify(staging.folder, source.folder, progress)
    except KeyboardInterrupt:
        raise
    except OSError as error:
        staging.discard()
        raise ConversionError(
            f"{staging.target} cannot be written ({error.strerror}): nothing was left behind; free space or give "
            "another target"
        ) from None
    except BaseException:
        staging.discard()
        raise


def _publish(src: Path, staging: Staging, options: ConvertOptions) -> None:
    """What cannot take its place is not thrown away."""
    kept = f"what was written stays in {staging.folder}, and the same command goes on from there"
    try:
        _check_target(src, staging.target, options)
        staging.publish()
    except ConversionError as error:
        raise ConversionError(f"{error}; {kept}") from None
    except OSError as error:
        raise ConversionError(f"{staging.target} cannot be put in place ({error.strerror}): {kept}") from None


def _write_shards(parts: Sequence[Shard], staging: Staging, progress: OnProgress | None) -> None:
    meter = Meter(progress, sum(part.nbytes for part in parts), len(parts))
    for part in parts:
        if part.name in staging.finished:
            meter.advance(part.nbytes)
            meter.finish_shard(part.name)
    left = [part for part in parts if part.name not in staging.finished]
    with ThreadPool(meter.advance) as pool:
        works = {part.name: partial(shards.write, part, staging.path(part.name)) for part in left}
        for shard, known in pool.as_completed(works):
            staging.finish(shard, known)
            meter.finish_shard(shard)


def _write_companions(source: Source, parts: Sequence[Shard], config: dict[str, object], staging: Staging) -> None:
    folder = staging.folder
    for path in source.companions:
        try:
            read = path.read_bytes()
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read ({error.strerror}): fetch it again") from None
        (folder / path.name).write_bytes(read)
    made: dict[str, object] = {"config.json": config, INDEX: shards.index(parts)}
    if source.lacks_companions:
        made["generation_config.json"] = configs.RELEASED_GENERATION
    for name, content in made.items():
        write_json(folder / name, content)
    manifest.write(folder, source, staging.finished, {*made, *(path.name for path in source.companions)})
