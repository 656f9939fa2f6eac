"""Placements: which bytes of a checkpoint become which parameter of the model, and how the model holds them.

This is the one list of what a model is made of. `memory` adds it up, `reading` reads it, and `offload` reads parts of
it when a token needs them. Knows the canonical tensors and what the model fuses. Knows nothing of layouts, and needs no
MLX.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import groupby

from mlx_oss.config import QuantizationSpec
from mlx_oss.weights.layouts.checkpoint import Checkpoint
from mlx_oss.weights.layouts.description import FLOATS, CanonicalTensor
from mlx_oss.weights.names import Shape, is_expert, modules, plain_tensors, row_axis, unpacked
from mlx_oss.weights.safetensors import ITEMSIZE, TensorInfo

EMBEDDING = "embed_tokens"  # the model's name for it
# Canonical modules that the model holds as one matrix, stacked by rows in this order.
_FUSED = {
    "q_proj": "qkv_proj",
    "k_proj": "qkv_proj",
    "v_proj": "qkv_proj",
    "gate_proj": "gate_up_proj",
    "up_proj": "gate_up_proj",
}
_PACKED = ("weight", "scales", "biases")  # names of the tensors that hold a module's matrix
# Bytes for each value while floats are rounded: the rounded value in bfloat16, and whether it is finite.
_ROUNDING_BYTES = 3


@dataclass(frozen=True, slots=True)
class Span:
    """A range of bytes of a tensor in a file: the same range of each expert, if it contains experts.

    Attributes:
        tensor: The tensor.
        experts: Number of experts in it; 1 outside the experts.
        first: First byte of the range within an expert.
        nbytes: Bytes of the range within an expert.
    """

    tensor: TensorInfo
    experts: int
    first: int
    nbytes: int

    def start(self, expert: int) -> int:
        """Offset in the file of the first byte of an expert's range."""
        return self.tensor.start + expert * (self.tensor.nbytes // self.experts) + self.first


@dataclass(frozen=True, slots=True)
class StoredArray:
    """An array as it is read from files.

    Attributes:
        dtype: Dtype of its bytes, as safetensors names it.
        shape: Its shape.
        spans: Where its bytes are. For each expert, the array holds the expert's range of every span, in this order.
    """

    dtype: str
    shape: Shape
    spans: tuple[Span, ...]

    @property
    def experts(self) -> int:
        return self.spans[0].experts

    @property
    def nbytes(self) -> int:
        return self.experts * sum(span.nbytes for span in self.spans)

    def tensor_at(self, position: int) -> TensorInfo:
        """The tensor that the byte at a position of the array is read from."""
        position %= self.nbytes // self.experts
        for span in self.spans:
            if position < span.nbytes:
                return span.tensor
            position -= span.nbytes
        raise IndexError(position)


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows of a parameter, or all of them.

    Attributes:
        array: The values as stored. Packed integers if the part is dequantised during loading.
        value_dtype: The dtype of the values. Floats that are stored in another dtype are rounded to it.
        spec: How they are dequantised. None: not at all.
        scales: Scales, if they are dequantised.
        biases: Biases, if they are dequantised and affine.
    """

    array: StoredArray
    value_dtype: str
    spec: QuantizationSpec | None = None
    scales: StoredArray | None = None
    biases: StoredArray | None = None

    @property
    def arrays(self) -> tuple[StoredArray, ...]:
        """Everything that is read for it."""
        return tuple(array for array in (self.array, self.scales, self.biases) if array is not None)

    @property
    def is_rounded(self) -> bool:
        """True if its values are stored in another float dtype than they have in the layout."""
        return self.spec is None and self.array.dtype != self.value_dtype


@dataclass(frozen=True, slots=True)
class Placement:
    """A parameter of the model: what it is read from, and how it is held in memory.

    Attributes:
        module: Path of its module in the model, such as "layers.0.self_attn.qkv_proj".
        suffix: Its name within the module: "weight", "scales", "biases" or "bias", or "sinks".
        dtype: Its dtype in memory, as safetensors names it.
        shape: Its shape in memory.
        parts: The rows, in order. More than one part only if the stored parts differ in dtype or quantisation.
        spec: How the module is quantised in the model. None: not at all.
        rows_alternate: True if rows of gate and up alternate; False if all rows of gate come first, or it has none.
    """

    module: str
    suffix: str
    dtype: str
    shape: Shape
    parts: tuple[Part, ...]
    spec: QuantizationSpec | None = None
    rows_alternate: bool = False

    @property
    def name(self) -> str:
        """Its path in the model."""
        return f"{self.module}.{self.suffix}"

    @property
    def nbytes(self) -> int:
        """Bytes that it takes in memory."""
        return math.prod(self.shape) * ITEMSIZE[self.dtype]

    @property
    def stored_nbytes(self) -> int:
        """Bytes that are read for it."""
        return sum(array.nbytes for part in self.parts for array in part.arrays)

    @property
    def is_as_stored(self) -> bool:
        """True if its bytes in memory are those that are read; False if they are cast, dequantised or joined."""
        part = self.parts[0]
        return len(self.parts) == 1 and not part.spec and part.array.dtype == part.value_dtype == self.dtype

    @property
    def loading_nbytes(self) -> int:
        """Bytes that are needed in addition while it is made from what is read."""
        if self.is_as_stored:
            return 0
        rounding = max(math.prod(part.array.shape) * _ROUNDING_BYTES * part.is_rounded for part in self.parts)
        return self.stored_nbytes + rounding + (self.nbytes if len(self.parts) > 1 else 0)

    @property
    def can_stay_on_disk(self) -> bool:
        """True for the embedding and the experts: a token needs only a row of one, and a few of the others."""
        return self.module == EMBEDDING or is_expert(self.module)

    @property
    def is_read_on_demand(self) -> bool:
        """True if offloading reads it from disk when a token needs it.

        Biases of the experts, which are small, and what has to be converted are in memory even then.
        """
        return self.module == EMBEDDING or (is_expert(self.module) and self.is_as_stored and self.suffix != "bias")


def place(checkpoint: Checkpoint, dtype: str, *, upcasts: bool) -> tuple[Placement, ...]:
    """Lists all parameters of the model of a checkpoint.

    Modules that are quantised alike stay quantised when they are fused. Otherwise they are dequantised, which is exact.
    Floats are held in the dtype of the activations, except matrices that the layer casts while it computes: they are
    held as they are stored. That is the embedding, which is cast row by row, and every matrix if `upcasts`.

    Args:
        checkpoint: A checkpoint that a model can be loaded from (see `open_model`).
        dtype: Dtype of the activations, as safetensors names it.
        upcasts: True if layers cast smaller floats while they compute, as on MLX's CPU backend.
    """
    return tuple(_placements(checkpoint, dtype, upcasts))


def quantized_modules(placements: Iterable[Placement]) -> Mapping[str, QuantizationSpec | None]:
    """How modules of the model are quantised, by path. Modules that are not quantised are left out, except experts."""
    return {p.module: p.spec for p in placements if p.spec or is_expert(p.module)}


def _placements(checkpoint: Checkpoint, dtype: str, upcasts: bool) -> Iterator[Placement]:
    for module, members in _fusions(checkpoint):
        specs = [checkpoint.specs[member] for member in members]
        spec = specs[0] if len(set(specs)) == 1 else None
        for suffix in (*_PACKED, "bias"):
            named = [f"{member}.{suffix}" for member in members]
            tensors = [checkpoint.tensors[name] for name in named if name in checkpoint.tensors]
            if not tensors or (spec is None and suffix in ("scales", "biases")):
                continue
            if spec is None and suffix == "weight" and any(specs):
                parts = tuple(_dequantized(checkpoint, member, dtype) for member in members)
            else:
                parts = tuple(_parts(tensors))
            held, shape = _held_dtype(module, suffix, parts, dtype, upcasts), _joined_shape(parts, row_axis(module))
            yield Placement(module, suffix, held, shape, parts, spec, rows_alternate=tensors[0].step == 2)
    for name in plain_tensors(checkpoint.config):
        module, _, suffix = name.removeprefix("model.").rpartition(".")
        (part,) = _parts([checkpoint.tensors[name]])
        yield Placement(module, suffix, dtype, part.array.shape, (part,))


def _held_dtype(module: str, suffix: str, parts: Sequence[Part], dtype: str, upcasts: bool) -> str:
    """The dtype in which a parameter is held, if `dtype` is that of the activations."""
    stored = parts[0].value_dtype
    if stored not in FLOATS:
        return stored
    is_matrix = (
        suffix == "weight" and len(parts[0].array.shape) > 1 and {part.value_dtype for part in parts} == {stored}
    )
    is_upcast = module == EMBEDDING or (upcasts and ITEMSIZE[stored] < ITEMSIZE[dtype])
    return stored if is_matrix and is_upcast else dtype


def _fusions(checkpoint: Checkpoint) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yields (module path in the model, the canonical modules it consists of, in the order of their rows).

    Gate and up of experts that are quantised differently stay two modules: dequantised, they would need much memory.
    """

    def target(path: str) -> str:
        parent, _, name = path.removeprefix("model.").rpartition(".")
        gate, up = (checkpoint.specs.get(f"model.{parent}.{each}_proj") for each in ("gate", "up"))
        fused = name if gate != up else _FUSED.get(name, name)
        return f"{parent}.{fused}".removeprefix(".")

    for path, members in groupby((path for path, _, _ in modules(checkpoint.config)), key=target):
        yield path, tuple(members)


def _parts(tensors: Sequence[CanonicalTensor]) -> Iterator[Part]:
    """The parts of a parameter that consists of these tensors: a single one if they have the same dtype."""
    if len({(tensor.stored_dtype, tensor.dtype) for tensor in tensors}) > 1:
        for tensor in tensors:
            yield from _parts([tensor])
        return
    first, axis = tensors[0], row_axis(tensors[0].name)
    rows = sum(tensor.rows for tensor in tensors)
    shape = (*first.shape[:axis], rows, *first.shape[axis + 1 :])
    spans = [_span(tensor) for tensor in tensors]
    if first.step == 2:  # then the rows of two tensors are all rows of the one that contains them
        assert [tensor.first for tensor in tensors] == [0, 1], first.name  # the model takes even rows for gate's
        spans = [_whole(first)]
    yield Part(StoredArray(first.stored_dtype, shape, tuple(spans)), first.dtype)


def _dequantized(checkpoint: Checkpoint, module: str, dtype: str) -> Part:
    """The weight of a module that is fused with others that are not quantised alike."""
    tensors = [checkpoint.tensors.get(f"{module}.{suffix}") for suffix in _PACKED]
    weight, *others = (next(_parts([tensor])) for tensor in tensors if tensor is not None)
    if (spec := checkpoint.specs[module]) is None:
        return weight
    return Part(weight.array, dtype, spec, *(part.array for part in others))


def _joined_shape(parts: Sequence[Part], axis: int) -> Shape:
    """The shape of the parts, joined along `axis` after they are dequantised."""

    def shape(part: Part) -> Shape:
        *rows, columns = part.array.shape
        return (*rows, unpacked(columns, part.spec)) if part.spec else part.array.shape

    first = shape(parts[0])
    return (*first[:axis], sum(shape(part)[axis] for part in parts), *first[axis + 1 :])


def _whole(tensor: CanonicalTensor) -> Span:
    """All of the tensor that contains a canonical one."""
    source = _unchanged(tensor)
    return Span(source, tensor.experts, 0, source.nbytes // tensor.experts)


def _span(tensor: CanonicalTensor) -> Span:
    """The rows of a canonical tensor in the tensor that contains it."""
    row = math.prod(tensor.shape) * ITEMSIZE[tensor.stored_dtype] // (tensor.experts * tensor.rows)
    return Span(_unchanged(tensor), tensor.experts, tensor.first * row, tensor.rows * row)


def _unchanged(tensor: CanonicalTensor) -> TensorInfo:
    """The one tensor that contains a canonical tensor, as it is."""
    (source,) = tensor.sources
    assert tensor.change is None, f"{tensor.name} {tensor.change=}"
    return source
