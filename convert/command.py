"""The converter's command line: `mlx-oss convert` and `python -m convert`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from itertools import groupby
from typing import TextIO

from mlx_oss.convert.options import ConvertOptions, Kind, OnProgress, Progress, Report
from mlx_oss.convert.profiles import PROFILES
from mlx_oss.convert.run import convert
from mlx_oss.convert.transforms import ROUNDED
from mlx_oss.convert.verify import verify
from mlx_oss.errors import MlxOssError, OptionError
from mlx_oss.memory.estimates import WORKING_BYTES, format_bytes

_DESCRIPTION = "Turn a released gpt-oss checkpoint into an MLX folder."
_RESUMABLE = "interrupted: the finished shards are kept, the same command goes on from there\n"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", help="a checkpoint: Hugging Face, original/, metal/ or MLX")
    parser.add_argument("target", metavar="DST", help="the MLX folder to write")
    parser.add_argument(
        "--profile", choices=tuple(PROFILES), default="bf16", help="storage of all but the experts (default bf16)"
    )
    parser.add_argument(
        "--set",
        metavar="MODULE=PROFILE",
        action="append",
        default=[],
        help="an exception to --profile, e.g. self_attn=q8, lm_head=bf16, 'layers.0.*=bf16'; may be repeated",
    )
    parser.add_argument("--force", action="store_true", help="replace DST where it is a model folder already")
    parser.add_argument("--dry-run", action="store_true", help="check everything, write nothing")
    parser.add_argument("--verify", action="store_true", help="re-read both and compare them before DST gets its name")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")


def run(args: argparse.Namespace) -> int:
    """Converts as the parsed arguments say; gives the exit status. Raises MlxOssError."""
    options = ConvertOptions(args.profile, _overrides(args.set), args.force, args.dry_run, args.verify)
    try:
        with _shown(sys.stderr) as progress:
            report = convert(args.source, args.target, options, progress)
    except KeyboardInterrupt:
        if not args.dry_run:
            sys.stderr.write(_RESUMABLE)
        return 130
    done = "would write" if args.dry_run else "written"
    if args.verify and not args.dry_run:
        done = "written and verified"
    sys.stdout.write(_as_json(report, done) if args.json else _as_text(report, done) + _fits(report, args.dry_run))
    return 0


def run_verify(folder: str, source: str | None, as_json: bool) -> int:
    """Verifies an MLX folder and prints the outcome; gives the exit status. Raises MlxOssError."""
    with _shown(sys.stderr) as progress:
        report = verify(folder, source, progress)
    sys.stdout.write(_as_json(report, "verified") if as_json else _as_text(report, "verified"))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """`python -m convert`: the exit status is 0, or 2 after one line about what is wrong, or 130 when interrupted."""
    parser = argparse.ArgumentParser(prog="python -m convert", description=_DESCRIPTION)
    add_arguments(parser)
    args = parser.parse_args(argv)
    try:
        return run(args)
    except MlxOssError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
    except KeyboardInterrupt:
        return 130


def _overrides(entries: Sequence[str]) -> dict[str, str]:
    pairs = [entry.split("=", 1) for entry in entries]
    if wrong := [entry for entry, pair in zip(entries, pairs, strict=True) if len(pair) != 2]:
        raise OptionError(f"--set {wrong[0]}: give MODULE=PROFILE, e.g. self_attn=q8")
    overrides: dict[str, str] = {}
    for module, profile in pairs:
        overrides.pop(module, None)  # the last one counts, its place too
        overrides[module] = profile
    return overrides


def _as_text(report: Report, done: str) -> str:
    counts = f"{report.tensors} tensors, {format_bytes(report.nbytes)}, shards: {report.shards}"
    lines = [f"{report.folder}: {done}, {counts}, from {report.layout}"]
    if rounded := sum(kind.count for kind in report.source_kinds if kind.dtype in ROUNDED):
        lines.append(f"rounded to bfloat16: {rounded} tensors")
    if report.resumed_shards:
        lines.append(f"resumed: {report.resumed_shards} shards were there already")
    if report.errors:
        worst = max(report.errors, key=lambda name: report.errors[name])
        mean = sum(report.errors.values()) / len(report.errors)
        lines.append(
            f"quantised: {len(report.errors)} weights, relative error {mean:.2%} on average, "
            f"at most {report.errors[worst]:.2%} ({worst})"
        )
    return "\n".join(lines) + "\n"


def _fits(report: Report, in_detail: bool) -> str:
    """Which Macs hold the model; in detail also what it and its source consist of."""
    lines = []
    if in_detail:
        lines += ["tensors to read:", *_table(report.source_kinds), "tensors to write:", *_table(report.kinds)]
    lines += [
        "context that fits by size of Mac: arithmetic, not measured. Counted are weights, bfloat16 keys and values,",
        f"and {format_bytes(WORKING_BYTES)} for everything else, in the share of memory that macOS gives the GPU",
        "(2/3, and 3/4 from 36 GB on):",
    ]
    for context, group in groupby(report.contexts.items(), key=lambda pair: pair[1]):
        macs = ", ".join(str(memory) for memory, _ in group)
        held = f"{context:,} tokens" if context else "too small for all of it: see mlx-oss plan"
        lines.append(f"  {macs} GB: {held}")
    return "\n".join(lines) + "\n"


def _table(kinds: Sequence[Kind]) -> list[str]:
    """A line a kind of tensor: name, dtype, count x shape, bytes of all."""
    names, shapes = max(len(kind.name) for kind in kinds), max(len(str(kind.shape)) for kind in kinds)
    return [
        f"  {kind.name:{names}}  {kind.dtype:4}  {kind.count:5} x {kind.shape!s:{shapes}}  "
        f"{format_bytes(kind.nbytes):>10}"
        for kind in kinds
    ]


def _as_json(report: Report, done: str) -> str:
    return json.dumps({"outcome": done, **asdict(report), "folder": str(report.folder)}) + "\n"


@contextmanager
def _shown(stream: TextIO) -> Iterator[OnProgress]:
    """Progress as a bar with rate and time left on a terminal, as a line a shard elsewhere."""
    if not stream.isatty():
        finished = 0

        def line(now: Progress) -> None:
            nonlocal finished
            if now.shards_done > finished:
                with suppress(OSError):  # who reads along may leave: that does not end a conversion
                    stream.write(f"{now.shard}: {now.shards_done} of {now.shards}, {now.done / now.total:.0%}\n")
            finished = now.shards_done

        yield line
        return
    from rich import progress as bars
    from rich.console import Console

    with bars.Progress(
        bars.TextColumn("{task.description}"),
        bars.BarColumn(),
        bars.DownloadColumn(),
        bars.TransferSpeedColumn(),
        bars.TimeRemainingColumn(),
        console=Console(file=stream),
        transient=True,
    ) as bar:
        task = bar.add_task("reading", total=None)
        yield lambda now: bar.update(
            task, completed=now.done, total=now.total, description=f"{now.shards_done} of {now.shards} files"
        )
