"""`mlx-oss plan`: what of a model fits into this machine's memory, or into another's, and what it consists of."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from mlx_oss.cli import model_arguments

if TYPE_CHECKING:
    from mlx_oss.memory.plan import Plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", nargs="?", help="converted model; without it nano, a bundled demonstration")
    model_arguments.add_memory_arguments(parser)
    parser.add_argument("--chunk", type=int, metavar="N", help="tokens of a prompt that are read at a time")
    parser.add_argument("--dtype", choices=("auto", "float32", "bfloat16"), default="auto", help="of the activations")
    parser.add_argument("--json", action="store_true", help="all figures as one JSON object, in bytes")


def run(args: argparse.Namespace) -> int:
    """The exit status is 1 where the model does not fit."""
    import mlx_oss

    folder = args.folder
    if folder is None:
        from mlx_oss.nano import nano_folder

        folder = nano_folder()
    plan = mlx_oss.plan(folder, context=args.context, memory=args.memory, chunk=args.chunk, dtype=args.dtype)
    if args.json:
        sys.stdout.write(json.dumps({**asdict(plan), "folder": str(plan.folder)}) + "\n")
    else:
        _show(plan)
    return 1 if plan.verdict == "too small" else 0


def _show(plan: Plan) -> None:
    from rich.console import Console
    from rich.table import Table

    from mlx_oss.memory.estimates import format_bytes

    console = Console(highlight=False, markup=False)
    last = "at least" if plan.verdict == "too small" else "in memory"
    table = Table("", "in all", last, box=None, padding=(0, 2, 0, 0))
    for column in table.columns[1:]:
        column.justify = "right"
    for kind, nbytes in plan.weights.items():
        table.add_row(kind, format_bytes(nbytes))
    table.add_row("weights", format_bytes(sum(plan.weights.values())), format_bytes(plan.weight_bytes))
    table.add_row(f"keys and values, {plan.context:,} tokens", "", format_bytes(plan.kv_bytes))
    table.add_row(f"prefill, {plan.chunk} tokens at a time", "", format_bytes(plan.prefill_bytes))
    table.add_row("Python, MLX, vocabulary", "", format_bytes(plan.base_bytes))
    table.add_row("at most", format_bytes(plan.whole_bytes), format_bytes(plan.peak_bytes))
    console.print(table)
    console.print(f"{plan}.", soft_wrap=True)
    if plan.profile:
        console.print(f"Converted with --profile {plan.profile} everything would be in memory.", soft_wrap=True)
