"""Plans a conversion: every tensor of the MLX folder, each with the transform that produces its bytes.

The tensors to write are the canonical ones of `mlx_oss.weights.names`; `tensors` makes the transforms that read them.
Planning reads no tensor data.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from mlx_oss.backend.mlx_library import load_mlx
from mlx_oss.config import MXFP4, QuantizationSpec
from mlx_oss.convert import tensors
from mlx_oss.convert.profiles import Specs
from mlx_oss.convert.quantized import DenseExperts, RelativeError
from mlx_oss.convert.report import Kind
from mlx_oss.convert.transforms import CheckedScales, TensorTransform, Transform
from mlx_oss.errors import CheckpointError
from mlx_oss.weights.layouts.checkpoint import Checkpoint
from mlx_oss.weights.layouts.description import CanonicalTensor, Dense
from mlx_oss.weights.names import Shape, is_expert, modules, plain_tensors, stored_tensors
from mlx_oss.weights.safetensors import ITEMSIZE, TensorInfo

if TYPE_CHECKING:
    from mlx_oss.convert.affine import Dequantized


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


def plan_jobs(source: Checkpoint, specs: Specs) -> list[list[Job]]:
    """Plans every tensor of the MLX folder.

    Args:
        source: The checkpoint.
        specs: The quantisation of each module outside the experts that is to be quantised.

    Returns:
        Jobs in units that must stay together in a shard, in the order in which the model uses them. A unit is a layer,
        or a module outside the layers.

    Raises:
        CheckpointError: If an MLX folder is quantised in a way that cannot be converted.
    """
    units: dict[str, list[Job]] = {}
    for job in _jobs(source, specs):
        name = job.targets[0].name
        unit = name.split(".")[2] if name.startswith("model.layers.") else name.rsplit(".", 1)[0]
        units.setdefault(unit, []).append(job)
    return list(units.values())


def group_kinds(listed: Iterable[Target | TensorInfo]) -> tuple[Kind, ...]:
    """Groups tensors whose names differ only in numbers (of a layer, of an expert) and counts each group."""
    counted: dict[tuple[str, str, Shape], list[int]] = {}
    for tensor in listed:
        name = re.sub(r"\.\d+(?=\.|$)", ".*", tensor.name)
        counted.setdefault((name, tensor.dtype, tensor.shape), []).append(tensor.nbytes)
    return tuple(Kind(*key, len(alike), sum(alike)) for key, alike in counted.items())


def _jobs(source: Checkpoint, specs: Specs) -> Iterator[Job]:
    for path, shape, bias in modules(source.config):
        if is_expert(path):
            yield from _projection(path, source)
            continue
        yield from _module(path, shape, specs.get(path), source)
        if bias is not None:
            yield _copy(f"{path}.bias", source)
    for name in plain_tensors(source.config):
        yield _copy(name, source)


def _copy(name: str, source: Checkpoint) -> Job:
    return _job([source.tensors[name]], tensors.read_tensor(source.tensors[name], source.config.head_dim))


def _module(path: str, shape: Shape, spec: QuantizationSpec | None, source: Checkpoint) -> Iterator[Job]:
    """Stores a module's weight as `spec` says, however it is stored in the source. Its bias is not included."""
    source_spec = source.specs[path]
    if source_spec is not None and source_spec.mode != "affine":
        raise CheckpointError(
            f"{source.folder}: {path} has scales, but its quantisation mode is not affine: convert the release instead"
        )
    stored = stored_tensors(path, shape, None, spec)
    if spec == source_spec:
        for name in stored:
            yield _copy(name, source)
        return
    load_mlx()
    from mlx_oss.convert.affine import Affine, Dequantized

    values: TensorTransform | Dequantized = tensors.read_tensor(
        source.tensors[f"{path}.weight"], source.config.head_dim
    )
    if source_spec is not None:
        packed, scales, biases = (source.tensors[f"{path}.{suffix}"] for suffix in ("weight", "scales", "biases"))
        values = Dequantized(
            tensors.read_rows(packed), tensors.read_rows(scales), tensors.read_rows(biases), source_spec
        )
    if spec is None:
        yield Job((Target(f"{path}.weight", "BF16", shape),), values)
        return
    affine = Affine(values, shape[-1], spec)
    (weight, words), *scales_and_biases = stored.items()
    targets = [Target(weight, "U32", words, affine.loss), *(Target(n, "BF16", s) for n, s in scales_and_biases)]
    yield Job(tuple(targets), affine)


def _projection(path: str, source: Checkpoint) -> Iterator[Job]:
    """Makes a projection of the experts; gate and up together if their rows alternate in the source."""
    if source.specs[path] != MXFP4:
        raise CheckpointError(f"{source.folder}: {path} is not stored in MXFP4: convert the release instead")
    paths = [path]
    if source.tensors[f"{path}.bias"].step == 2:
        if path.endswith(".up_proj"):
            return
        paths = [path, path.replace("gate_proj", "up_proj")]
    weight, scales, bias = ([source.tensors[f"{p}.{suffix}"] for p in paths] for suffix in ("weight", "scales", "bias"))
    if isinstance(weight[0].change, Dense):
        yield _quantized(weight, scales)
    else:
        yield _job(weight, _read(weight, source))
        yield _job(scales, CheckedScales(_read(scales, source)))
    yield _job(bias, _read(bias, source))


def _read(parts: Sequence[CanonicalTensor], source: Checkpoint) -> TensorTransform:
    """Reads a tensor, or two whose rows alternate."""
    if len(parts) == 1:
        return tensors.read_tensor(parts[0], source.config.head_dim)
    return tensors.read_alternating(*parts)


def _quantized(weights: Sequence[CanonicalTensor], scales: Sequence[CanonicalTensor]) -> Job:
    """Quantises a fine-tune's experts to MXFP4. The source of weights and scales is the same tensor."""
    assert [weight.first for weight in weights] == list(range(len(weights))), weights[0].name  # gate, then up
    dense = DenseExperts(tensors.as_bfloat16(weights[0].sources[0]), len(weights))
    targets: list[Target] = []
    for weight, scale, loss in zip(weights, scales, dense.losses, strict=True):
        targets += Target(weight.name, weight.dtype, weight.shape, loss), Target(scale.name, scale.dtype, scale.shape)
    return Job(tuple(targets), dense)


def _job(parts: Iterable[CanonicalTensor], transform: Transform) -> Job:
    targets = (Target(tensor.name, tensors.target_dtype(tensor), tensor.shape) for tensor in parts)
    return Job(tuple(targets), transform)
