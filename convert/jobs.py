"""What is written: every tensor of the MLX folder with the transform for its bytes.

`mlx_oss.layout` says what the folder must hold, `source_tensors` finds it in the source. Nothing is read but headers.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlx_oss.config import MXFP4, QuantizationSpec
from mlx_oss.convert.metal_transforms import MetalSourceTensors
from mlx_oss.convert.options import Kind
from mlx_oss.convert.profiles import Specs
from mlx_oss.convert.quantized import RelativeError
from mlx_oss.convert.source import DENSE, METAL, MLX, Source
from mlx_oss.convert.source_tensors import SourceTensors
from mlx_oss.convert.transforms import Scales, TensorTransform, Transform
from mlx_oss.errors import CheckpointError
from mlx_oss.weights.mxfp4 import BLOCK
from mlx_oss.weights.names import Shape, is_expert, modules, plain_tensors, stored_tensors
from mlx_oss.weights.safetensors import ITEMSIZE, TensorInfo

if TYPE_CHECKING:
    from mlx_oss.convert.affine import Dequantized

_Tensor = tuple[str, str, Shape]  # name, dtype, shape


@dataclass(frozen=True, slots=True)
class Target:
    """A tensor to write; dtype is safetensors' name. `loss` is there when this tensor is a quantised weight."""

    name: str
    dtype: str
    shape: Shape
    loss: RelativeError | None = None

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * ITEMSIZE[self.dtype]


@dataclass(frozen=True, slots=True)
class Job:
    """Targets that are written in one pass over the source: the pieces of `transform` are theirs, in this order."""

    targets: tuple[Target, ...]
    transform: Transform

    @property
    def nbytes(self) -> int:
        return sum(target.nbytes for target in self.targets)


def plan_jobs(source: Source, specs: Specs) -> list[list[Job]]:
    """Every tensor of the MLX folder in the order of use, in units that stay together in a shard: a layer, or a tensor
    outside the layers. `specs` names the modules outside the experts that are to be quantised.

    Raises CheckpointError for a tensor that is missing, unknown, or of another shape or dtype than the config says.
    """
    inputs = MetalSourceTensors(source) if source.layout == METAL else SourceTensors(source)
    units: dict[str, list[Job]] = {}
    for job in _jobs(inputs, specs):
        name = job.targets[0].name
        unit = name.split(".")[2] if name.startswith("model.layers.") else name.rsplit(".", 1)[0]
        units.setdefault(unit, []).append(job)
    inputs.check_all_used()
    return list(units.values())


def kinds(tensors: Iterable[Target | TensorInfo]) -> tuple[Kind, ...]:
    """The tensors counted, those whose names differ only in numbers (of a layer, of an expert) as one."""
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
    """A module's weight as `spec` has it, from whatever the source has; its bias is another matter."""
    had = _stored_spec(path, inputs.source)
    stored = stored_tensors(path, shape, None, spec)
    if spec == had:
        for name, each in stored.items():
            yield _copy(name, "U32" if spec and name.endswith(".weight") else "BF16", each, inputs)
        return
    values = _values(path, shape, had, inputs)
    if spec is None:
        yield _job([(f"{path}.weight", "BF16", shape)], values)
        return
    from mlx_oss.convert.affine import Affine

    affine = Affine(values, shape[-1], spec)
    (weight, packed), *others = stored.items()
    yield Job((Target(weight, "U32", packed, affine.loss), *(Target(n, "BF16", each) for n, each in others)), affine)


def _values(
    path: str, shape: Shape, had: QuantizationSpec | None, inputs: SourceTensors
) -> TensorTransform | Dequantized:
    if had is None:
        return inputs.whole(f"{path}.weight", "BF16", shape)
    from mlx_oss.convert.affine import Dequantized

    stored = stored_tensors(path, shape, None, had)
    weight, scales, biases = (
        inputs.rows(name, "U32" if name.endswith(".weight") else "BF16", each) for name, each in stored.items()
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


def _stored_experts(path: str, shape: Shape, inputs: SourceTensors) -> Iterator[Job]:
    """One projection's weight, scales and bias out of an MLX folder."""
    quantization = inputs.source.config.quantization
    if quantization is None or quantization.for_module(path) != MXFP4:
        raise CheckpointError(f"{inputs.source.folder}: {path} is not stored in MXFP4: convert the release")
    weight, scales, bias = _expert_tensors(path, shape)
    yield _copy(*weight, inputs)
    yield _job([scales], Scales(inputs.whole(*scales)))
    yield _copy(*bias, inputs)


def _released_experts(path: str, shape: Shape, inputs: SourceTensors) -> Iterator[Job]:
    """down_proj, or gate_proj and up_proj together, out of MXFP4 blocks and scales."""
    paths, released, (experts, rows, columns) = _released(path, shape)
    if not paths:
        return
    weight, scales, bias = zip(*(_expert_tensors(each, shape) for each in paths), strict=True)
    take = inputs.whole if len(paths) == 1 else inputs.halves
    blocks = columns // BLOCK
    yield _job(weight, take(f"{released}_blocks", "U8", (experts, rows, blocks, BLOCK // 2)))
    yield _job(scales, Scales(take(f"{released}_scales", "U8", (experts, rows, blocks))))
    yield _job(bias, take(f"{released}_bias", "BF16", (experts, rows)))


def _dense_experts(path: str, shape: Shape, inputs: SourceTensors) -> Iterator[Job]:
    """down_proj, or gate_proj and up_proj together, out of a fine-tune's bfloat16 values."""
    paths, released, (experts, rows, columns) = _released(path, shape)
    if not paths:
        return
    tensors = [_expert_tensors(each, shape) for each in paths]
    dense = inputs.dense(released, (experts, columns, rows), len(paths))
    targets: list[Target] = []
    for (weight, scales, _), loss in zip(tensors, dense.losses, strict=True):
        targets += Target(*weight, loss), Target(*scales)
    yield Job(tuple(targets), dense)
    take = inputs.whole if len(paths) == 1 else inputs.halves
    yield _job([bias for _, _, bias in tensors], take(f"{released}_bias", "BF16", (experts, rows)))


def _released(path: str, shape: Shape) -> tuple[tuple[str, ...], str, Shape]:
    """(paths of the projections that a released tensor holds, its name, its shape were it not packed); no paths for
    up_proj, which comes with gate_proj.

    The even rows of the released gate_up are gate, the odd ones up.
    """
    experts, rows, columns = shape
    prefix, projection = path.rsplit(".", 1)
    if projection == "down_proj":
        return (path,), path, shape
    paths = (path, f"{prefix}.up_proj") if projection == "gate_proj" else ()
    return paths, f"{prefix}.gate_up_proj", (experts, 2 * rows, columns)


def _expert_tensors(path: str, shape: Shape) -> tuple[_Tensor, _Tensor, _Tensor]:
    """The weight, scales and bias that a projection of the experts is stored as."""
    (weight, packed), (scales, groups), (bias, rows) = stored_tensors(path, shape, shape[:2], MXFP4).items()
    return (weight, "U32", packed), (scales, "U8", groups), (bias, "BF16", rows)


def _job(tensors: Iterable[_Tensor], transform: Transform) -> Job:
    return Job(tuple(Target(*tensor) for tensor in tensors), transform)
