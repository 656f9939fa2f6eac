"""Recognises the layout of a folder by the names of its tensors, and says what else they may belong to."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path

from mlx_oss.errors import CheckpointError
from mlx_oss.weights.layouts import hugging_face, metal, openai
from mlx_oss.weights.layouts.description import Layout
from mlx_oss.weights.layouts.metal import METAL
from mlx_oss.weights.layouts.mlx_folder import MLX
from mlx_oss.weights.layouts.openai import OPENAI
from mlx_oss.weights.safetensors import TensorInfo

# What names of experts end in, in each layout and in no other.
_EXPERTS = {
    hugging_face.NAME: re.compile(r"\.experts\.(gate_up_proj(_blocks)?|gate_up_projs\.\d+\.\w+|\d+\.gate_proj\.\w+)$"),
    OPENAI.name: re.compile(r"\.mlp\.mlp1_weight(\.blocks)?$"),
    MLX.name: re.compile(r"\.mlp\.experts\.gate_proj\.weight$"),
}
_LORA = re.compile(r"\.(lora_|base_layer\.)", re.IGNORECASE)
_MLP = re.compile(r"\.(mlp|feed_forward|moe|block_sparse_moe)\.")


def is_mlx(files: Iterable[str]) -> bool:
    """True if the tensors with these names are those of an MLX folder."""
    return any(_EXPERTS[MLX.name].search(name) for name in files)


def refuse_adapter(files: Iterable[TensorInfo]) -> None:
    """Raises CheckpointError if a tensor belongs to an adapter."""
    if lora := next((tensor for tensor in files if _LORA.search(tensor.name)), None):
        raise CheckpointError(
            f"{lora.file}: tensor {lora.name} belongs to a LoRA adapter that is not merged into the model: merge it "
            "with the program that has trained it (with PEFT: merge_and_unload, then save_pretrained)"
        )


def recognised(folder: Path, files: Mapping[str, TensorInfo]) -> Layout:
    """The layout of a folder.

    Args:
        folder: The folder.
        files: The tensors of its files, by the names that a layout gives them.

    Raises:
        CheckpointError: If it is none or two.
    """
    if metal.is_metal(folder):
        return METAL
    found: dict[str, str] = {}
    for name, tensor in files.items():
        for layout, ending in _EXPERTS.items():
            if ending.search(name):
                found.setdefault(layout, tensor.name)
    if len(found) == 1:
        layouts = {
            hugging_face.NAME: hugging_face.layout_of(files),
            OPENAI.name: openai.layout_of(files),
            MLX.name: MLX,
        }
        return layouts[next(iter(found))]
    if found:
        both = " and ".join(f"{layout} ({tensor})" for layout, tensor in found.items())
        raise CheckpointError(f"{folder} has tensors of {both}: keep the files of one of them only")
    example = min(files.values(), key=lambda tensor: (not _MLP.search(tensor.name), tensor.name), default=None)
    raise CheckpointError(
        f"{folder}: no tensor has a name under which a known layout of gpt-oss stores experts"
        + (f"; there is, for example, {example.name}" if example else "")
        + ": save the model with transformers' save_pretrained, or give the folder of another model"
    )
