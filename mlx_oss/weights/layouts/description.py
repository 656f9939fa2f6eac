"""The classes that describe a layout: where a canonical tensor is stored, and how its values were changed.

Knows nothing of files, and of no layout in particular.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from mlx_oss.config import ModelConfig
from mlx_oss.weights.names import Shape, is_expert, row_axis
from mlx_oss.weights.safetensors import ITEMSIZE, TensorInfo

FLOATS = frozenset({"BF16", "F16", "F32"})  # dtypes that a tensor of floats may be stored in


@dataclass(frozen=True, slots=True)
class Dense:
    """The experts are floats, not quantised: weight and scales are made of them.

    Attributes:
        transposed: True if the matrices are stored (columns, rows), False if (rows, columns).
    """

    transposed: bool = True


@dataclass(frozen=True, slots=True)
class OffsetScales:
    """`offset` was added to each byte."""

    offset: int


@dataclass(frozen=True, slots=True)
class InterleavedHalves:
    """The halves of each head were interleaved, and the values divided by `factor`, a power of two."""

    factor: float


@dataclass(frozen=True, slots=True)
class RowsLeftOut:
    """Rows at the end that no token uses were left out."""


Change = Dense | OffsetScales | InterleavedHalves | RowsLeftOut


@dataclass(frozen=True, slots=True)
class Location:
    """Where a layout stores a canonical tensor: in which rows of which tensor of its files.

    Rows are counted within each expert, if there are experts.

    Attributes:
        name: Name of the tensor in the files. If `by_expert`, `{}` stands for the number of the expert.
        shape: Its shape there.
        dtype: Its dtype there; None: a float of any size.
        first: The first row.
        step: 1; or 2 if the rows of two canonical tensors alternate.
        by_expert: True if each expert has a tensor of its own.
        change: What the layout has done to the values. None: nothing.
    """

    name: str
    shape: Shape
    dtype: str | None = None
    first: int = 0
    step: int = 1
    by_expert: bool = False
    change: Change | None = None

    def name_of(self, expert: int) -> str:
        """Name of the tensor that holds an expert; outside the experts, and if all share one, the only name."""
        return self.name.format(expert) if self.by_expert else self.name


@dataclass(frozen=True, slots=True)
class Layout:
    """A way to store a model.

    Attributes:
        name: Its name for people.
        locate: locate(name, dtype, shape, config) returns where a canonical tensor is stored. The dtype is None for
            floats.
        dtype: Dtype of its canonical tensors of floats. None: they keep the dtype in which they are stored.
        must_convert: Reason why the model must be converted first; completes "because ...". None: it need not.
    """

    name: str
    locate: Callable[[str, str | None, Shape, ModelConfig], Location]
    dtype: str | None = None
    must_convert: str | None = None


@dataclass(frozen=True, slots=True)
class CanonicalTensor:
    """A canonical tensor, found in the files of a checkpoint.

    Attributes:
        name: Its canonical name.
        dtype: Dtype of its values. Floats that are stored in another dtype are rounded to it.
        shape: Its shape.
        sources: The tensors of the files that contain it: one, or one for each expert.
        first: First row in a source.
        step: Distance between its rows there; with 2, the rows of another canonical tensor lie between.
        change: What the layout has done to the values.
    """

    name: str
    dtype: str
    shape: Shape
    sources: tuple[TensorInfo, ...]
    first: int
    step: int
    change: Change | None

    @property
    def nbytes(self) -> int:
        """Bytes of its values in their own dtype."""
        return math.prod(self.shape) * ITEMSIZE[self.dtype]

    @property
    def stored_dtype(self) -> str:
        """The dtype of its bytes in the files; packed integers count as the canonical tensor's."""
        stored = self.sources[0].dtype
        return stored if stored in FLOATS else self.dtype

    @property
    def experts(self) -> int:
        """Number of experts; 1 outside the experts."""
        return self.shape[0] if is_expert(self.name) else 1

    @property
    def rows(self) -> int:
        """Number of rows, of each expert if there are experts."""
        return self.shape[row_axis(self.name)]
