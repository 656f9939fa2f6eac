"""A few values of every module of a model: two models are told apart by them, however their weights are stored.

Quantised rows are dequantised, and a row counts by what it means and not by where it lies. So a release and the folder
that it was converted to have the same samples.
"""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx
import mlx.nn as nn

from mlx_oss.model.linear import PACKED
from mlx_oss.model.transformer import Attention, Transformer


def samples(model: Transformer) -> Iterator[mx.array]:
    """Yields float32 arrays: rows of each matrix, all vectors, and of each layer's experts the edges of the first one.

    Raises:
        CheckpointError: If weights are on disk and cannot be read.
    """
    for array in _samples(model):
        yield array.astype(mx.float32)


def _samples(model: Transformer) -> Iterator[mx.array]:
    yield model.embed_tokens(mx.array([0]))  # the last rows belong to no token, and not every layout has them
    yield _rows(model.lm_head, [0])
    yield model.norm.weight
    for layer in model.layers:
        attention: Attention = layer.self_attn
        q, k = attention.H * attention.D, attention.K * attention.D
        yield _rows(attention.qkv_proj, [0, q, q + k, q + 2 * k - 1])
        yield _rows(attention.o_proj, [0])
        yield _rows(layer.mlp.router, [0])
        yield from (attention.qkv_proj.bias, attention.o_proj.bias, layer.mlp.router.bias, attention.sinks)
        yield from (layer.input_layernorm.weight, layer.post_attention_layernorm.weight)
        yield from layer.mlp.experts.edges()


def _rows(layer: nn.Module, rows: list[int]) -> mx.array:
    """Rows of a linear layer's matrix, dequantised."""
    weight, *parts = (layer[name][mx.array(rows)] for name in PACKED if layer.get(name) is not None)
    if not parts:
        row: mx.array = weight
        return row
    scales, *biases = parts
    return mx.dequantize(weight, scales, biases[0] if biases else None, layer.group_size, layer.bits, layer.mode)
