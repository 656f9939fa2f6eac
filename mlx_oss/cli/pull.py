"""`mlx-oss pull`: downloads a model by its name, or completes or renews the copy that is here.

A model that cannot run on this machine is downloaded as well: this may be for another one, or for a conversion. Before
the first byte of weights it says so.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from mlx_oss.cli.progress import shown
from mlx_oss.memory.estimates import format_bytes
from mlx_oss.terminal import report

if TYPE_CHECKING:
    from mlx_oss.weights.layouts.checkpoint import Checkpoint


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name",
        metavar="NAME",
        help="20b, 120b, a name on huggingface.co such as openai/gpt-oss-20b, or NAME@REVISION",
    )


def run(args: argparse.Namespace) -> int:
    from mlx_oss.models import folder_of, named
    from mlx_oss.weights.hub.copies import disk_bytes

    model = named(args.name)
    with shown() as progress:
        folder = folder_of(model, progress=progress, check=_use_here, newest=True)
    report(f"{args.name} is here, {format_bytes(disk_bytes(folder, follow=True))}: {folder}")
    return 0


def _use_here(checkpoint: Checkpoint) -> str:
    from mlx_oss.backend.mlx_library import load_mlx

    load_mlx()
    from mlx_oss.loader import use_here

    return use_here(checkpoint)
