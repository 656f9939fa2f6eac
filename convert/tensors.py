"""Makes the transforms that read canonical tensors, whatever the layout is that they are stored in.

Knows what a layout may have done to a tensor, and which transform undoes it. Knows no layout.
"""

from __future__ import annotations

import math

from mlx_oss.convert.metal_transforms import DeinterleavedHeads, StackedExperts, ZeroPaddedRows
from mlx_oss.convert.transforms import ROUNDED, Deinterleave, Rounded, Rows, TensorTransform
from mlx_oss.weights.layouts.stored import FLOATS, InterleavedHalves, OffsetScales, RowsLeftOut, Tensor
from mlx_oss.weights.safetensors import ITEMSIZE, TensorInfo


def target_dtype(tensor: Tensor) -> str:
    """The dtype in which a canonical tensor is written: floats become bfloat16."""
    return "BF16" if tensor.dtype in FLOATS else tensor.dtype


def rows(tensor: Tensor) -> Rows:
    """Reads the rows of a canonical tensor as they are stored; floats of other dtypes are rounded to bfloat16."""
    (source,) = tensor.sources
    return _rows(tensor, source)


def values(tensor: Tensor, head_dim: int) -> TensorTransform:
    """Reads a canonical tensor, and undoes what its layout has done to it.

    Args:
        tensor: The tensor. None of its rows may lie between those of another one.
        head_dim: Width of a head.
    """
    parts, change = tuple(_rows(tensor, source) for source in tensor.sources), tensor.change
    if len(parts) > 1 or isinstance(change, OffsetScales):
        return StackedExperts(parts, change.offset if isinstance(change, OffsetScales) else 0)
    if isinstance(change, RowsLeftOut):
        return ZeroPaddedRows(parts[0], tensor.rows - tensor.source.shape[0])
    if isinstance(change, InterleavedHalves):
        return DeinterleavedHeads(parts[0], parts[0].row_bytes, head_dim, change.factor)
    assert change is None, f"{tensor.name} {change=}"
    return parts[0]


def alternating(even: Tensor) -> TensorTransform:
    """Reads two canonical tensors whose rows alternate, in one pass. `even` is the one of the even rows."""
    parts = tuple(Deinterleave(as_bfloat16(source), _row_bytes(even)) for source in even.sources)
    if len(parts) > 1 or isinstance(even.change, OffsetScales):
        return StackedExperts(parts, even.change.offset if isinstance(even.change, OffsetScales) else 0)
    return parts[0]


def as_bfloat16(tensor: TensorInfo) -> TensorInfo:
    """A tensor of the files, seen as the one that is written; it is rounded while it is read if it is F32 or F16."""
    if tensor.dtype not in ROUNDED:
        return tensor
    return Rounded(tensor.name, tensor.file, "BF16", tensor.shape, tensor.start, tensor.end, tensor.dtype)


def _rows(tensor: Tensor, source: TensorInfo) -> Rows:
    """The rows of a canonical tensor in one of its sources."""
    row, source = _row_bytes(tensor), as_bfloat16(source)
    start = tensor.first * row
    available = source.nbytes - start
    return Rows(source, row, start, start + min(available, row * tensor.rows * tensor.blocks))


def _row_bytes(tensor: Tensor) -> int:
    """Bytes of a row as it is written."""
    return math.prod(tensor.shape) * ITEMSIZE[target_dtype(tensor)] // (tensor.blocks * tensor.rows)
