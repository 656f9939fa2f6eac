"""Transforms: produce the bytes of target tensors from source tensors, in one pass and in small pieces.

A piece has about a MiB, however large the tensor is. The transforms in this file move bytes without interpreting them
as numbers, so no bfloat16 type is needed. Two exceptions: float32 and float16 values of fine-tunes are rounded to
bfloat16 while they are read, and no float that is read may be NaN or infinite. Knows nothing of names and models.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import BinaryIO, Protocol

import numpy as np

from mlx_oss.convert.losses import RelativeError
from mlx_oss.errors import CheckpointError
from mlx_oss.files import open_regular
from mlx_oss.weights.mxfp4 import SCALE_NAN
from mlx_oss.weights.safetensors import OTHER_VALUES, TensorInfo

PIECE = 1 << 20  # bytes read at a time: small enough to be processed in the CPU's cache
ROUNDED = {"F32": "<f4", "F16": "<f2"}  # dtypes that become bfloat16: safetensors' name -> NumPy's


@dataclass(frozen=True, slots=True)
class Rounded(TensorInfo):
    """A float32 or float16 tensor, seen as the bfloat16 tensor it is rounded to (nearest, ties to even).

    `nbytes`, and offsets into the tensor elsewhere, count bfloat16 bytes; `start` and `end` count bytes of the file.

    Attributes:
        stored: The dtype in the file, "F32" or "F16".
        loss: Measures the error of rounding while the tensor is read. None: it is not measured.
    """

    stored: str
    loss: RelativeError | None = field(default=None, compare=False)

    @property
    def nbytes(self) -> int:
        return 2 * math.prod(self.shape)


class Transform(Protocol):
    """Produces the bytes of one or more target tensors, from first to last, in one pass over the source."""

    def pieces(self) -> Iterator[tuple[np.ndarray, ...]]:
        """Yields the next bytes of each target: C-contiguous uint8 vectors, valid until the next iteration.

        Raises:
            CheckpointError: If the source cannot be read or is damaged.
        """
        ...


class TensorTransform(Transform, Protocol):
    """A transform that reads one source tensor or a part of it; its pieces are whole rows."""

    @property
    def source(self) -> TensorInfo: ...

    @property
    def nbytes(self) -> int:
        """How many bytes of the source it reads."""
        ...


@dataclass(frozen=True, slots=True)
class Rows:
    """Copies the bytes [start, stop) of a source tensor; pieces are whole rows of row_bytes."""

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
        """Like `pieces`, with `rows` rows in each piece."""
        for piece in read(self.source, self.start, self.stop, rows * self.row_bytes):
            yield (piece,)


@dataclass(frozen=True, slots=True)
class Deinterleave:
    """Splits a source tensor into two targets, its even and its odd rows; a row is row_bytes long."""

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
class Picked:
    """One of the targets of another transform, by its number."""

    inner: TensorTransform
    number: int

    @property
    def source(self) -> TensorInfo:
        return self.inner.source

    @property
    def nbytes(self) -> int:
        return self.inner.nbytes

    def pieces(self) -> Iterator[tuple[np.ndarray]]:
        for pieces in self.inner.pieces():
            yield (pieces[self.number],)


@dataclass(frozen=True, slots=True)
class CheckedBytes:
    """Passes bytes through unchanged. Raises CheckpointError for a NaN: no model has one, so it means damage.

    Attributes:
        inner: Gives the bytes: scales, or floats of 8 bits.
        sign: Which of them are NaN, as `nan_sign` says.
    """

    inner: TensorTransform
    sign: int = 0

    def pieces(self) -> Iterator[tuple[np.ndarray, ...]]:
        for pieces in self.inner.pieces():
            if any(has_nan(piece, self.sign) for piece in pieces):
                source = self.inner.source
                what = "NaN" if self.sign else "a NaN scale (0xFF)"
                raise CheckpointError(f"{source.file}: tensor {source.name} holds {what}: {OTHER_VALUES}")
            yield pieces


def has_nan(piece: np.ndarray, sign: int) -> bool:
    """True if a byte stands for NaN: is 0xFF once the bit `sign` is set."""
    return bool((piece | np.uint8(sign) if sign else piece).max(initial=0) == SCALE_NAN)


def read(source: TensorInfo, start: int, stop: int, size: int) -> Iterator[np.ndarray]:
    """Yields the bytes [start, stop) of a tensor in pieces of `size`, each valid until the next iteration.

    Raises:
        CheckpointError: If the file cannot be read or has shrunk, or if a float is NaN or infinity.
    """
    if not isinstance(source, Rounded):
        for piece in read_stored(source, start, stop, size):
            if source.dtype == "BF16" and not is_finite(piece.view("<u2")):
                raise not_finite(source)
            yield piece
        return
    buffer = np.empty(min(size, stop - start), np.uint8)
    factor = np.dtype(ROUNDED[source.stored]).itemsize // 2  # bytes in the file per bfloat16 byte
    for position in range(start, stop, size):
        piece, end = buffer[: min(size, stop - position)], 0
        for stored in read_stored(source, factor * position, factor * (position + piece.nbytes), factor * PIECE):
            rounded = _round_to_bfloat16(stored.view(ROUNDED[source.stored]), source).view(np.uint8)
            piece[end : end + rounded.nbytes] = rounded
            end += rounded.nbytes
        yield piece


def is_finite(bits: np.ndarray) -> bool:
    """True if no bfloat16 value is NaN or infinite; bits as uint16.

    Those have the largest bits of their sign. Two maxima take a fraction of the time in which a piece is read.
    """
    return bool(bits.max(initial=0) < 0xFF80 and bits.view("<i2").max(initial=0) < 0x7F80)


def not_finite(source: TensorInfo) -> CheckpointError:
    """The error for a tensor with NaN or infinity."""
    return CheckpointError(f"{source.file}: tensor {source.name} holds NaN or infinity: {OTHER_VALUES}")


def float32(bits: np.ndarray) -> np.ndarray:
    """bfloat16 bits as uint16 -> the same values as float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


def to_bfloat16(values: np.ndarray) -> np.ndarray:
    """float32 -> bfloat16 bits as uint16, rounded to nearest, ties to even. NaN does not stay NaN."""
    bits = values.view(np.uint32)
    return ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype("<u2")


def _round_to_bfloat16(stored: np.ndarray, source: Rounded) -> np.ndarray:
    """bfloat16 bits as uint16. Raises CheckpointError for NaN, infinity, and values that round to infinity."""
    values = stored.astype(np.float32)
    rounded = to_bfloat16(values)
    if not np.isfinite(values).all() or not is_finite(rounded):
        raise not_finite(source)
    if source.loss is not None:
        source.loss.add(values, float32(rounded))
    return rounded


def read_stored(source: TensorInfo, start: int, stop: int, size: int) -> Iterator[np.ndarray]:
    """Like `read`, with the bytes as they are in the file, whatever they are."""
    buffer = np.empty(min(size, stop - start), np.uint8)
    try:
        with open_regular(source.file) as file:
            file.seek(source.start + start)
            for position in range(start, stop, size):
                piece = buffer[: min(size, stop - position)]
                _fill(piece, file, source)
                yield piece
    except OSError as error:
        raise CheckpointError(f"{source.file} cannot be read ({error.strerror}): download it again") from None


def _fill(piece: np.ndarray, file: BinaryIO, source: TensorInfo) -> None:
    view = piece.data
    while view:
        count = file.readinto(view)  # type: ignore[attr-defined]
        if not count:
            raise CheckpointError(f"{source.file} shrank while tensor {source.name} was read: download it again")
        view = view[count:]
