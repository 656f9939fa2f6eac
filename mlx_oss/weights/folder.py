"""Checks an MLX folder and describes it: its config, its tensors, how each module is stored, what the model fuses.

The folder must contain every tensor that the config requires, once, in its shape and dtype, and no other tensor. Reads
headers only: `loader` reads the weights and `memory` counts them.
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

# Modules of the folder that the model holds as one matrix, stacked by rows in this order.
_FUSED = {
    "q_proj": "qkv_proj",
    "k_proj": "qkv_proj",
    "v_proj": "qkv_proj",
    "gate_proj": "gate_up_proj",
    "up_proj": "gate_up_proj",
}
FLOATS = frozenset({"BF16", "F16", "F32"})
SUFFIXES = ("weight", "scales", "biases", "bias")  # names of a module's tensors


@dataclass(frozen=True, slots=True)
class ModelFolder:
    """An MLX folder that passed all checks and can be loaded.

    Attributes:
        path: The folder.
        config: The model's config.
        tensors: Every tensor of the folder, by name.
        specs: How each module is quantised, by its path in the folder. None: it is not quantised.
        fusions: For each module path in the model, the modules of the folder it consists of, in the order of their
            rows.
    """

    path: Path
    config: ModelConfig
    tensors: Mapping[str, TensorInfo]
    specs: Mapping[str, QuantizationSpec | None]
    fusions: Mapping[str, tuple[str, ...]]

    def fused_spec(self, target: str) -> QuantizationSpec | None:
        """How the model quantises the module `target`; None if not at all.

        Parts that are all quantised in the same way stay as they are. Otherwise they are dequantised, which is exact,
        and held as one matrix.
        """
        specs = [self.specs[member] for member in self.fusions[target]]
        return specs[0] if len(set(specs)) == 1 else None

    def is_alike(self, target: str) -> bool:
        """True if the parts of `target` have the same quantisation and dtypes, so they can be joined as stored."""

        def storage(member: str) -> tuple[object, ...]:
            tensors = [self.tensors.get(f"{member}.{suffix}") for suffix in SUFFIXES]
            return self.specs[member], *(tensor and tensor.dtype for tensor in tensors)

        return len({storage(member) for member in self.fusions[target]}) == 1


def open_folder(path: str | Path) -> ModelFolder:
    """Reads the config and the tensor headers of an MLX folder, and checks them against each other.

    Raises:
        ConfigError: If config.json is missing or wrong; names the file and key.
        CheckpointError: If the folder, a file or a tensor is missing or wrong; names it.
    """
    folder = Path(os.path.expanduser(path))
    if not os.path.isdir(folder):  # Path.is_dir can raise PermissionError, os.path.isdir never does
        raise CheckpointError(f"{folder} is not a folder, or is not accessible: give the folder of a converted model")
    tensors = read_folder(folder)
    _refuse_release(folder, tensors)  # before the config is read: in OpenAI's own layout it has other keys
    config = ModelConfig.from_file(folder / "config.json")
    specs = _specs(config, folder, tensors)
    _check(config, folder, tensors, specs)
    return ModelFolder(folder, config, tensors, specs, dict(_fusions(config)))


def _refuse_release(folder: Path, tensors: dict[str, TensorInfo]) -> None:
    for name in tensors:
        if name.endswith(("_blocks", "gate_up_proj", ".blocks")) or name.startswith("block."):
            raise CheckpointError(
                f"{folder} is a checkpoint in the released layout (tensor {name}): convert it to an MLX folder first "
                f"with `mlx-oss convert {folder} DST`"
            )


def _specs(config: ModelConfig, folder: Path, tensors: dict[str, TensorInfo]) -> dict[str, QuantizationSpec | None]:
    """How each module is stored. It is quantised if it has `.scales`, by its own config entry or else the default."""
    specs: dict[str, QuantizationSpec | None] = {}
    for path, shape, _ in modules(config):
        spec = None
        if f"{path}.scales" in tensors:
            spec = config.quantization.for_module(path) if config.quantization else None
            if spec is None or not can_quantize(path):
                raise CheckpointError(
                    f"{folder}: {path} is quantised, but config.json has no `quantization` for it: download or convert "
                    "the model again"
                )
            if shape[-1] % spec.group_size:
                raise CheckpointError(
                    f"{folder}: {path} has {shape[-1]} columns, which is not a multiple of the group size "
                    f"{spec.group_size} in config.json: convert the release again"
                )
        elif is_expert(path) and f"{path}.weight" in tensors:
            raise CheckpointError(f"{folder}: {path} is not quantised: convert the release with `mlx-oss convert`")
        specs[path] = spec
        if path.endswith(".up_proj") and specs[path.replace("up_proj", "gate_proj")] not in (None, spec):
            raise CheckpointError(
                f"{folder}: {path} and its gate_proj are quantised differently: convert the release with "
                "`mlx-oss convert`"
            )
    return specs


def _check(
    config: ModelConfig, folder: Path, tensors: dict[str, TensorInfo], specs: dict[str, QuantizationSpec | None]
) -> None:
    """Checks that names, shapes and dtypes are exactly those that the config requires."""
    expected = plain_tensors(config)
    for path, shape, bias in modules(config):
        expected |= stored_tensors(path, shape, bias, specs[path])
    for name, shape in expected.items():
        if name not in tensors:
            raise CheckpointError(f"{folder}: tensor {name} is missing: download or convert the model again")
        tensor = tensors[name]
        if tensor.shape != shape:
            raise CheckpointError(
                f"{tensor.file}: tensor {name} has shape {tensor.shape}, but config.json requires {shape}: download or "
                "convert the model again"
            )
        allowed = _dtypes(name, specs)
        if tensor.dtype not in allowed:
            expected_dtypes = " or ".join(sorted(allowed))
            raise CheckpointError(
                f"{tensor.file}: tensor {name} is {tensor.dtype}, expected {expected_dtypes}: convert the release again"
            )
    if unknown := sorted(set(tensors) - set(expected)):
        raise CheckpointError(
            f"{tensors[unknown[0]].file}: tensor {unknown[0]} is not part of the gpt-oss model that config.json "
            "describes: download or convert the model again"
        )


def _dtypes(name: str, specs: dict[str, QuantizationSpec | None]) -> frozenset[str]:
    path, _, suffix = name.rpartition(".")
    spec = specs.get(path)
    if spec is not None and suffix == "weight":
        return frozenset({"U32"})
    if spec is not None and suffix == "scales" and spec.mode == MXFP4.mode:
        return frozenset({"U8"})
    return FLOATS


def _fusions(config: ModelConfig) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yields (module path in the model, the modules of the folder it consists of, in the order of their rows)."""

    def target(path: str) -> str:
        parent, _, name = path.removeprefix("model.").rpartition(".")
        return f"{parent}.{_FUSED.get(name, name)}".removeprefix(".")

    for path, members in groupby((path for path, _, _ in modules(config)), key=target):
        yield path, tuple(members)
