"""`conversion.json`: what an MLX folder was converted from, and a checksum for each of its tensors.

The same conversion writes the same manifest: no times, no paths.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path

from mlx_oss.errors import CheckpointError

from .partial import Written
from .source import Source

NAME = "conversion.json"
FORMAT = 1


def build(source: Source, shards: Mapping[str, Mapping[str, Written]]) -> dict[str, object]:
    files = {tensor.file.name: tensor.file.stat().st_size for tensor in source.tensors.values()}
    known = {name: written for shard in shards.values() for name, written in shard.items()}
    return {
        "format": FORMAT,
        "source": {"layout": source.layout, "files": dict(sorted(files.items()))},
        "relative_errors": {name: known[name].error for name in sorted(known) if known[name].error is not None},
        "sha256": {name: known[name].sha256 for name in sorted(known)},
    }


def checksums(folder: Path) -> dict[str, str] | None:
    """sha256 by tensor; None where the folder has no manifest (others write MLX folders too)."""
    path = folder / NAME
    if not path.exists():
        return None
    try:
        parsed = json.loads(path.read_text(encoding="utf-8"))
        if parsed["format"] != FORMAT:
            raise CheckpointError(f"{path} is of format {parsed['format']!r}, {FORMAT} is known: convert again")
        return dict(parsed["sha256"])
    except (OSError, ValueError, LookupError, TypeError):
        raise CheckpointError(f"{path} is damaged: convert again") from None
