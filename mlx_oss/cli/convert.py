"""`mlx-oss convert`: the converter's command line, which also takes the name of a model."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_oss.cli.progress import shown
from mlx_oss.convert import command
from mlx_oss.files import expanded

if TYPE_CHECKING:
    from mlx_oss.weights.hub.names import HubModel
    from mlx_oss.weights.hub.space import Writing
    from mlx_oss.weights.layouts.checkpoint import Checkpoint


def add_arguments(parser: argparse.ArgumentParser) -> None:
    command.add_arguments(parser)
    parser.description = f"{command.DESCRIPTION} SRC may also be the name of a model, such as 20b."


def run(args: argparse.Namespace) -> int:
    from mlx_oss.models import folder_of, folder_without_weights

    options = command.options_of(args)
    if options.dry_run:
        with folder_without_weights(args.source) as folder:
            args.source = str(folder)
            return command.run(args)

    def writes(checkpoint: Checkpoint, _: HubModel) -> Writing:
        from mlx_oss.convert.jobs import planned_bytes
        from mlx_oss.convert.targets import check_target
        from mlx_oss.weights.hub.space import Writing

        target = Path(os.path.abspath(expanded(args.target)))
        check_target(Path(args.source), target, options)
        return Writing(target, planned_bytes(checkpoint, options), "choose a target on another disk")

    with shown() as progress:
        args.source = str(folder_of(args.source, progress=progress, check=_source, writes=writes, as_released=True))
    return command.run(args)


def _source(checkpoint: Checkpoint) -> str:
    return f"It is converted from {checkpoint.layout.name}"
