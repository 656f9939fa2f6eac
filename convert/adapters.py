"""Reads LoRA adapters, those of PEFT and of mlx-lm: what each adds to which module.

An adapter changes the weight W (rows, columns) of a module to W + scale * B A, with B (rows, rank), A (rank, columns).
PEFT calls the factors lora_A and lora_B. Those of the embedding, whose weight it transposes, are lora_embedding_A
(rank, rows) and lora_embedding_B (columns, rank). Beside factors of the embedding or unembedding, PEFT saves the weight
that they were trained with, as base_layer. mlx-lm calls the factors lora_a and lora_b, and stores their transposes;
those of the embedding are lora_a (rows, rank) and lora_b (rank, columns). The scale is in adapter_config.json: for PEFT
lora_alpha / rank, or lora_alpha / sqrt(rank) if it is rank-stabilised; for mlx-lm `scale`.
(Hu et al., 2021, arXiv 2106.09685; Kalajdzievski, 2023, arXiv 2312.03732.)
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from mlx_oss.config import ModelConfig, read_json
from mlx_oss.convert.adapter_folders import CONFIG, adapter_file
from mlx_oss.convert.merging import DTYPES, Delta, Factor
from mlx_oss.errors import CheckpointError, ConfigError, quoted
from mlx_oss.weights.layouts.description import FLOATS
from mlx_oss.weights.layouts.renaming import without_wrappers
from mlx_oss.weights.names import Shape, is_expert, modules
from mlx_oss.weights.safetensors import TensorInfo, read_header

_FACTOR = re.compile(r"(.*)\.(lora_[ABab]|lora_embedding_[AB]|base_layer)(?:\.default)?(?:\.weight)?")
_PREFIX = re.compile(r"(?:module\.|base_model\.model\.|base_model\.)+")
_LARGEST = 1 << 26  # values of a factor: 333 ranks of the releases' unembedding, 16,384 of their attention
_MERGE = (
    "merge the adapter with the program that trained it (PEFT: merge_and_unload, then save_pretrained; mlx-lm: "
    "mlx_lm.fuse)"
)
# Settings of PEFT that change more than the factors say, and what each makes of the adapter.
_ODD = {
    "use_dora": "DoRA",
    "lora_bias": "LoRA with biases",
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
_PLAIN_PATTERN = re.compile(r"\^?(\w|\\?\.|-)+\$?", re.ASCII)
_MOST_PATTERNS = 500  # compiled once each: Python keeps 512


def read_adapter(path: str | Path, config: ModelConfig) -> dict[str, Delta]:
    """The deltas of an adapter, by the path of the module.

    The values of the factors are looked at in pieces, and not kept.

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
    shapes = {module: shape for module, shape, _ in modules(config)}
    parts: dict[str, dict[str, TensorInfo]] = {}
    for name, tensor in read_header(file).items():
        module, which = _module(file, name, shapes)
        if which in parts.setdefault(module, {}):
            raise CheckpointError(f"{file}: {module} has {which} twice: use an adapter that was saved once")
        parts[module][which] = tensor
    if not parts:
        raise CheckpointError(f"{file} is empty: use the adapter of a training that has finished")
    return {module: _delta(file, module, shapes[module], found, settings) for module, found in parts.items()}


def _check_kind(folder: Path, settings: Mapping[str, Any]) -> None:
    """Raises CheckpointError for what is no plain LoRA."""
    kind, start = settings.get("peft_type", settings.get("fine_tune_type", "lora")), settings.get("init_lora_weights")
    named = [text for key, text in _ODD.items() if settings.get(key)]
    if str(kind).lower() != "lora":
        named.insert(0, quoted(kind))
    elif settings.get("bias") not in (None, "none"):
        named.append("LoRA with trained biases")
    elif not any(start is known or (isinstance(start, str) and start.lower() == known) for known in _INITIALISED):
        named.append(f"LoRA that was started with {quoted(start)}, which changes the model's own weights")
    if named:
        raise CheckpointError(f"{folder}: this adapter is {named[0]}, and only plain LoRA can be added here: {_MERGE}")


def _module(file: Path, name: str, shapes: Mapping[str, Shape]) -> tuple[str, str]:
    """The module that a tensor of the adapter belongs to, and which part it is: lora_a, lora_A, base_layer, ..."""
    match = _FACTOR.fullmatch(without_wrappers(name))
    module = re.sub(r"\.mlp\.router\.linear$", ".mlp.router", match[1] if match else name)
    if prefix := _PREFIX.match(module):
        module = module[prefix.end() :]
    if module not in shapes and f"model.{module}" in shapes:  # trained without the object that has the head
        module = f"model.{module}"
    if "experts" in module or (module in shapes and is_expert(module)):
        raise CheckpointError(
            f"{file}: tensor {name} changes experts, which are stored in MXFP4: merge the adapter into the model in "
            "bfloat16 with the program that trained it, and convert the result"
        )
    if match is None or len(shapes.get(module, ())) != 2:
        raise CheckpointError(f"{file}: tensor {name} is no LoRA factor of a module of this model: {_MERGE}")
    return module, match[2]


def _delta(
    file: Path, module: str, shape: Shape, found: Mapping[str, TensorInfo], settings: Mapping[str, Any]
) -> Delta:
    parts = dict(found)
    base = parts.pop("base_layer", None)
    left, right = _factors(file, module, parts)
    rows, columns = shape
    rank = right.shape[0] if right.shape else 0
    if not rank or (left.shape, right.shape) != ((rows, rank), (rank, columns)):
        raise CheckpointError(
            f"{file}: the factors of {module} have the shapes {left.tensor.shape} and {right.tensor.shape}, which do "
            f"not make ({rows}, {columns}): use an adapter of this model"
        )
    if rank * max(shape) > _LARGEST:
        raise CheckpointError(
            f"{file}: the factors of {module} have rank {rank}, and at most {_LARGEST // max(shape)} can be added "
            f"here: {_MERGE}"
        )
    if base is not None and (base.shape != shape or base.dtype not in FLOATS):
        raise CheckpointError(
            f"{file}: tensor {base.name} is {base.dtype} of the shape {base.shape}, but that of the model is a float "
            f"of the shape {shape}: {_MERGE}"
        )
    for factor in (left, right):
        _check_values(file, factor)
    return Delta(left, right, _scale(file.parent, module, rank, settings, right.tensor.name), base)


def _factors(file: Path, module: str, parts: Mapping[str, TensorInfo]) -> tuple[Factor, Factor]:
    """The matrices (rows, rank) and (rank, columns) of a module."""
    if "lora_a" in parts or "lora_b" in parts:  # mlx-lm's
        a, b, flipped = "lora_a", "lora_b", module != "model.embed_tokens"
    elif "lora_A" in parts or "lora_B" in parts:
        a, b, flipped = "lora_B", "lora_A", False
    else:
        a, b, flipped = "lora_embedding_A", "lora_embedding_B", True
    if missing := {a, b} - parts.keys():
        raise CheckpointError(f"{file}: {module} has no {min(missing)}: use an adapter whose saving has finished")
    if more := parts.keys() - {a, b}:
        raise CheckpointError(f"{file}: {module} has {a} and {min(more)}: use an adapter that was saved once")
    left, right = Factor(parts[a], flipped), Factor(parts[b], flipped)
    return (right, left) if flipped and a == "lora_a" else (left, right)


def _scale(folder: Path, module: str, rank: int, settings: Mapping[str, Any], name: str) -> float:
    """The factor of a module's product, as PEFT and mlx-lm compute it."""
    value: Any
    by = 1.0
    if name.endswith(("lora_a", "lora_b")):
        parameters = settings.get("lora_parameters")
        value = parameters.get("scale") if isinstance(parameters, dict) else None
        where = "lora_parameters.scale"
    else:
        where, value = "lora_alpha", settings.get("lora_alpha")
        for pattern, alpha in _patterns(folder, settings):
            if re.match(rf"(.*\.)?({pattern})$", _matched(module, settings)):
                where, value = "alpha_pattern", alpha
                break
        by = math.sqrt(rank) if settings.get("use_rslora") else rank
    try:
        scale = float(value) / by if type(value) in (int, float) else math.nan
    except OverflowError:
        scale = math.inf
    if not math.isfinite(scale):
        raise ConfigError(f"{folder / CONFIG}: {where} is no number: use the config that was saved with the adapter")
    return scale


def _patterns(folder: Path, settings: Mapping[str, Any]) -> list[tuple[str, Any]]:
    """The entries of `alpha_pattern`, whose keys PEFT takes for regular expressions. Only plain ones are tried."""
    patterns = settings.get("alpha_pattern") or {}
    if not isinstance(patterns, dict) or len(patterns) > _MOST_PATTERNS:
        raise ConfigError(f"{folder / CONFIG}: alpha_pattern is no object with names of modules: {_MERGE}")
    for pattern in patterns:
        if not _PLAIN_PATTERN.fullmatch(pattern):
            raise ConfigError(
                f"{folder / CONFIG}: alpha_pattern has {quoted(pattern)}, and only names of modules are understood "
                f"here: {_MERGE}"
            )
    return list(patterns.items())


def _matched(module: str, settings: Mapping[str, Any]) -> str:
    """What PEFT compares patterns with: the path of a module, or of a parameter if single parameters were trained."""
    is_parameter = module.endswith(".router") and bool(settings.get("target_parameters"))
    return f"{module}.weight" if is_parameter else module


def _check_values(file: Path, factor: Factor) -> None:
    """Raises CheckpointError if a factor is not of floats, or not finite."""
    tensor = factor.tensor
    if tensor.dtype not in DTYPES:
        raise CheckpointError(
            f"{file}: tensor {tensor.name} is {tensor.dtype}, expected {' or '.join(sorted(DTYPES))}: save the "
            "adapter in one of these"
        )
    if not factor.is_finite():
        raise CheckpointError(f"{file}: tensor {tensor.name} holds NaN or infinity: use another state of the training")
