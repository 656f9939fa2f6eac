"""The converter's command line: `mlx-oss convert` and `python -m convert`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence

from mlx_oss.errors import MlxOssError

from .options import ConvertOptions
from .run import convert

DESCRIPTION = "Convert a released gpt-oss checkpoint into an MLX folder, bit for bit."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("source", metavar="SRC", help="folder of the checkpoint (Hugging Face layout or original/)")
    parser.add_argument("target", metavar="DST", help="the MLX folder to write")
    parser.add_argument("--force", action="store_true", help="replace DST where it is a model folder already")


def run(args: argparse.Namespace) -> int:
    """Converts as the parsed arguments say. Raises MlxOssError."""
    report = convert(args.source, args.target, ConvertOptions(force=args.force))
    sys.stdout.write(
        f"{report.folder}: {report.tensors} tensors, {report.nbytes / 1e9:.2f} GB, {report.shards} shards\n"
    )
    return 0


def main(argv: Sequence[str] | None = None) -> int:
    """Parses, converts, and gives the exit status: 0, or 2 after one line about what is wrong."""
    parser = argparse.ArgumentParser(prog="python -m convert", description=DESCRIPTION)
    add_arguments(parser)
    try:
        return run(parser.parse_args(argv))
    except MlxOssError as error:
        sys.stderr.write(f"error: {error}\n")
        return 2
