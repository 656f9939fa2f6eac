"""Reads an exported archive back as training weights (the opposite of `export.py`), and gives it rows for more tokens.

Knows nothing of data or optimisers.
"""

from __future__ import annotations

import json
import math
import tarfile
from collections import defaultdict
from pathlib import Path

import numpy as np
import torch
from export import FP4
from safetensors.torch import load
from torch import Tensor

from mlx_oss import tokenizer as o200k


def read(path: Path) -> tuple[np.ndarray, dict[str, Tensor]]:
    """Ids of the rows, and the weights by their names in `model.Nano`, of an archive that `export.py` wrote."""
    with tarfile.open(path) as archive:
        content = {member.name: archive.extractfile(member).read() for member in archive}  # type: ignore[union-attr]
    ids = np.array(json.loads(content["rows.json"]), np.int32)
    tensors = load(content["model.safetensors"])
    state = {
        "embedding": tensors["model.embed_tokens.weight"],
        "unembedding": tensors["lm_head.weight"],
        "norm.scale": tensors["model.norm.weight"],
    }
    for layer in range(json.loads(content["config.json"])["num_hidden_layers"]):
        attention, experts, of = f"attention.{layer}.", f"experts.{layer}.", f"model.layers.{layer}."
        for kind in ("weight", "bias"):
            parts = [tensors[f"{of}self_attn.{name}_proj.{kind}"] for name in "qkv"]
            state[f"{attention}qkv.{kind}"] = torch.cat(parts)
            state[f"{attention}out.{kind}"] = tensors[f"{of}self_attn.o_proj.{kind}"]
            state[f"{experts}router.{kind}"] = tensors[f"{of}mlp.router.{kind}"]
        state[f"{attention}sinks"] = tensors[f"{of}self_attn.sinks"]
        state[f"{attention}norm.scale"] = tensors[f"{of}input_layernorm.weight"]
        state[f"{experts}norm.scale"] = tensors[f"{of}post_attention_layernorm.weight"]
        state[f"{experts}up_bias"] = halves(tensors[f"{of}mlp.experts.gate_up_proj_bias"])
        state[f"{experts}down_bias"] = tensors[f"{of}mlp.experts.down_proj_bias"]
        up, down = (
            unpack_mxfp4(*(tensors[f"{of}mlp.experts.{name}_{part}"] for part in ("blocks", "scales")))
            for name in ("gate_up_proj", "down_proj")
        )
        state[f"{experts}up"], state[f"{experts}down"] = halves(up), down
    return ids, {name: tensor.float() for name, tensor in state.items()}


def unpack_mxfp4(blocks: Tensor, scales: Tensor) -> Tensor:
    """Values (..., n) of blocks (..., n / 32, 16) and scales (..., n / 32)."""
    table = torch.tensor([*FP4, *(-value for value in FP4)])
    values = table[torch.stack([blocks & 15, blocks >> 4], -1).flatten(-2).long()]
    return (values * torch.exp2(scales.float() - 127)[..., None]).flatten(-2)


def halves(rows: Tensor) -> Tensor:
    """gate, linear, gate, linear, ... along axis 1 -> gates, then linear parts."""
    return torch.cat([rows[:, ::2], rows[:, 1::2]], 1)


def with_rows(ids: np.ndarray, state: dict[str, Tensor], wanted: np.ndarray) -> tuple[np.ndarray, dict[str, Tensor]]:
    """With a row for each id of `wanted` too.

    A new row starts near the mean of the rows that are the same letters (with a capital, a blank before), or at random;
    it is as unlikely to be written as an average row.
    """
    every = np.union1d(ids, wanted).astype(np.int32)
    old = torch.from_numpy(np.append(np.searchsorted(every, ids), len(every)))
    hidden = state["embedding"].shape[1]
    alike: dict[str, list[int]] = defaultdict(list)
    for row, id_ in enumerate(ids.tolist()):
        alike[_letters(id_)].append(row)
    embedding = torch.randn(len(every) + 1, hidden, generator=torch.Generator().manual_seed(1))
    drift = (state["unembedding"] - state["embedding"] / math.sqrt(hidden)).mean(0)
    unembedding = embedding / math.sqrt(hidden) + drift
    for row in np.flatnonzero(~np.isin(every, ids)).tolist():
        if rows := alike.get(_letters(int(every[row]))):
            embedding[row] = 0.3 * embedding[row] + state["embedding"][rows].mean(0)
            unembedding[row] = embedding[row] / math.sqrt(hidden) + drift
    embedding[old], unembedding[old] = state["embedding"], state["unembedding"]
    return every, state | {"embedding": embedding, "unembedding": unembedding}


def _letters(id_: int) -> str:
    return o200k.load_tokenizer().token_bytes(id_).decode("utf-8", "replace").strip().lower()
