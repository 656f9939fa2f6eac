"""Placements: which bytes of a checkpoint become which parameter of the model, and how the model holds them.

This is the one list of what a model is made of: `memory` adds it up, `reading` reads it, and `offload` reads parts of
it when they are needed. Knows the canonical tensors and what the model fuses. Knows nothing of layouts, and needs no
MLX.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby

from mlx_oss.config import ModelConfig, QuantizationSpec
from mlx_oss.weights.layouts.checkpoint import Checkpoint
from mlx_oss.weights.layouts.stored import FLOATS, Tensor
from mlx_oss.weights.names import Shape, is_expert, modules, plain_tensors
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
_SUFFIXES = ("weight", "scales", "biases", "bias")  # names of a module's tensors


@dataclass(frozen=True, slots=True)
class Span:
    """A range of bytes that is read from each block of a tensor in a file; each expert is a block.

    Attributes:
        tensor: The tensor.
        blocks: Number of its blocks.
        first: First byte within a block.
        nbytes: Bytes of each block.
    """

    tensor: TensorInfo
    blocks: int
    first: int
    nbytes: int

    def start(self, block: int) -> int:
        """Offset in the file of the first byte of a block's range."""
        return self.tensor.start + block * (self.tensor.nbytes // self.blocks) + self.first


@dataclass(frozen=True, slots=True)
class StoredArray:
    """An array as it is read from files.

    Attributes:
        dtype: Dtype of its bytes, as safetensors names it.
        shape: Its shape.
        spans: Where its bytes are. A block of the array holds that block of each span, one after the other.
    """

    dtype: str
    shape: Shape
    spans: tuple[Span, ...]

    @property
    def blocks(self) -> int:
        return self.spans[0].blocks

    @property
    def nbytes(self) -> int:
        return self.blocks * sum(span.nbytes for span in self.spans)


@dataclass(frozen=True, slots=True)
class Part:
    """Some rows of a parameter, or all of them.

    Attributes:
        stored: Their values as stored; packed integers, if they are dequantised while they are loaded.
        values: The dtype of the values. What is stored in another float dtype is rounded to it.
        spec: How they are dequantised. None: not at all.
        scales: Scales, if they are dequantised.
        biases: Biases, if they are dequantised and affine.
    """

    stored: StoredArray
    values: str
    spec: QuantizationSpec | None = None
    scales: StoredArray | None = None
    biases: StoredArray | None = None

    @property
    def arrays(self) -> tuple[StoredArray, ...]:
        """Everything that is read for it."""
        return tuple(array for array in (self.stored, self.scales, self.biases) if array is not None)


@dataclass(frozen=True, slots=True)
class Placement:
    """A parameter of the model: what it is read from, and how it is held in memory.

    Attributes:
        module: Path of its module in the model, such as "layers.0.self_attn.qkv_proj".
        suffix: Its name within the module: "weight", "scales", "biases" or "bias", or "sinks".
        dtype: Its dtype in memory, as safetensors names it.
        shape: Its shape in memory.
        parts: Its rows in order. There are several only if they cannot be joined as they are stored.
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
        return len(self.parts) == 1 and not part.spec and part.stored.dtype == part.values == self.dtype

    @property
    def loading_nbytes(self) -> int:
        """Bytes that are needed in addition while it is made from what is read."""
        if self.is_as_stored:
            return 0
        return self.stored_nbytes + (self.nbytes if len(self.parts) > 1 else 0)

    @property
    def can_stay_on_disk(self) -> bool:
        """True for the embedding and the experts, of which a token needs only a few rows or experts."""
        return self.module == EMBEDDING or ".experts." in self.module

    @property
    def is_read_when_needed(self) -> bool:
        """True if, with experts on disk, it is read when it is needed.

        False if all of it is in memory even then: a bias, which is small, or what has to be converted.
        """
        return self.module == EMBEDDING or (self.is_as_stored and self.suffix != "bias")


def placements(checkpoint: Checkpoint, dtype: str, *, upcasts: bool) -> tuple[Placement, ...]:
    """Lists all parameters of the model of a checkpoint.

    Modules that are quantised alike stay quantised when they are fused. Otherwise they are dequantised, which is exact.
    Floats are held in the dtype of the activations, except matrices that the layer casts while it computes: they are
    held as they are stored. That is the embedding, which is cast row by row, and every matrix if `upcasts`.

    Args:
        checkpoint: The checkpoint.
        dtype: Dtype of the activations, as safetensors names it.
        upcasts: True if layers cast smaller floats while they compute, as on MLX's CPU backend.
    """
    return tuple(_placements(checkpoint, dtype, upcasts))


def _placements(checkpoint: Checkpoint, dtype: str, upcasts: bool) -> Iterator[Placement]:
    for module, members in _fusions(checkpoint.config):
        specs = [checkpoint.specs[member] for member in members]
        spec = specs[0] if len(set(specs)) == 1 else None
        for suffix in _SUFFIXES:
            named = [f"{member}.{suffix}" for member in members]
            tensors = [checkpoint.tensors[name] for name in named if name in checkpoint.tensors]
            if not tensors or (spec is None and suffix in ("scales", "biases")):
                continue
            if spec is None and suffix == "weight" and any(specs):
                parts = tuple(_dequantised(checkpoint, member, dtype) for member in members)
            else:
                parts = tuple(_parts(tensors))
            held = _held_dtype(module, suffix, parts, dtype, upcasts)
            shape = _joined_shape(parts, 1 if is_expert(members[0]) else 0)
            yield Placement(module, suffix, held, shape, parts, spec, rows_alternate=tensors[0].step == 2)
    for name in plain_tensors(checkpoint.config):
        module, _, suffix = name.removeprefix("model.").rpartition(".")
        (part,) = _parts([checkpoint.tensors[name]])
        yield Placement(module, suffix, dtype, part.stored.shape, (part,))


def _held_dtype(module: str, suffix: str, parts: Sequence[Part], dtype: str, upcasts: bool) -> str:
    """The dtype in which a parameter is held, if `dtype` is that of the activations."""
    values = parts[0].values
    if values not in FLOATS:
        return values
    is_matrix = suffix == "weight" and len(parts) == 1 and len(parts[0].stored.shape) == 2
    is_upcast = module == EMBEDDING or (upcasts and ITEMSIZE[values] < ITEMSIZE[dtype])
    return values if is_matrix and is_upcast else dtype


def _fusions(config: ModelConfig) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yields (module path in the model, the canonical modules it consists of, in the order of their rows)."""

    def target(path: str) -> str:
        parent, _, name = path.removeprefix("model.").rpartition(".")
        return f"{parent}.{_FUSED.get(name, name)}".removeprefix(".")

    for path, members in groupby((path for path, _, _ in modules(config)), key=target):
        yield path, tuple(members)


def _parts(tensors: Sequence[Tensor]) -> Iterator[Part]:
    """The parts of a parameter that consists of these tensors: a single one if they have the same dtype."""
    if len({(tensor.stored_dtype, tensor.dtype) for tensor in tensors}) > 1:
        for tensor in tensors:
            yield from _parts([tensor])
        return
    first, axis = tensors[0], 1 if is_expert(tensors[0].name) else 0
    rows = sum(tensor.rows for tensor in tensors)
    shape = (*first.shape[:axis], rows, *first.shape[axis + 1 :])
    # Alternating rows of two tensors are all rows of the one that contains them.
    spans = [_whole(first)] if first.step == 2 else [_span(tensor) for tensor in tensors]
    yield Part(StoredArray(first.stored_dtype, shape, tuple(spans)), first.dtype)


def _dequantised(checkpoint: Checkpoint, module: str, dtype: str) -> Part:
    """The weight of a module that is fused with others that are not quantised alike."""
    tensors = [checkpoint.tensors.get(f"{module}.{suffix}") for suffix in ("weight", "scales", "biases")]
    weight, scales, biases = (None if tensor is None else next(_parts([tensor])).stored for tensor in tensors)
    assert weight, module
    spec = checkpoint.specs[module]
    return Part(weight, dtype if spec else checkpoint.tensors[f"{module}.weight"].dtype, spec, scales, biases)


def _joined_shape(parts: Sequence[Part], axis: int) -> Shape:
    """The shape of the parts, joined along `axis` after they are dequantised."""

    def shape(part: Part) -> Shape:
        *rows, last = part.stored.shape
        return (*rows, last * 32 // part.spec.bits) if part.spec else part.stored.shape

    first = shape(parts[0])
    return (*first[:axis], sum(shape(part)[axis] for part in parts), *first[axis + 1 :])


def _whole(tensor: Tensor) -> Span:
    return Span(tensor.source, tensor.blocks, 0, tensor.source.nbytes // tensor.blocks)


def _span(tensor: Tensor) -> Span:
    """The rows of a canonical tensor in the tensor that contains it."""
    row = math.prod(tensor.shape) * ITEMSIZE[tensor.stored_dtype] // (tensor.blocks * tensor.rows)
    return Span(tensor.source, tensor.blocks, tensor.first * row, tensor.rows * row)
