"""MLX arrays whose bytes are read and written in place, without MLX's knowledge.

MLX cannot see these writes, so an array must not be used in a computation while it is being written.
"""

from __future__ import annotations

import io
import json
from typing import Any

import mlx.core as mx

from mlx_oss.backend.host_memory import in_large_pages

# MLX's dtype for each safetensors dtype that a weight can have.
MLX_DTYPES = {"U32": mx.uint32, "U8": mx.uint8, "BF16": mx.bfloat16, "F16": mx.float16, "F32": mx.float32}
DTYPE_NAMES = {dtype: name for name, dtype in MLX_DTYPES.items()}  # and the other way round
LARGE = 256 << 10  # bytes: for smaller arrays, filling with zeros is faster than allocating without filling


def allocated(shape: tuple[int, ...], dtype: mx.Dtype) -> mx.array:
    """Allocates an array to be filled through `bytes_of`. Until it is filled, its contents are undefined.

    The memory pages of a large array are not touched here. The operating system provides a page at the first write to
    it, which takes as long as filling it, so this work is left to the threads that fill the array.
    """
    array = mx.zeros(shape, dtype)  # lazy: nothing is allocated yet
    if array.nbytes < LARGE:
        mx.eval(array)
        return array
    array = _uninitialized(array)
    in_large_pages(bytes_of(array))
    return array


def bytes_of(array: mx.array) -> memoryview:
    """The bytes of an evaluated array, in row order. The array stays alive as long as the view does."""
    content: Any = array
    return memoryview(content).cast("B")


def _uninitialized(like: mx.array) -> mx.array:
    """Allocates an array with the shape and dtype of `like`, without filling it.

    MLX allocates without filling only when it reads a file, so this loads a file that has a header but no data.
    """
    header = json.dumps(
        {"it": {"dtype": DTYPE_NAMES[like.dtype], "shape": like.shape, "data_offsets": [0, like.nbytes]}}
    ).encode()
    file: Any = _HeaderOnlyFile(len(header).to_bytes(8, "little") + header, like.nbytes)
    tensors: Any = mx.load(file, format="safetensors", stream=mx.cpu)
    array: mx.array = tensors["it"]
    return array


class _HeaderOnlyFile(io.BytesIO):
    """A safetensors file object that contains the header only and behaves as if `nbytes` of data followed it.

    `seek` counts the missing data in the file size. `readinto` reports every read as complete, but leaves the buffer
    as it is where there is no data. So mx.load allocates the tensor's memory and never writes to it.
    """

    def __init__(self, header: bytes, nbytes: int) -> None:
        super().__init__(header)
        self._size = len(header) + nbytes

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        return super().seek(self._size + offset) if whence == io.SEEK_END else super().seek(offset, whence)

    def readinto(self, into: Any) -> int:
        super().readinto(into)
        return len(into)
