"""Stored tensors -> MLX arrays: read straight into their place, several at a time, each byte once.

What the model holds as one matrix is joined by reading, not by copying. Knows nothing of modules and casts.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import mlx.core as mx

from mlx_oss.buffers import STORED, bytes_of
from mlx_oss.device import on_core
from mlx_oss.openfile import OpenFile
from mlx_oss.tensorfile import TensorInfo

# Bytes that are made ready and read at a time, beside what is done: getting memory from the system takes as long as
# filling it, so both go on at the same time.
AHEAD = 1_500_000_000
_READERS = (
    4  # a file in the system's cache is copied, by as many cores as there are; an SSD needs a few reads at a time
)

Key = TypeVar("Key")
Files = Mapping[Path, OpenFile]


@dataclass(frozen=True, slots=True)
class Joined:
    """Tensors of one dtype, one below the other: matrices (..., rows, columns) by rows, biases (..., rows) too."""

    tensors: Sequence[TensorInfo]
    bias: bool

    @property
    def axis(self) -> int:
        """That of the rows."""
        dimensions = len(self.tensors[0].shape)
        return dimensions - (1 if self.bias or dimensions == 1 else 2)

    @property
    def shape(self) -> tuple[int, ...]:
        first, axis = self.tensors[0].shape, self.axis
        return (*first[:axis], sum(tensor.shape[axis] for tensor in self.tensors), *first[axis + 1 :])

    @property
    def dtype(self) -> mx.Dtype:
        return STORED[self.tensors[0].dtype]

    @property
    def nbytes(self) -> int:
        return sum(tensor.nbytes for tensor in self.tensors)

    @property
    def blocks(self) -> int:
        """Each tensor is so many pieces, which alternate with those of the others: one an expert."""
        return math.prod(self.tensors[0].shape[: self.axis])


def open_files(tensors: Iterable[TensorInfo]) -> Files:
    """The files that tensors lie in. Raises CheckpointError for one that cannot be opened."""
    return {path: OpenFile(path) for path in {tensor.file for tensor in tensors}}


def read(wanted: Mapping[Key, Joined], files: Files) -> Iterator[tuple[Key, mx.array]]:
    """What is wanted, as it is stored, the largest first. Raises CheckpointError for what cannot be read."""
    made: deque[tuple[Key, Joined, mx.array]] = deque()
    being_read: deque[tuple[Key, mx.array, list[Future[None]]]] = deque()
    with ThreadPoolExecutor(_READERS, thread_name_prefix="mlx-oss-load") as threads:

        def start() -> None:
            key, joined, array = made.popleft()
            mx.eval(array)
            parts = _parts(joined, bytes_of(array))
            being_read.append((key, array, [threads.submit(_fill, files, *part) for part in parts]))

        def finish() -> tuple[Key, mx.array]:
            key, array, reads = being_read.popleft()
            for each in reads:
                each.result()
            return key, array

        try:
            given = [0, 0]
            for key, joined in sorted(wanted.items(), key=lambda item: -item[1].nbytes):
                for tensor in joined.tensors:
                    files[tensor.file].expect(tensor.start, tensor.nbytes)
                core = given.index(min(given))
                given[core] += joined.nbytes
                with on_core(core):
                    made.append((key, joined, mx.zeros(joined.shape, joined.dtype)))
                    mx.async_eval(made[-1][2])
                while sum(joined.nbytes for _, joined, _ in made) > AHEAD:
                    start()
                while sum(array.nbytes for _, array, _ in being_read) > AHEAD:
                    yield finish()
            while made:
                start()
            while being_read:
                yield finish()
        finally:
            threads.shutdown(cancel_futures=True)


def _parts(joined: Joined, target: memoryview) -> Iterator[tuple[TensorInfo, list[memoryview]]]:
    """For each tensor the places in the array that its bytes go to, in order."""
    stride, offset = joined.nbytes // joined.blocks, 0
    for tensor in joined.tensors:
        nbytes = tensor.nbytes // joined.blocks
        yield tensor, [target[offset + block * stride :][:nbytes] for block in range(joined.blocks)]
        offset += nbytes


def _fill(files: Files, tensor: TensorInfo, places: list[memoryview]) -> None:
    start = tensor.start
    for place in places:
        files[tensor.file].read(start, place)
        start += len(place)
