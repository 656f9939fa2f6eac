"""`mlx-oss pull`: downloads a model by its name, or completes or renews the copy that is here."""

from __future__ import annotations

import argparse

from mlx_oss.cli.progress import shown
from mlx_oss.memory.estimates import format_bytes
from mlx_oss.terminal import report


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name",
        metavar="NAME",
        help="20b, 120b, a name on huggingface.co such as openai/gpt-oss-20b, or NAME@REVISION",
    )


def run(args: argparse.Namespace) -> int:
    from mlx_oss.models import folder_of
    from mlx_oss.weights.hub.copies import disk_bytes

    with shown() as progress:
        folder = folder_of(args.name, progress=progress, newest=True)
    report(f"{args.name} is here, {format_bytes(disk_bytes(folder, follow=True))}: {folder}")
    return 0
