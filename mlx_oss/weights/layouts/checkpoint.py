"""Opens the folder of a checkpoint: recognises its layout, and finds every tensor that the config requires.

The folder must contain each of these tensors once, in its shape and dtype, and no other. Reads the config and headers
only, no weights.
"""

from __future__ import annotations

import math
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_oss.config import MXFP4, ModelConfig, QuantizationSpec, read_json
from mlx_oss.errors import CheckpointError, ConfigError, quoted
from mlx_oss.files import expanded
from mlx_oss.weights.layouts import metal, openai
from mlx_oss.weights.layouts.description import FLOATS, CanonicalTensor, Layout, Location, RowsLeftOut
from mlx_oss.weights.layouts.hugging_face import DENSE, HUGGING_FACE
from mlx_oss.weights.layouts.metal import METAL
from mlx_oss.weights.layouts.mlx_folder import MLX
from mlx_oss.weights.layouts.openai import OPENAI
from mlx_oss.weights.layouts.releases import RELEASES
from mlx_oss.weights.names import (
    Shape,
    can_quantize,
    is_expert,
    lossless_quantization,
    modules,
    plain_tensors,
    stored_tensors,
)
from mlx_oss.weights.safetensors import ITEMSIZE, TensorInfo, check_folder, read_folder, weight_files

# Endings of names that only one layout has.
_MARKERS = {
    ".mlp.experts.gate_up_proj_blocks": HUGGING_FACE,
    ".mlp.experts.gate_up_proj": DENSE,
    ".mlp.mlp1_weight.blocks": OPENAI,
    ".mlp.experts.gate_proj.weight": MLX,
}
_ADAPTER = "adapter_model.safetensors"  # the name under which PEFT saves a LoRA adapter


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that passed all checks.

    Attributes:
        folder: Its folder.
        layout: How it stores the model.
        config: The model's config.
        raw_config: The parsed config, with Hugging Face's keys in every layout.
        file_tensors: The tensors of its files, by their names there.
        specs: How each module's canonical tensors are quantised, by the module's path. None: not at all.
        tensors: The canonical tensors, by name, in the order in which the model uses them.
    """

    folder: Path
    layout: Layout
    config: ModelConfig
    raw_config: Mapping[str, Any]
    file_tensors: Mapping[str, TensorInfo]
    specs: Mapping[str, QuantizationSpec | None]
    tensors: Mapping[str, CanonicalTensor]


def open_checkpoint(path: str | Path) -> Checkpoint:
    """Opens a checkpoint in any layout.

    Raises:
        ConfigError: If config.json is missing, damaged or not a gpt-oss config, or the weights are quantised in another
            format.
        CheckpointError: If `path` is not the folder of a model or holds a format that is not supported, or if a file
            or tensor is missing, damaged, unknown, or of the wrong shape or dtype.
    """
    folder = expanded(path)
    _refuse_what_is_no_checkpoint(folder)
    if metal.is_metal(folder):
        layout, (raw, files) = METAL, metal.read_metal(folder)
        config = ModelConfig.from_dict(raw)
    else:
        files = read_folder(folder)
        raw = _read_config(folder / "config.json")
        layout = recognised(folder, files)
        raw, config = _checked_config(folder / "config.json", raw, layout)
    return _found(folder, layout, config, raw, files)


def released(name: str, bits: int | None = None) -> Checkpoint:
    """A released model as a checkpoint whose files do not exist, to plan with before anything is downloaded.

    Args:
        name: A key of `releases.RELEASES`, which is also its folder.
        bits: None: as released. Otherwise as `mlx-oss convert` stores it if everything outside the experts is quantised
            with this many bits, in affine groups of 64.
    """
    raw = openai.from_openai(RELEASES[name])
    config, layout = ModelConfig.from_dict(raw), HUGGING_FACE
    specs = {module: MXFP4 if is_expert(module) else None for module, _, _ in modules(config)}
    if bits is not None:
        layout, affine = MLX, {"group_size": 64, "bits": bits, "mode": "affine"}
        quantized = [module for module in specs if can_quantize(module) and not is_expert(module)]
        raw["quantization"] = lossless_quantization() | dict.fromkeys(quantized, affine)
        config = ModelConfig.from_dict(raw)
        specs |= dict.fromkeys(quantized, QuantizationSpec(64, bits))
    files: dict[str, TensorInfo] = {}
    shapes = {
        stored: (_packed_dtype(stored, specs[module]), stored_shape)
        for module, shape, bias in modules(config)
        for stored, stored_shape in stored_tensors(module, shape, bias, specs[module]).items()
    }
    shapes |= {name: (None, shape) for name, shape in plain_tensors(config).items()}
    for tensor, (dtype, shape) in shapes.items():
        stored = layout.locate(tensor, dtype, shape, config)
        held = stored.dtype or "BF16"
        nbytes = math.prod(stored.shape) * ITEMSIZE[held]
        files[stored.name] = TensorInfo(stored.name, Path(name), held, stored.shape, 0, nbytes)
    return _found(Path(name), layout, config, raw, files)


def _found(
    folder: Path, layout: Layout, config: ModelConfig, raw: Mapping[str, Any], files: Mapping[str, TensorInfo]
) -> Checkpoint:
    """Finds every canonical tensor in the tensors of the files."""
    finder = _Finder(folder, layout, config, files)
    specs = {module: finder.spec(module, shape) for module, shape, _ in modules(config)}
    tensors = {tensor.name: tensor for tensor in finder.tensors(specs)}
    return Checkpoint(folder, layout, config, raw, files, specs, tensors)


def open_model(path: str | Path) -> Checkpoint:
    """Opens a checkpoint that a model can be loaded from as it is.

    Raises:
        ConfigError: As `open_checkpoint`.
        CheckpointError: As `open_checkpoint`, or if the layout has to be converted first.
    """
    checkpoint = open_checkpoint(path)
    check_loadable(checkpoint)
    return checkpoint


def check_loadable(checkpoint: Checkpoint) -> None:
    """Raises CheckpointError if a model cannot be loaded from a checkpoint as it is."""
    if reason := checkpoint.layout.must_convert:
        folder = checkpoint.folder
        raise CheckpointError(
            f"{folder} cannot be loaded as it is, because {reason}: convert it with `mlx-oss convert "
            f"{shlex.quote(str(folder))} DST`"
        )


def _refuse_what_is_no_checkpoint(folder: Path) -> None:
    """Raises CheckpointError for what is known not to be a checkpoint. Reading the files finds the rest."""
    check_folder(folder)
    weights = weight_files(folder)
    if (folder / "adapter_config.json").is_file() and {*weights} <= {_ADAPTER}:
        raise CheckpointError(
            f"{folder} holds a LoRA adapter, not a model: merge it into its model first (with PEFT: merge_and_unload, "
            "then save_pretrained)"
        )
    if weights or metal.is_metal(folder):
        return
    for name in ("original", "metal"):
        if weight_files(folder / name) or metal.is_metal(folder / name):
            raise CheckpointError(f"{folder} holds no weights, but {name}/ does: give {folder / name}")
    if weight_files(folder, "*.bin"):
        raise CheckpointError(
            f"{folder} holds PyTorch *.bin files, which are not supported: save the model as safetensors"
        )
    if weight_files(folder, "*.gguf"):
        raise CheckpointError(
            f"{folder} holds GGUF files, which are not supported: use the model in Hugging Face's format "
            "(config.json and *.safetensors)"
        )


def _read_config(path: Path) -> dict[str, Any]:
    raw = read_json(path)
    quantization = raw.get("quantization_config")
    method = quantization.get("quant_method") if isinstance(quantization, dict) else None
    if method not in (None, "mxfp4") and "quantization" not in raw:  # the key of MLX folders, for which it is left over
        raise ConfigError(
            f"{path}: the weights are quantised with {quoted(method)}, which is not supported: save the model in "
            "bfloat16"
        )
    return raw


def _checked_config(path: Path, raw: dict[str, Any], layout: Layout) -> tuple[dict[str, Any], ModelConfig]:
    """Returns (the config with Hugging Face's keys, the checked config)."""
    try:
        has_openai_keys = openai.is_openai(raw) or (layout is OPENAI and "model_type" not in raw)
        raw = openai.from_openai(raw) if has_openai_keys else raw
        return raw, ModelConfig.from_dict(raw)
    except ConfigError as error:
        raise ConfigError(str(error).replace("config.json", str(path), 1)) from None


def recognised(folder: Path, files: Mapping[str, TensorInfo]) -> Layout:
    """The layout of a folder, by the names of the tensors in its files. Raises CheckpointError if it is none or two."""
    if metal.is_metal(folder):
        return METAL
    layouts = [layout for marker, layout in _MARKERS.items() if any(name.endswith(marker) for name in files)]
    if len(layouts) == 1:
        return layouts[0]
    found = f"it has tensors of {' and '.join(layout.name for layout in layouts)}"
    if not layouts:
        found = f"none of its tensors has a name that ends in {', '.join(_MARKERS)}"
    raise CheckpointError(
        f"{folder}: its tensors do not match exactly one known layout of gpt-oss ({found}): use a released checkpoint"
    )


@dataclass(frozen=True, slots=True)
class _Finder:
    """Finds what belongs to the model in the files of a folder, and checks that nothing is missing or left over."""

    folder: Path
    layout: Layout
    config: ModelConfig
    files: Mapping[str, TensorInfo]

    def spec(self, module: str, shape: Shape) -> QuantizationSpec | None:
        """How a module's canonical tensors are quantised.

        In an MLX folder, a module is quantised if it has `.scales`, by its own entry in the config or else the default.
        In every other layout, the experts are MXFP4, and nothing else is quantised.
        """
        if self.layout is not MLX:
            return MXFP4 if is_expert(module) else None
        if f"{module}.scales" not in self.files:
            if is_expert(module) and f"{module}.weight" in self.files:
                raise CheckpointError(
                    f"{self.folder}: {module} is not quantised: convert the release with `mlx-oss convert`"
                )
            return None
        spec = self.config.quantization.for_module(module) if self.config.quantization else None
        if spec is None or not can_quantize(module):
            raise CheckpointError(
                f"{self.folder}: {module} is quantised, but config.json has no `quantization` for it: download or "
                "convert the model again"
            )
        if shape[-1] % spec.group_size:
            raise CheckpointError(
                f"{self.folder}: {module} has {shape[-1]} columns, which is not a multiple of the group size "
                f"{spec.group_size} in config.json: convert the release again"
            )
        return spec

    def tensors(self, specs: Mapping[str, QuantizationSpec | None]) -> list[CanonicalTensor]:
        """All canonical tensors, in the order in which the model uses them."""
        found = []
        for module, shape, bias in modules(self.config):
            spec = specs[module]
            if module.endswith(".up_proj") and specs[module.replace("up_proj", "gate_proj")] not in (None, spec):
                raise CheckpointError(
                    f"{self.folder}: {module} and its gate_proj are quantised differently: convert the release with "
                    "`mlx-oss convert`"
                )
            for name, stored_shape in stored_tensors(module, shape, bias, spec).items():
                found.append(self._find(name, _packed_dtype(name, spec), stored_shape))
        found += [self._find(name, None, shape) for name, shape in plain_tensors(self.config).items()]
        used = {source.name for tensor in found for source in tensor.sources}
        if unknown := sorted(set(self.files) - used):
            raise CheckpointError(
                f"{self.files[unknown[0]].file}: tensor {unknown[0]} is not part of the gpt-oss model that config.json "
                "describes: use a plain gpt-oss model, which has no such tensor"
            )
        return found

    def _find(self, name: str, dtype: str | None, shape: Shape) -> CanonicalTensor:
        """Finds a canonical tensor. Its dtype is None for floats."""
        stored = self.layout.locate(name, dtype, shape, self.config)
        names = [f"{stored.name}.{expert}" for expert in range(shape[0])] if stored.by_expert else [stored.name]
        sources = tuple(self._checked(source, stored) for source in names)
        dtype = dtype or self.layout.dtype or sources[0].dtype
        return CanonicalTensor(name, dtype, shape, sources, stored.first, stored.step, stored.change)

    def _checked(self, name: str, stored: Location) -> TensorInfo:
        tensor = self.files.get(name)
        if tensor is None:
            raise CheckpointError(f"{self.folder}: tensor {name} is missing: download or convert the model again")
        shape = stored.shape
        if isinstance(stored.change, RowsLeftOut) and tensor.shape[0] < shape[0]:
            shape = (tensor.shape[0], *shape[1:])
        if tensor.shape != shape:
            raise CheckpointError(
                f"{tensor.file}: tensor {name} has shape {tensor.shape}, but config.json requires {shape}: check that "
                "both belong to the same model, or download or convert it again"
            )
        allowed = FLOATS if stored.dtype is None else {stored.dtype}
        if tensor.dtype not in allowed:
            raise CheckpointError(
                f"{tensor.file}: tensor {name} is {tensor.dtype}, expected {' or '.join(sorted(allowed))}: use a "
                "released checkpoint, or a fine-tune in bfloat16, float16 or float32"
            )
        return tensor


def _packed_dtype(name: str, spec: QuantizationSpec | None) -> str | None:
    """The dtype of a canonical tensor of integers; None for floats."""
    if spec is not None and name.endswith(".weight"):
        return "U32"
    return "U8" if spec == MXFP4 and name.endswith(".scales") else None
