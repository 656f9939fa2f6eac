"""A checkpoint folder, recognised by its content: its layout, its config, its tensors, the files beside them.

Knows the layouts' marks, nothing of how they are converted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_oss.config import ModelConfig
from mlx_oss.convert import configs, metal
from mlx_oss.errors import CheckpointError, ConfigError, ConversionError
from mlx_oss.tokenizer import check_tokenizer_json
from mlx_oss.weights.safetensors import LFS_POINTER, TensorInfo, read_folder, weight_files

HUGGING_FACE, DENSE = "Hugging Face", "Hugging Face, experts not quantised"
OPENAI, METAL, MLX = "OpenAI", "OpenAI Metal", "MLX"
# The tensor whose presence tells the layout.
_MARKS = {
    "model.layers.0.mlp.experts.gate_up_proj_blocks": HUGGING_FACE,
    "model.layers.0.mlp.experts.gate_up_proj": DENSE,
    "block.0.mlp.mlp1_weight.blocks": OPENAI,
    "model.layers.0.mlp.experts.gate_proj.weight": MLX,
}
# Files of a release that an MLX folder carries along.
_COMPANIONS = (
    "tokenizer.json tokenizer_config.json special_tokens_map.json chat_template.jinja generation_config.json LICENSE "
    "USAGE_POLICY"
).split()
_ADAPTER = "adapter_model.safetensors"  # of PEFT


@dataclass(frozen=True, slots=True)
class Source:
    """raw_config is in Hugging Face's spelling whatever the file's own is; companions are the files to carry along."""

    folder: Path
    layout: str
    config: ModelConfig
    raw_config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    companions: tuple[Path, ...]

    @property
    def lacks_companions(self) -> bool:
        """OpenAI's layouts have no file of generation settings."""
        return self.layout in (OPENAI, METAL)


def open_source(folder: Path) -> Source:
    """Raises ConversionError, ConfigError or CheckpointError for anything but one whole gpt-oss checkpoint."""
    if not folder.is_dir():
        state = "is not a folder" if folder.exists() else "does not exist"
        hint = "; GGUF files are not read" if folder.suffix == ".gguf" else ""
        raise ConversionError(f"{folder} {state}: give the folder that holds config.json and *.safetensors{hint}")
    if metal.is_metal(folder):
        raw, found = metal.read_metal(folder)
        return Source(folder, METAL, ModelConfig.from_dict(raw), raw, found, ())
    if (folder / "adapter_config.json").is_file() and {*weight_files(folder)} <= {_ADAPTER}:
        raise ConversionError(
            f"{folder} holds a LoRA adapter: merge it into its model first (PEFT: merge_and_unload, save_pretrained)"
        )
    if not weight_files(folder):
        _refuse_without_weights(folder)
    raw, config = _read_config(folder / "config.json")
    tensors = read_folder(folder)
    layouts = {layout for mark, layout in _MARKS.items() if mark in tensors}
    if len(layouts) != 1:
        raise CheckpointError(
            f"{folder} holds a gpt-oss config but its tensors are in no layout known here "
            f"({_spell(layouts)}): give a released checkpoint"
        )
    return Source(folder, layouts.pop(), config, raw, tensors, _companions(folder))


def _refuse_without_weights(folder: Path) -> None:
    """Where it can be told what is wrong; otherwise `read_folder` will."""
    if weight_files(folder / "original"):
        raise ConversionError(f"{folder} holds no *.safetensors file, but original/ does: give {folder / 'original'}")
    if any(folder.glob("*.bin")):
        raise ConversionError(f"{folder} holds PyTorch's *.bin files: save the model as safetensors")
    if any(folder.glob("*.gguf")):
        raise ConversionError(f"{folder} holds GGUF files, which are not read: give the model as Hugging Face has it")


def _spell(layouts: set[str]) -> str:
    return f"marks of {' and '.join(sorted(layouts))}" if layouts else f"none of {', '.join(_MARKS)}"


def _read_config(path: Path) -> tuple[dict[str, Any], ModelConfig]:
    if not path.is_file():
        raise ConversionError(f"{path} is missing: give the folder that holds config.json and *.safetensors")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read as JSON ({error}): fetch it again") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} holds no JSON object: fetch it again")
    stored = raw.get("quantization_config")
    method = stored.get("quant_method", "mxfp4") if isinstance(stored, dict) else "mxfp4"
    if method != "mxfp4":
        raise ConfigError(
            f"{path}: the weights are quantised by {method!r}, which is not read: save the model in bfloat16"
        )
    try:
        raw = configs.from_openai(raw) if configs.is_openai(raw) else raw
        return raw, ModelConfig.from_dict(raw)
    except ConfigError as error:
        raise ConfigError(str(error).replace("config.json", str(path), 1)) from None


def _companions(folder: Path) -> tuple[Path, ...]:
    found = tuple(path for name in _COMPANIONS if (path := folder / name).is_file())
    for path in found:
        try:
            with path.open("rb") as file:
                head = file.read(len(LFS_POINTER))
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read ({error.strerror}): fetch it again") from None
        if head == LFS_POINTER:
            raise CheckpointError(f"{path} is a Git LFS pointer, not the file: run `git lfs pull` in its folder")
        if path.name == "tokenizer.json":
            check_tokenizer_json(path)
    return found
