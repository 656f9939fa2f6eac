"""`mlx-oss bench`: measures the speed and memory of a model on this machine."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from mlx_oss.cli import model_arguments, settings
from mlx_oss.distributed import is_launched
from mlx_oss.errors import OptionError
from mlx_oss.terminal import one_line, wants_plain

if TYPE_CHECKING:
    from mlx_oss.bench import BenchReport, Result
    from mlx_oss.bench.many import ManyReport, Rows
    from mlx_oss.bench.together import TogetherReport


def add_arguments(parser: argparse.ArgumentParser) -> None:
    if sys.platform == "darwin":
        parser.epilog = "`caffeinate -i mlx-oss bench FOLDER` keeps the Mac awake until the benchmark ends."
    model_arguments.add_folder_argument(parser)
    parser.add_argument(
        "--prompt",
        type=int,
        nargs="+",
        default=[32, 128, 512],
        metavar="N",
        help="lengths of the prompts, in tokens (default 32 128 512)",
    )
    parser.add_argument(
        "--tokens", type=int, default=32, metavar="N", help="tokens to generate after each prompt (default 32)"
    )
    parser.add_argument(
        "--repeats",
        type=int,
        default=5,
        metavar="N",
        help="repetitions of each measurement; the medians are shown (default 5). Loading is repeated at least 5 times",
    )
    parser.add_argument(
        "--concurrency",
        type=int,
        nargs="+",
        metavar="N",
        help="instead, measure so many requests at once, for example 1 2 4 8; their prompts have the lengths in turn",
    )
    model_arguments.add_dtype_argument(parser)
    parser.add_argument(
        "--memory",
        metavar="SIZE",
        help="memory limit of mlx-oss, e.g. 8GB; experts that do not fit stay on disk "
        "(default: what the system can spare)",
    )
    model_arguments.add_wire_argument(parser)
    parser.set_defaults(context=None)  # as large as fits
    parser.add_argument(
        "--compare",
        choices=("mlx-lm", "mlx-lm-float32", "llama.cpp"),
        action="append",
        default=[],
        metavar="ENGINE",
        help="also measure this engine, mlx-lm, mlx-lm-float32 or llama.cpp, which must be installed; the engines take "
        "turns. mlx-lm-float32 computes as "
        "mlx-oss does in float32, so it should write the same tokens. llama.cpp runs random weights of the same "
        "shapes and types, from a file as large as the model, which is removed in the end; not with --concurrency. "
        "May be given more than once",
    )
    parser.add_argument("--json", action="store_true", help="print all figures as one JSON object")


def run(args: argparse.Namespace) -> int:
    from mlx_oss.bench import BenchReport
    from mlx_oss.bench.many import ManyReport
    from mlx_oss.cli.interrupts import exiting_on_sigterm

    if is_launched() and (args.compare or args.concurrency):
        raise OptionError("with several machines, --compare and --concurrency are not possible: leave them out")
    shows_progress = sys.stderr.isatty() and not args.json and not wants_plain()
    try:
        with exiting_on_sigterm():  # so that the file for llama.cpp is removed then, too
            report = _measured(args, _show_progress if shows_progress else None)
    finally:
        if shows_progress:
            _show_progress("")
    if args.json:
        sys.stdout.write(json.dumps(asdict(report)) + "\n")
    elif isinstance(report, BenchReport):
        _show(report)
    elif isinstance(report, ManyReport):
        _show_many(report)
    else:
        _show_together(report)
    return 0


def _measured(
    args: argparse.Namespace, progress: Callable[[str], None] | None
) -> BenchReport | ManyReport | TogetherReport:
    from mlx_oss.bench import measure
    from mlx_oss.bench.many import measure_many

    how: dict[str, Any] = {"lengths": args.prompt, "tokens": args.tokens, "repeats": args.repeats}
    if is_launched():
        from mlx_oss.bench.together import measure_together

        name = args.folder or settings.model()
        return measure_together(lambda: model_arguments.load_named(args, name)[0], progress=progress, **how)
    folder = model_arguments.folder_of(args.folder, dtype=args.dtype, memory=args.memory)
    how |= {"dtype": args.dtype, "memory": args.memory, "wire": model_arguments.wire(args)}
    how |= {"compare": args.compare, "progress": progress}
    return measure(folder, **how) if args.concurrency is None else measure_many(folder, args.concurrency, **how)


def _show_progress(step: str) -> None:
    """Replaces the step that was shown before."""
    sys.stderr.write(f"\r\x1b[K{step}")


def _show(report: BenchReport) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    runs = f"medians of {report.repeats} runs" if report.repeats > 1 else "one run"
    console.print(one_line(f"{report.device}, {runs}"), markup=False)
    console.print(
        f"A token reads {report.bytes_per_token / 1e9:.3g} GB of weights, "
        f"a layer launches {report.kernels_per_layer:.3g} kernels."
    )
    copied, buffers = report.copied_buffers
    console.print(f"Of {buffers} buffers of keys and values, {copied or 'none'} were copied in a step.")
    if report.reads:
        console.print(
            f"Experts on disk: {report.reads.hit_rate:.1%} were in memory when needed; a token reads "
            f"{report.reads.nbytes / 1e6:,.3g} MB from disk and waits {1000 * report.reads.seconds:,.3g} ms for them."
        )
    ours, *others = report.results
    table = Table("", ours.engine, *(header for result in others for header in (result.engine, "ratio")))
    for column in table.columns[1:]:
        column.justify = "right"
    table.add_row("imports, s", *_figures([r.imports for r in report.results]))
    table.add_row("load, s", *_figures([r.load for r in report.results]))
    table.add_row("first token, s", *_figures([r.first for r in report.results]))
    table.add_row("memory, loaded, GB", *_figures([r.loaded / 1e9 for r in report.results]))
    table.add_row("memory, at the end, GB", *_figures([r.resident / 1e9 for r in report.results]))
    for number, speed in enumerate(report.results[0].speeds):
        speeds = [result.speeds[number] for result in report.results]
        table.add_row(f"prefill of {speed.length}, tokens/s", *_figures([speed.length / s.prefill for s in speeds]))
        table.add_row(f"decode after {speed.length}, tokens/s", *_figures([1 / s.decode for s in speeds]))
        if (share := report.bandwidth_share(speed)) is not None:
            table.add_row("  of the chip's bandwidth", f"{share:.0%}")
    console.print(table)
    for other in others:
        console.print(_agreement(ours, other))


def _show_many(report: ManyReport) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    runs = f"medians of {report.repeats} runs" if report.repeats > 1 else "one run"
    console.print(one_line(f"{report.device}, {runs}"), markup=False)
    (ours, results), *others = report.results.items()
    table = Table("", ours, *(header for name, _ in others for header in (name, "ratio")))
    for column in table.columns[1:]:
        column.justify = "right"
    for at, each in enumerate(zip(*report.results.values(), strict=True)):
        count = f"{each[0].rows} at once" if each[0].rows > 1 else "one request"
        table.add_row(f"{count}: decode of all, tokens/s", *_figures([1 / rows.decode for rows in each]))
        if at:
            firsts = [
                engine[0].decode / rows.decode for engine, rows in zip(report.results.values(), each, strict=True)
            ]
            table.add_row(f"  times that of {results[0].rows}", *_figures(firsts))
        table.add_row("  a token of each, ms", *_figures([1000 * rows.latency for rows in each]))
        table.add_row("  the longest wait for one, ms", *_figures([1000 * rows.longest for rows in each]))
        table.add_row(f"  prefill of {each[0].prompt:,}, tokens/s", *_figures([r.prompt / r.prefill for r in each]))
    console.print(table)
    for name, theirs in others:
        console.print(f"{name}: {_same(_all_ids(results), _all_ids(theirs))}")


def _show_together(report: TogetherReport) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    runs = f"medians of {report.repeats} runs" if report.repeats > 1 else "one run"
    console.print(one_line(f"{len(report.loaded)} machines, the first {report.device}, {runs}"), markup=False)
    table = Table("", "together")
    table.columns[1].justify = "right"
    table.add_row("load, s", *_figures([report.load]))
    table.add_row("first token, s", *_figures([report.first]))
    for number, sizes in enumerate(zip(report.loaded, report.resident, strict=True)):
        loaded, resident = (f"{nbytes / 1e9:.3g}" for nbytes in sizes)
        table.add_row(f"memory of machine {number}, loaded, GB", loaded)
        table.add_row("  at the end, GB", resident)
    for speed in report.speeds:
        table.add_row(f"prefill of {speed.length}, tokens/s", *_figures([speed.length / speed.prefill]))
        table.add_row(f"decode after {speed.length}, tokens/s", *_figures([1 / speed.decode]))
        table.add_row("  of which gathers, without waiting", f"{report.gather / speed.decode:.1%}")
    console.print(table)
    console.print(f"A token needs {report.gathers} gathers, which take {1000 * report.gather:.3g} ms in all.")


def _all_ids(results: Sequence[Rows]) -> list[int]:
    return [token for rows in results for ids in rows.ids for token in ids]


def _figures(values: list[float]) -> list[str]:
    """Formats the first value, then each further value and the ratio of the first value to it."""
    cells = [f"{value:,.3g}" if value < 1000 else f"{value:,.0f}" for value in values]
    ratios = [f"{values[0] / value:.2f}" for value in values]
    return cells[:1] + [text for pair in zip(cells[1:], ratios[1:], strict=True) for text in pair]


def _agreement(ours: Result, theirs: Result) -> str:
    """Compares the greedy answers of two engines. Rounding can make them differ at nearly equal tokens."""
    if theirs.weights is not None:
        return f"{theirs.engine}: {theirs.weights}, so its tokens are others."
    tokens = [[token for length in ours.ids for token in result.ids[length]] for result in (ours, theirs)]
    return f"{theirs.engine}: {_same(*tokens)}"


def _same(ours: Sequence[int], theirs: Sequence[int]) -> str:
    same = sum(a == b for a, b in zip(ours, theirs, strict=True))
    return f"{same} of {len(ours)} tokens are the same."
