"""Writes a trained nano as one archive in the Hugging Face layout of the release.

The archive contains config.json, generation_config.json, and model.safetensors with the released tensor names. Only the
embedding and the unembedding differ from the release: they have one row for each token that nano knows, and a last row
for all other ids. rows.json lists the ids of the rows, in order. The same checkpoint always gives the same bytes.
"""

from __future__ import annotations

import argparse
import io
import json
import lzma
import tarfile
from pathlib import Path
from typing import Any

import model as nano
import numpy as np
import torch
from model import Shape
from safetensors.torch import save
from torch import Tensor

ARCHIVE = Path(__file__).parents[2] / "mlx_oss" / "data" / "nano.tar.xz"
FP4 = (0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0)


def pack_mxfp4(weight: Tensor) -> tuple[Tensor, Tensor]:
    """weight (..., n) -> MXFP4 blocks (..., n / 32, 16) and scales (..., n / 32), both uint8; low nibble first."""
    blocks = nano.mxfp4(weight.float()).reshape(*weight.shape[:-1], -1, 32)
    exponent = torch.floor(torch.log2(weight.float().reshape(blocks.shape).abs().amax(-1).clamp_min(1e-30))) - 2
    scaled = blocks / torch.exp2(exponent)[..., None]
    codes = torch.searchsorted(torch.tensor(FP4), scaled.abs().contiguous()).to(torch.uint8) | (
        (scaled < 0).to(torch.uint8) << 3
    )
    return codes[..., ::2] | (codes[..., 1::2] << 4), (exponent + 127).to(torch.uint8)


def interleave(rows: Tensor) -> Tensor:
    """Reorders axis 1: all gates, then all linear parts -> gate, linear, gate, linear, ..."""
    gates, linear_parts = rows.chunk(2, 1)
    return torch.stack([gates, linear_parts], 2).flatten(1, 2)


def released(state: dict[str, Tensor], shape: Shape) -> dict[str, Tensor]:
    """The weights of `model.Nano` under their released names: experts in MXFP4, all others in bfloat16."""
    size, q_rows = shape.head_dim, shape.heads * shape.head_dim
    tensors = {
        "model.embed_tokens.weight": state["embedding"],
        "lm_head.weight": state["unembedding"],
        "model.norm.weight": state["norm.scale"],
    }
    packed: dict[str, Tensor] = {}
    for layer in range(shape.layers):
        attention, experts, target = (f"attention.{layer}.", f"experts.{layer}.", f"model.layers.{layer}.")
        for kind in ("weight", "bias"):
            parts = state[f"{attention}qkv.{kind}"].split([q_rows, shape.kv_heads * size, shape.kv_heads * size])
            tensors |= {f"{target}self_attn.{name}_proj.{kind}": part for name, part in zip("qkv", parts, strict=True)}
            tensors[f"{target}self_attn.o_proj.{kind}"] = state[f"{attention}out.{kind}"]
            tensors[f"{target}mlp.router.{kind}"] = state[f"{experts}router.{kind}"]
        tensors[f"{target}self_attn.sinks"] = state[f"{attention}sinks"]
        tensors[f"{target}input_layernorm.weight"] = state[f"{attention}norm.scale"]
        tensors[f"{target}post_attention_layernorm.weight"] = state[f"{experts}norm.scale"]
        tensors[f"{target}mlp.experts.gate_up_proj_bias"] = interleave(state[f"{experts}up_bias"])
        tensors[f"{target}mlp.experts.down_proj_bias"] = state[f"{experts}down_bias"]
        for name, weight in (
            ("gate_up_proj", interleave(state[f"{experts}up"])),
            ("down_proj", state[f"{experts}down"]),
        ):
            packed[f"{target}mlp.experts.{name}_blocks"], packed[f"{target}mlp.experts.{name}_scales"] = pack_mxfp4(
                weight
            )
    return {name: tensor.bfloat16().contiguous() for name, tensor in tensors.items()} | packed


def config(shape: Shape) -> dict[str, Any]:
    """The contents of config.json, with the keys of the gpt-oss-20b release."""
    return {
        "architectures": ["GptOssForCausalLM"],
        "attention_bias": True,
        "attention_dropout": 0.0,
        "eos_token_id": 200002,
        "experts_per_token": shape.active,
        "head_dim": shape.head_dim,
        "hidden_act": "silu",
        "hidden_size": shape.hidden,
        "initial_context_length": nano.ORIGINAL_CONTEXT,
        "initializer_range": 0.02,
        "intermediate_size": shape.expert_hidden,
        "layer_types": [("sliding_attention", "full_attention")[layer % 2] for layer in range(shape.layers)],
        "max_position_embeddings": nano.ORIGINAL_CONTEXT,  # nano is trained on short conversations
        "model_type": "gpt_oss",
        "num_attention_heads": shape.heads,
        "num_experts_per_tok": shape.active,
        "num_hidden_layers": shape.layers,
        "num_key_value_heads": shape.kv_heads,
        "num_local_experts": shape.experts,
        "output_router_logits": False,
        "pad_token_id": 199999,
        "quantization_config": {
            "modules_to_not_convert": [
                "model.layers.*.self_attn",
                "model.layers.*.mlp.router",
                "model.embed_tokens",
                "lm_head",
            ],
            "quant_method": "mxfp4",
        },
        "rms_norm_eps": nano.EPS,
        "rope_scaling": {
            "beta_fast": nano.BETA_FAST,
            "beta_slow": nano.BETA_SLOW,
            "factor": nano.FACTOR,
            "original_max_position_embeddings": nano.ORIGINAL_CONTEXT,
            "rope_type": "yarn",
            "truncate": False,
        },
        "rope_theta": int(nano.THETA),
        "router_aux_loss_coef": 0.9,
        "sliding_window": shape.window,
        "swiglu_limit": nano.SWIGLU_LIMIT,
        "tie_word_embeddings": False,
        "use_cache": True,
        "vocab_size": shape.vocab,
    }


def archive(files: dict[str, bytes]) -> bytes:
    """Packs `files` (name -> content) as tar.xz, without dates or owners, so equal files give equal bytes."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for name in sorted(files):
            entry = tarfile.TarInfo(name)
            entry.size, entry.mode, entry.mtime = len(files[name]), 0o644, 0
            tar.addfile(entry, io.BytesIO(files[name]))
    return lzma.compress(buffer.getvalue(), preset=9 | lzma.PRESET_EXTREME)


def bundle(ids: np.ndarray, state: dict[str, Tensor]) -> bytes:
    """The archive of a network.

    Args:
        ids: Token ids of the rows of the embedding, in order; the last row (all other ids) has none.
        state: The weights under their names in `model.Nano`.
    """
    shape = Shape(len(ids))
    tensors = released(state, shape)
    generation = {
        "bos_token_id": 199998,
        "do_sample": True,
        "eos_token_id": [200002, 199999, 200012],
        "pad_token_id": 199999,
    }
    files = {
        "config.json": json.dumps(config(shape), indent=2).encode() + b"\n",
        "generation_config.json": json.dumps(generation, indent=2).encode() + b"\n",
        "rows.json": json.dumps(ids.tolist(), separators=(",", ":")).encode() + b"\n",
        "model.safetensors": save(tensors, metadata={"format": "pt"}),
    }
    return archive(files)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "checkpoints", type=Path, nargs="+", help="checkpoints of one training run; several are averaged"
    )
    parser.add_argument("--archive", type=Path, default=ARCHIVE, help="file to write (default: the bundled archive)")
    arguments = parser.parse_args()
    saved = [torch.load(path, weights_only=False, map_location="cpu") for path in arguments.checkpoints]
    ids, states = saved[0]["ids"], [each["model"] for each in saved]
    state = {name: torch.stack([each[name] for each in states]).mean(0) for name in states[0]}
    arguments.archive.write_bytes(bundle(ids, state))


if __name__ == "__main__":
    main()
