"""Reads an exported archive back as training weights (the inverse of `export.py`) and adds rows for more tokens.

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
    """Reads an archive that `export.py` wrote.

    Args:
        path: The .tar.xz file.

    Returns:
        The token ids that have a row, in the order of the rows, and the float32 weights under their names in
        `model.Nano`.
    """
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
        attention, experts, source = f"attention.{layer}.", f"experts.{layer}.", f"model.layers.{layer}."
        for kind in ("weight", "bias"):
            parts = [tensors[f"{source}self_attn.{name}_proj.{kind}"] for name in "qkv"]
            state[f"{attention}qkv.{kind}"] = torch.cat(parts)
            state[f"{attention}out.{kind}"] = tensors[f"{source}self_attn.o_proj.{kind}"]
            state[f"{experts}router.{kind}"] = tensors[f"{source}mlp.router.{kind}"]
        state[f"{attention}sinks"] = tensors[f"{source}self_attn.sinks"]
        state[f"{attention}norm.scale"] = tensors[f"{source}input_layernorm.weight"]
        state[f"{experts}norm.scale"] = tensors[f"{source}post_attention_layernorm.weight"]
        state[f"{experts}up_bias"] = halves(tensors[f"{source}mlp.experts.gate_up_proj_bias"])
        state[f"{experts}down_bias"] = tensors[f"{source}mlp.experts.down_proj_bias"]
        up, down = (
            unpack_mxfp4(*(tensors[f"{source}mlp.experts.{name}_{part}"] for part in ("blocks", "scales")))
            for name in ("gate_up_proj", "down_proj")
        )
        state[f"{experts}up"], state[f"{experts}down"] = halves(up), down
    return ids, {name: tensor.float() for name, tensor in state.items()}


def unpack_mxfp4(blocks: Tensor, scales: Tensor) -> Tensor:
    """MXFP4 blocks (..., n / 32, 16) and scales (..., n / 32) -> float values (..., n)."""
    table = torch.tensor([*FP4, *(-value for value in FP4)])
    values = table[torch.stack([blocks & 15, blocks >> 4], -1).flatten(-2).long()]
    return (values * torch.exp2(scales.float() - 127)[..., None]).flatten(-2)


def halves(rows: Tensor) -> Tensor:
    """Reorders axis 1: gate, linear, gate, linear, ... -> all gates, then all linear parts."""
    return torch.cat([rows[:, ::2], rows[:, 1::2]], 1)


def with_rows(ids: np.ndarray, state: dict[str, Tensor], wanted: np.ndarray) -> tuple[np.ndarray, dict[str, Tensor]]:
    """Adds a row for each id of `wanted` that has none.

    A new row starts near the mean of the rows whose tokens have the same letters (with or without a capital or a
    leading space), or at random if there are none. Its unembedding gets the mean offset of the existing rows, so nano
    is as unlikely to write it as an average row.

    Args:
        ids: Token ids that have a row, in the order of the rows.
        state: The weights; the embedding and the unembedding have len(ids) + 1 rows.
        wanted: Token ids that should have a row.

    Returns:
        All ids, sorted, and the weights with len(all ids) + 1 rows. Existing rows are unchanged; the shared row of all
        other ids stays last.
    """
    all_ids = np.union1d(ids, wanted).astype(np.int32)
    old_rows = torch.from_numpy(np.append(np.searchsorted(all_ids, ids), len(all_ids)))
    hidden = state["embedding"].shape[1]
    rows_by_letters: dict[str, list[int]] = defaultdict(list)
    for row, id_ in enumerate(ids.tolist()):
        rows_by_letters[_letters(id_)].append(row)
    embedding = torch.randn(len(all_ids) + 1, hidden, generator=torch.Generator().manual_seed(1))
    drift = (state["unembedding"] - state["embedding"] / math.sqrt(hidden)).mean(0)
    unembedding = embedding / math.sqrt(hidden) + drift
    for row in np.flatnonzero(~np.isin(all_ids, ids)).tolist():
        if rows := rows_by_letters.get(_letters(int(all_ids[row]))):
            embedding[row] = 0.3 * embedding[row] + state["embedding"][rows].mean(0)
            unembedding[row] = embedding[row] / math.sqrt(hidden) + drift
    embedding[old_rows], unembedding[old_rows] = state["embedding"], state["unembedding"]
    return all_ids, state | {"embedding": embedding, "unembedding": unembedding}


def _letters(id_: int) -> str:
    """The text of a token in lower case, without surrounding spaces."""
    return o200k.load_tokenizer().token_bytes(id_).decode("utf-8", "replace").strip().lower()
