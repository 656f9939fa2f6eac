"""The converter's command line: `mlx-oss convert` and `python -m convert`."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict
from itertools import groupby
from typing import TextIO

from mlx_oss import terminal
from mlx_oss.arguments import Parser
from mlx_oss.convert.options import ConvertOptions
from mlx_oss.convert.profiles import PROFILES
from mlx_oss.convert.report import Kind, OnProgress, Progress, Report
from mlx_oss.convert.run import convert
from mlx_oss.convert.verify import verify
from mlx_oss.errors import MlxOssError, OptionError
from mlx_oss.memory.estimates import WORKING_BYTES, format_bytes
from mlx_oss.terminal import one_line, say, show_safely

DESCRIPTION = "Writes a checkpoint as an MLX folder: for mlx-lm, in less space, or if it cannot be loaded as it is."
_LOSSES = {
    "quantised": "quantised",
    "dequantised": "dequantised to bfloat16",
    "requantised": "dequantised and quantised again",
    "rounded": "rounded to bfloat16",
    "merged": "merged with the adapter and rounded to bfloat16",
}
_RESUMABLE = "interrupted: the finished shards are kept, and the same command continues from there"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Adds the arguments of `convert` to a parser, and on a Mac a hint below its help."""
    if sys.platform == "darwin":
        parser.epilog = "`caffeinate -i mlx-oss convert SRC DST` keeps the Mac awake until the conversion ends."
    parser.add_argument("source", metavar="SRC", help="folder of a checkpoint: Hugging Face, original/, metal/ or MLX")
    parser.add_argument("target", metavar="DST", help="MLX folder to write")
    parser.add_argument(
        "--profile",
        choices=tuple(PROFILES),
        help="how to store everything except the experts (default: as in SRC)",
    )
    parser.add_argument(
        "--set",
        metavar="MODULE=PROFILE",
        action="append",
        default=[],
        help="exception to --profile, such as self_attn=q8, lm_head=bf16 or 'layers.0.*=bf16', or how to store the "
        "experts: experts=mxfp4 or experts=bf16; may be repeated, the last match wins",
    )
    parser.add_argument(
        "--adapter",
        metavar="DIR",
        help="folder of a LoRA adapter, of PEFT or mlx-lm, that is added to the weights; it may not change experts",
    )
    parser.add_argument("--force", action="store_true", help="replace DST if it is already a model folder")
    parser.add_argument("--dry-run", action="store_true", help="check everything, write nothing")
    parser.add_argument("--verify", action="store_true", help="compare the result with SRC before it is renamed to DST")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    """Runs `convert` with parsed arguments and prints the report.

    Returns:
        The exit status: 0, or 130 if interrupted.

    Raises:
        MlxOssError: If `convert` raises it, or a `--set` is not MODULE=PROFILE.
    """
    options = options_of(args)
    try:
        with _shown(sys.stderr) as progress:
            report = convert(args.source, args.target, options, progress)
    except KeyboardInterrupt:
        if not args.dry_run:
            say(_RESUMABLE)
        return 130
    outcome = "would write" if args.dry_run else "written"
    if args.verify and not args.dry_run:
        outcome = "written and verified"
    if args.json:
        sys.stdout.write(_as_json(report, outcome))
    else:
        _show(_as_text(report, outcome) + _contexts(report, args.dry_run))
    return 0


def options_of(args: argparse.Namespace) -> ConvertOptions:
    """The options of a conversion. Raises OptionError if a `--set` is not MODULE=PROFILE."""
    return ConvertOptions(
        args.profile,
        _overrides(args.set),
        adapter=args.adapter,
        force=args.force,
        dry_run=args.dry_run,
        verify=args.verify,
    )


def run_verify(folder: str, source: str | None, as_json: bool, adapter: str | None = None) -> int:
    """Verifies a folder, prints the report and returns the exit status. Raises MlxOssError if `verify` does."""
    with _shown(sys.stderr) as progress:
        report = verify(folder, source, progress, adapter)
    is_whole = report.compared is None or report.compared == report.shards
    outcome = "verified" if is_whole else "checked"
    if as_json:
        sys.stdout.write(_as_json(report, outcome))
    else:
        _show(_as_text(report, outcome))
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Runs `python -m convert`. Exit status: 0, 2 after an error (printed in one line), or 130 if interrupted."""
    show_safely()
    parser = Parser(prog="python -m convert", description=DESCRIPTION)
    add_arguments(parser)
    try:
        return run(parser.parse_args(argv))
    except MlxOssError as error:
        say(one_line(f"error: {error}"))
        return 2
    except KeyboardInterrupt:
        return 130


def _overrides(entries: Sequence[str]) -> dict[str, str]:
    pairs = [entry.split("=", 1) for entry in entries]
    if wrong := [entry for entry, pair in zip(entries, pairs, strict=True) if len(pair) != 2]:
        raise OptionError(f"--set {wrong[0]}: expected MODULE=PROFILE, such as self_attn=q8")
    overrides: dict[str, str] = {}
    for module, profile in pairs:
        overrides.pop(module, None)  # a repeated module moves to the end: the last match wins
        overrides[module] = profile
    return overrides


def _as_text(report: Report, outcome: str) -> list[str]:
    counts = f"{report.tensors} tensors, {format_bytes(report.nbytes)}, shards: {report.shards}"
    lines = [f"{report.folder}: {outcome}, {counts}, from {report.layout}"]
    if report.compared is not None:
        lines.append(
            f"compared with the checksums of the download: {report.compared} of {report.shards} weight files"
            if report.compared
            else "the download has recorded no checksums: index, names, shapes and sizes were checked, and that no "
            "value is NaN, but not the values themselves"
        )
    if report.resumed_shards:
        lines.append(f"resumed: {report.resumed_shards} shards were already finished")
    for how, names in _grouped(report.losses).items():
        line = f"{_LOSSES[how]}: {len(names)} tensor{'' if len(names) == 1 else 's'}"
        if errors := {name: report.errors[name] for name in names if name in report.errors}:
            worst = max(errors, key=lambda name: errors[name])
            mean = sum(errors.values()) / len(errors)
            line += f", relative error {mean:.2%} on average, at most {errors[worst]:.2%} ({worst})"
        lines.append(line)
    return lines


def _grouped(losses: Mapping[str, str]) -> dict[str, list[str]]:
    """The names of tensors by what was done to them."""
    grouped: dict[str, list[str]] = {}
    for name, how in losses.items():
        grouped.setdefault(how, []).append(name)
    return grouped


def _contexts(report: Report, in_detail: bool) -> list[str]:
    """How much context fits on which Mac; `in_detail` also lists the tensors of the source and the model."""
    lines = []
    if in_detail:
        lines += ["tensors to read:", *_table(report.source_kinds), "tensors to write:", *_table(report.kinds)]
    lines += [
        "context that fits, by memory of the Mac (arithmetic, not measured): weights, bfloat16 KV cache, and",
        f"{format_bytes(WORKING_BYTES)} for everything else, in the part of the memory that macOS lets the GPU use",
        "(2/3, or 3/4 from 36 GB on):",
    ]
    for context, group in groupby(report.contexts.items(), key=lambda pair: pair[1]):
        macs = ", ".join(str(memory) for memory, _ in group)
        fits = f"{context:,} tokens" if context else "too small for the whole model: see mlx-oss plan"
        lines.append(f"  {macs} GB: {fits}")
    return lines


def _table(kinds: Sequence[Kind]) -> list[str]:
    """One line per kind of tensor: name, dtype, count x shape, bytes of all."""
    names, shapes = max(len(kind.name) for kind in kinds), max(len(str(kind.shape)) for kind in kinds)
    return [
        f"  {kind.name:{names}}  {kind.dtype:4}  {kind.count:5} x {kind.shape!s:{shapes}}  "
        f"{format_bytes(kind.nbytes):>10}"
        for kind in kinds
    ]


def _show(lines: Sequence[str]) -> None:
    for line in lines:
        terminal.report(one_line(line))


def _as_json(report: Report, outcome: str) -> str:
    return json.dumps({"outcome": outcome, **asdict(report), "folder": str(report.folder)}) + "\n"


@contextmanager
def _shown(stream: TextIO) -> Iterator[OnProgress]:
    """Yields a progress callback that shows a bar with rate and time left, or a line per shard if not on a terminal."""
    if not stream.isatty():
        finished = 0

        def show_line(now: Progress) -> None:
            nonlocal finished
            if now.shards_done > finished:
                with suppress(OSError):  # a closed pipe must not end the conversion
                    done = f"{now.shards_done} of {now.shards}, {now.done / max(now.total, 1):.0%}"
                    say(one_line(f"{now.shard}: {done}"))
            finished = now.shards_done

        yield show_line
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
