"""Placements of one of several machines: the rows of each parameter that it holds, and where they are in the files.

So a machine reads its own rows and no others. Knows nothing of MLX and of how machines talk.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import replace

from mlx_oss.config import ModelConfig
from mlx_oss.shards import Rank, blocks_of
from mlx_oss.weights.layouts.checkpoint import Checkpoint
from mlx_oss.weights.names import row_axis
from mlx_oss.weights.placements import Part, Placement, Span, StoredArray


def identity(checkpoint: Checkpoint) -> str:
    """Says in a few letters whether two machines have the same model: its config, and the kind and size of its tensors.

    It does not read the weights.
    """
    tensors = [(name, tensor.stored_dtype, tensor.shape) for name, tensor in sorted(checkpoint.tensors.items())]
    return hashlib.sha256(f"{checkpoint.config} {tensors}".encode()).hexdigest()[:16]


def sharded(placements: Iterable[Placement], config: ModelConfig, rank: Rank) -> tuple[Placement, ...]:
    """The placements of one machine.

    Args:
        placements: Those of the whole model.
        config: Its config.
        rank: Which machine it is.
    """
    if rank.size == 1:
        return tuple(placements)
    return tuple(_own(placement, config, rank) for placement in placements)


def _own(placement: Placement, config: ModelConfig, rank: Rank) -> Placement:
    axis = row_axis(placement.module)
    rows = placement.shape[axis]
    blocks = blocks_of(placement.module, placement.suffix, rows, config, placement.rows_alternate)
    if blocks is None:
        return placement
    ranges = rank.ranges(blocks)
    shape = (*placement.shape[:axis], rows // rank.size, *placement.shape[axis + 1 :])
    return replace(placement, shape=shape, parts=tuple(_own_parts(placement.parts, ranges, axis)))


def _own_parts(parts: Sequence[Part], ranges: Sequence[tuple[int, int]], axis: int) -> Iterable[Part]:
    """Those of the parts, and of their rows, that lie in the ranges."""
    start = 0
    for part in parts:
        rows = part.array.shape[axis]
        own = [
            (max(first, start) - start, min(end, start + rows) - start)
            for first, end in ranges
            if first < start + rows and end > start
        ]
        if own:
            scales, biases = (array and _rows(array, own, axis) for array in (part.scales, part.biases))
            yield replace(part, array=_rows(part.array, own, axis), scales=scales, biases=biases)
        start += rows


def _rows(array: StoredArray, ranges: Sequence[tuple[int, int]], axis: int) -> StoredArray:
    """Some rows of an array as it is stored."""
    rows = array.shape[axis]
    row = array.nbytes // (array.experts * rows)
    spans: list[Span] = []
    for first, end in ranges:
        position = 0
        for span in array.spans:
            low, high = max(first * row, position), min(end * row, position + span.nbytes)
            if low < high:
                spans.append(replace(span, first=span.first + low - position, nbytes=high - low))
            position += span.nbytes
    count = sum(end - first for first, end in ranges)
    return StoredArray(array.dtype, (*array.shape[:axis], count, *array.shape[axis + 1 :]), tuple(spans))
