"""Stored tensors -> MLX arrays: read directly into the arrays, several reads at a time, each byte once.

Tensors that the model holds as one matrix are joined while they are read, without a copy. Knows nothing of modules or
casts.
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

AHEAD = 1_500_000_000  # limit in bytes of what is being read, or has been read but not yet consumed by the caller
PORTION = 16 << 20  # bytes: a request reads at most this much; a thread gets requests for at least this much at a time

Key = TypeVar("Key")
Files = Mapping[Path, OpenFile]


@dataclass(frozen=True, slots=True)
class Concat:
    """Tensors of one dtype to be concatenated by rows.

    Attributes:
        tensors: The tensors, in the order of their rows.
        bias: True for biases (..., rows), False for matrices (..., rows, columns).
    """

    tensors: Sequence[TensorInfo]
    bias: bool

    @property
    def axis(self) -> int:
        """The axis of the rows."""
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
        """Number of contiguous pieces per tensor, one per expert. In the array, the pieces of the tensors alternate."""
        return math.prod(self.tensors[0].shape[: self.axis])


def open_files(tensors: Iterable[TensorInfo]) -> Files:
    """Opens the files that contain the tensors. Raises CheckpointError for one that cannot be opened."""
    return {path: OpenFile(path) for path in {tensor.file for tensor in tensors}}


def read(wanted: Mapping[Key, Concat], files: Files) -> Iterator[tuple[Key, mx.array]]:
    """Reads arrays in the background and yields (key, array) as they are stored, the largest first.

    Args:
        wanted: The tensors to join and read, by a key of the caller's choice.
        files: The open files that contain them.

    Yields:
        Each key with its array. Reading goes on ahead of the caller, up to AHEAD bytes.

    Raises:
        CheckpointError: If a tensor cannot be read.
    """
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


ReadRequest = tuple[Path, int, memoryview]  # file, offset of the first byte, destination


def _requests(joined: Concat, target: memoryview) -> Iterator[ReadRequest]:
    """Splits the reading of an array into requests of at most PORTION bytes."""
    stride, offset = joined.nbytes // joined.blocks, 0
    for tensor in joined.tensors:
        nbytes = tensor.nbytes // joined.blocks
        for block in range(joined.blocks):
            start, into = tensor.start + block * nbytes, target[offset + block * stride :][:nbytes]
            for first in range(0, nbytes, PORTION):
                yield tensor.file, start + first, into[first : first + PORTION]
        offset += nbytes


def _portions(requests: Iterable[ReadRequest]) -> Iterator[list[ReadRequest]]:
    """Groups requests into jobs of at least PORTION bytes, except the last one."""
    portion: list[ReadRequest] = []
    for request in requests:
        portion.append(request)
        if sum(len(into) for _, _, into in portion) >= PORTION:
            yield portion
            portion = []
    if portion:
        yield portion


def _fill(files: Files, portion: Sequence[ReadRequest]) -> None:
    for file, start, into in portion:
        files[file].read(start, into)
