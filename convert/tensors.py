"""Makes the transforms that read canonical tensors from any layout.

Knows what a layout may have done to a tensor, and which transform undoes it. Knows no layout.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence

from mlx_oss.convert.losses import RelativeError
from mlx_oss.convert.metal_transforms import DeinterleavedHeads, StackedExperts, ZeroPaddedRows
from mlx_oss.convert.transforms import ROUNDED, Deinterleave, Picked, Rounded, Rows, TensorTransform
from mlx_oss.weights.layouts.description import (
    FLOATS,
    CanonicalTensor,
    Change,
    InterleavedHalves,
    OffsetScales,
    RowsLeftOut,
)
from mlx_oss.weights.safetensors import ITEMSIZE, TensorInfo


def target_dtype(tensor: CanonicalTensor) -> str:
    """The dtype in which a canonical tensor is written: floats become bfloat16."""
    return "BF16" if tensor.dtype in FLOATS else tensor.dtype


def read_rows(tensor: CanonicalTensor) -> Rows:
    """Reads the rows of a canonical tensor as they are stored; floats of other dtypes are rounded to bfloat16."""
    (source,) = tensor.sources
    return _rows(tensor, source)


def read_tensor(tensor: CanonicalTensor, head_dim: int) -> TensorTransform:
    """Reads a canonical tensor, and undoes what its layout has done to it.

    Args:
        tensor: The tensor. None of its rows may lie between those of another one.
        head_dim: Width of a head.
    """
    joined, change = _joined([_rows(tensor, source) for source in tensor.sources], tensor.change), tensor.change
    if isinstance(joined, Rows) and isinstance(change, RowsLeftOut):
        return ZeroPaddedRows(joined, tensor.rows - tensor.sources[0].shape[0])
    if isinstance(joined, Rows) and isinstance(change, InterleavedHalves):
        return DeinterleavedHeads(joined, head_dim, change.factor)
    return joined


def read_alternating(even: CanonicalTensor, odd: CanonicalTensor) -> TensorTransform:
    """Reads two canonical tensors whose rows alternate, in one pass. Its pieces are those of `even`, then of `odd`."""
    assert (even.first, odd.first) == (0, 1) and even.sources == odd.sources, f"{even.name} {even.first=} {odd.first=}"
    parts = [Deinterleave(as_bfloat16(source), _row_bytes(even)) for source in even.sources]
    return _joined(parts, even.change)


def as_bfloat16(tensor: TensorInfo) -> TensorInfo:
    """The tensor as bfloat16: F32 and F16 are rounded while they are read, and the error of that is measured."""
    if tensor.dtype not in ROUNDED:
        return tensor
    at = (tensor.shape, tensor.start, tensor.end)
    return Rounded(tensor.name, tensor.file, "BF16", *at, tensor.dtype, RelativeError("rounded"))


def rounding(sources: Iterable[TensorInfo]) -> list[RelativeError]:
    """What measures the errors of rounding, for each of these sources that is rounded."""
    return [source.loss for source in sources if isinstance(source, Rounded) and source.loss is not None]


def sources_of(transform: TensorTransform) -> list[TensorInfo]:
    """All tensors that a transform reads."""
    if isinstance(transform, StackedExperts):
        return [part.source for part in transform.parts]
    return sources_of(transform.inner) if isinstance(transform, Picked) else [transform.source]


def _joined(parts: Sequence[Rows | Deinterleave], change: Change | None) -> TensorTransform:
    """Joins the parts that a tensor is stored in, and subtracts what was added to its scales."""
    offset = change.offset if isinstance(change, OffsetScales) else 0
    return StackedExperts(tuple(parts), offset) if len(parts) > 1 or offset else parts[0]


def _rows(tensor: CanonicalTensor, source: TensorInfo) -> Rows:
    """The rows of a canonical tensor in one of its sources."""
    row, source = _row_bytes(tensor), as_bfloat16(source)
    start = tensor.first * row
    return Rows(source, row, start, start + min(source.nbytes - start, row * tensor.rows * tensor.experts))


def _row_bytes(tensor: CanonicalTensor) -> int:
    """Bytes of a row as it is written."""
    return math.prod(tensor.shape) * ITEMSIZE[target_dtype(tensor)] // (tensor.experts * tensor.rows)
