"""Writes a GGUF file for llama.cpp: random weights in the shapes and the types of a model's folder.

Speed does not depend on the values of weights, so nothing is converted. Knows nothing of MLX, and needs the package
`gguf`.
"""

from __future__ import annotations

import math
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from mlx_oss.config import MXFP4, ModelConfig, QuantizationSpec
from mlx_oss.errors import BenchmarkError
from mlx_oss.weights.layouts.checkpoint import open_checkpoint
from mlx_oss.weights.names import can_quantize, layer_prefix, modules, plain_tensors

SPARE = 1 << 28  # bytes that are left free on the disk
# By GGUF's name of a type: the bytes of a block of 32 values, and those that it begins with. They are a scale, chosen
# so that weights are some hundredths; the others are random.
_BLOCKS = {
    "MXFP4": (17, (120,)),  # 2^-7 in E8M0
    "Q4_0": (18, (0, 0x1C)),  # 2^-8 in float16
    "Q5_0": (22, (0, 0x18)),
    "Q8_0": (34, (0, 0x0C)),
}
_FLOATS = {"BF16": 2, "F32": 4}
_BY_BITS = {2: "Q4_0", 3: "Q4_0", 4: "Q4_0", 5: "Q5_0", 6: "Q8_0", 8: "Q8_0"}
# What llama.cpp calls the modules of a layer and the others.
_NAMES = {
    "model.embed_tokens": "token_embd",
    "input_layernorm": "attn_norm",
    "self_attn.q_proj": "attn_q",
    "self_attn.k_proj": "attn_k",
    "self_attn.v_proj": "attn_v",
    "self_attn.o_proj": "attn_output",
    "self_attn.sinks": "attn_sinks",
    "post_attention_layernorm": "post_attention_norm",
    "mlp.router": "ffn_gate_inp",
    "mlp.experts.gate_proj": "ffn_gate_exps",
    "mlp.experts.up_proj": "ffn_up_exps",
    "mlp.experts.down_proj": "ffn_down_exps",
    "model.norm": "output_norm",
    "lm_head": "output",
}
Tensors = dict[str, tuple[str, tuple[int, ...]]]  # (type, shape of the values) by name


def make(path: Path, folder: Path) -> str:
    """Writes the file for a model's folder.

    Args:
        path: The file.
        folder: Folder of the model.

    Returns:
        What the file contains, in words.

    Raises:
        BenchmarkError: If a package is not installed, the disk has no room, or llama.cpp does not know such a model.
        ConfigError: If the folder's config cannot be read.
        CheckpointError: If the folder's files cannot be read.
    """
    if missing := [name for name in ("llama_cpp", "gguf") if find_spec(name) is None]:
        raise BenchmarkError(
            f"llama.cpp cannot be measured, because the module {missing[0]} is not installed: install it with "
            "`pip install llama-cpp-python gguf`, which may compile llama.cpp for some minutes"
        )
    checkpoint = open_checkpoint(folder)
    config = checkpoint.config
    if replace(config, layer_types=()) != config:
        raise BenchmarkError(
            f"llama.cpp cannot be measured beside {folder}: of gpt-oss it knows only models whose first layer has a "
            "sliding window, and then every second one"
        )
    of = tensors(config, checkpoint.specs)
    needed, free = size(of), shutil.disk_usage(path.parent).free
    if needed + SPARE > free:
        raise BenchmarkError(
            f"the file for llama.cpp takes {needed / 1e9:.1f} GB, but {path.parent.parent} has {free / 1e9:.1f} GB "
            "free: make room, or set TMPDIR to a folder with more"
        )
    write(path, config, of)
    return described(of, checkpoint.specs)


def tensors(config: ModelConfig, specs: Mapping[str, QuantizationSpec | None]) -> Tensors:
    """The tensors of the file.

    Args:
        config: The model's config.
        specs: How each module is quantised, by path. None: it is bfloat16.

    Returns:
        (type, shape of the values) of each tensor, by llama.cpp's name. Modules in MXFP4 and bfloat16 have the same
        type as in the folder. The type of others is the one with about as many bits. Vectors and the router are float32
        as in every GGUF file of gpt-oss.
    """
    found: Tensors = {}
    for path, shape, bias in modules(config):
        is_matrix = can_quantize(path) and not path.endswith("router")
        found[f"{_name(path)}.weight"] = (_type(specs.get(path)) if is_matrix else "F32", shape)
        if bias is not None:
            found[f"{_name(path)}.bias"] = ("F32", bias)
    return found | {f"{_name(path)}.weight": ("F32", shape) for path, shape in plain_tensors(config).items()}


def size(of: Tensors) -> int:
    """Bytes of the weights."""
    return sum(math.prod(_stored(*tensor)) * (_FLOATS.get(tensor[0]) or 1) for tensor in of.values())


def described(of: Tensors, specs: Mapping[str, QuantizationSpec | None]) -> str:
    """What the weights are, in words."""
    kinds = sorted({kind for kind, _ in of.values()} - {"F32"})
    exact = all(spec in (None, MXFP4) for spec in specs.values())
    return f"random weights of the same shapes and {'types' if exact else 'nearest types'} ({', '.join(kinds)})"


def write(path: Path, config: ModelConfig, of: Tensors) -> None:
    """Writes the file, one tensor at a time.

    Args:
        path: The file.
        config: The model's config.
        of: What `tensors` returned.

    Raises:
        OSError: If the file cannot be written.
    """
    import gguf

    writer = gguf.GGUFWriter(path, "gpt-oss")
    c = config
    writer.add_vocab_size(c.vocab_size)
    writer.add_context_length(c.max_position_embeddings)
    writer.add_embedding_length(c.hidden_size)
    writer.add_block_count(c.num_hidden_layers)
    writer.add_feed_forward_length(c.intermediate_size)
    writer.add_expert_feed_forward_length(c.intermediate_size)
    writer.add_expert_count(c.num_local_experts)
    writer.add_expert_used_count(c.num_experts_per_tok)
    writer.add_head_count(c.num_attention_heads)
    writer.add_head_count_kv(c.num_key_value_heads)
    writer.add_key_length(c.head_dim)
    writer.add_value_length(c.head_dim)
    writer.add_sliding_window(c.sliding_window)
    writer.add_layer_norm_rms_eps(c.rms_norm_eps)
    writer.add_rope_freq_base(c.rope_theta)
    if c.rope_scaling is not None:
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(c.rope_scaling.factor)
        writer.add_rope_scaling_orig_ctx_len(c.rope_scaling.original_max_position_embeddings)
    writer.add_tokenizer_model("no_vocab")  # it is given ids
    for name, (kind, shape) in of.items():
        stored = _stored(kind, shape)
        dtype = np.dtype(np.float32 if kind == "F32" else np.uint16 if kind == "BF16" else np.uint8)
        number = gguf.GGMLQuantizationType[kind]
        writer.add_tensor_info(name, stored, dtype, math.prod(stored) * dtype.itemsize, number)
    try:
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_ti_data_to_file()
        for values in _random(of):
            writer.write_tensor_data(values)
    finally:
        writer.close()


def _name(path: str) -> str:
    """llama.cpp's name of a module or tensor, by its canonical path."""
    if path in _NAMES:
        return _NAMES[path]
    layer, _, rest = path.removeprefix("model.layers.").partition(".")
    assert path == layer_prefix(int(layer)) + rest
    return f"blk.{layer}.{_NAMES[rest]}"


def _type(spec: QuantizationSpec | None) -> str:
    if spec is None:
        return "BF16"
    return "MXFP4" if spec == MXFP4 else _BY_BITS[spec.bits]


def _stored(kind: str, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape of a tensor in the file: values of floats, bytes of blocks."""
    return shape if kind in _FLOATS else (*shape[:-1], shape[-1] // 32 * _BLOCKS[kind][0])


def _random(of: Tensors) -> Iterator[NDArray[np.generic]]:
    """Random values for each tensor."""
    rng = np.random.default_rng(0)
    for kind, shape in of.values():
        stored = _stored(kind, shape)
        if kind == "F32":
            yield rng.normal(0, 0.02, stored).astype(np.float32)
        elif kind == "BF16":  # any sign and mantissa, and the exponent of 2^-6
            yield rng.integers(0, 1 << 16, stored, np.uint16) & np.uint16(0x807F) | np.uint16(0x3C80)
        else:
            nbytes, scale = _BLOCKS[kind]
            blocks = rng.integers(0, 256, (math.prod(stored) // nbytes, nbytes), np.uint8)
            blocks[:, : len(scale)] = scale
            yield blocks.reshape(stored)
