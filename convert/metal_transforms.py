"""Tensors of OpenAI's Metal layout, with what that layout did to them undone, exactly.

gpt_oss/metal/scripts/create-local-model.py in openai/gpt-oss turns the rows of q and k so that rotated pairs are
neighbours, scales q by 1/2 and k by 1/4, adds 14 to every MXFP4 scale, stores experts one by one, and leaves out the
unused end of the vocabulary, for which zeros are put.
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
_BY_TOKEN = ("model.embed_tokens.weight", "lm_head.weight")
_FACTORS = {"q_proj": 2.0, "k_proj": 4.0}


class MetalSourceTensors(SourceTensors):
    """As SourceTensors, undoing what the Metal layout did to the tensors."""

    def whole(self, name: str, dtype: str, shape: Shape) -> TensorTransform:
        if ".mlp.experts." in name:
            return self._experts(name, dtype, shape, in_halves=False)
        if name in _BY_TOKEN:
            found, _, _ = self._locate(name, shape)
            stored = self.source.tensors[found].shape[0]
            return Extended(self.rows(name, dtype, (stored, *shape[1:])), shape[0] - stored)
        rows = self.rows(name, dtype, shape)
        projection = name.split(".")[-2]
        if projection not in _FACTORS:
            return rows
        return Heads(rows, rows.nbytes // shape[0], self.source.config.head_dim, _FACTORS[projection])

    def halves(self, name: str, dtype: str, shape: Shape) -> TensorTransform:
        return self._experts(name, dtype, shape, in_halves=True)

    def _experts(self, name: str, dtype: str, shape: Shape, in_halves: bool) -> TensorTransform:
        """All experts of a tensor, one after the other."""
        stem, _, _ = self._locate(name, shape)
        parts: list[Rows | Deinterleave] = []
        for expert in range(shape[0]):
            tensor = self._checked(f"{stem}.{expert}", dtype, (1, *shape[1:]))
            row_bytes = tensor.nbytes // shape[1]
            if in_halves:
                parts.append(self._use(Deinterleave(tensor, row_bytes)))
            else:
                parts.append(self._use(Rows(tensor, row_bytes, 0, tensor.nbytes)))
        return StackedExperts(tuple(parts), _SCALE_OFFSET if name.endswith("_scales") else 0)


@dataclass(frozen=True, slots=True)
class Extended:
    """Rows, and after them as many of zeros as said."""

    rows: Rows
    zeros: int

    @property
    def source(self) -> TensorInfo:
        return self.rows.source

    @property
    def nbytes(self) -> int:
        return self.rows.nbytes

    def pieces(self) -> Iterator[tuple[np.ndarray]]:
        yield from self.rows.pieces()
        most = max(PIECE // self.rows.row_bytes, 1)
        for done in range(0, self.zeros, most):
            yield (np.zeros(min(most, self.zeros - done) * self.rows.row_bytes, np.uint8),)


@dataclass(frozen=True, slots=True)
class Heads:
    """Rows of q or k as released: the halves of a head one after the other again, times a power of two."""

    rows: Rows
    row_bytes: int
    head_dim: int
    factor: float

    @property
    def source(self) -> TensorInfo:
        return self.rows.source

    @property
    def nbytes(self) -> int:
        return self.rows.nbytes

    def pieces(self) -> Iterator[tuple[np.ndarray]]:
        heads = Rows(self.source, self.head_dim * self.row_bytes, self.rows.start, self.rows.stop)
        for (piece,) in heads.pieces():
            pairs = piece.view("<u2").reshape(-1, self.head_dim // 2, 2, self.row_bytes // 2)
            values = float32(np.ascontiguousarray(pairs.swapaxes(1, 2))) * np.float32(self.factor)
            yield ((values.view(np.uint32) >> 16).astype("<u2").reshape(-1).view(np.uint8),)


@dataclass(frozen=True, slots=True)
class StackedExperts:
    """One tensor out of a piece for each expert, `offset` subtracted from every byte (of MXFP4 scales)."""

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
                    raise CheckpointError(f"{tensor.file}: {tensor.name} holds an impossible scale: fetch it again")
                yield tuple(piece - np.uint8(self.offset) for piece in pieces) if self.offset else pieces
