"""`mlx-oss convert`: the converter's command line, which also takes the name of a model."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from mlx_oss.cli.progress import shown
from mlx_oss.convert import command

if TYPE_CHECKING:
    from mlx_oss.weights.layouts.checkpoint import Checkpoint


def add_arguments(parser: argparse.ArgumentParser) -> None:
    command.add_arguments(parser)
    parser.description = f"{command.DESCRIPTION} SRC may also be the name of a model, such as 20b."


def run(args: argparse.Namespace) -> int:
    from mlx_oss.models import folder_of

    with shown() as progress:
        args.source = str(folder_of(args.source, progress=progress, check=_source, as_released=True))
    return command.run(args)


def _source(checkpoint: Checkpoint) -> str:
    return f"It is converted from {checkpoint.layout.name}"
