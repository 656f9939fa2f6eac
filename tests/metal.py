"""Writes OpenAI's `metal/model.bin`, in the same steps as gpt_oss/metal/scripts/create-local-model.py."""

from __future__ import annotations

import math
import struct
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from uuid import UUID

import numpy as np

UNUSED_ROWS = 1074  # this format leaves out the last rows of the releases' vocabulary of 201,088
_SPECIAL, _REGEX, _TOKENS = 16, b"[a-z]+\0", b"\x01\0a\x02\0bc"


def write_metal(path: Path, c: Mapping[str, Any], tensors: Mapping[str, Any]) -> None:
    """Writes the file for OpenAI's config `c` and the tensors of `synthetic`, which have OpenAI's names."""

    def get(name: str) -> np.ndarray:
        dtype, shape, chunks = tensors[name]
        return np.frombuffer(b"".join(chunks()), {"BF16": "<u2", "U8": "u1"}[dtype]).reshape(shape)

    with path.open("wb") as file:

        def put(*arrays: np.ndarray, multiple: int = 16) -> None:
            file.write(bytes(-file.tell() % multiple))
            for array in arrays:
                file.write(array.tobytes())

        rows = c["vocab_size"] - (UNUSED_ROWS if c["vocab_size"] == 201_088 else 0)
        file.write(_header(c, rows))
        file.write(bytes(16 * _SPECIAL) + _REGEX + _TOKENS)
        put(multiple=16384)
        put(get("embedding.weight")[:rows])
        for n in range(c["num_hidden_layers"]):
            p = f"block.{n}."
            put(get(p + "attn.norm.scale"))
            put(_turned(get(p + "attn.qkv.weight"), c), _turned(get(p + "attn.qkv.bias"), c))
            put(get(p + "attn.sinks"))
            put(get(p + "attn.out.weight"), get(p + "attn.out.bias"))
            put(get(p + "mlp.norm.scale"))
            put(get(p + "mlp.gate.weight"), get(p + "mlp.gate.bias"))
        put(get("norm.scale"))
        put(get("unembedding.weight")[:rows])
        for n in range(c["num_hidden_layers"]):
            put(multiple=16384)
            p = f"block.{n}.mlp."
            for e in range(c["num_experts"]):
                for linear in ("mlp1", "mlp2"):
                    put(get(f"{p}{linear}_weight.blocks")[e])
                    put(get(f"{p}{linear}_weight.scales")[e] + np.uint8(14))
                    put(get(f"{p}{linear}_bias")[e])


def _header(c: Mapping[str, Any], rows: int) -> bytes:
    initial, half, theta = c["initial_context_length"], c["head_dim"] / 2, c["rope_theta"]
    low, high = (
        half * math.log(initial / (c[beta] * 2 * math.pi)) / math.log(theta)
        for beta in ("rope_ntk_beta", "rope_ntk_alpha")
    )
    factor = c["rope_scaling_factor"]
    whole = (int(initial * factor), *(c[k] for k in "num_hidden_layers num_experts experts_per_token".split()))
    model = struct.pack("<6If", *whole, c["hidden_size"], c["intermediate_size"], c["swiglu_limit"])
    model += struct.pack("<4I", c["head_dim"], c["num_attention_heads"], c["num_key_value_heads"], c["sliding_window"])
    rope = (theta, 1 / factor, -low / (high - low), 1 / (high - low), 0.1 * math.log(factor) + 1)
    model += struct.pack("<6f", *rope, 1e-5)
    marks = [UUID(f"{text}").bytes for text in _UUIDS]
    tokenizer = struct.pack("<4I", _SPECIAL, rows - _SPECIAL, len(_REGEX), len(_TOKENS))
    return b"GPT-OSS v1.0" + bytes(4) + marks[0] + model + marks[1] + marks[2] + tokenizer


_UUIDS = (
    "df52dc86-1789-4ed0-a295-66f10508145b",
    "229177a8-5775-4268-bfd8-d588b351c56d",
    "7401aded-2a95-40cb-b782-9ccebaafe72b",
)


def _turned(qkv: np.ndarray, c: Mapping[str, Any]) -> np.ndarray:
    """Interleaves the two halves of each head of q and k, and scales them by 1/2 and 1/4. Leaves v unchanged."""
    heads, kv, size = c["num_attention_heads"], c["num_key_value_heads"], c["head_dim"]
    values = (qkv.astype(np.uint32) << 16).view(np.float32).reshape(heads + 2 * kv, size, -1)
    qk = values[: heads + kv].reshape(heads + kv, 2, size // 2, -1).transpose(0, 2, 1, 3).reshape(heads + kv, size, -1)
    turned = np.concatenate([qk[:heads] * np.float32(0.5), qk[heads:] * np.float32(0.25), values[heads + kv :]])
    return (np.ascontiguousarray(turned).view(np.uint32) >> 16).astype("<u2").reshape(qkv.shape)
