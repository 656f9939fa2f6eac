"""`mlx-oss models`: lists the gpt-oss models on this disk, and what of each this machine can run."""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from typing import TYPE_CHECKING, Any

from mlx_oss.errors import MlxOssError
from mlx_oss.terminal import one_line, report

if TYPE_CHECKING:
    from mlx_oss.weights.hub.copies import Copy
    from mlx_oss.weights.layouts.checkpoint import Checkpoint

_ONE_LINE = 10_000  # characters
_SHORT = 7  # digits of a commit, as git shows them
_NONE = "No model of gpt-oss is on this disk. `mlx-oss pull 20b` downloads gpt-oss-20b, 13.8 GB."


def add_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--json", action="store_true", help="print the list as JSON, sizes in bytes")


def run(args: argparse.Namespace) -> int:
    from mlx_oss.weights.hub.copies import all_copies

    rows = [_row(copy) for copy in all_copies()]
    if args.json:
        sys.stdout.write(json.dumps(rows) + "\n")
    elif rows:
        _show(rows)
    else:
        report(_NONE)
    return 0


def lines() -> list[str]:
    """A line for each model on this disk, without a table."""
    from mlx_oss.memory.estimates import format_bytes
    from mlx_oss.weights.hub.copies import all_copies

    rows = [_row(copy) for copy in all_copies()]
    return [f"{row['name']}, {format_bytes(row['bytes'])}, {row['place']}: {row['here']}" for row in rows] or [_NONE]


def _row(copy: Copy) -> dict[str, Any]:
    """What is known of a copy. What cannot be used is a row as well, which says why."""
    stored, state = "", f"incomplete: `mlx-oss pull {copy.model.repository}` completes it"
    if not copy.has_weights:
        state = "not downloaded, only looked into"
    elif copy.is_whole:
        try:
            stored, state = _looked_into(copy)
        except MlxOssError as error:
            state = f"cannot be used: {error}".replace(f"{copy.folder}/", "")
    return {
        "name": copy.model.repository,
        "revision": copy.model.revision,
        "bytes": copy.nbytes,
        "place": copy.place,
        "stored": stored,
        "whole": copy.is_whole,
        "here": state,
        "folder": str(copy.folder),
    }


def _looked_into(copy: Copy) -> tuple[str, str]:
    """How a copy is stored, and what this machine does with it."""
    from mlx_oss.backend.mlx_library import load_mlx
    from mlx_oss.weights.layouts.checkpoint import open_checkpoint

    checkpoint = open_checkpoint(copy.folder)
    if checkpoint.layout.must_convert:
        return _stored(checkpoint), "converted when it is first loaded"
    load_mlx()
    from mlx_oss.memory.plan import place_here, plan_for

    plan = plan_for(checkpoint, place_here(checkpoint, "auto"))
    return _stored(checkpoint), plan.verdict


def _stored(checkpoint: Checkpoint) -> str:
    """The formats of the weights, such as "mxfp4, bf16"."""
    specs = {spec for spec in checkpoint.specs.values() if spec}
    names = {f"affine {spec.bits} bit" if spec.mode == "affine" else spec.mode for spec in specs}
    dtypes = {tensor.dtype for name, tensor in checkpoint.tensors.items() if name.endswith(".weight")} - {"U32"}
    return ", ".join([*sorted(names, reverse=True), *sorted(dtype.lower() for dtype in dtypes)])


def _show(rows: list[dict[str, Any]]) -> None:
    from rich.console import Console
    from rich.table import Table

    from mlx_oss.memory.estimates import format_bytes

    table = Table("model", "size", "weights", "place", "on this machine", box=None, padding=(0, 2, 0, 0))
    table.columns[0].overflow = table.columns[4].overflow = "fold"  # a name that is cut off could not be copied
    table.columns[0].no_wrap, table.columns[1].justify = True, "right"
    table.columns[1].no_wrap, table.columns[4].min_width = True, len("incomplete:")
    names = Counter((row["name"], row["place"]) for row in rows)
    for row in rows:
        several = names[row["name"], row["place"]] > 1
        name = f"{row['name']}@{row['revision'][:_SHORT]}" if several and row["revision"] else row["name"]
        cells = (name, format_bytes(row["bytes"]), row["stored"], row["place"], row["here"])
        table.add_row(*map(one_line, cells))
    console = Console(highlight=False, markup=False)
    if not console.is_terminal:
        console.width = _ONE_LINE  # for grep
    console.print(table)
