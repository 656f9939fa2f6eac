"""`mlx-oss rm`: removes the copies of a model from this disk."""

from __future__ import annotations

import argparse

from mlx_oss.errors import DownloadError
from mlx_oss.memory.estimates import format_bytes
from mlx_oss.terminal import report, say


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "name",
        metavar="NAME",
        help="name of a model that `mlx-oss models` lists; NAME@REVISION leaves its other revisions",
    )
    parser.add_argument(
        "--yes",
        action="store_true",
        help="also remove copies that other programs have made or use: in Hugging Face's cache and LM Studio's folder",
    )


def run(args: argparse.Namespace) -> int:
    """Removes the copies, and says what was freed. The exit status is 1 if a copy was left because of others."""
    from mlx_oss import models
    from mlx_oss.weights.hub import copies

    model = models.named(args.name)
    if model.revision is None:
        same = (copy for copy in copies.all_copies() if copy.model.repository.lower() == model.repository.lower())
        found = list({copy.root: copy for copy in same}.values())
    else:
        found = copies.of_revision(model)
    if not found:
        raise DownloadError(f"{model} is not on this disk: `mlx-oss models` lists what is")
    left = 0
    for copy in found:
        if copy.place != copies.OURS and not args.yes:
            left += 1
            where = copy.root if model.revision is None else copy.folder
            say(
                f"{where}, {format_bytes(copy.nbytes)}, is in {copy.place}, which other programs use too: add --yes to "
                "remove it"
            )
            continue
        freed = models.remove(copy, only_revision=model.revision is not None)
        report(f"removed {copy.model} from {copy.place}: {format_bytes(freed)} freed")
    return 1 if left else 0
