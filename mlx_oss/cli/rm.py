"""`mlx-oss rm`: removes the copies of a model from this disk."""

from __future__ import annotations

import argparse

from mlx_oss.errors import DownloadError
from mlx_oss.memory.estimates import format_bytes
from mlx_oss.terminal import report, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("name", metavar="NAME", help="name of a model that `mlx-oss models` lists")
    parser.add_argument(
        "--yes",
        action="store_true",
        help="also remove copies that other programs have made or use: in Hugging Face's cache and LM Studio's folder",
    )


def run(args: argparse.Namespace) -> int:
    """Removes the copies, and says what was freed. The exit status is 1 if a copy was left because of others."""
    from mlx_oss import models
    from mlx_oss.weights.hub import copies

    model = models.hub_model(args.name)
    if model is None:
        raise DownloadError(f"{args.name} is a folder: remove it yourself; rm removes models by their names")
    found = [copy for copy in copies.all_copies() if copy.model.repository.lower() == model.repository.lower()]
    if not found:
        raise DownloadError(f"{model.repository} is not on this disk: `mlx-oss models` lists what is")
    left = 0
    for copy in found:
        size = format_bytes(copy.nbytes)
        if copy.place != copies.OURS and not args.yes:
            left += 1
            say(f"{copy.root}, {size}, is in {copy.place}, which other programs use too: add --yes to remove it")
            continue
        models.remove(copy)
        report(f"removed {copy.root}: {size} freed")
    return 1 if left else 0
