"""Targets -> safetensors shards: which tensor goes where, and the bytes of one shard file.

The format is documented in huggingface/safetensors. Knows nothing of models.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from mlx_oss.convert.checksum import crc32
from mlx_oss.convert.jobs import Job, Target
from mlx_oss.convert.staging import WrittenTensor, flush
from mlx_oss.convert.thread_pool import Advance
from mlx_oss.weights.safetensors import ITEMSIZE

_ALIGN = 64  # bytes; the header is padded so that the data starts on a cache line


@dataclass(frozen=True, slots=True)
class Shard:
    """One file to write."""

    name: str
    jobs: tuple[Job, ...]

    @property
    def targets(self) -> list[Target]:
        """In the order of their bytes: wider dtypes first, so that each is aligned to its items whatever the shapes."""
        targets = (target for job in self.jobs for target in job.targets)
        return sorted(targets, key=lambda target: -ITEMSIZE[target.dtype])

    @property
    def spans(self) -> dict[str, tuple[int, int]]:
        """By name, where each target's bytes start and end behind the header."""
        spans, end = {}, 0
        for target in self.targets:
            start, end = end, end + target.nbytes
            spans[target.name] = start, end
        return spans

    @property
    def nbytes(self) -> int:
        return sum(job.nbytes for job in self.jobs)


def split(units: Sequence[Sequence[Job]], shard_bytes: int) -> list[Shard]:
    """Fills shards up to shard_bytes with whole units (a layer, an embedding), in order."""
    groups: list[list[Job]] = []
    room = -1
    for unit in units:
        size = sum(job.nbytes for job in unit)
        if size > room:
            groups.append([])
            room = shard_bytes
        groups[-1] += unit
        room -= size
    count = len(groups)
    return [
        Shard(f"model-{number:05}-of-{count:05}.safetensors", tuple(group)) for number, group in enumerate(groups, 1)
    ]


def header(shard: Shard) -> bytes:
    """The shard's safetensors header with its length in front."""
    entries: dict[str, object] = {"__metadata__": {"format": "mlx"}}
    spans = shard.spans
    for target in shard.targets:
        entries[target.name] = {"dtype": target.dtype, "shape": target.shape, "data_offsets": spans[target.name]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGN)
    return len(text).to_bytes(8, "little") + text


def write(shard: Shard, path: Path, advance: Advance) -> dict[str, WrittenTensor]:
    """Writes the shard, returns when it is on the disk, and gives what is known of each tensor then.

    One thread writes a file: writers of one file wait for each other in the system. Raises CheckpointError (the source)
    or OSError (the target).
    """
    head, spans, known = header(shard), shard.spans, {}
    with path.open("wb", buffering=0) as file:
        _write_all(file.fileno(), memoryview(head), 0)
        for job in shard.jobs:
            names, crcs = [target.name for target in job.targets], [0] * len(job.targets)
            ends = [len(head) + spans[name][0] for name in names]
            for pieces in job.transform.pieces():
                for n, piece in enumerate(pieces):
                    crcs[n] = crc32(piece.data, crcs[n])
                    _write_all(file.fileno(), piece.data, ends[n])
                    ends[n] += piece.nbytes
                advance(sum(piece.nbytes for piece in pieces))
            assert ends == [len(head) + spans[name][1] for name in names], names
            for target, crc in zip(job.targets, crcs, strict=True):
                known[target.name] = WrittenTensor(crc, None if target.loss is None else float(target.loss))
        flush(file.fileno())
    return known


def index(shards: Sequence[Shard]) -> dict[str, object]:
    """The parsed `model.safetensors.index.json` of a folder."""
    where = {target.name: shard.name for shard in shards for target in shard.targets}
    return {
        "metadata": {"total_size": sum(shard.nbytes for shard in shards)},
        "weight_map": dict(sorted(where.items())),
    }


def _write_all(descriptor: int, view: memoryview, position: int) -> None:
    while view:
        count = os.pwrite(descriptor, view, position)
        view, position = view[count:], position + count
