"""How the bytes of a target tensor come out of source tensors: in pieces of a few MiB, whatever the tensor's size.

Here the recipes that move values without reading them as numbers, so that bfloat16 needs no number type. Knows nothing
of names and models.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Protocol

import numpy as np

from mlx_oss.errors import CheckpointError
from mlx_oss.mxfp4 import SCALE_NAN
from mlx_oss.tensorfile import TensorInfo

CHUNK = 4 << 20  # bytes read at a time


class Recipe(Protocol):
    """Gives a target tensor's bytes, in order."""

    def chunks(self) -> Iterator[np.ndarray]:
        """C-contiguous uint8 vectors, each valid until the one after the next is asked for.

        Raises CheckpointError where the source cannot be read or is damaged.
        """
        ...


class Piece(Recipe, Protocol):
    """A recipe over one source tensor, or part of it; chunks are whole rows."""

    @property
    def source(self) -> TensorInfo: ...

    @property
    def nbytes(self) -> int: ...


@dataclass(frozen=True, slots=True)
class Rows:
    """The bytes [start, stop) of a source tensor as they are; pieces are whole rows of row_bytes."""

    source: TensorInfo
    row_bytes: int
    start: int
    stop: int

    @property
    def nbytes(self) -> int:
        return self.stop - self.start

    def chunks(self) -> Iterator[np.ndarray]:
        return self.pieces(max(CHUNK // self.row_bytes, 1))

    def pieces(self, rows: int) -> Iterator[np.ndarray]:
        """As `chunks`, of that many rows each."""
        return read(self.source, self.start, self.stop, rows * self.row_bytes)


@dataclass(frozen=True, slots=True)
class EverySecond:
    """Every second row of a source tensor, from row `first` (0 or 1); a row is row_bytes long."""

    source: TensorInfo
    row_bytes: int
    first: int

    @property
    def nbytes(self) -> int:
        return self.source.nbytes // 2

    def chunks(self) -> Iterator[np.ndarray]:
        pair = 2 * self.row_bytes
        for piece in read(self.source, 0, self.source.nbytes, max(CHUNK // pair, 1) * pair):
            yield np.ascontiguousarray(piece.reshape(-1, 2, self.row_bytes)[:, self.first]).reshape(-1)


@dataclass(frozen=True, slots=True)
class Scales:
    """MXFP4 scales passed through and checked: a NaN among them is damage, no model has one."""

    inner: Piece

    def chunks(self) -> Iterator[np.ndarray]:
        for piece in self.inner.chunks():
            if piece.max(initial=0) == SCALE_NAN:
                source = self.inner.source
                raise CheckpointError(f"{source.file}: tensor {source.name} holds a NaN scale (0xFF): fetch it again")
            yield piece


def read(source: TensorInfo, start: int, stop: int, size: int) -> Iterator[np.ndarray]:
    """The bytes [start, stop) of a tensor in pieces of `size`, in two buffers by turns."""
    buffers = [np.empty(min(size, stop - start), np.uint8) for _ in range(2)]
    try:
        with source.file.open("rb", buffering=0) as file:
            file.seek(source.start + start)
            for number, position in enumerate(range(start, stop, size)):
                piece = buffers[number % 2][: min(size, stop - position)]
                _fill(piece, file, source)
                yield piece
    except OSError as error:
        raise CheckpointError(f"{source.file} cannot be read ({error.strerror}): fetch it again") from None


def _fill(piece: np.ndarray, file: BinaryIO, source: TensorInfo) -> None:
    view = piece.data
    while view:
        count = file.readinto(view)  # type: ignore[attr-defined]
        if not count:
            raise CheckpointError(f"{source.file} shrank while tensor {source.name} was read: fetch it again")
        view = view[count:]
