"""A few values of every module, so that two models can be told apart even if their weights are stored differently.

Quantised rows are dequantised, and rows are chosen by their meaning, not their position. So a release and the folder
that it was converted to have the same samples. A fine-tune that changes none of these rows has them, too.
"""

from __future__ import annotations

from collections.abc import Iterator

import mlx.core as mx
import mlx.nn as nn

from mlx_oss.backend.packed import dequantized
from mlx_oss.config import QuantizationSpec
from mlx_oss.model.linear import packed
from mlx_oss.model.transformer import Attention, Experts, Transformer


def samples(model: Transformer) -> Iterator[mx.array]:
    """Yields float32 arrays: some rows of each matrix, all vectors, and the first and last rows of each expert 0.

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
        experts: Experts = layer.mlp.experts
        for name in ("gate_up_proj", "down_proj"):
            matrix = experts[name]
            yield dequantized(matrix.spec, *(experts.edges_of(name, suffix) for suffix in packed(matrix)))
            yield experts.edges_of(name, "bias")


def _rows(layer: nn.Module, rows: list[int]) -> mx.array:
    """Rows of a linear layer's matrix, dequantised."""
    weight, *parts = (layer[name][mx.array(rows)] for name in packed(layer))
    if not parts:
        values: mx.array = weight
        return values
    return dequantized(QuantizationSpec(layer.group_size, layer.bits, layer.mode), weight, *parts)
