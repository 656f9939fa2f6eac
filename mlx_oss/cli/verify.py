"""`mlx-oss verify`: whether a converted model is intact, and whether it is what its source converts to."""

from __future__ import annotations

import argparse


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("folder", metavar="DIR", help="a folder that mlx-oss convert wrote")
    parser.add_argument("--source", metavar="SRC", help="the checkpoint it was made from, to compare all tensors with")
    parser.add_argument("--json", action="store_true", help="print the outcome as JSON")


def run(args: argparse.Namespace) -> int:
    from mlx_oss.convert.command import run_verify

    return run_verify(args.folder, args.source, args.json)
