"""Plans a conversion: every tensor of the MLX folder, each with the transform that produces its bytes.

`mlx_oss.weights.names` defines which tensors the folder must hold, `source_tensors` finds them in the source. Planning
reads no tensor data.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlx_oss.config import MXFP4, QuantizationSpec
from mlx_oss.convert.metal_transforms import MetalSourceTensors
from mlx_oss.convert.profiles import Specs
from mlx_oss.convert.quantized import RelativeError
from mlx_oss.convert.report import Kind
from mlx_oss.convert.source import DENSE, METAL, MLX, Source
from mlx_oss.convert.source_tensors import SourceTensors
from mlx_oss.convert.transforms import CheckedScales, TensorTransform, Transform
from mlx_oss.errors import CheckpointError
from mlx_oss.weights.mxfp4 import BLOCK
from mlx_oss.weights.names import Shape, is_expert, modules, plain_tensors, stored_tensors
from mlx_oss.weights.safetensors import ITEMSIZE, TensorInfo

if TYPE_CHECKING:
    from mlx_oss.convert.affine import Dequantized

_Tensor = tuple[str, str, Shape]  # name, dtype, shape


@dataclass(frozen=True, slots=True)
class Target:
    """A tensor to write. `dtype` is safetensors' name; `loss` is set if the tensor is a weight that is quantised."""

    name: str
    dtype: str
    shape: Shape
    loss: RelativeError | None = None

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * ITEMSIZE[self.dtype]


@dataclass(frozen=True, slots=True)
class Job:
    """Targets written in one pass over the source. `transform` yields a piece of each, in the order of `targets`."""

    targets: tuple[Target, ...]
    transform: Transform

    @property
    def nbytes(self) -> int:
        return sum(target.nbytes for target in self.targets)


def plan_jobs(source: Source, specs: Specs) -> list[list[Job]]:
    """Plans every tensor of the MLX folder.

    Args:
        source: The checkpoint.
        specs: The quantisation of each module outside the experts that is to be quantised.

    Returns:
        Jobs in units that must stay together in a shard, in the order in which the model uses them. A unit is a layer,
        or a module outside the layers.

    Raises:
        CheckpointError: If a tensor is missing, unknown, or of another shape or dtype than the config requires.
    """
    inputs = MetalSourceTensors(source) if source.layout == METAL else SourceTensors(source)
    units: dict[str, list[Job]] = {}
    for job in _jobs(inputs, specs):
        name = job.targets[0].name
        unit = name.split(".")[2] if name.startswith("model.layers.") else name.rsplit(".", 1)[0]
        units.setdefault(unit, []).append(job)
    inputs.check_all_used()
    return list(units.values())


def group_kinds(tensors: Iterable[Target | TensorInfo]) -> tuple[Kind, ...]:
    """Groups tensors whose names differ only in numbers (of a layer, of an expert) and counts each group."""
    counted: dict[tuple[str, str, Shape], list[int]] = {}
    for tensor in tensors:
        name = re.sub(r"\.\d+(?=\.|$)", ".*", tensor.name)
        counted.setdefault((name, tensor.dtype, tensor.shape), []).append(tensor.nbytes)
    return tuple(Kind(*key, len(alike), sum(alike)) for key, alike in counted.items())


def _jobs(inputs: SourceTensors, specs: Specs) -> Iterator[Job]:
    experts = {MLX: _stored_experts, DENSE: _dense_experts}.get(inputs.source.layout, _released_experts)
    for path, shape, bias in modules(inputs.source.config):
        if is_expert(path):
            yield from experts(path, shape, inputs)
            continue
        yield from _module(path, shape, specs.get(path), inputs)
        if bias is not None:
            yield _copy(f"{path}.bias", "BF16", bias, inputs)
    for name, shape in plain_tensors(inputs.source.config).items():
        yield _copy(name, "BF16", shape, inputs)


def _copy(name: str, dtype: str, shape: Shape, inputs: SourceTensors) -> Job:
    return _job([(name, dtype, shape)], inputs.whole(name, dtype, shape))


def _module(path: str, shape: Shape, spec: QuantizationSpec | None, inputs: SourceTensors) -> Iterator[Job]:
    """Stores a module's weight as `spec` says, however it is stored in the source. Its bias is not included."""
    source_spec = _source_spec(path, inputs.source)
    stored = stored_tensors(path, shape, None, spec)
    if spec == source_spec:
        for name, part_shape in stored.items():
            yield _copy(name, "U32" if spec and name.endswith(".weight") else "BF16", part_shape, inputs)
        return
    values = _values(path, shape, source_spec, inputs)
    if spec is None:
        yield _job([(f"{path}.weight", "BF16", shape)], values)
        return
    from mlx_oss.convert.affine import Affine

    affine = Affine(values, shape[-1], spec)
    (weight, packed), *scales_and_biases = stored.items()
    targets = [Target(weight, "U32", packed, affine.loss), *(Target(n, "BF16", s) for n, s in scales_and_biases)]
    yield Job(tuple(targets), affine)


def _values(
    path: str, shape: Shape, source_spec: QuantizationSpec | None, inputs: SourceTensors
) -> TensorTransform | Dequantized:
    """Reads a module's weight as bfloat16 values."""
    if source_spec is None:
        return inputs.whole(f"{path}.weight", "BF16", shape)
    from mlx_oss.convert.affine import Dequantized

    stored = stored_tensors(path, shape, None, source_spec)
    weight, scales, biases = (
        inputs.rows(name, "U32" if name.endswith(".weight") else "BF16", part) for name, part in stored.items()
    )
    return Dequantized(weight, scales, biases, source_spec)


def _source_spec(path: str, source: Source) -> QuantizationSpec | None:
    """How the source stores a module outside the experts; only MLX folders may have quantised ones."""
    if source.config.quantization is None or f"{path}.scales" not in source.tensors:
        return None
    spec = source.config.quantization.for_module(path)
    if spec is None or spec.mode != "affine":
        raise CheckpointError(
            f"{source.folder}: {path} has scales, but its quantisation mode is not affine: convert the release instead"
        )
    return spec


def _stored_experts(path: str, shape: Shape, inputs: SourceTensors) -> Iterator[Job]:
    """Copies a projection's weight, scales and bias from an MLX folder."""
    quantization = inputs.source.config.quantization
    if quantization is None or quantization.for_module(path) != MXFP4:
        raise CheckpointError(f"{inputs.source.folder}: {path} is not stored in MXFP4: convert the release instead")
    weight, scales, bias = _expert_tensors(path, shape)
    yield _copy(*weight, inputs)
    yield _job([scales], CheckedScales(inputs.whole(*scales)))
    yield _copy(*bias, inputs)


def _released_experts(path: str, shape: Shape, inputs: SourceTensors) -> Iterator[Job]:
    """Makes down_proj, or gate_proj and up_proj together, from MXFP4 blocks and scales."""
    paths, released, (experts, rows, columns) = _released(path, shape)
    if not paths:
        return
    weight, scales, bias = zip(*(_expert_tensors(each, shape) for each in paths), strict=True)
    read = inputs.whole if len(paths) == 1 else inputs.deinterleaved
    blocks = columns // BLOCK
    yield _job(weight, read(f"{released}_blocks", "U8", (experts, rows, blocks, BLOCK // 2)))
    yield _job(scales, CheckedScales(read(f"{released}_scales", "U8", (experts, rows, blocks))))
    yield _job(bias, read(f"{released}_bias", "BF16", (experts, rows)))


def _dense_experts(path: str, shape: Shape, inputs: SourceTensors) -> Iterator[Job]:
    """Makes down_proj, or gate_proj and up_proj together, from a fine-tune's bfloat16 values."""
    paths, released, (experts, rows, columns) = _released(path, shape)
    if not paths:
        return
    tensors = [_expert_tensors(each, shape) for each in paths]
    dense = inputs.dense(released, (experts, columns, rows), len(paths))
    targets: list[Target] = []
    for (weight, scales, _), loss in zip(tensors, dense.losses, strict=True):
        targets += Target(*weight, loss), Target(*scales)
    yield Job(tuple(targets), dense)
    read = inputs.whole if len(paths) == 1 else inputs.deinterleaved
    yield _job([bias for _, _, bias in tensors], read(f"{released}_bias", "BF16", (experts, rows)))


def _released(path: str, shape: Shape) -> tuple[tuple[str, ...], str, Shape]:
    """Returns (projections in the released tensor, its name, its shape without packing).

    There are no projections for up_proj, because it is made together with gate_proj: the even rows of the released
    gate_up are gate, the odd ones are up.
    """
    experts, rows, columns = shape
    prefix, projection = path.rsplit(".", 1)
    if projection == "down_proj":
        return (path,), path, shape
    paths = (path, f"{prefix}.up_proj") if projection == "gate_proj" else ()
    return paths, f"{prefix}.gate_up_proj", (experts, 2 * rows, columns)


def _expert_tensors(path: str, shape: Shape) -> tuple[_Tensor, _Tensor, _Tensor]:
    """The weight, scales and bias that a projection of the experts is stored as in an MLX folder."""
    (weight, packed), (scales, groups), (bias, rows) = stored_tensors(path, shape, shape[:2], MXFP4).items()
    return (weight, "U32", packed), (scales, "U8", groups), (bias, "BF16", rows)


def _job(tensors: Iterable[_Tensor], transform: Transform) -> Job:
    return Job(tuple(Target(*tensor) for tensor in tensors), transform)
