"""Grouped-query attention with sinks, on every backend.

A GPU uses MLX's kernel, which does not store the scores. On MLX's CPU backend, `backend.cpu_attention` computes the
same. Knows nothing of the model.
"""

from __future__ import annotations

import mlx.core as mx

from mlx_oss.backend import cpu_attention, device


def attention(
    q: mx.array, k: mx.array, v: mx.array, *, scale: float, mask: mx.array | str | None, sinks: mx.array
) -> mx.array:
    """q (B, H, L, D), k and v (B, K, S, D), sinks (H,) -> (B, H, L, D).

    Args:
        q: Queries of the last L of the S positions.
        k: Keys.
        v: Values.
        scale: Factor of the scores.
        mask: "causal", or bool (L, S) with True where a query sees a key. None means that every query sees every key.
        sinks: One learned logit for each head: the softmax includes it, but it has no value.
    """
    if device.on_gpu():
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask, sinks=sinks)
    return cpu_attention.attention(q, k, v, scale=scale, mask=mask, sinks=sinks)
