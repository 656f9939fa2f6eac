"""gpt-oss in plain NumPy float64, based on the released layout: the reference that is available on every machine.

Tensors have their Hugging Face names. Experts are dequantised to `gate_up_proj` (E, 2F, C), with interleaved rows, and
`down_proj` (E, C, F). There is no cache, no fused module and no clever indexing: the code computes one token and one
head at a time where that is clearer. Sources: gpt_oss/torch/model.py in openai/gpt-oss; YaRN from arXiv 2309.00071.
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from mlx_oss.config import ModelConfig

Tensors = dict[str, np.ndarray]


def logits(
    config: ModelConfig,
    tensors: Tensors,
    tokens: Sequence[int],
    first_position: int = 0,
    blur: Callable[[np.ndarray], np.ndarray] = lambda angle: angle,
) -> np.ndarray:
    """Logits (len(tokens), V) of a sequence that begins at `first_position`. `blur` may change the rotary angles."""
    angle = blur((first_position + np.arange(len(tokens)))[:, None] * rotation(config)[0])
    x = tensors["model.embed_tokens.weight"][tokens].astype(np.float64)
    for n in range(config.num_hidden_layers):
        p = f"model.layers.{n}."
        w = {name.removeprefix(p): value for name, value in tensors.items() if name.startswith(p)}
        x = x + attention(config, w, norm(config, x, w["input_layernorm.weight"]), n, angle)
        x = x + experts(config, w, norm(config, x, w["post_attention_layernorm.weight"]))
    return norm(config, x, tensors["model.norm.weight"]) @ tensors["lm_head.weight"].T


def norm(config: ModelConfig, x: np.ndarray, weight: np.ndarray) -> np.ndarray:
    return x / np.sqrt((x**2).mean(-1, keepdims=True) + config.rms_norm_eps) * weight


def rotation(config: ModelConfig) -> tuple[np.ndarray, float]:
    """Radians per position for each pair of dimensions, and the factor on cos and sin."""
    half, yarn = config.head_dim // 2, config.rope_scaling
    plain = np.array([config.rope_theta ** (-i / half) for i in range(half)])
    if yarn is None:
        return plain, 1.0
    low, high = (
        half * math.log(yarn.original_max_position_embeddings / (turns * 2 * math.pi)) / math.log(config.rope_theta)
        for turns in (yarn.beta_fast, yarn.beta_slow)
    )
    blend = [min(max((i - low) / (high - low), 0.0), 1.0) for i in range(half)]
    mixed = [f / yarn.factor * t + f * (1 - t) for f, t in zip(plain, blend, strict=True)]
    return np.array(mixed), 0.1 * math.log(yarn.factor) + 1


def rotate(config: ModelConfig, x: np.ndarray, angle: np.ndarray) -> np.ndarray:
    """x (L, heads, D), angle (L, D / 2) -> x rotated. Pairs consist of one value from each half of a head."""
    factor = rotation(config)[1]
    cos, sin = np.cos(angle)[:, None] * factor, np.sin(angle)[:, None] * factor
    a, b = np.split(x, 2, axis=-1)
    return np.concatenate([a * cos - b * sin, b * cos + a * sin], axis=-1)


def attention(config: ModelConfig, w: Tensors, x: np.ndarray, layer: int, angle: np.ndarray) -> np.ndarray:
    L, D = len(x), config.head_dim

    def project(name: str) -> np.ndarray:
        return (x @ w[f"self_attn.{name}_proj.weight"].T + w[f"self_attn.{name}_proj.bias"]).reshape(L, -1, D)

    q, k, v = rotate(config, project("q"), angle), rotate(config, project("k"), angle), project("v")
    group = config.num_attention_heads // config.num_key_value_heads
    age = np.arange(L)[:, None] - np.arange(L)
    hidden = age < 0
    if config.layer_types[layer] == "sliding_attention":
        hidden |= age >= config.sliding_window
    out = np.empty((L, config.num_attention_heads, D))
    for head in range(config.num_attention_heads):
        scores = np.where(hidden, -np.inf, q[:, head] @ k[:, head // group].T / math.sqrt(D))
        scores = np.concatenate([scores, np.full((L, 1), float(w["self_attn.sinks"][head]))], axis=1)
        weights = np.exp(scores - scores.max(1, keepdims=True))
        weights /= weights.sum(1, keepdims=True)
        out[:, head] = weights[:, :-1] @ v[:, head // group]
    return out.reshape(L, -1) @ w["self_attn.o_proj.weight"].T + w["self_attn.o_proj.bias"]


def experts(config: ModelConfig, w: Tensors, x: np.ndarray) -> np.ndarray:
    scores = x @ w["mlp.router.weight"].T + w["mlp.router.bias"]
    out = np.zeros_like(x)
    for t, row in enumerate(x):
        picked = np.argsort(scores[t])[::-1][: config.num_experts_per_tok]
        shares = np.exp(scores[t, picked] - scores[t, picked].max())
        for expert, share in zip(picked, shares / shares.sum(), strict=True):
            both = w["mlp.experts.gate_up_proj"][expert] @ row + w["mlp.experts.gate_up_proj_bias"][expert]
            gate = np.minimum(both[0::2], config.swiglu_limit)
            up = np.clip(both[1::2], -config.swiglu_limit, config.swiglu_limit)
            inner = gate / (1 + np.exp(-config.swiglu_alpha * gate)) * (up + 1)
            out[t] += share * (w["mlp.experts.down_proj"][expert] @ inner + w["mlp.experts.down_proj_bias"][expert])
    return out


def read_release(folder: Path) -> Tensors:
    """The tensors of a single-file checkpoint in the Hugging Face layout, as float32 under the names used above.

    Expert weights are dequantised by the definition of the format, one code at a time, without the project's own code.
    """
    raw = (folder / "model.safetensors").read_bytes()
    base = 8 + int.from_bytes(raw[:8], "little")
    found: Tensors = {}
    for name, entry in json.loads(raw[8:base]).items():
        start, end = entry["data_offsets"]
        data = np.frombuffer(raw[base + start : base + end], np.uint8 if entry["dtype"] == "U8" else "<u2")
        found[name] = data.reshape(entry["shape"])
    tensors = {n: (a.astype(np.uint32) << 16).view(np.float32) for n, a in found.items() if a.dtype == np.uint16}
    for name in [n for n in found if n.endswith("_blocks")]:
        blocks, scales = found[name], found[name.replace("_blocks", "_scales")]
        values = np.empty((*blocks.shape, 2), np.float32)
        for code in range(16):
            sign, exponent, mantissa = code >> 3, code >> 1 & 3, code & 1
            value = (1 + mantissa / 2) * 2.0 ** (exponent - 1) if exponent else mantissa / 2
            for half, shift in enumerate((0, 4)):
                values[..., half][blocks >> shift & 15 == code] = -value if sign else value
        values = values.reshape(*blocks.shape[:-1], 32) * 2.0 ** (scales.astype(np.float64) - 127)[..., None]
        tensors[name.removesuffix("_blocks")] = values.reshape(*blocks.shape[:2], -1).astype(np.float32)
    return tensors
