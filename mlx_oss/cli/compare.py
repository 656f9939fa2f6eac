"""`mlx-oss compare`: how far the predictions of one copy of a model are from those of another."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

from mlx_oss.cli import model_arguments
from mlx_oss.cli.interrupts import exiting_on_sigterm
from mlx_oss.cli.progress import counted
from mlx_oss.distributed import is_launched
from mlx_oss.errors import OptionError
from mlx_oss.files import expanded
from mlx_oss.memory.estimates import format_bytes
from mlx_oss.terminal import one_line, report

if TYPE_CHECKING:
    from mlx_oss.evals import Comparison, Figures, Passage

_EPILOG = """\
KL is the divergence of B's prediction of the next token from A's, in nats: 0 if they are the same. Only tokens that the
model itself writes count, in conversations as it reads them. To compare with a model that does not fit beside the other
one: `mlx-oss compare A --store FILE`, then `mlx-oss compare FILE B`."""

_LEGEND = (
    "KL: of B's prediction of the next token from A's, in nats: the mean, the median, and what 99 % of the tokens stay "
    "below. same: how often both find the same token the most likely one. said: by how much the log-probability of "
    "what was said is larger in B, mean."
)
_OF_STORED = (
    ' A file has only the most likely tokens of A, so each KL is a lower bound; "at most" is an upper one of the mean.'
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.epilog = _EPILOG
    parser.add_argument("a", metavar="A", help="the reference: a model's name or folder, or a file made with --store")
    parser.add_argument("b", metavar="B", nargs="?", help="the model that is compared with it")
    parser.add_argument("--store", metavar="FILE", help="store the predictions of A in a file, instead of comparing")
    texts = parser.add_mutually_exclusive_group()
    texts.add_argument(
        "--conversations",
        metavar="FILE.jsonl",
        help='conversations, each a line {"messages": [...]} (default: those that come with mlx-oss)',
    )
    texts.add_argument("--text", metavar="FILE", help="plain text, which is read as a long answer")
    model_arguments.add_dtype_argument(parser)
    parser.add_argument(
        "--memory", metavar="SIZE", help="memory limit for both models, e.g. 40GB (default: what the system can spare)"
    )
    parser.add_argument("--json", action="store_true", help="print all figures as one JSON object")


def run(args: argparse.Namespace) -> int:
    from mlx_oss.evals import passages

    if is_launched():
        raise OptionError("`mlx-oss compare` runs on one machine: start it without `mlx.launch`")
    if (args.b is None) == (args.store is None):
        raise OptionError(
            "give two models, or one and --store FILE: `mlx-oss compare A B`, `mlx-oss compare A --store F`"
        )
    read: list[Passage] | None = None
    if args.conversations is not None:
        read = passages.read_conversations(args.conversations)
    elif args.text is not None:
        read = passages.read_text(args.text)
    return _store(args, read) if args.b is None else _compare(args, read)


def _store(args: argparse.Namespace, passages: list[Passage] | None) -> int:
    from mlx_oss import evals

    folder = _folder(args.a, args)
    with exiting_on_sigterm(), counted("tokens") as progress:
        evals.store(folder, args.store, passages, dtype=args.dtype, memory=args.memory, progress=progress)
    size = format_bytes(expanded(args.store).stat().st_size)
    report(f"{args.store}: what {args.a} predicts, {size}; `mlx-oss compare {args.store} B` compares B with it")
    return 0


def _compare(args: argparse.Namespace, passages: list[Passage] | None) -> int:
    from mlx_oss import evals

    is_stored = expanded(args.a).is_file()
    a = args.a if is_stored else _folder(args.a, args)
    b = _folder(args.b, args)
    with exiting_on_sigterm(), counted("tokens") as progress:
        found = evals.compare(a, b, passages, dtype=args.dtype, memory=args.memory, progress=progress)
    if args.json:
        figures = {name: asdict(row) for name, row in found.rows}
        sys.stdout.write(json.dumps({"a": args.a, "b": args.b, "figures": figures}) + "\n")
    else:
        _show(args, found, is_stored)
    return 0


def _folder(name: str, args: argparse.Namespace) -> str:
    """The folder of a model, which is downloaded if it is not here."""
    return str(model_arguments.folder_of(name, dtype=args.dtype, memory=args.memory))


def _show(args: argparse.Namespace, found: Comparison, is_stored: bool) -> None:
    from rich.console import Console
    from rich.table import Table

    console = Console(highlight=False)
    console.print(one_line(f"A: {args.a}"), markup=False)
    console.print(one_line(f"B: {args.b}"), markup=False)
    columns = ("tokens", "KL", *(("at most",) if is_stored else ()), "median", "99 %", "same", "said")
    table = Table("", *columns, show_edge=False, pad_edge=False)  # so that eight columns fit into 80 characters
    table.columns[0].no_wrap, table.columns[0].min_width = True, len("commentary")
    for column in table.columns[1:]:
        column.justify = "right"
    for name, figures in found.rows:
        table.add_row(name, *_cells(figures, is_stored), end_section=name in ("everything", "final"))
    console.print(table)
    console.print(_LEGEND + (_OF_STORED if is_stored else ""))


def _cells(figures: Figures, is_stored: bool) -> list[str]:
    kl = [figures.kl, *([figures.most] if is_stored else []), figures.median, figures.p99]
    return [
        f"{figures.tokens:,}",
        *(f"{value:.2g}" for value in kl),
        f"{figures.same:.1%}",
        f"{figures.change:+.4f}",
    ]
