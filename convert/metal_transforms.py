"""Reads tensors of OpenAI's Metal layout and exactly undoes what that layout changed.

gpt_oss/metal/scripts/create-local-model.py in openai/gpt-oss makes these changes: it interleaves the two halves of each
head in q and k, so that rows that are rotated together are neighbours; scales q by 1/2 and k by 1/4; adds 14 to every
MXFP4 scale; stores each expert as a tensor of its own; and leaves out the unused end of the vocabulary, which becomes
zeros here.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from mlx_oss.convert.quantized import float32
from mlx_oss.convert.source_tensors import SourceTensors
from mlx_oss.convert.transforms import PIECE, Deinterleave, Rows, TensorTransform
from mlx_oss.errors import CheckpointError
from mlx_oss.weights.names import Shape
from mlx_oss.weights.safetensors import TensorInfo

_SCALE_OFFSET = 14
_ROW_PER_TOKEN = ("model.embed_tokens.weight", "lm_head.weight")
_FACTORS = {"q_proj": 2.0, "k_proj": 4.0}


class MetalSourceTensors(SourceTensors):
    """Like SourceTensors; its transforms also undo the changes of the Metal layout."""

    def whole(self, name: str, dtype: str, shape: Shape) -> TensorTransform:
        if ".mlp.experts." in name:
            return self._experts(name, dtype, shape, deinterleaved=False)
        if name in _ROW_PER_TOKEN:
            source_name, _, _ = self._locate(name, shape)
            stored_rows = self.source.tensors[source_name].shape[0]
            return ZeroPaddedRows(self.rows(name, dtype, (stored_rows, *shape[1:])), shape[0] - stored_rows)
        rows = self.rows(name, dtype, shape)
        projection = name.split(".")[-2]
        if projection not in _FACTORS:
            return rows
        return DeinterleavedHeads(rows, rows.nbytes // shape[0], self.source.config.head_dim, _FACTORS[projection])

    def deinterleaved(self, name: str, dtype: str, shape: Shape) -> TensorTransform:
        return self._experts(name, dtype, shape, deinterleaved=True)

    def _experts(self, name: str, dtype: str, shape: Shape, deinterleaved: bool) -> TensorTransform:
        """Reads the tensors of all experts as one, in order; if `deinterleaved`, split into even and odd rows."""
        stem, _, _ = self._locate(name, shape)
        parts: list[Rows | Deinterleave] = []
        for expert in range(shape[0]):
            tensor = self._checked(f"{stem}.{expert}", dtype, (1, *shape[1:]))
            row_bytes = tensor.nbytes // shape[1]
            if deinterleaved:
                parts.append(self._use(Deinterleave(tensor, row_bytes)))
            else:
                parts.append(self._use(Rows(tensor, row_bytes, 0, tensor.nbytes)))
        return StackedExperts(tuple(parts), _SCALE_OFFSET if name.endswith("_scales") else 0)


@dataclass(frozen=True, slots=True)
class _ChangedRows:
    """What the transforms of rows share: they read `rows`, and all of it."""

    rows: Rows

    @property
    def source(self) -> TensorInfo:
        return self.rows.source

    @property
    def nbytes(self) -> int:
        return self.rows.nbytes


@dataclass(frozen=True, slots=True)
class ZeroPaddedRows(_ChangedRows):
    """Copies rows and adds `zero_rows` rows of zeros at the end."""

    zero_rows: int

    def pieces(self) -> Iterator[tuple[np.ndarray]]:
        yield from self.rows.pieces()
        step = max(PIECE // self.rows.row_bytes, 1)
        for done in range(0, self.zero_rows, step):
            yield (np.zeros(min(step, self.zero_rows - done) * self.rows.row_bytes, np.uint8),)


@dataclass(frozen=True, slots=True)
class DeinterleavedHeads(_ChangedRows):
    """Restores rows of q or k: puts the first half of each head before the second, and multiplies by `factor`.

    `factor` is a power of two.
    """

    row_bytes: int
    head_dim: int
    factor: float

    def pieces(self) -> Iterator[tuple[np.ndarray]]:
        heads = Rows(self.source, self.head_dim * self.row_bytes, self.rows.start, self.rows.stop)
        for (piece,) in heads.pieces():
            pairs = piece.view("<u2").reshape(-1, self.head_dim // 2, 2, self.row_bytes // 2)
            values = float32(np.ascontiguousarray(pairs.swapaxes(1, 2))) * np.float32(self.factor)
            yield ((values.view(np.uint32) >> 16).astype("<u2").reshape(-1).view(np.uint8),)


@dataclass(frozen=True, slots=True)
class StackedExperts:
    """Joins the tensors of single experts into one and subtracts `offset` from every byte (0 except for scales)."""

    parts: tuple[Rows | Deinterleave, ...]
    offset: int

    @property
    def source(self) -> TensorInfo:
        return self.parts[0].source

    @property
    def nbytes(self) -> int:
        return sum(part.nbytes for part in self.parts)

    def pieces(self) -> Iterator[tuple[np.ndarray, ...]]:
        for part in self.parts:
            for pieces in part.pieces():
                if self.offset and min(piece.min(initial=0xFF) for piece in pieces) < self.offset:
                    tensor = part.source
                    raise CheckpointError(
                        f"{tensor.file}: tensor {tensor.name} holds an impossible scale, below {self.offset}: download "
                        "it again"
                    )
                yield tuple(piece - np.uint8(self.offset) for piece in pieces) if self.offset else pieces
