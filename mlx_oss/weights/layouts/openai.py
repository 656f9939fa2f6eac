"""OpenAI's layout (`original/`): other names, and q, k and v are rows of one tensor. Its config has other keys.

The tensors are otherwise those of Hugging Face's layout. A fine-tune may have experts in floats, which are not
transposed.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace
from functools import partial
from typing import Any

from mlx_oss.config import ModelConfig
from mlx_oss.errors import ConfigError, quoted
from mlx_oss.weights.layouts import hugging_face
from mlx_oss.weights.layouts.description import Dense, Layout, Location
from mlx_oss.weights.names import Shape

# Hugging Face's name below `model.layers.N.` -> OpenAI's below `block.N.`.
_LAYER = {
    "input_layernorm.weight": "attn.norm.scale",
    "self_attn.q_proj.weight": "attn.qkv.weight",
    "self_attn.k_proj.weight": "attn.qkv.weight",
    "self_attn.v_proj.weight": "attn.qkv.weight",
    "self_attn.q_proj.bias": "attn.qkv.bias",
    "self_attn.k_proj.bias": "attn.qkv.bias",
    "self_attn.v_proj.bias": "attn.qkv.bias",
    "self_attn.o_proj.weight": "attn.out.weight",
    "self_attn.o_proj.bias": "attn.out.bias",
    "self_attn.sinks": "attn.sinks",
    "post_attention_layernorm.weight": "mlp.norm.scale",
    "mlp.router.weight": "mlp.gate.weight",
    "mlp.router.bias": "mlp.gate.bias",
    "mlp.experts.gate_up_proj_blocks": "mlp.mlp1_weight.blocks",
    "mlp.experts.gate_up_proj_scales": "mlp.mlp1_weight.scales",
    "mlp.experts.gate_up_proj_bias": "mlp.mlp1_bias",
    "mlp.experts.down_proj_blocks": "mlp.mlp2_weight.blocks",
    "mlp.experts.down_proj_scales": "mlp.mlp2_weight.scales",
    "mlp.experts.down_proj_bias": "mlp.mlp2_bias",
}
_DENSE = (".mlp.mlp1_weight", ".mlp.mlp2_weight")  # without `.blocks` and `.scales` behind it
_TOP = {
    "model.embed_tokens.weight": "embedding.weight",
    "model.norm.weight": "norm.scale",
    "lm_head.weight": "unembedding.weight",
}
# OpenAI's keys that have another name in Hugging Face's config; those in _SAME have the same name in both.
_RENAMED = {"num_experts": "num_local_experts", "experts_per_token": "num_experts_per_tok"}
_SAME = (
    "num_hidden_layers vocab_size hidden_size intermediate_size head_dim num_attention_heads num_key_value_heads "
    "sliding_window initial_context_length rope_theta"
).split()
_ROPE = {
    "rope_scaling_factor": "factor",
    "initial_context_length": "original_max_position_embeddings",
    "rope_ntk_beta": "beta_fast",
    "rope_ntk_alpha": "beta_slow",
}
# What Hugging Face's config of the releases states and OpenAI's leaves to its code (gpt_oss/torch/model.py).
_RELEASED = {
    "architectures": ["GptOssForCausalLM"],
    "attention_bias": True,
    "eos_token_id": 200002,
    "hidden_act": "silu",
    "model_type": "gpt_oss",
    "pad_token_id": 199999,
    "rms_norm_eps": 1e-5,
    "swiglu_limit": 7.0,
    "tie_word_embeddings": False,
}


def locate(name: str, dtype: str | None, shape: Shape, config: ModelConfig) -> Location:
    """Where a canonical tensor is stored, as for `Layout.locate`."""
    stored = hugging_face.locate(name, dtype, shape, config)
    if stored.name in _TOP:
        return replace(stored, name=_TOP[stored.name])
    _, _, layer, rest = stored.name.split(".", 3)
    stored = replace(stored, name=f"block.{layer}.{_LAYER[rest]}")
    if ".qkv." not in stored.name:
        return stored
    rows = [heads * config.head_dim for heads in config.qkv_heads]
    position = "qkv".index(rest.removeprefix("self_attn.")[0])
    return replace(stored, shape=(sum(rows), *shape[1:]), first=sum(rows[:position]))


OPENAI = Layout("OpenAI", locate, dtype="BF16")


def layout_of(names: Collection[str]) -> Layout:
    """OpenAI's layout with the experts as the tensors of a folder have them, which may differ between layers."""
    if not any(name.endswith(_DENSE) for name in names):
        return OPENAI
    some = any(name.endswith(".blocks") for name in names)
    return Layout(
        f"{OPENAI.name}, {'some ' if some else ''}experts not quantised",
        partial(_located, names),
        dtype="BF16",
        must_convert=f"{'some of ' if some else ''}its experts are not quantised, and in another order than in memory",
    )


def _located(names: Collection[str], name: str, dtype: str | None, shape: Shape, config: ModelConfig) -> Location:
    stored = locate(name, dtype, shape, config)
    tensor, _, part = stored.name.rpartition(".")
    if part not in ("blocks", "scales") or tensor not in names:
        return stored
    columns = config.intermediate_size if name.rpartition(".")[0].endswith("down_proj") else config.hidden_size
    return replace(stored, name=tensor, shape=(*stored.shape[:2], columns), dtype=None, change=Dense(transposed=False))


def is_openai(raw: Mapping[str, Any]) -> bool:
    """True if a config uses OpenAI's keys: it has `num_experts` and no `model_type`."""
    return "num_experts" in raw and "model_type" not in raw


def from_openai(raw: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAI's `original/config.json` with Hugging Face's keys, completed with the constants of the releases.

    Raises:
        ConfigError: If a key is missing or unknown (ignoring it could change the computation), or if a rope setting is
            not a number between 0 and 1e9.
    """
    required = {*_SAME, *_RENAMED, *_ROPE}
    if missing := sorted(required - set(raw)):
        raise ConfigError(
            f"config.json: {missing[0]} is missing, so the gpt-oss config is incomplete: download it again"
        )
    if unknown := sorted(set(raw) - required - {"swiglu_limit"}):
        raise ConfigError(
            f"config.json: unknown key {unknown[0]}: it may change the computation: remove it if it does not"
        )
    config: dict[str, Any] = _RELEASED | {key: raw[key] for key in _SAME}
    config |= {ours: raw[theirs] for theirs, ours in _RENAMED.items()}
    config["swiglu_limit"] = raw.get("swiglu_limit", _RELEASED["swiglu_limit"])
    scaling = {ours: raw[theirs] for theirs, ours in _ROPE.items()}
    for key, value in scaling.items():
        if not isinstance(value, (int, float)) or not 0 < value < 1e9:
            raise ConfigError(
                f"config.json: the rope setting {key} is {quoted(value)}, expected a number between 0 and 1e9"
            )
    config["max_position_embeddings"] = round(scaling["factor"] * scaling["original_max_position_embeddings"])
    yarn = {"rope_type": "yarn", **scaling, "truncate": False}
    config["rope_scaling"] = yarn if scaling["factor"] > 1 else None
    return config
