"""What is written: every tensor of the MLX folder with the recipe for its bytes.

`mlx_oss.layout` says what the folder must hold, `taken` finds it in the source. Nothing is read but headers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlx_oss import layout
from mlx_oss.config import MXFP4, QuantizationSpec
from mlx_oss.errors import CheckpointError
from mlx_oss.layout import Shape
from mlx_oss.mxfp4 import BLOCK
from mlx_oss.tensorfile import ITEMSIZE, TensorInfo

from .metal_taken import MetalTaken
from .options import Kind
from .profiles import Specs
from .quantized import Part, Quantizer
from .recipes import Piece, Recipe, Scales
from .source import DENSE, METAL, MLX, Source
from .taken import Taken

if TYPE_CHECKING:
    from .affine import Dequantized

_GATE_UP = {"gate_proj": 0, "up_proj": 1}  # the released gate_up's even rows are gate, its odd rows up


@dataclass(frozen=True, slots=True)
class Target:
    """A tensor to write; dtype is safetensors' name. `quantizer` is there when this tensor is a quantised weight."""

    name: str
    dtype: str
    shape: Shape
    recipe: Recipe
    quantizer: Quantizer | None = None

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * ITEMSIZE[self.dtype]


def plan(source: Source, specs: Specs) -> list[list[Target]]:
    """Every tensor of the MLX folder in the order of use, in units that stay together in a shard: a layer, or a tensor
    outside the layers. `specs` names the modules outside the experts that are to be quantised.

    Raises CheckpointError for a tensor that is missing, unknown, or of another shape or dtype than the config says.
    """
    taken = MetalTaken(source) if source.layout == METAL else Taken(source)
    units: dict[str, list[Target]] = {}
    for target in _targets(taken, specs):
        layer = target.name.split(".")[2] if target.name.startswith("model.layers.") else target.name.rsplit(".", 1)[0]
        units.setdefault(layer, []).append(target)
    taken.check_all_used()
    return list(units.values())


def kinds(tensors: Iterable[Target | TensorInfo]) -> tuple[Kind, ...]:
    """The tensors counted, those whose names differ only in numbers (of a layer, of an expert) as one."""
    counted: dict[tuple[str, str, Shape], list[int]] = {}
    for tensor in tensors:
        name = re.sub(r"\.\d+(?=\.|$)", ".*", tensor.name)
        counted.setdefault((name, tensor.dtype, tensor.shape), []).append(tensor.nbytes)
    return tuple(Kind(*key, len(alike), sum(alike)) for key, alike in counted.items())


def _targets(taken: Taken, specs: Specs) -> Iterator[Target]:
    config = taken.source.config
    for path, shape, bias in layout.modules(config):
        if layout.is_expert(path):
            yield from _expert(path, shape, taken)
        else:
            yield from _module(path, shape, specs.get(path), taken)
        if bias is not None and not layout.is_expert(path):
            yield _copy(f"{path}.bias", "BF16", bias, taken)
    for name, shape in layout.plain_tensors(config).items():
        yield _copy(name, "BF16", shape, taken)


def _copy(name: str, dtype: str, shape: Shape, taken: Taken) -> Target:
    return Target(name, dtype, shape, taken.whole(name, dtype, shape))


def _module(path: str, shape: Shape, spec: QuantizationSpec | None, taken: Taken) -> Iterator[Target]:
    """A module's weight as `spec` has it, from whatever the source has; its bias is another matter."""
    had = _stored_spec(path, taken.source)
    if spec == had:
        for name, stored in layout.stored_tensors(path, shape, None, spec).items():
            yield _copy(name, "U32" if spec and name.endswith(".weight") else "BF16", stored, taken)
        return
    from .affine import Affine

    values = _values(path, shape, had, taken)
    if spec is None:
        yield Target(f"{path}.weight", "BF16", shape, values)
    else:
        yield from _parts(Affine(values, shape[-1], spec), layout.stored_tensors(path, shape, None, spec))


def _values(path: str, shape: Shape, had: QuantizationSpec | None, taken: Taken) -> Piece | Dequantized:
    if had is None:
        return taken.whole(f"{path}.weight", "BF16", shape)
    from .affine import Dequantized

    stored = layout.stored_tensors(path, shape, None, had)
    weight, scales, biases = (
        taken.rows(name, "U32" if name.endswith(".weight") else "BF16", each) for name, each in stored.items()
    )
    return Dequantized(weight, scales, biases, had)


def _stored_spec(path: str, source: Source) -> QuantizationSpec | None:
    """How a module outside the experts is stored in the source; only an MLX folder has some quantised."""
    if source.config.quantization is None or f"{path}.scales" not in source.tensors:
        return None
    spec = source.config.quantization.for_module(path)
    if spec is None or spec.mode != "affine":
        raise CheckpointError(f"{source.folder}: {path} has scales but is not of mode affine: convert the release")
    return spec


def _expert(path: str, shape: Shape, taken: Taken) -> Iterator[Target]:
    """One projection's weight, scales and bias, from any layout."""
    experts, rows, columns = shape
    stored = layout.stored_tensors(path, shape, (experts, rows), MXFP4)
    weight, scales, bias = stored
    if taken.source.layout == MLX:
        quantization = taken.source.config.quantization
        if quantization is None or quantization.for_module(path) != MXFP4:
            raise CheckpointError(f"{taken.source.folder}: {path} is not stored in MXFP4: convert the release")
        yield _copy(weight, "U32", stored[weight], taken)
        yield Target(scales, "U8", stored[scales], Scales(taken.whole(scales, "U8", stored[scales])))
        yield _copy(bias, "BF16", stored[bias], taken)
        return
    prefix, projection = path.rsplit(".", 1)
    first = _GATE_UP.get(projection)
    released = f"{prefix}.{projection if first is None else 'gate_up_proj'}"

    def take(part: str, dtype: str, tail: Shape) -> Piece:
        if first is None:
            return taken.whole(f"{released}_{part}", dtype, (experts, rows, *tail))
        return taken.every_second(f"{released}_{part}", dtype, (experts, 2 * rows, *tail), first)

    if taken.source.layout == DENSE:
        halves = 1 if first is None else 2
        dense = taken.dense(released, (experts, columns, halves * rows), first or 0, halves)
        yield from _parts(dense, {name: stored[name] for name in (weight, scales)})
    else:
        yield Target(weight, "U32", stored[weight], take("blocks", "U8", (columns // BLOCK, BLOCK // 2)))
        yield Target(scales, "U8", stored[scales], Scales(take("scales", "U8", (columns // BLOCK,))))
    yield Target(bias, "BF16", stored[bias], take("bias", "BF16", ()))


def _parts(quantizer: Quantizer, stored: dict[str, Shape]) -> Iterator[Target]:
    """The tensors of one quantised weight; `stored` names its parts in order, the packed weight first."""
    small = "BF16" if len(stored) == 3 else "U8"  # affine scales and biases, or MXFP4 scales
    for number, (name, shape) in enumerate(stored.items()):
        part = Part(quantizer, number)
        yield Target(name, small if number else "U32", shape, part, None if number else quantizer)
