"""`mlx-oss pull`: downloads a model by its name, or completes or renews the copy that is here.

What cannot run on this machine is refused before the first byte of weights, unless the user says that it is for another
one.
"""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

from mlx_oss.cli.model_arguments import use_here
from mlx_oss.cli.progress import shown
from mlx_oss.errors import EngineError
from mlx_oss.memory.estimates import format_bytes
from mlx_oss.terminal import report

if TYPE_CHECKING:
    from mlx_oss.weights.layouts.checkpoint import Checkpoint

_INSTEAD = "use a smaller model, or download it for another machine with `mlx-oss pull {name} --anyway`"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name",
        metavar="NAME",
        help="20b, 120b, a name on huggingface.co such as openai/gpt-oss-20b, or NAME@REVISION",
    )
    parser.add_argument(
        "--anyway", action="store_true", help="also download what cannot run on this machine: for another one"
    )


def run(args: argparse.Namespace) -> int:
    from mlx_oss.models import folder_of, named
    from mlx_oss.weights.hub.copies import disk_bytes

    model = named(args.name)

    def check(checkpoint: Checkpoint) -> str:
        try:
            return use_here(checkpoint, instead=None if args.anyway else _INSTEAD.format(name=model))
        except EngineError as error:  # without MLX, or without the GPU that it was built for
            if args.anyway:
                return str(error)
            raise

    with shown() as progress:
        folder = folder_of(model, progress=progress, check=check, newest=True)
    report(f"{args.name} is here, {format_bytes(disk_bytes(folder, follow=True))}: {folder}")
    return 0
