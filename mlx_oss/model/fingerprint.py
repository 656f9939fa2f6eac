"""The fingerprint of a model: what tells it apart from others, even if their weights are stored differently.

It does not show a fine-tune that changes only few rows, for example the embeddings of single tokens, or rows in the
middle of the experts' matrices.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator
from dataclasses import asdict, replace
from typing import Any

import mlx.core as mx
import mlx.nn as nn
import numpy as np

from mlx_oss.backend.packed import dequantized
from mlx_oss.config import QuantizationSpec
from mlx_oss.model.linear import ExpertLinear, packed
from mlx_oss.model.sharding import Shard
from mlx_oss.model.transformer import Attention, Experts, Transformer
from mlx_oss.shards import Blocks


def fingerprint(model: Transformer) -> str:
    """SHA-256 of what a model computes with: its config, its dtype and some values of every module.

    Only models with the same fingerprint share caches. It does not depend on how weights are stored: a release and the
    folder that it was converted to have the same one. Quantised rows are dequantised for it, and rows are chosen by
    their meaning, not their position.

    Raises:
        CheckpointError: If weights are on disk and cannot be read.
    """
    config = _numbers(asdict(replace(model.config, quantization=None)))
    checksum = hashlib.sha256(f"{json.dumps(config)} {model.dtype}".encode())
    for array in _samples(model):
        checksum.update(np.array(array.astype(mx.float32)).tobytes())
    return checksum.hexdigest()


def _numbers(value: Any) -> Any:
    """Returns `value` with every integer as a float, because checkpoints write 32 or 32.0 for the same setting."""
    if isinstance(value, dict):
        return {key: _numbers(each) for key, each in value.items()}
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


def _samples(model: Transformer) -> Iterator[mx.array]:
    """Rows of each matrix, all vectors, and the first and last rows of some experts."""
    c, shard = model.config, model.shard
    tokens = _spread(c.vocab_size, 32)  # not the last rows: the Metal file lacks them
    yield shard.looked_up(model.embed_tokens, mx.array(tokens), shard.part(c.vocab_size))
    yield _rows(shard, model.lm_head, tokens, (c.vocab_size,))
    yield model.norm.weight
    qkv = tuple(heads * c.head_dim for heads in c.qkv_heads)
    heads = [head * c.head_dim for head in range(sum(c.qkv_heads))]
    for layer in model.layers:
        attention: Attention = layer.self_attn
        yield _rows(shard, attention.qkv_proj, heads, qkv)
        yield _rows(shard, attention.o_proj, _spread(c.hidden_size, 32), (c.hidden_size,))
        yield _rows(shard, layer.mlp.router, list(range(c.num_local_experts)), None)
        yield shard.rows(attention.qkv_proj.bias, range(sum(qkv)), qkv)
        yield shard.joined(attention.o_proj.bias)
        yield layer.mlp.router.bias
        yield shard.joined(attention.sinks)
        yield from (layer.input_layernorm.weight, layer.post_attention_layernorm.weight)
        for expert in _spread(c.num_local_experts, 4):
            yield from _edges(layer.mlp.experts, expert)


def _spread(size: int, count: int) -> list[int]:
    """Up to `count` numbers below `size`, from 0 on in equal distances."""
    return list(range(0, size, max(size // count, 1)))[:count]


def _edges(experts: Experts, expert: int) -> Iterator[mx.array]:
    """The first and last rows of an expert's matrices, dequantised, and of their biases."""
    for name in (*experts.gate_up, "down_proj"):
        matrix: ExpertLinear = experts[name]
        rows = [experts.edges_of(expert, name, suffix) for suffix in packed(matrix)]
        yield dequantized(matrix.spec, *rows) if matrix.spec else rows[0]
        yield experts.edges_of(expert, name, "bias")


def _rows(shard: Shard, layer: nn.Module, rows: list[int], blocks: Blocks | None) -> mx.array:
    """Rows of a linear layer's matrix, dequantised."""
    weight, *parts = (shard.rows(layer[name], rows, blocks) for name in packed(layer))
    if not parts:
        values: mx.array = weight
        return values
    return dequantized(QuantizationSpec(layer.group_size, layer.bits, layer.mode), weight, *parts)
