"""Attention, grouped and with sinks, on every backend.

A GPU has a kernel for it that holds no scores. On MLX's CPU backend `backend.cpu_attention` computes the same. Knows
nothing of the model.
"""

from __future__ import annotations

import mlx.core as mx

from mlx_oss.backend import cpu_attention, device


def attention(
    q: mx.array, k: mx.array, v: mx.array, *, scale: float, mask: mx.array | str | None, sinks: mx.array
) -> mx.array:
    """q (B, H, L, D), k and v (B, K, S, D), sinks (H,) -> (B, H, L, D); the queries are the last L of the S positions.

    mask  "causal", bool (L, S), or None: every query sees every key
    """
    if device.on_gpu():
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask, sinks=sinks)
    return cpu_attention.attention(q, k, v, scale=scale, mask=mask, sinks=sinks)
