"""`mlx-oss verify`: checks that a model on disk is intact, and that its source converts to the same tensors."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", help="folder of a model, converted or as it was downloaded")
    parser.add_argument(
        "--source",
        metavar="SRC",
        help="checkpoint that it was converted from; all tensors are compared with it (default: only check the folder)",
    )
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def run(args: argparse.Namespace) -> int:
    from mlx_oss.convert.command import run_verify

    return run_verify(args.folder, args.source, args.json)
