"""Plans a conversion: every tensor of the MLX folder, each with the transform that produces its bytes.

The tensors to write are the canonical ones of `mlx_oss.weights.names`; `tensors` makes the transforms that read them.
Planning reads no tensor data.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from mlx_oss.backend.mlx_library import load_mlx
from mlx_oss.config import MXFP4, QuantizationSpec
from mlx_oss.convert import tensors
from mlx_oss.convert.adapters import read_adapter
from mlx_oss.convert.losses import RelativeError
from mlx_oss.convert.merging import Adapter, Addition, Merged
from mlx_oss.convert.options import ConvertOptions
from mlx_oss.convert.profiles import Specs
from mlx_oss.convert.profiles import specs as chosen_specs
from mlx_oss.convert.quantized import DenseExperts, DequantizedMxfp4, Mxfp4
from mlx_oss.convert.report import Kind
from mlx_oss.convert.transforms import CheckedBytes, Picked, TensorTransform, Transform
from mlx_oss.quantization import nan_sign
from mlx_oss.weights.layouts.checkpoint import Checkpoint
from mlx_oss.weights.layouts.description import CanonicalTensor, Dense
from mlx_oss.weights.layouts.finder import packed_dtype
from mlx_oss.weights.names import Shape, modules, plain_tensors, stored_tensors
from mlx_oss.weights.safetensors import ITEMSIZE, TensorInfo


@dataclass(frozen=True, slots=True)
class Target:
    """A tensor to write. `dtype` is safetensors' name; `loss` is set if the values are not those of the source."""

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


def plan_jobs(source: Checkpoint, specs: Specs, adapter: Adapter | None = None) -> list[list[Job]]:
    """Plans every tensor of the MLX folder.

    Args:
        source: The checkpoint.
        specs: The quantisation of each module that is to be quantised.
        adapter: What an adapter changes. None: there is none.

    Returns:
        Jobs in units that must stay together in a shard, in the order in which the model uses them. A unit is a layer,
        or a module outside the layers.
    """
    units: dict[str, list[Job]] = {}
    adapter = adapter or Adapter()
    # What was trained itself takes the place of the model's tensor, and is not quantised.
    own = {name.removesuffix(".weight"): None for name in adapter.replaced if name.endswith(".weight")}
    source = replace(source, tensors={**source.tensors, **adapter.replaced}, specs={**source.specs, **own})
    for job in _jobs(source, specs, adapter.additions):
        name = job.targets[0].name
        unit = name.split(".")[2] if name.startswith("model.layers.") else name.rsplit(".", 1)[0]
        units.setdefault(unit, []).append(job)
    return list(units.values())


def planned_bytes(source: Checkpoint, options: ConvertOptions) -> int:
    """Bytes of the weights that a conversion writes; nothing but headers and the adapter is read.

    Raises:
        OptionError: If a profile is unknown or not possible for a module, or an override matches no module.
        CheckpointError: If the adapter cannot be added.
        ConfigError: If the adapter's config is missing or damaged.
    """
    adapter = None if options.adapter is None else read_adapter(options.adapter, source.config)
    return sum(job.nbytes for unit in plan_jobs(source, chosen_specs(source, options), adapter) for job in unit)


def group_kinds(listed: Iterable[Target | TensorInfo]) -> tuple[Kind, ...]:
    """Groups tensors whose names differ only in numbers (of a layer, of an expert) and counts each group."""
    counted: dict[tuple[str, str, Shape], list[int]] = {}
    for tensor in listed:
        name = re.sub(r"\.\d+(?=\.|$)", ".*", tensor.name)
        counted.setdefault((name, tensor.dtype, tensor.shape), []).append(tensor.nbytes)
    return tuple(Kind(*key, len(alike), sum(alike)) for key, alike in counted.items())


def _jobs(source: Checkpoint, specs: Specs, additions: Mapping[str, Addition]) -> Iterator[Job]:
    for path, shape, bias in modules(source.config):
        paths = _read_together(path, "weight", source)
        if len({specs.get(p) for p in paths}) > 1:
            yield from (job for p in paths for job in _module([p], shape, specs.get(p), source))
        elif paths:
            yield from _module(paths, shape, specs.get(path), source, additions.get(f"{path}.weight"))
        if bias is not None and (paths := _read_together(path, "bias", source)):
            yield _bias([f"{p}.bias" for p in paths], source, additions.get(f"{path}.bias"))
    for name in plain_tensors(source.config):
        yield _copy([name], source)


def _read_together(path: str, suffix: str, source: Checkpoint) -> list[str]:
    """The modules that are read in one pass over the source with this one: none if it is read with another.

    Gate and up of the experts are read together where their rows alternate.
    """
    if source.tensors[f"{path}.{suffix}"].step == 1:
        return [path]
    return [] if path.endswith(".up_proj") else [path, path.replace("gate_proj", "up_proj")]


def _module(
    paths: Sequence[str],
    shape: Shape,
    spec: QuantizationSpec | None,
    source: Checkpoint,
    addition: Addition | None = None,
) -> Iterator[Job]:
    """Stores the weights of modules as `spec` says, however they are stored in the source. Biases are not included.

    An adapter's `addition` changes the weight; there is one path then.
    """
    stored = [stored_tensors(path, shape, None, spec) for path in paths]
    is_dense = isinstance(source.tensors[f"{paths[0]}.weight"].change, Dense)
    if spec == source.specs[paths[0]] and not is_dense and addition is None:
        for names in zip(*stored, strict=True):
            yield _copy(names, source)
        return
    values = _values(paths, shape, source)
    if addition is not None:
        loss = RelativeError("merged", () if values.loss is None else (values.loss,))
        values = replace(values, transform=Merged(values.transform, shape[-1], addition, loss), loss=loss)
    if spec is None:
        weights = [Target(name, "BF16", shape, values.loss) for names in stored for name in names]
        yield Job(tuple(weights), values.transform)
        return
    before = () if values.loss is None else (values.loss,)
    losses = [RelativeError("requantised" if values.were_quantised else "quantised", before) for _ in paths]
    targets: list[Target] = []
    for tensors_of, loss in zip(stored, losses, strict=True):
        (weight, words), (scales, groups), *biases = tensors_of.items()
        targets += Target(weight, "U32", words, loss), Target(scales, packed_dtype(scales, spec) or "BF16", groups)
        targets += (Target(name, "BF16", groups) for name, groups in biases)
    if spec == MXFP4:
        yield Job(tuple(targets), Mxfp4(values.transform, losses, values.source))
        return
    load_mlx()
    from mlx_oss.convert.affine import Quantized

    yield Job(tuple(targets), Quantized(values.transform, shape[-1], spec, losses[0], values.source))


@dataclass(frozen=True, slots=True)
class _Values:
    """How the values of modules are read: a transform that gives the rows of each in bfloat16.

    Attributes:
        transform: The transform.
        source: What it reads, for messages.
        loss: Measures what is lost by reading them. None: nothing.
        were_quantised: True if they are dequantised.
    """

    transform: Transform
    source: TensorInfo
    loss: RelativeError | None = None
    were_quantised: bool = False


def _values(paths: Sequence[str], shape: Shape, source: Checkpoint) -> _Values:
    weights, spec = [source.tensors[f"{path}.weight"] for path in paths], source.specs[paths[0]]
    first = weights[0].sources[0]
    if isinstance(change := weights[0].change, Dense):
        sources = [tensors.as_bfloat16(each) for each in weights[0].sources]
        firsts = [weight.first for weight in weights]
        dense = DenseExperts(sources, weights[0].experts, firsts, weights[0].step, change.transposed)
        return _Values(dense, first, _rounding(sources))
    if spec is None:
        values = _read(weights, source)
        return _Values(values, first, _rounding(tensors.sources_of(values)))
    if spec == MXFP4:
        scales = CheckedBytes(_read([source.tensors[f"{path}.scales"] for path in paths], source))
        return _Values(DequantizedMxfp4(_read(weights, source), scales, first), first, were_quantised=True)
    load_mlx()
    from mlx_oss.convert.affine import Dequantized

    parts = [source.tensors[name] for path in paths for name in stored_tensors(path, shape, None, spec)]
    dequantized = Dequantized(tuple(map(tensors.read_rows, parts)), spec)
    return _Values(dequantized, first, dequantized.loss, were_quantised=True)


def _bias(names: Sequence[str], source: Checkpoint, addition: Addition | None) -> Job:
    """Copies biases; an adapter's `addition` changes the one that there is then."""
    copied = _copy(names, source)
    if addition is None:
        return copied
    (target,) = copied.targets
    loss = RelativeError("merged", () if target.loss is None else (target.loss,))
    return Job((replace(target, loss=loss),), Merged(copied.transform, 1, addition, loss))


def _copy(names: Sequence[str], source: Checkpoint) -> Job:
    """Copies tensors as they are; floats of other dtypes are rounded to bfloat16."""
    parts = [source.tensors[name] for name in names]
    transform = _read(parts, source)
    loss = _rounding(tensors.sources_of(transform))
    targets = tuple(Target(part.name, tensors.target_dtype(part), part.shape, loss) for part in parts)
    path, _, part = names[0].rpartition(".")
    sign = nan_sign(part, source.specs.get(path))
    return Job(targets, transform if sign is None else CheckedBytes(transform, sign))


def _read(parts: Sequence[CanonicalTensor], source: Checkpoint) -> TensorTransform:
    """Reads a tensor, or two whose rows alternate."""
    if len(parts) > 1:
        return tensors.read_alternating(*parts)
    (part,) = parts
    if part.step == 1:
        return tensors.read_tensor(part, source.config.head_dim)
    parent, _, suffix = part.name.rpartition(".")
    even, odd = (source.tensors[f"{parent.rpartition('.')[0]}.{name}.{suffix}"] for name in ("gate_proj", "up_proj"))
    return Picked(tensors.read_alternating(even, odd), part.first)


def _rounding(sources: Sequence[TensorInfo]) -> RelativeError | None:
    """What measures the error of rounding some tensors to bfloat16. None: none of them is rounded."""
    measured = tensors.rounding(sources)
    return RelativeError("rounded", measured) if measured else None
