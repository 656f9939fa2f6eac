"""`mlx-oss plan`: shows how much of a model fits into the memory of this machine or another, and what uses it."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from mlx_oss.cli import model_arguments, settings
from mlx_oss.errors import OptionError
from mlx_oss.terminal import one_line, report
from mlx_oss.weights.hub.names import NANO

if TYPE_CHECKING:
    from mlx_oss.memory.plan import Plan


def add_arguments(parser: argparse.ArgumentParser) -> None:
    model_arguments.add_folder_argument(parser)
    model_arguments.add_memory_arguments(parser)
    parser.add_argument(
        "--chunk",
        type=int,
        metavar="N",
        help="tokens of a prompt that are processed at a time (default: as many as fit, at most 512)",
    )
    model_arguments.add_dtype_argument(parser)
    parser.add_argument(
        "--macs",
        action="store_true",
        help="show instead what gpt-oss-20b and gpt-oss-120b do on Macs of each size, as a Markdown table; arithmetic "
        "for 8,192 tokens of context, an SSD of 3 GB/s, memory of 100 GB/s, and experts that are equally likely",
    )
    parser.add_argument(
        "--hosts",
        metavar="HOSTS.JSON",
        help="plan for the machines of a hostfile of mlx.launch, which compute the model together; --memory may then "
        "be a limit for each, e.g. 30GB,40GB (default: what the file says of their memory, else as this machine)",
    )
    parser.add_argument("--json", action="store_true", help="print all figures as one JSON object, sizes in bytes")


def run(args: argparse.Namespace) -> int:
    """Prints the plan. The exit status is 1 if the model does not fit."""
    import mlx_oss

    if args.macs:
        if any((args.folder, args.memory, args.context, args.chunk, args.json, args.hosts)):
            raise OptionError("--macs shows the released models on Macs of all sizes: give no folder or other option")
        from mlx_oss.memory.macs import table

        sys.stdout.write(table() + "\n")
        return 0
    name = args.folder or settings.model() or NANO
    if args.hosts:
        from mlx_oss.cli.plan_hosts import show

        return show(name, args)
    plan = mlx_oss.plan(name, context=args.context, memory=args.memory, chunk=args.chunk, dtype=args.dtype)
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
    last_header = "at least" if plan.verdict == "too small" else "in memory"
    table = Table("", "total", last_header, box=None, padding=(0, 2, 0, 0))
    for column in table.columns[1:]:
        column.justify = "right"
    for kind, nbytes in plan.weights.items():
        table.add_row(kind, format_bytes(nbytes))
    table.add_row("weights", format_bytes(sum(plan.weights.values())), format_bytes(plan.weight_bytes))
    table.add_row(f"KV cache, {plan.context:,} tokens", "", format_bytes(plan.kv_bytes))
    table.add_row(f"prefill, {plan.chunk} tokens at a time", "", format_bytes(plan.prefill_bytes))
    table.add_row("Python, MLX, vocabulary", "", format_bytes(plan.base_bytes))
    table.add_row("peak", format_bytes(plan.whole_bytes), format_bytes(plan.peak_bytes))
    console.print(table)
    report(one_line(f"{plan}."))
    if plan.slots is not None:
        report("Several conversations take turns, a token at a time.")
    elif plan.verdict != "too small":
        report(f"Keys and values of all conversations together take at most {format_bytes(plan.cache_bytes)}.")
    if plan.slots is not None and plan.source != "as requested":
        report("--memory sets another limit.")
    if plan.remedy:
        report(f"{plan.remedy[0].upper()}{plan.remedy[1:]}.")
    elif plan.profile:
        report(f"If you convert it with --profile {plan.profile}, everything fits into memory.")
