"""How the bytes of target tensors come out of source tensors: in one pass, in pieces of about a MiB, whatever the size.

Here the recipes that move values without reading them as numbers, so that bfloat16 needs no number type; only what a
fine-tune holds in another float type is rounded as it is read. Knows nothing of names and models.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from typing import BinaryIO, Protocol

import numpy as np

from mlx_oss.errors import CheckpointError
from mlx_oss.weights.mxfp4 import SCALE_NAN
from mlx_oss.weights.safetensors import TensorInfo

PIECE = 1 << 20  # bytes read at a time: what is done to them happens in the processor's cache
ROUNDED = {"F32": "<f4", "F16": "<f2"}  # dtypes that become bfloat16, as safetensors and NumPy call them


@dataclass(frozen=True, slots=True)
class Rounded(TensorInfo):
    """A tensor of the dtype `stored` as the bfloat16 one that it is rounded to, to nearest even; places in it, but for
    `start` and `end`, are those of bfloat16 bytes.
    """

    stored: str

    @property
    def nbytes(self) -> int:
        return 2 * math.prod(self.shape)


class Transform(Protocol):
    """Gives the bytes of one or more target tensors in order, in one pass over the source."""

    def pieces(self) -> Iterator[tuple[np.ndarray, ...]]:
        """The next bytes of each target: C-contiguous uint8 vectors, valid until the next ones are asked for.

        Raises CheckpointError where the source cannot be read or is damaged.
        """
        ...


class TensorTransform(Transform, Protocol):
    """A transform over one source tensor, or part of it; its pieces are whole rows."""

    @property
    def source(self) -> TensorInfo: ...

    @property
    def nbytes(self) -> int:
        """Of the source that it uses."""
        ...


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

    def pieces(self) -> Iterator[tuple[np.ndarray]]:
        return self.runs(max(PIECE // self.row_bytes, 1))

    def runs(self, rows: int) -> Iterator[tuple[np.ndarray]]:
        """As `pieces`, of that many rows each."""
        for piece in read(self.source, self.start, self.stop, rows * self.row_bytes):
            yield (piece,)


@dataclass(frozen=True, slots=True)
class Deinterleave:
    """Two targets: the even and the odd rows of a source tensor; a row is row_bytes long."""

    source: TensorInfo
    row_bytes: int

    @property
    def nbytes(self) -> int:
        return self.source.nbytes

    def pieces(self) -> Iterator[tuple[np.ndarray, np.ndarray]]:
        size = max(PIECE // (2 * self.row_bytes), 1) * 2 * self.row_bytes
        even, odd = np.empty((2, min(size, self.nbytes) // 2), np.uint8)
        for piece in read(self.source, 0, self.nbytes, size):
            pairs, count = piece.reshape(-1, 2, self.row_bytes), piece.nbytes // 2
            np.copyto(even[:count].reshape(-1, self.row_bytes), pairs[:, 0])
            np.copyto(odd[:count].reshape(-1, self.row_bytes), pairs[:, 1])
            yield even[:count], odd[:count]


@dataclass(frozen=True, slots=True)
class Scales:
    """MXFP4 scales passed through and checked: a NaN among them is damage, no model has one."""

    inner: TensorTransform

    def pieces(self) -> Iterator[tuple[np.ndarray, ...]]:
        for pieces in self.inner.pieces():
            if any(piece.max(initial=0) == SCALE_NAN for piece in pieces):
                source = self.inner.source
                raise CheckpointError(f"{source.file}: tensor {source.name} holds a NaN scale (0xFF): fetch it again")
            yield pieces


def read(source: TensorInfo, start: int, stop: int, size: int) -> Iterator[np.ndarray]:
    """The bytes [start, stop) of a tensor in pieces of `size`, each valid until the next is asked for."""
    if not isinstance(source, Rounded):
        yield from _stored(source, start, stop, size)
        return
    buffer = np.empty(min(size, stop - start), np.uint8)
    wide = np.dtype(ROUNDED[source.stored]).itemsize // 2
    for position in range(start, stop, size):
        piece, end = buffer[: min(size, stop - position)], 0
        for stored in _stored(source, wide * position, wide * (position + piece.nbytes), wide * PIECE):
            rounded = _bfloat16(stored.view(ROUNDED[source.stored]), source).view(np.uint8)
            piece[end : end + rounded.nbytes] = rounded
            end += rounded.nbytes
        yield piece


def _bfloat16(values: np.ndarray, source: TensorInfo) -> np.ndarray:
    """Their bits as uint16. Raises CheckpointError for NaN, infinity, and what becomes it."""
    bits = values.astype(np.float32).view(np.uint32)
    rounded = bits + (0x7FFF + ((bits >> 16) & 1))
    if any(((each & 0x7F800000) == 0x7F800000).any() for each in (bits, rounded)):
        raise CheckpointError(f"{source.file}: tensor {source.name} holds NaN or infinity: fetch it again")
    return (rounded >> 16).astype("<u2")


def _stored(source: TensorInfo, start: int, stop: int, size: int) -> Iterator[np.ndarray]:
    buffer = np.empty(min(size, stop - start), np.uint8)
    try:
        with source.file.open("rb", buffering=0) as file:
            file.seek(source.start + start)
            for position in range(start, stop, size):
                piece = buffer[: min(size, stop - position)]
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
