"""Writes safetensors shards: which tensor goes into which shard, and the bytes of each file.

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
from mlx_oss.convert.thread_pool import ReportBytes
from mlx_oss.weights.safetensors import ITEMSIZE

_ALIGN = 64  # bytes; the header is padded so that the data starts on a cache line


@dataclass(frozen=True, slots=True)
class Shard:
    """One file to write."""

    name: str
    jobs: tuple[Job, ...]

    @property
    def targets(self) -> list[Target]:
        """The tensors in the order of the file. Wider dtypes come first, so that each is aligned to its item size."""
        targets = (target for job in self.jobs for target in job.targets)
        return sorted(targets, key=lambda target: -ITEMSIZE[target.dtype])

    @property
    def spans(self) -> dict[str, tuple[int, int]]:
        """The byte range [start, end) of each target by name, counted from the end of the header."""
        spans, end = {}, 0
        for target in self.targets:
            start, end = end, end + target.nbytes
            spans[target.name] = start, end
        return spans

    @property
    def nbytes(self) -> int:
        return sum(job.nbytes for job in self.jobs)


def split(units: Sequence[Sequence[Job]], shard_bytes: int) -> list[Shard]:
    """Puts units (a layer, an embedding) into shards in order, up to `shard_bytes` each. A unit is never split."""
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
    """The shard's safetensors header, with its length before it."""
    entries: dict[str, object] = {"__metadata__": {"format": "mlx"}}
    spans = shard.spans
    for target in shard.targets:
        entries[target.name] = {"dtype": target.dtype, "shape": target.shape, "data_offsets": spans[target.name]}
    text = json.dumps(entries, separators=(",", ":")).encode()
    text += b" " * (-(8 + len(text)) % _ALIGN)
    return len(text).to_bytes(8, "little") + text


def write(shard: Shard, path: Path, report_bytes: ReportBytes) -> dict[str, WrittenTensor]:
    """Writes one shard and returns after it is flushed to the disk.

    A file is written by one thread only: several writers of a file wait for each other in the operating system.

    Args:
        shard: What to write.
        path: The file to write.
        report_bytes: Called with the number of bytes written after each step.

    Returns:
        Checksum and relative error of each tensor, by name.

    Raises:
        CheckpointError: If the source cannot be read or is damaged.
        OSError: If the file cannot be written.
    """
    head, spans, written = header(shard), shard.spans, {}
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
                report_bytes(sum(piece.nbytes for piece in pieces))
            assert ends == [len(head) + spans[name][1] for name in names], names
            for target, crc in zip(job.targets, crcs, strict=True):
                written[target.name] = WrittenTensor(crc, None if target.loss is None else float(target.loss))
        flush(file.fileno())
    return written


def index(shards: Sequence[Shard]) -> dict[str, object]:
    """The content of `model.safetensors.index.json`."""
    shard_names = {target.name: shard.name for shard in shards for target in shard.targets}
    return {
        "metadata": {"total_size": sum(shard.nbytes for shard in shards)},
        "weight_map": dict(sorted(shard_names.items())),
    }


def _write_all(descriptor: int, view: memoryview, position: int) -> None:
    while view:
        count = os.pwrite(descriptor, view, position)
        view, position = view[count:], position + count
