"""OpenAI's `metal/model.bin`: its config, where its tensors are, and what was done to them.

The format is the one that gpt_oss/metal/scripts/create-local-model.py in openai/gpt-oss writes: MXFP4 experts, and
bfloat16 for everything else. The file has no table of its tensors; they follow one another in a fixed order. The
tensors are those of `original/` with four changes. Each expert is a tensor of its own. 14 is added to every MXFP4
scale. In q and k, the two halves of each head are interleaved, so that rows that are rotated together are neighbours,
and the values are scaled by 1/2 and 1/4. The rows of embedding and unembedding that no token uses are left out: the
last 1,074 of the releases' 201,088. The converter undoes these changes, and fills the missing rows with zeros.
"""

from __future__ import annotations

import math
import os
import struct
from collections.abc import Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np

from mlx_oss.config import ModelConfig
from mlx_oss.errors import CheckpointError, ConfigError
from mlx_oss.files import open_regular
from mlx_oss.weights.layouts import openai
from mlx_oss.weights.layouts.description import InterleavedHalves, Layout, Location, OffsetScales, RowsLeftOut
from mlx_oss.weights.mxfp4 import BLOCK
from mlx_oss.weights.names import Shape, is_expert
from mlx_oss.weights.safetensors import ITEMSIZE, LFS_POINTER, TensorInfo, weight_files

FILE = "model.bin"
_MAGIC = b"GPT-OSS v1.0\0\0\0\0"
_MODEL, _LAYOUT, _TOKENIZER = (
    UUID(text).bytes
    for text in (
        "df52dc86-1789-4ed0-a295-66f10508145b",
        "229177a8-5775-4268-bfd8-d588b351c56d",
        "7401aded-2a95-40cb-b782-9ccebaafe72b",
    )
)
_FIELDS = (
    "context blocks experts active hidden inner swiglu_limit head_dim heads kv_heads window theta interpolation "
    "yarn_offset yarn_scale yarn_multiplier epsilon"
).split()
_TOKENS, VOCABULARY = 200_014, 201_088  # rows of the releases' embedding: in this file, and in every other layout
_MOST_TENSORS = 1_000_000  # that are walked through; gpt-oss-120b has 28,000
_SCALE_OFFSET, _FACTORS = 14, {"q_proj": 2.0, "k_proj": 4.0}
_HEADER = struct.Struct("<16s16s6If4I6f16s16s4I")  # magic, model, fields, layout, tokenizer and its four sizes


def _locate(name: str, dtype: str | None, shape: Shape, config: ModelConfig) -> Location:
    stored = openai.locate(name, dtype, shape, config)
    path, _, suffix = name.rpartition(".")
    if is_expert(name):
        offset = OffsetScales(_SCALE_OFFSET) if suffix == "scales" else None
        shape = (1, *stored.shape[1:])
        return replace(stored, name=f"{stored.name}.{{}}", shape=shape, by_expert=True, change=offset)
    if path in ("model.embed_tokens", "lm_head"):
        return replace(stored, change=RowsLeftOut())
    if (projection := path.rpartition(".")[2]) in _FACTORS:
        return replace(stored, change=InterleavedHalves(_FACTORS[projection]))
    return stored


METAL = Layout(
    "OpenAI Metal",
    _locate,
    dtype="BF16",
    must_convert="the Metal file stores each expert separately, and the rows of q and k in another order",
)


def is_metal(folder: Path) -> bool:
    """True if the folder has a `model.bin` and no safetensors files."""
    return (folder / FILE).is_file() and not weight_files(folder)


def read_metal(folder: Path) -> tuple[dict[str, Any], dict[str, TensorInfo]]:
    """Returns (config with Hugging Face's keys, tensors by OpenAI's names); names of tensors of expert n end in `.n`.

    Raises:
        CheckpointError: If the file cannot be read, is not a Metal model, has a damaged header, or has another length
            than the header describes.
    """
    path = folder / FILE
    try:
        with open_regular(path) as file:
            size = os.fstat(file.fileno()).st_size
            head = file.read(_HEADER.size)
    except OSError as error:
        raise CheckpointError(f"{path} cannot be read ({error.strerror}): check the path and its permissions") from None
    if len(head) < _HEADER.size or not head.startswith(_MAGIC):
        if head.startswith(LFS_POINTER):
            raise CheckpointError(f"{path} is a Git LFS pointer, not the model: run `git lfs pull` in its folder")
        raise CheckpointError(f"{path} is not OpenAI's Metal model: download it again")
    _, model, *values, layout, tokenizer, special, text, regex, tokens = _HEADER.unpack(head)
    if (model, layout, tokenizer) != (_MODEL, _LAYOUT, _TOKENIZER):
        raise CheckpointError(f"{path} has an unknown format version: convert original/ instead")
    fields = dict(zip(_FIELDS, values, strict=True))
    try:
        config = _config(fields, vocab=special + text)
        ModelConfig.from_dict(config)  # checks the numbers before they are used
    except (ArithmeticError, ValueError):
        raise CheckpointError(f"{path} has a damaged header: download it again") from None
    except ConfigError as error:
        raise CheckpointError(f"{path} has a damaged header ({error}): download it again") from None
    start = _align_up(_HEADER.size + 16 * special + regex + tokens, 16384)
    tensors, end = _tensors(path, config, start, size)
    if config["vocab_size"] == _TOKENS:
        config["vocab_size"] = VOCABULARY
    if size != end:
        more = " or more" if end > size else ""
        raise CheckpointError(f"{path} has {size:,} bytes, but its header describes {end:,}{more}: download it again")
    return config, tensors


def _config(fields: Mapping[str, Any], vocab: int) -> dict[str, Any]:
    f = fields
    exact = {name: float(str(np.float32(value))) for name, value in f.items() if isinstance(value, float)}
    initial = f["context"] * exact["interpolation"]
    low = -f["yarn_offset"] / f["yarn_scale"]

    def rotations(frequency: float) -> float:
        """The YaRN beta (a number of rotations) of a boundary. The header stores boundaries as frequency indices."""
        wavelength = 2 * math.pi * math.exp(frequency * math.log(f["theta"]) / (f["head_dim"] / 2))
        return float(f"{initial / wavelength:.4g}")

    raw = {
        "num_hidden_layers": f["blocks"],
        "num_experts": f["experts"],
        "experts_per_token": f["active"],
        "vocab_size": vocab,
        "hidden_size": f["hidden"],
        "intermediate_size": f["inner"],
        "swiglu_limit": exact["swiglu_limit"],
        "head_dim": f["head_dim"],
        "num_attention_heads": f["heads"],
        "num_key_value_heads": f["kv_heads"],
        "sliding_window": f["window"],
        "initial_context_length": round(initial),
        "rope_theta": exact["theta"],
        "rope_scaling_factor": float(f"{1 / exact['interpolation']:.6g}"),
        "rope_ntk_beta": rotations(low),
        "rope_ntk_alpha": rotations(low + 1 / f["yarn_scale"]),
    }
    return openai.from_openai(raw) | {"rms_norm_eps": exact["epsilon"]}


def _align_up(position: int, multiple: int) -> int:
    return -(-position // multiple) * multiple


def _tensors(path: Path, config: Mapping[str, Any], position: int, size: int) -> tuple[dict[str, TensorInfo], int]:
    """Returns (tensors by name, end of the last one). Walks through the file in the order in which it was written.

    Stops at the first tensor that ends after `size`, so a damaged header cannot make the walk endless.
    """
    tensors = {}
    for alignment, name, dtype, shape in _order(config):
        start = _align_up(position, alignment)
        position = start + math.prod(shape) * ITEMSIZE[dtype]
        tensors[name] = TensorInfo(name, path, dtype, shape, start, position)
        if position > size or len(tensors) > _MOST_TENSORS:
            break
    return tensors, position


def _order(c: Mapping[str, Any]) -> Iterator[tuple[int, str, str, Shape]]:
    """Yields (alignment in bytes, name, dtype, shape) of every tensor in the order of the file."""
    hidden, inner, experts = c["hidden_size"], c["intermediate_size"], c["num_local_experts"]
    heads = c["num_attention_heads"] * c["head_dim"]
    qkv = heads + 2 * c["num_key_value_heads"] * c["head_dim"]
    yield 16, "embedding.weight", "BF16", (c["vocab_size"], hidden)
    for n in range(c["num_hidden_layers"]):
        p = f"block.{n}."
        yield 16, p + "attn.norm.scale", "BF16", (hidden,)
        yield 16, p + "attn.qkv.weight", "BF16", (qkv, hidden)
        yield 1, p + "attn.qkv.bias", "BF16", (qkv,)
        yield 16, p + "attn.sinks", "BF16", (c["num_attention_heads"],)
        yield 16, p + "attn.out.weight", "BF16", (hidden, heads)
        yield 1, p + "attn.out.bias", "BF16", (hidden,)
        yield 16, p + "mlp.norm.scale", "BF16", (hidden,)
        yield 16, p + "mlp.gate.weight", "BF16", (experts, hidden)
        yield 1, p + "mlp.gate.bias", "BF16", (experts,)
    yield 16, "norm.scale", "BF16", (hidden,)
    yield 16, "unembedding.weight", "BF16", (c["vocab_size"], hidden)
    for n in range(c["num_hidden_layers"]):
        for e in range(experts):
            for linear, rows, columns in (("mlp1", 2 * inner, hidden), ("mlp2", hidden, inner)):
                p = f"block.{n}.mlp.{linear}_"
                first = 16384 if (e, linear) == (0, "mlp1") else 16
                yield first, f"{p}weight.blocks.{e}", "U8", (1, rows, columns // BLOCK, BLOCK // 2)
                yield 16, f"{p}weight.scales.{e}", "U8", (1, rows, columns // BLOCK)
                yield 16, f"{p}bias.{e}", "BF16", (1, rows)
