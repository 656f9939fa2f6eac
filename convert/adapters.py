"""Reads LoRA adapters, those of PEFT and of mlx-lm: what each changes in which tensor of the model.

An adapter changes the weight W (rows, columns) of a module to W + scale * B A, with B (rows, rank), A (rank, columns).
PEFT calls the factors lora_A and lora_B. Those of the embedding, whose weight it transposes, are lora_embedding_A
(rank, rows) and lora_embedding_B (columns, rank). mlx-lm calls the factors lora_a and lora_b, and stores their
transposes; those of the embedding are lora_a (rows, rank) and lora_b (rank, columns).
(Hu et al., 2021, arXiv 2106.09685; Kalajdzievski, 2023, arXiv 2312.03732.)

Beside factors there may be:

    lora_magnitude_vector, m    DoRA: the lengths that the rows get; PEFT's of the embedding are those of the columns
    lora_B.bias                 what is added to the bias of the module, times the scale
    base_layer.weight, .bias    what the factors were trained with, in place of the model's
    weight, bias, sinks         of a module that was trained itself (`modules_to_save`, `bias`), in place of the model's

What is done with each was compared with PEFT 0.21 (merge_and_unload) and mlx-lm 0.32 (fuse).
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlx_oss.config import ModelConfig, read_json
from mlx_oss.convert.adapter_folders import CONFIG, adapter_file
from mlx_oss.convert.adapter_scales import MERGE, Scales
from mlx_oss.convert.merging import DTYPES, Adapter, Addition, Delta, Factor, Shift, is_finite_tensor
from mlx_oss.errors import CheckpointError, ConfigError, quoted
from mlx_oss.weights.layouts.description import FLOATS, CanonicalTensor
from mlx_oss.weights.layouts.renaming import without_wrappers
from mlx_oss.weights.names import Shape, is_expert, modules, plain_tensors
from mlx_oss.weights.safetensors import TensorInfo, read_header

_FACTOR = re.compile(r"(.*)\.(lora_[ABab]|lora_embedding_[AB]|lora_magnitude_vector|m)(?:\.default)?(\.weight|\.bias)?")
_TRAINED = re.compile(r"(.*?)(?:\.base_layer|\.modules_to_save)?(?:\.default)?\.(weight|bias|sinks)")
_LENGTHS = ("lora_magnitude_vector", "m")
_PREFIX = re.compile(r"(?:module\.|base_model\.model\.|base_model\.)+")
_LARGEST = 1 << 26  # values of a factor: 333 ranks of the releases' unembedding, 16,384 of their attention
# Settings of PEFT that change more than the tensors say, and what each makes of the adapter.
_ODD = {
    "alora_invocation_tokens": "activated LoRA",
    "layer_replication": "LoRA with repeated layers",
    "use_qalora": "QALoRA",
    "use_bdlora": "BD-LoRA",
    "kasa_config": "KaSA",
    "monteclora_config": "MonteCLoRA",
    "arrow_config": "Arrow",
}
# Ways to initialise the factors that leave the model's own weights as they are. Others, such as PiSSA, change those.
_INITIALISED = (None, True, False, "true", "false", "gaussian", "eva", "orthogonal")


def read_adapter(path: str | Path, config: ModelConfig) -> Adapter:
    """What an adapter changes.

    The values of factors are looked at in pieces, and not kept.

    Args:
        path: The adapter's folder.
        config: The model's config.

    Raises:
        CheckpointError: If the folder holds no LoRA adapter of this model, or one of a kind that cannot be added.
        ConfigError: If its config is missing or damaged.
    """
    file = adapter_file(path)
    folder = file.parent
    try:
        settings = read_json(folder / CONFIG)
    except ConfigError as error:
        reason = str(error).rpartition(": ")[0]  # what helps a model does not help an adapter
        raise ConfigError(f"{reason}: use the config that was saved with the adapter") from None
    _check_kind(folder, settings)
    found = _Found(file, _shapes(config))
    for name, tensor in read_header(file).items():
        found.put(name, tensor)
    if not found.factors and not found.trained:
        raise CheckpointError(f"{file} is empty: use the adapter of a training that has finished")
    scales, additions = Scales(folder, settings), dict[str, Addition]()
    for module in sorted(found.based | found.factors.keys()):
        parts = found.factors.get(module, {})
        additions |= found.additions(module, parts, scales)
    is_dora = bool(settings.get("use_dora")) or settings.get("fine_tune_type") == "dora"
    if is_dora and (bare := [name for name, each in additions.items() if isinstance(each, Delta) and not each.lengths]):
        raise CheckpointError(f"{file}: {bare[0]} has no lengths for DoRA: use an adapter whose saving has finished")
    return Adapter(additions, found.trained)


def _check_kind(folder: Path, settings: Mapping[str, Any]) -> None:
    """Raises CheckpointError for what is neither LoRA nor DoRA."""
    kind, start = settings.get("peft_type", settings.get("fine_tune_type", "lora")), settings.get("init_lora_weights")
    named = [text for key, text in _ODD.items() if settings.get(key)]
    if str(kind).lower() not in ("lora", "dora"):
        named.insert(0, quoted(kind))
    elif not any(start is known or (isinstance(start, str) and start.lower() == known) for known in _INITIALISED):
        named.append(f"LoRA that was started with {quoted(start)}, which changes the model's own weights")
    if named:
        raise CheckpointError(
            f"{folder}: this adapter is {named[0]}, and only LoRA and DoRA can be added here: {MERGE}"
        )


def _shapes(config: ModelConfig) -> dict[str, Shape]:
    """The shapes of the model's tensors, as values, by their canonical names."""
    shapes = dict(plain_tensors(config))
    for module, shape, bias in modules(config):
        shapes[f"{module}.weight"] = shape
        if bias is not None:
            shapes[f"{module}.bias"] = bias
    return shapes


@dataclass(frozen=True, slots=True)
class _Found:
    """The tensors of an adapter, sorted by what they are.

    Attributes:
        file: Its file.
        shapes: The shapes of the model's tensors.
        factors: What belongs to a product, by the path of the module and PEFT's or mlx-lm's name.
        trained: What replaces tensors of the model.
        based: The modules of which a tensor that factors were trained with is there.
    """

    file: Path
    shapes: Mapping[str, Shape]
    factors: dict[str, dict[str, TensorInfo]] = field(default_factory=dict)
    trained: dict[str, CanonicalTensor] = field(default_factory=dict)
    based: set[str] = field(default_factory=set)

    def put(self, name: str, tensor: TensorInfo) -> None:
        """Sorts a tensor in."""
        plain = without_wrappers(name)
        factor, trained = _FACTOR.fullmatch(plain), _TRAINED.fullmatch(plain)
        match = factor or trained
        module = re.sub(r"\.mlp\.router\.linear$", ".mlp.router", match[1] if match else plain)
        if prefix := _PREFIX.match(module):
            module = module[prefix.end() :]
        if not self._has(module) and self._has(f"model.{module}"):  # trained without the object that has the head
            module = f"model.{module}"
        if "experts" in module or is_expert(f"{module}."):
            raise CheckpointError(
                f"{self.file}: tensor {name} changes experts, which are stored in MXFP4: merge the adapter into the "
                "model in bfloat16 with the program that trained it, and convert the result"
            )
        known = self.shapes.get(f"{module}.weight", ())
        if factor and len(known) == 2:
            parts, which = self.factors.setdefault(module, {}), f"{factor[2]}{'.bias' if factor[3] == '.bias' else ''}"
            if which in parts:
                raise CheckpointError(f"{self.file}: {module} has {which} twice: use an adapter that was saved once")
            parts[which] = tensor
        elif not factor and trained and (canonical := f"{module}.{trained[2]}") in self.shapes:
            self._replace(canonical, tensor)
            if ".base_layer." in plain:
                self.based.add(module)
        else:
            raise CheckpointError(f"{self.file}: tensor {name} is no LoRA factor of a module of this model: {MERGE}")

    def _has(self, module: str) -> bool:
        return any(f"{module}.{suffix}" in self.shapes for suffix in ("weight", "sinks"))

    def _replace(self, canonical: str, tensor: TensorInfo) -> None:
        shape = self.shapes[canonical]
        if canonical in self.trained:
            raise CheckpointError(f"{self.file}: {canonical} is there twice: use an adapter that was saved once")
        if tensor.shape != shape or tensor.dtype not in FLOATS:
            raise CheckpointError(
                f"{self.file}: tensor {tensor.name} is {tensor.dtype} of the shape {tensor.shape}, but that of the "
                f"model is a float of the shape {shape}: {MERGE}"
            )
        self.trained[canonical] = CanonicalTensor(canonical, "BF16", shape, (tensor,), 0, 1, None)

    def additions(self, module: str, found: Mapping[str, TensorInfo], scales: Scales) -> dict[str, Addition]:
        """What the factors of a module and what lies beside them change."""
        parts, file, weight, bias = dict(found), self.file, f"{module}.weight", f"{module}.bias"
        lengths = next((parts.pop(name) for name in _LENGTHS if name in parts), None)
        shift = parts.pop("lora_B.bias", None)
        left, right = self._factors(module, parts)
        rows, columns = self.shapes[weight]
        rank = right.shape[0] if right.shape else 0
        if not rank or (left.shape, right.shape) != ((rows, rank), (rank, columns)):
            raise CheckpointError(
                f"{file}: the factors of {module} have the shapes {left.tensor.shape} and {right.tensor.shape}, which "
                f"do not make ({rows}, {columns}): use an adapter of this model"
            )
        if rank * max(rows, columns) > _LARGEST:
            raise CheckpointError(
                f"{file}: the factors of {module} have rank {rank}, and at most {_LARGEST // max(rows, columns)} can "
                f"be added here: {MERGE}"
            )
        by_column = "lora_embedding_A" in parts
        self._check_vector(lengths, (columns if by_column else rows,))
        self._check_vector(shift, self.shapes.get(bias, ()))
        for tensor in (left.tensor, right.tensor, *filter(None, (lengths, shift))):
            self._check_values(tensor)
        scale = scales.of(module, rank, "lora_a" in parts)
        made: dict[str, Addition] = {weight: Delta(left, right, scale, lengths, by_column)}
        return made if shift is None else made | {bias: Shift(shift, scale)}

    def _factors(self, module: str, parts: Mapping[str, TensorInfo]) -> tuple[Factor, Factor]:
        """The matrices (rows, rank) and (rank, columns) of a module."""
        if "lora_a" in parts or "lora_b" in parts:  # mlx-lm's
            a, b, flipped = "lora_a", "lora_b", module != "model.embed_tokens"
        elif "lora_A" in parts or "lora_B" in parts:
            a, b, flipped = "lora_B", "lora_A", False
        else:
            a, b, flipped = "lora_embedding_A", "lora_embedding_B", True
        if missing := {a, b} - parts.keys():
            raise CheckpointError(
                f"{self.file}: {module} has no {min(missing)}: use an adapter whose saving has finished"
            )
        if more := parts.keys() - {a, b}:
            raise CheckpointError(f"{self.file}: {module} has {a} and {min(more)}: use an adapter that was saved once")
        left, right = Factor(parts[a], flipped), Factor(parts[b], flipped)
        return (right, left) if flipped and a == "lora_a" else (left, right)

    def _check_vector(self, vector: TensorInfo | None, shape: Shape) -> None:
        if vector is None or vector.shape == shape:
            return
        if not shape:
            raise CheckpointError(
                f"{self.file}: tensor {vector.name} is added to a bias, which the model does not have there: use an "
                "adapter that was trained without lora_bias"
            )
        raise CheckpointError(
            f"{self.file}: tensor {vector.name} has the shape {vector.shape}, and the model needs {shape}: use an "
            "adapter of this model"
        )

    def _check_values(self, tensor: TensorInfo) -> None:
        """Raises CheckpointError if a tensor of a product is not of floats, or not finite."""
        if tensor.dtype not in DTYPES:
            raise CheckpointError(
                f"{self.file}: tensor {tensor.name} is {tensor.dtype}, expected {' or '.join(sorted(DTYPES))}: save "
                "the adapter in one of these"
            )
        if not is_finite_tensor(tensor):
            raise CheckpointError(
                f"{self.file}: tensor {tensor.name} holds NaN or infinity: use another state of the training"
            )
