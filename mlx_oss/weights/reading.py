"""Placements -> MLX arrays: read directly into the arrays, several reads at a time, each byte once.

Matrices that the model fuses are joined while they are read, without a copy. Then floats are cast as the placement
says. Knows nothing of layouts.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

import mlx.core as mx
import numpy as np

from mlx_oss.backend.packed import dequantized
from mlx_oss.errors import CheckpointError
from mlx_oss.weights.arrays import MLX_DTYPES, allocated, bytes_of
from mlx_oss.weights.files import READERS, OpenFile
from mlx_oss.weights.mxfp4 import SCALE_NAN
from mlx_oss.weights.names import row_axis
from mlx_oss.weights.placements import Part, Placement, StoredArray
from mlx_oss.weights.safetensors import OTHER_VALUES

AHEAD = 1_500_000_000  # limit in bytes of what is being read, or has been read but not yet consumed by the caller
PORTION = 16 << 20  # bytes: a request reads at most this much; a thread gets requests for at least this much at a time

Files = Mapping[Path, OpenFile]


def open_files(placements: Iterable[Placement]) -> Files:
    """Opens the files that the placements are read from. Raises CheckpointError for one that cannot be opened."""
    arrays = (array for placement in placements for part in placement.parts for array in part.arrays)
    return {path: OpenFile(path) for path in {span.tensor.file for array in arrays for span in array.spans}}


def read(placements: Iterable[Placement], files: Files) -> Iterator[tuple[Placement, mx.array]]:
    """Reads parameters in the background and yields each as the model holds it, the largest first.

    Args:
        placements: The parameters to read.
        files: The open files that contain them.

    Yields:
        Each placement with its array. Reading goes on ahead of the caller, up to AHEAD bytes.

    Raises:
        CheckpointError: If a tensor cannot be read, holds NaN or infinity after rounding, or a NaN scale.
    """
    being_read: deque[tuple[Placement, list[mx.array], list[Future[None]]]] = deque()
    with ThreadPoolExecutor(READERS, thread_name_prefix="mlx-oss-load") as threads:

        def finish() -> tuple[Placement, mx.array]:
            placement, arrays, portions = being_read.popleft()
            for portion in portions:
                portion.result()
            if placement.dtype == "U8":
                _check_scales(placement, arrays[0])
            return placement, as_held(placement, arrays)

        try:
            for placement in sorted(placements, key=lambda placement: -placement.stored_nbytes):
                while being_read and placement.stored_nbytes + sum(p.stored_nbytes for p, _, _ in being_read) > AHEAD:
                    yield finish()
                stored = [array for part in placement.parts for array in part.arrays]
                for tensor in {span.tensor for array in stored for span in array.spans}:
                    files[tensor.file].expect(tensor.start, tensor.nbytes)
                arrays = [allocated(array.shape, MLX_DTYPES[array.dtype]) for array in stored]
                requests = (r for array, into in zip(stored, arrays, strict=True) for r in _requests(array, into))
                futures = [threads.submit(_fill, files, portion) for portion in _portions(requests)]
                being_read.append((placement, arrays, futures))
            while being_read:
                yield finish()
        finally:
            threads.shutdown(cancel_futures=True)


def _check_scales(placement: Placement, array: mx.array) -> None:
    """Raises CheckpointError for a NaN among scales: no model has one, so it means damage."""
    scales, stored = np.frombuffer(bytes_of(array), np.uint8), placement.parts[0].array
    if placement.spec is not None and placement.spec.mode == "nvfp4":
        scales = scales | np.uint8(0x80)  # of these floats, which have a sign, 0x7F is NaN too
    if scales.max() == SCALE_NAN:
        tensor = stored.tensor_at(int(scales.argmax()))
        raise CheckpointError(f"{tensor.file}: tensor {tensor.name} holds a NaN scale: {OTHER_VALUES}")


def as_held(placement: Placement, arrays: Sequence[mx.array]) -> mx.array:
    """Rounds, dequantises, casts and joins what was read for a placement, as the model holds it.

    Computes immediately, so that what was read can be freed.

    Args:
        placement: The placement.
        arrays: The arrays of all its parts, or the same rows of each.
    """
    if placement.is_as_stored:
        return arrays[0]
    left, dtype = iter(arrays), MLX_DTYPES[placement.dtype]
    parts = [_values(part, [next(left) for _ in part.arrays]).astype(dtype) for part in placement.parts]
    joined = parts[0] if len(parts) == 1 else mx.concatenate(parts, row_axis(placement.module))
    mx.eval(joined)
    return joined


def _values(part: Part, arrays: Sequence[mx.array]) -> mx.array:
    """The values of a part: dequantised, or rounded to the dtype that they have in the layout."""
    if spec := part.spec:
        weight, *others = arrays  # floats are cast first, else the values would be rounded to the stored dtype
        return dequantized(spec, weight, *(_cast(array, part.value_dtype) for array in others))
    (stored,) = arrays
    if not part.is_rounded:
        return stored
    rounded = _cast(stored, part.value_dtype)
    if not (finite := mx.isfinite(rounded)).all():
        tensor = part.array.tensor_at(int(mx.argmin(finite.flatten())) * stored.itemsize)
        raise CheckpointError(f"{tensor.file}: tensor {tensor.name} holds NaN or infinity: {OTHER_VALUES}")
    return rounded


def _cast(array: mx.array, dtype: str) -> mx.array:
    """Casts floats. Packed integers stay as they are."""
    return array.astype(MLX_DTYPES[dtype]) if mx.issubdtype(array.dtype, mx.floating) else array


ReadRequest = tuple[Path, int, memoryview]  # file, offset of the first byte, destination


def _requests(array: StoredArray, into: mx.array) -> Iterator[ReadRequest]:
    """Splits the reading of an array into requests of at most PORTION bytes."""
    target, stride, offset = bytes_of(into), array.nbytes // array.experts, 0
    for span in array.spans:
        for expert in range(array.experts):
            start, destination = span.start(expert), target[offset + expert * stride :][: span.nbytes]
            for first in range(0, span.nbytes, PORTION):
                yield span.tensor.file, start + first, destination[first : first + PORTION]
        offset += span.nbytes


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
