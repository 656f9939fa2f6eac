"""MLX arrays whose bytes are read and written in place, behind MLX's back.

Nobody may compute with an array while it is written: MLX does not know of it.
"""

from __future__ import annotations

import io
import json
from typing import Any

import mlx.core as mx

from mlx_oss.backend.host_memory import in_large_pages

STORED = {"U32": mx.uint32, "U8": mx.uint8, "BF16": mx.bfloat16, "F16": mx.float16, "F32": mx.float32}
LARGE = 256 << 10  # bytes: smaller arrays are filled with zeros faster than they are made without


def allocated(shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
    """An array to be filled through `bytes_of`; until then it holds anything.

    The memory of a large one is not touched yet, so that who fills it is the first to: the system gives memory page by
    page when it is touched, which takes as long as filling it.
    """
    array = mx.zeros(shape, dtype)  # not computed yet
    if array.nbytes < LARGE:
        mx.eval(array)
        return array
    array = _not_computed(array)
    in_large_pages(bytes_of(array))
    return array


def bytes_of(array: mx.array) -> memoryview:
    """The bytes of a computed array, by rows; it lives as long as they are held."""
    content: Any = array
    return memoryview(content).cast("B")


def _not_computed(like: mx.array) -> mx.array:
    """An array of that shape and dtype. MLX makes one without filling it only where it reads a file into it, so it is
    given one that claims to have been read.
    """
    name = next(name for name, dtype in STORED.items() if dtype == like.dtype)
    described = json.dumps({"it": {"dtype": name, "shape": like.shape, "data_offsets": [0, like.nbytes]}}).encode()
    file: Any = _HeaderAlone(len(described).to_bytes(8, "little") + described, like.nbytes)
    found: Any = mx.load(file, format="safetensors", stream=mx.cpu)
    return found["it"]


class _HeaderAlone(io.BytesIO):
    """A safetensors file without its data of so many bytes, which does not let that be noticed."""

    def __init__(self, header: bytes, nbytes: int) -> None:
        super().__init__(header)
        self._size = len(header) + nbytes

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return super().seek(self._size + offset) if whence == io.SEEK_END else super().seek(offset, whence)

    def readinto(self, into: Any) -> int:
        super().readinto(into)
        return len(into)
