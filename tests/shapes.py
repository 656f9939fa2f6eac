"""The dimensions of the small models in the tests, and routing that is far from even."""

from __future__ import annotations

import json
from pathlib import Path

import mlx.core as mx

from tests.synthetic import TINY

# Four shapes. Within each, all dimensions that code could confuse with one another are different.
SHAPES = {
    "tiny": TINY,
    "one kv head": TINY
    | {"num_hidden_layers": 4, "num_local_experts": 8, "num_experts_per_tok": 4, "vocab_size": 517, "hidden_size": 64}
    | {
        "intermediate_size": 128,
        "num_attention_heads": 3,
        "num_key_value_heads": 1,
        "head_dim": 24,
        "sliding_window": 17,
    },
    # With heads of 64 a GPU takes its fused attention, here with eight of them for each kv head. Hidden sizes are like
    # 2,880 multiples of 64 and not of 512: where they are, a GPU multiplies in another way.
    "heads as released": TINY
    | {"num_hidden_layers": 2, "num_local_experts": 6, "num_experts_per_tok": 3, "vocab_size": 389, "hidden_size": 192}
    | {
        "intermediate_size": 320,
        "num_attention_heads": 16,
        "num_key_value_heads": 2,
        "head_dim": 64,
        "sliding_window": 120,
    },
    "every expert": TINY
    | {"num_hidden_layers": 3, "num_local_experts": 4, "num_experts_per_tok": 4, "vocab_size": 271, "hidden_size": 224}
    | {
        "intermediate_size": 32,
        "num_attention_heads": 14,
        "num_key_value_heads": 7,
        "head_dim": 16,
        "sliding_window": 9,
    },
}

# Models with as many experts as the releases.
MANY = {
    "32 experts": TINY | {"num_hidden_layers": 2, "num_local_experts": 32, "num_experts_per_tok": 4},
    "128 experts": TINY
    | {"num_hidden_layers": 2, "num_local_experts": 128, "num_experts_per_tok": 4, "hidden_size": 64}
    | {"intermediate_size": 32, "vocab_size": 310},
}
ROUTINGS = ("random", "skewed")


def dims(shape: str) -> dict[str, int]:
    return (SHAPES | MANY)[shape]


def skew(folder: Path) -> None:
    """Changes a folder's routers: layer 0 prefers the first experts, other layers every second expert."""
    file = folder / "model-00001-of-00001.safetensors"
    tensors = mx.load(str(file))
    assert isinstance(tensors, dict)
    for name in [name for name in tensors if name.endswith("router.bias")]:
        experts = tensors[name].shape[0]
        step = 1 if ".0." in name else 2
        tensors[name] = mx.where(mx.arange(experts) % step == 0, 8.0 - mx.arange(experts), 0).astype(mx.bfloat16)
    mx.eval(tensors)
    mx.save_safetensors(str(file), tensors)


def weights_file(folder: Path) -> Path:
    """The file that contains the weights of a folder with a single shard."""
    (name,) = set(json.loads((folder / "model.safetensors.index.json").read_text())["weight_map"].values())
    return folder / name
