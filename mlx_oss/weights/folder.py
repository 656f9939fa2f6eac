"""What an MLX folder holds, checked: its config, its tensors, how each module is stored, and what the model fuses.

Exactly what the config asks for, once, in its shape and dtype, and nothing else. Opens no tensor: `loader` reads the
weights and `planner` counts them.
"""

from __future__ import annotations

import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path

from mlx_oss.config import MXFP4, ModelConfig, QuantizationSpec
from mlx_oss.errors import CheckpointError
from mlx_oss.weights.names import can_quantize, is_expert, modules, plain_tensors, stored_tensors
from mlx_oss.weights.safetensors import TensorInfo, read_folder

# What the model holds as one matrix, stacked by rows in this order.
_FUSED = {
    "q_proj": "qkv_proj",
    "k_proj": "qkv_proj",
    "v_proj": "qkv_proj",
    "gate_proj": "gate_up_proj",
    "up_proj": "gate_up_proj",
}
FLOATS = frozenset({"BF16", "F16", "F32"})
SUFFIXES = ("weight", "scales", "biases", "bias")  # of a module's tensors


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """An MLX folder that can be loaded.

    specs    by module path in the folder how it is stored; None: not quantised
    fusions  by module path in the model the folder's modules it is made of, in the order of their rows
    """

    path: Path
    config: ModelConfig
    tensors: Mapping[str, TensorInfo]
    specs: Mapping[str, QuantizationSpec | None]
    fusions: Mapping[str, tuple[str, ...]]

    def fused_spec(self, target: str) -> QuantizationSpec | None:
        """How the model holds a module: parts that are stored alike stay so; others are dequantised (exactly), to be
        held as one matrix.
        """
        specs = [self.specs[member] for member in self.fusions[target]]
        return specs[0] if len(set(specs)) == 1 else None

    def is_alike(self, target: str) -> bool:
        """Whether the parts that the model fuses can be joined as they are stored."""

        def stored(member: str) -> tuple[object, ...]:
            tensors = [self.tensors.get(f"{member}.{suffix}") for suffix in SUFFIXES]
            return self.specs[member], *(tensor and tensor.dtype for tensor in tensors)

        return len({stored(member) for member in self.fusions[target]}) == 1


def open_folder(path: str | Path) -> ModelFolder:
    """Raises ConfigError and CheckpointError, naming the file, key or tensor that is wrong."""
    folder = Path(os.path.expanduser(path))
    if not os.path.isdir(folder):  # unlike pathlib's, never an error
        raise CheckpointError(f"{folder} is not a folder, or may not be entered: give the folder of a converted model")
    tensors = read_folder(folder)
    _refuse_release(folder, tensors)  # before the config, which OpenAI's own layout spells otherwise
    config = ModelConfig.from_file(folder / "config.json")
    specs = _specs(config, folder, tensors)
    _check(config, folder, tensors, specs)
    return ModelFolder(folder, config, tensors, specs, dict(_fusions(config)))


def _refuse_release(folder: Path, tensors: dict[str, TensorInfo]) -> None:
    for name in tensors:
        if name.endswith(("_blocks", "gate_up_proj", ".blocks")) or name.startswith("block."):
            raise CheckpointError(
                f"{folder} holds a checkpoint as released (tensor {name}): turn it into an MLX folder first, "
                f"`mlx-oss convert {folder} DST`"
            )


def _specs(config: ModelConfig, folder: Path, tensors: dict[str, TensorInfo]) -> dict[str, QuantizationSpec | None]:
    """How each module is stored: quantised if its `.scales` are there, by its own entry or the default."""
    specs: dict[str, QuantizationSpec | None] = {}
    for path, shape, _ in modules(config):
        spec = None
        if f"{path}.scales" in tensors:
            spec = config.quantization.for_module(path) if config.quantization else None
            if spec is None or not can_quantize(path):
                raise CheckpointError(f"{folder}: {path} is quantised, but config.json has no `quantization` for it")
            if shape[-1] % spec.group_size:
                raise CheckpointError(
                    f"{folder}: {path} has {shape[-1]} columns, in groups of {spec.group_size} by config.json: "
                    "convert the release again"
                )
        elif is_expert(path) and f"{path}.weight" in tensors:
            raise CheckpointError(f"{folder}: {path} is not quantised: convert the release with `mlx-oss convert`")
        specs[path] = spec
        if path.endswith(".up_proj") and specs[path.replace("up_proj", "gate_proj")] not in (None, spec):
            raise CheckpointError(
                f"{folder}: {path} is stored otherwise than its gate_proj: convert the release with `mlx-oss convert`"
            )
    return specs


def _check(
    config: ModelConfig, folder: Path, tensors: dict[str, TensorInfo], specs: dict[str, QuantizationSpec | None]
) -> None:
    """Names, shapes and dtypes: exactly what the config asks for."""
    expected = plain_tensors(config)
    for path, shape, bias in modules(config):
        expected |= stored_tensors(path, shape, bias, specs[path])
    for name, shape in expected.items():
        if name not in tensors:
            raise CheckpointError(f"{folder}: tensor {name} is missing: fetch or convert the model again")
        found = tensors[name]
        if found.shape != shape:
            raise CheckpointError(f"{found.file}: tensor {name} has shape {found.shape}, config.json asks for {shape}")
        allowed = _dtypes(name, specs)
        if found.dtype not in allowed:
            wanted = " or ".join(sorted(allowed))
            raise CheckpointError(f"{found.file}: tensor {name} is {found.dtype}, expected {wanted}")
    if unknown := sorted(set(tensors) - set(expected)):
        raise CheckpointError(f"{tensors[unknown[0]].file}: tensor {unknown[0]} is not part of a gpt-oss model")


def _dtypes(name: str, specs: dict[str, QuantizationSpec | None]) -> frozenset[str]:
    path, _, suffix = name.rpartition(".")
    spec = specs.get(path)
    if spec is not None and suffix == "weight":
        return frozenset({"U32"})
    if spec is not None and suffix == "scales" and spec.mode == MXFP4.mode:
        return frozenset({"U8"})
    return FLOATS


def _fusions(config: ModelConfig) -> Iterator[tuple[str, tuple[str, ...]]]:
    """(module path in the model, the folder's modules it is made of, in the order of their rows)."""

    def target(path: str) -> str:
        parent, _, name = path.removeprefix("model.").rpartition(".")
        return f"{parent}.{_FUSED.get(name, name)}".removeprefix(".")

    for path, members in groupby((path for path, _, _ in modules(config)), key=target):
        yield path, tuple(members)
