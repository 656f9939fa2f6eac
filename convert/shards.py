"""Targets -> safetensors shards: which tensor goes where, and the bytes of one shard file.

The format is documented in huggingface/safetensors. Knows nothing of models.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from mlx_oss.tensorfile import ITEMSIZE

from .partial import Written
from .plan import Target

_ALIGN = 64  # bytes; the header is padded so that the data starts on a cache line


@dataclass(frozen=True, slots=True)
class Shard:
    """One file to write; its tensors in the order of their bytes."""

    name: str
    targets: tuple[Target, ...]

    @property
    def nbytes(self) -> int:
        return sum(target.nbytes for target in self.targets)


def split(units: Sequence[Sequence[Target]], shard_bytes: int) -> list[Shard]:
    """Fills shards up to shard_bytes with whole units (a layer, an embedding), in order.

    Within a shard wider dtypes come first, so every tensor is aligned to its items whatever the shapes are.
    """
    groups: list[list[Target]] = []
    room = -1
    for unit in units:
        size = sum(target.nbytes for target in unit)
        if size > room:
            groups.append([])
            room = shard_bytes
        groups[-1] += unit
        room -= size
    count = len(groups)
    return [
        Shard(
            f"model-{number:05}-of-{count:05}.safetensors",
            tuple(sorted(group, key=lambda target: -ITEMSIZE[target.dtype])),
        )
        for number, group in enumerate(groups, 1)
    ]


def header(shard: Shard) -> bytes:
    """The shard's safetensors header with its length in front."""
    entries: dict[str, object] = {"__metadata__": {"format": "mlx"}}
    position = 0
    for target in shard.targets:
        end = position + target.nbytes
        entries[target.name] = {"dtype": target.dtype, "shape": target.shape, "data_offsets": [position, end]}
        position = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGN)
    return len(text).to_bytes(8, "little") + text


def write(shard: Shard, path: Path, written: Callable[[int], None]) -> dict[str, Written]:
    """Writes the shard to `path` and flushes it to the disk; calls written(bytes) after each chunk.

    Returns what is known of each tensor. Raises CheckpointError (the source) or OSError (the target).
    """
    known = {}
    # A chunk is hashed while it is written and the next one is read: neither holds the interpreter.
    with ThreadPoolExecutor(1) as hashing, path.open("wb", buffering=0) as file:
        _write_all(file.fileno(), header(shard))
        for target in shard.targets:
            checksum, count = hashlib.sha256(), 0
            hashed: Future[None] | None = None
            for chunk in target.recipe.chunks():
                if hashed is not None:
                    hashed.result()  # of the chunk before, whose memory the next one takes
                hashed = hashing.submit(checksum.update, chunk.data)
                _write_all(file.fileno(), chunk.data)
                count += chunk.nbytes
                written(chunk.nbytes)
            if hashed is not None:
                hashed.result()
            assert count == target.nbytes, f"{target.name}: {count=} of {target.nbytes}"
            error = target.quantizer.relative_error if target.quantizer else None
            known[target.name] = Written(checksum.hexdigest(), error)
        os.fsync(file.fileno())
    return known


def index(shards: Sequence[Shard]) -> dict[str, object]:
    """The parsed `model.safetensors.index.json` of a folder."""
    where = {target.name: shard.name for shard in shards for target in shard.targets}
    return {
        "metadata": {"total_size": sum(shard.nbytes for shard in shards)},
        "weight_map": dict(sorted(where.items())),
    }


def _write_all(descriptor: int, data: bytes | memoryview) -> None:
    view = memoryview(data)
    while view:
        view = view[os.write(descriptor, view) :]
