"""The `config.json` of an MLX folder, made from OpenAI's or Hugging Face's. Pure functions over parsed JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from mlx_oss.errors import ConfigError

# OpenAI's keys that have another name in Hugging Face's config; those in _OPENAI_SAME have the same name in both.
_OPENAI_RENAMED = {"num_experts": "num_local_experts", "experts_per_token": "num_experts_per_tok"}
_OPENAI_SAME = (
    "num_hidden_layers vocab_size hidden_size intermediate_size head_dim num_attention_heads num_key_value_heads "
    "sliding_window initial_context_length rope_theta"
).split()
_OPENAI_ROPE = {
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
RELEASED_GENERATION = {
    "bos_token_id": 199998,
    "do_sample": True,
    "eos_token_id": [200002, 199999, 200012],
    "pad_token_id": 199999,
}


def is_openai(raw: Mapping[str, Any]) -> bool:
    """True if a config uses OpenAI's keys: it has `num_experts` and no `model_type`."""
    return "num_experts" in raw and "model_type" not in raw


def from_openai(raw: Mapping[str, Any]) -> dict[str, Any]:
    """OpenAI's `original/config.json` with Hugging Face's keys, completed with the constants of the releases.

    Raises:
        ConfigError: If a key is missing or unknown (ignoring it could change the computation), or if a rope setting is
            not a number between 0 and 1e9.
    """
    required = {*_OPENAI_SAME, *_OPENAI_RENAMED, *_OPENAI_ROPE}
    if missing := sorted(required - set(raw)):
        raise ConfigError(
            f"config.json: {missing[0]} is missing, so the gpt-oss config is incomplete: download it again"
        )
    if unknown := sorted(set(raw) - required - {"swiglu_limit"}):
        raise ConfigError(f"config.json: unknown key {unknown[0]}: it may change the computation, so it is not ignored")
    config: dict[str, Any] = _RELEASED | {key: raw[key] for key in _OPENAI_SAME}
    config |= {ours: raw[theirs] for theirs, ours in _OPENAI_RENAMED.items()}
    config["swiglu_limit"] = raw.get("swiglu_limit", _RELEASED["swiglu_limit"])
    scaling = {ours: raw[theirs] for theirs, ours in _OPENAI_ROPE.items()}
    for key, value in scaling.items():
        if not isinstance(value, (int, float)) or not 0 < value < 1e9:
            raise ConfigError(f"config.json: the rope setting {key} is {value!r}, expected a number between 0 and 1e9")
    config["max_position_embeddings"] = round(scaling["factor"] * scaling["original_max_position_embeddings"])
    yarn = {"rope_type": "yarn", **scaling, "truncate": False}
    config["rope_scaling"] = yarn if scaling["factor"] > 1 else None
    return config


def for_mlx(raw: Mapping[str, Any], layer_types: Sequence[str], quantization: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json of an MLX folder.

    `quantization` replaces the release's `quantization_config`, which describes the release's own layout.
    `rope_parameters`, as transformers 5 writes it, becomes the two keys of transformers 4 (`rope_theta` and
    `rope_scaling`), which every reader of MLX folders knows.

    Args:
        raw: A checked config with Hugging Face's keys.
        layer_types: The attention type of each layer.
        quantization: The `quantization` entry to write.
    """
    config = {key: value for key, value in raw.items() if key not in ("quantization_config", "rope_parameters")}
    config["layer_types"] = list(layer_types)
    if (rope := raw.get("rope_parameters")) is not None:
        rope = dict(rope)
        config["rope_theta"] = rope.pop("rope_theta", config.get("rope_theta"))
        config["rope_scaling"] = None if rope.get("rope_type") == "default" else rope
        if config["rope_theta"] is None:
            del config["rope_theta"]
    return dict(sorted(config.items())) | {"quantization": dict(quantization)}
