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

from mlx_oss.weights.arrays import STORED, allocated, bytes_of
from mlx_oss.weights.files import READERS, OpenFile
from mlx_oss.weights.safetensors import TensorInfo

AHEAD = 1_500_000_000  # bytes that are being read, or have been and wait for what is done with them
PORTION = 16 << 20  # bytes that one thread reads in a row

Key = TypeVar("Key")
Files = Mapping[Path, OpenFile]


@dataclass(frozen=True, slots=True)
class Concat:
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


def read(wanted: Mapping[Key, Concat], files: Files) -> Iterator[tuple[Key, mx.array]]:
    """What is wanted, as it is stored, the largest first. Raises CheckpointError for what cannot be read."""
    being_read: deque[tuple[Key, mx.array, list[Future[None]]]] = deque()
    with ThreadPoolExecutor(READERS, thread_name_prefix="mlx-oss-load") as threads:

        def finish() -> tuple[Key, mx.array]:
            key, array, portions = being_read.popleft()
            for portion in portions:
                portion.result()
            return key, array

        try:
            for key, joined in sorted(wanted.items(), key=lambda item: -item[1].nbytes):
                while being_read and joined.nbytes + sum(array.nbytes for _, array, _ in being_read) > AHEAD:
                    yield finish()
                for tensor in joined.tensors:
                    files[tensor.file].expect(tensor.start, tensor.nbytes)
                array = allocated(joined.shape, joined.dtype)
                portions = _portions(_requests(joined, bytes_of(array)))
                being_read.append((key, array, [threads.submit(_fill, files, portion) for portion in portions]))
            while being_read:
                yield finish()
        finally:
            threads.shutdown(cancel_futures=True)


ReadRequest = tuple[Path, int, memoryview]  # where something lies: the file and its first byte; and where it goes


def _requests(joined: Concat, target: memoryview) -> Iterator[ReadRequest]:
    """Where the array's bytes come from, at most a portion each."""
    stride, offset = joined.nbytes // joined.blocks, 0
    for tensor in joined.tensors:
        nbytes = tensor.nbytes // joined.blocks
        for block in range(joined.blocks):
            start, place = tensor.start + block * nbytes, target[offset + block * stride :][:nbytes]
            for first in range(0, nbytes, PORTION):
                yield tensor.file, start + first, place[first : first + PORTION]
        offset += nbytes


def _portions(requests: Iterable[ReadRequest]) -> Iterator[list[ReadRequest]]:
    portion: list[ReadRequest] = []
    for place in requests:
        portion.append(place)
        if sum(len(into) for _, _, into in portion) >= PORTION:
            yield portion
            portion = []
    if portion:
        yield portion


def _fill(files: Files, portion: Sequence[ReadRequest]) -> None:
    for file, start, into in portion:
        files[file].read(start, into)
