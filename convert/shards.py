"""Targets -> safetensors shards: which tensor goes where, and the bytes of one shard file.

The format is documented in huggingface/safetensors. Knows nothing of models.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from typing import BinaryIO

from mlx_oss.tensorfile import ITEMSIZE

from .checksum import crc32
from .crew import Advance, Crew
from .partial import Written
from .plan import Job, Target

_FLUSH = 256 << 20  # bytes
_ALIGN = 64  # bytes; the header is padded so that the data starts on a cache line


@dataclass(frozen=True, slots=True)
class Shard:
    """One file to write, by jobs that may be done in any order and side by side."""

    name: str
    jobs: tuple[Job, ...]

    @property
    def targets(self) -> list[Target]:
        """In the order of their bytes: wider dtypes first, so that each is aligned to its items whatever the shapes."""
        targets = (target for job in self.jobs for target in job.targets)
        return sorted(targets, key=lambda target: -ITEMSIZE[target.dtype])

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
    position = 0
    for target in shard.targets:
        end = position + target.nbytes
        entries[target.name] = {"dtype": target.dtype, "shape": target.shape, "data_offsets": [position, end]}
        position = end
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGN)
    return len(text).to_bytes(8, "little") + text


class Writing:
    """A shard that a crew is writing into an open file, the largest jobs first: none is left over at the end."""

    def __init__(self, shard: Shard, file: BinaryIO, crew: Crew):
        self.shard, self._file, self._crew = shard, file, crew
        self._unflushed = 0
        head = header(shard)
        _write_all(file.fileno(), memoryview(head), 0)
        self._starts, position = {}, len(head)
        for target in shard.targets:
            self._starts[target.name] = position
            position += target.nbytes
        jobs = sorted(shard.jobs, key=lambda job: -job.nbytes)
        self._known = [crew.submit(partial(self._write, job)) for job in jobs]

    def flush_after(self, nbytes: int) -> None:
        """Counts what was written and has the disk follow, so that there is little to wait for in the end."""
        self._unflushed += nbytes
        if self._unflushed > _FLUSH:
            os.fsync(self._file.fileno())
            self._unflushed = 0

    def finish(self) -> dict[str, Written]:
        """Waits until the shard is on the disk; gives what is known of each tensor then.

        Raises CheckpointError (the source) or OSError (the target).
        """
        known = {name: written for each in self._crew.results(self._known) for name, written in each.items()}
        os.fsync(self._file.fileno())
        self._file.close()
        return known

    def _write(self, job: Job, advance: Advance) -> dict[str, Written]:
        ends, crcs = [self._starts[target.name] for target in job.targets], [0] * len(job.targets)
        for pieces in job.recipe.pieces():
            for n, piece in enumerate(pieces):
                crcs[n] = crc32(piece.data, crcs[n])
                _write_all(self._file.fileno(), piece.data, ends[n])
                ends[n] += piece.nbytes
            advance(sum(piece.nbytes for piece in pieces))
        known = {}
        for target, end, crc in zip(job.targets, ends, crcs, strict=True):
            assert end == self._starts[target.name] + target.nbytes, f"{target.name}: {end=}"
            known[target.name] = Written(crc, None if target.loss is None else float(target.loss))
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
