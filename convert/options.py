"""What a caller may choose about a conversion, and what is told while it runs and after it. Knows nothing of files."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

SHARD_BYTES = 4_500_000_000


@dataclass(frozen=True, slots=True)
class ConvertOptions:
    """force replaces an existing model folder at the target; shard_bytes is the size shards are filled up to, in bytes
    (a layer is never split, so a shard may be as large as one layer).
    """

    force: bool = False
    shard_bytes: int = SHARD_BYTES


@dataclass(frozen=True, slots=True)
class Progress:
    """Where a conversion stands: bytes written of all bytes, shards finished of all shards."""

    done: int
    total: int
    shards_done: int
    shards: int


@dataclass(frozen=True, slots=True)
class Report:
    """What a conversion did: where the folder lies, what the source was, and how much was written (bytes)."""

    folder: Path
    layout: str
    tensors: int
    shards: int
    nbytes: int
