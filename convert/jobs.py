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
            yield from _projection(path, shape, bias, source)
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
        parts = [source.tensors[name] for name in stored_tensors(path, shape, None, source_spec)]
        values = Dequantized(tuple(map(tensors.read_rows, parts)), source_spec)
    if spec is None:
        yield Job((Target(f"{path}.weight", "BF16", shape),), values)
        return
    affine = Affine(values, shape[-1], spec)
    (weight, words), *scales_and_biases = stored.items()
    targets = [Target(weight, "U32", words, affine.loss), *(Target(n, "BF16", s) for n, s in scales_and_biases)]
    yield Job(tuple(targets), affine)


def _projection(path: str, shape: Shape, bias: Shape | None, source: Checkpoint) -> Iterator[Job]:
    """Makes a projection of the experts; gate and up together where their rows alternate in the source.

    What an MLX folder has quantised in another way than MXFP4 stays as it is.
    """
    spec = source.specs[path]
    if spec != MXFP4:
        for name in stored_tensors(path, shape, bias, spec):
            yield _copy(name, source)
        return
    if paths := _read_together(path, "weight", source):
        weight, scales = ([source.tensors[f"{p}.{suffix}"] for p in paths] for suffix in ("weight", "scales"))
        if isinstance(weight[0].change, Dense):
            yield _quantized(weight, scales, weight[0].change)
        else:
            yield _job(weight, _read(weight, source))
            yield _job(scales, CheckedScales(_read(scales, source)))
    if paths := _read_together(path, "bias", source):
        biases = [source.tensors[f"{p}.bias"] for p in paths]
        yield _job(biases, _read(biases, source))


def _read_together(path: str, suffix: str, source: Checkpoint) -> list[str]:
    """The projections that are read in one pass over the source with this one: none if it is read with another."""
    if source.tensors[f"{path}.{suffix}"].step == 1:
        return [path]
    return [] if path.endswith(".up_proj") else [path, path.replace("gate_proj", "up_proj")]


def _read(parts: Sequence[CanonicalTensor], source: Checkpoint) -> TensorTransform:
    """Reads a tensor, or two whose rows alternate."""
    if len(parts) == 1:
        return tensors.read_tensor(parts[0], source.config.head_dim)
    return tensors.read_alternating(*parts)


def _quantized(weights: Sequence[CanonicalTensor], scales: Sequence[CanonicalTensor], stored: Dense) -> Job:
    """Quantises a fine-tune's experts to MXFP4. The sources of weights and scales are the same tensors."""
    assert [weight.first for weight in weights] == list(range(len(weights))), weights[0].name  # gate, then up
    sources = [tensors.as_bfloat16(source) for source in weights[0].sources]
    dense = DenseExperts(sources, weights[0].experts, len(weights), stored.transposed)
    targets: list[Target] = []
    for weight, scale, loss in zip(weights, scales, dense.losses, strict=True):
        targets += Target(weight.name, weight.dtype, weight.shape, loss), Target(scale.name, scale.dtype, scale.shape)
    return Job(tuple(targets), dense)


def _job(parts: Iterable[CanonicalTensor], transform: Transform) -> Job:
    targets = (Target(tensor.name, tensors.target_dtype(tensor), tensor.shape) for tensor in parts)
    return Job(tuple(targets), transform)
