"""`mlx-oss verify`: checks that a model on disk is intact, and that its source converts to the same tensors."""

from __future__ import annotations

import argparse

from mlx_oss.cli.progress import shown
from mlx_oss.terminal import say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", help="folder or name of a model, converted or as it was downloaded")
    parser.add_argument(
        "--source",
        metavar="SRC",
        help="checkpoint that it was converted from; all tensors are compared with it (default: only check the folder)",
    )
    parser.add_argument("--adapter", metavar="DIR", help="adapter that was added to SRC when it was converted")
    parser.add_argument(
        "--repair", action="store_true", help="first download the files again that are missing or damaged; needs a name"
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    from mlx_oss.convert.command import run_verify
    from mlx_oss.models import local_folder, repair

    if args.repair:
        with shown() as progress:
            damaged = repair(args.folder, progress)
        say(f"downloaded again: {', '.join(damaged)}" if damaged else "nothing is damaged or missing")
    source = None if args.source is None else str(local_folder(args.source))
    return run_verify(str(local_folder(args.folder)), source, args.json, args.adapter)
