"""Opens a checkpoint folder: recognises its layout by its content, and reads its config and its tensors' headers.

Also finds the other files to copy. Knows how the layouts differ, but nothing of how they are converted.
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
# A tensor that only one layout has.
_MARKER_TENSORS = {
    "model.layers.0.mlp.experts.gate_up_proj_blocks": HUGGING_FACE,
    "model.layers.0.mlp.experts.gate_up_proj": DENSE,
    "block.0.mlp.mlp1_weight.blocks": OPENAI,
    "model.layers.0.mlp.experts.gate_proj.weight": MLX,
}
# Files of a release that are copied into the MLX folder.
_COMPANIONS = (
    "tokenizer.json tokenizer_config.json special_tokens_map.json chat_template.jinja generation_config.json LICENSE "
    "USAGE_POLICY"
).split()
_ADAPTER = "adapter_model.safetensors"  # the name under which PEFT saves a LoRA adapter


@dataclass(frozen=True, slots=True)
class Source:
    """A checkpoint.

    Attributes:
        folder: Its folder.
        layout: One of the layout names above.
        config: Its checked config.
        raw_config: The parsed config, with Hugging Face's keys in every layout.
        tensors: All tensors by their names in the files.
        companions: Paths of the other files to copy into the MLX folder.
    """

    folder: Path
    layout: str
    config: ModelConfig
    raw_config: Mapping[str, Any]
    tensors: Mapping[str, TensorInfo]
    companions: tuple[Path, ...]

    @property
    def lacks_companions(self) -> bool:
        """True for OpenAI's layouts, which have no generation_config.json."""
        return self.layout in (OPENAI, METAL)


def open_source(folder: Path) -> Source:
    """Reads everything of a checkpoint except the tensors' data.

    Raises:
        ConversionError: If `folder` is not the folder of a model, or holds a format that is not supported.
        ConfigError: If config.json is damaged or not a gpt-oss config, or the weights are quantised in another format.
        CheckpointError: If a file is missing or damaged, or the tensors match no layout.
        TokenizerError: If tokenizer.json disagrees with the bundled vocabulary.
    """
    if not folder.is_dir():
        state = "is not a folder" if folder.exists() else "does not exist"
        hint = "; GGUF files are not supported" if folder.suffix == ".gguf" else ""
        raise ConversionError(f"{folder} {state}: give the folder that holds config.json and *.safetensors{hint}")
    if metal.is_metal(folder):
        raw, tensors = metal.read_metal(folder)
        return Source(folder, METAL, ModelConfig.from_dict(raw), raw, tensors, ())
    if (folder / "adapter_config.json").is_file() and {*weight_files(folder)} <= {_ADAPTER}:
        raise ConversionError(
            f"{folder} holds a LoRA adapter, not a model: merge it into its model first (with PEFT: merge_and_unload, "
            "then save_pretrained)"
        )
    if not weight_files(folder):
        _refuse_without_weights(folder)
    raw, config = _read_config(folder / "config.json")
    tensors = read_folder(folder)
    layouts = {layout for marker, layout in _MARKER_TENSORS.items() if marker in tensors}
    if len(layouts) != 1:
        raise CheckpointError(
            f"{folder} has a gpt-oss config, but its tensors do not match exactly one known layout "
            f"({_markers_found(layouts)}): use a released checkpoint"
        )
    return Source(folder, layouts.pop(), config, raw, tensors, _companions(folder))


def _refuse_without_weights(folder: Path) -> None:
    """Raises ConversionError if it is clear why there are no weights. If not, `read_folder` raises later."""
    if weight_files(folder / "original"):
        raise ConversionError(f"{folder} holds no *.safetensors file, but original/ does: give {folder / 'original'}")
    if any(folder.glob("*.bin")):
        raise ConversionError(
            f"{folder} holds PyTorch *.bin files, which are not supported: save the model as safetensors"
        )
    if any(folder.glob("*.gguf")):
        raise ConversionError(
            f"{folder} holds GGUF files, which are not supported: use the model in Hugging Face's format "
            "(config.json and *.safetensors)"
        )


def _markers_found(layouts: set[str]) -> str:
    if layouts:
        return f"there are tensors of {' and '.join(sorted(layouts))}"
    return f"there is none of {', '.join(_MARKER_TENSORS)}"


def _read_config(path: Path) -> tuple[dict[str, Any], ModelConfig]:
    if not path.is_file():
        raise ConversionError(f"{path} is missing: give the folder that holds config.json and *.safetensors")
    try:
        raw = json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path} cannot be read ({error.strerror}): check the file and its permissions") from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read as JSON ({error}): download it again") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} is not a JSON object: download it again")
    quantization = raw.get("quantization_config")
    method = quantization.get("quant_method", "mxfp4") if isinstance(quantization, dict) else "mxfp4"
    if method != "mxfp4":
        raise ConfigError(
            f"{path}: the weights are quantised with {method!r}, which is not supported: save the model in bfloat16"
        )
    try:
        raw = configs.from_openai(raw) if configs.is_openai(raw) else raw
        return raw, ModelConfig.from_dict(raw)
    except ConfigError as error:
        raise ConfigError(str(error).replace("config.json", str(path), 1)) from None


def _companions(folder: Path) -> tuple[Path, ...]:
    companions = tuple(path for name in _COMPANIONS if (path := folder / name).is_file())
    for path in companions:
        try:
            with path.open("rb") as file:
                head = file.read(len(LFS_POINTER))
        except OSError as error:
            raise CheckpointError(f"{path} cannot be read ({error.strerror}): download it again") from None
        if head == LFS_POINTER:
            raise CheckpointError(f"{path} is a Git LFS pointer, not the file: run `git lfs pull` in its folder")
        if path.name == "tokenizer.json":
            check_tokenizer_json(path)
    return companions
