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
from mlx_oss.errors import ConfigError, WrongFolderError, quoted
from mlx_oss.files import expanded
from mlx_oss.weights.layouts import metal, openai
from mlx_oss.weights.layouts.description import CanonicalTensor, Layout
from mlx_oss.weights.layouts.finder import Finder, packed_dtype
from mlx_oss.weights.layouts.folders import refuse_what_is_no_model, tell_what_is_not_read
from mlx_oss.weights.layouts.hugging_face import HUGGING_FACE
from mlx_oss.weights.layouts.metal import METAL
from mlx_oss.weights.layouts.mlx_folder import MLX
from mlx_oss.weights.layouts.openai import OPENAI
from mlx_oss.weights.layouts.recognition import is_mlx, recognised, refuse_adapter
from mlx_oss.weights.layouts.releases import RELEASES
from mlx_oss.weights.layouts.renaming import by_layout_name
from mlx_oss.weights.names import (
    can_quantize,
    is_expert,
    lossless_quantization,
    modules,
    plain_tensors,
    stored_tensors,
)
from mlx_oss.weights.safetensors import ITEMSIZE, TensorInfo, read_folder


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that passed all checks.

    Attributes:
        folder: Its folder.
        layout: How it stores the model.
        config: The model's config.
        raw_config: The parsed config, with Hugging Face's keys in every layout.
        file_tensors: The tensors of its files, by their names in the layout; in the files, a prefix may precede them.
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
    refuse_what_is_no_model(folder)
    if metal.is_metal(folder):
        layout, (raw, files) = METAL, metal.read_metal(folder)
        config = ModelConfig.from_dict(raw)
    else:
        stored = read_folder(folder)
        refuse_adapter(stored.values())
        raw = read_json(folder / "config.json")
        tell_what_is_not_read(folder, {tensor.file.name for tensor in stored.values()})
        files = by_layout_name(folder, stored)
        _refuse_foreign_quantisation(folder / "config.json", raw, files)
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
    return _unwritten(Path(name), layout, config, raw, specs)


def as_converted(source: Checkpoint) -> Checkpoint:
    """What `mlx-oss convert` makes of a checkpoint without options, as a checkpoint whose files do not exist.

    With it, a model that cannot be loaded as it is can be planned before it is converted.
    """
    return _unwritten(source.folder, MLX, source.config, source.raw_config, source.specs)


def _unwritten(
    folder: Path,
    layout: Layout,
    config: ModelConfig,
    raw: Mapping[str, Any],
    specs: Mapping[str, QuantizationSpec | None],
) -> Checkpoint:
    """A checkpoint of which only names and shapes are known."""
    files: dict[str, TensorInfo] = {}
    shapes = {
        stored: (packed_dtype(stored, specs[module]), stored_shape)
        for module, shape, bias in modules(config)
        for stored, stored_shape in stored_tensors(module, shape, bias, specs[module]).items()
    }
    shapes |= {name: (None, shape) for name, shape in plain_tensors(config).items()}
    for tensor, (dtype, shape) in shapes.items():
        stored = layout.locate(tensor, dtype, shape, config)
        held = stored.dtype or "BF16"
        nbytes = math.prod(stored.shape) * ITEMSIZE[held]
        files[stored.name] = TensorInfo(stored.name, folder, held, stored.shape, 0, nbytes)
    return _found(folder, layout, config, raw, files)


def _found(
    folder: Path, layout: Layout, config: ModelConfig, raw: Mapping[str, Any], files: Mapping[str, TensorInfo]
) -> Checkpoint:
    """Finds every canonical tensor in the tensors of the files."""
    finder = Finder(folder, layout, config, files)
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
    """Raises WrongFolderError if a model cannot be loaded from a checkpoint as it is."""
    if reason := checkpoint.layout.must_convert:
        folder = checkpoint.folder
        raise WrongFolderError(
            f"{folder} cannot be loaded as it is, because {reason}: convert it with `mlx-oss convert "
            f"{shlex.quote(str(folder))} DST`"
        )


def _refuse_foreign_quantisation(path: Path, raw: Mapping[str, Any], files: Mapping[str, TensorInfo]) -> None:
    """Raises ConfigError if the weights are in a format of another program; in an MLX folder the key is left over."""
    quantization = raw.get("quantization_config")
    method = quantization.get("quant_method") if isinstance(quantization, dict) else None
    if method not in (None, "mxfp4") and "quantization" not in raw and not is_mlx(files):
        raise ConfigError(
            f"{path}: the weights are quantised with {quoted(method)}, which is not supported: save the model in "
            "bfloat16"
        )


def _checked_config(path: Path, raw: dict[str, Any], layout: Layout) -> tuple[dict[str, Any], ModelConfig]:
    """Returns (the config with Hugging Face's keys, the checked config)."""
    try:
        has_openai_keys = openai.is_openai(raw) or (layout.name.startswith(OPENAI.name) and "model_type" not in raw)
        raw = openai.from_openai(raw) if has_openai_keys else raw
        return raw, ModelConfig.from_dict(raw)
    except ConfigError as error:
        raise ConfigError(str(error).replace("config.json", str(path), 1)) from None
