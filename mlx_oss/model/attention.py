"""Grouped-query attention with sinks, on every backend.

A GPU uses MLX's kernel, which does not store the scores. On MLX's CPU backend, `backend.cpu_attention` computes the
same. Knows nothing of the model.
"""

from __future__ import annotations

import mlx.core as mx

from mlx_oss.backend import cpu_attention, device

_FEW, _ROWS = 8, 32  # mlx/backend/metal/scaled_dot_product_attention.cpp, has_fused_kernel


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
        return _by_kernels(q, k, v, scale, mask, sinks)
    return cpu_attention.attention(q, k, v, scale=scale, mask=mask, sinks=sinks)


def _by_kernels(
    q: mx.array, k: mx.array, v: mx.array, scale: float, mask: mx.array | str | None, sinks: mx.array
) -> mx.array:
    """Like `attention`, so that MLX always finds a kernel that fuses everything.

    MLX has one on Metal for more than 8 queries, and one for up to 32 rows: queries times query heads a kv head. In
    between it computes the scores in separate steps, which round otherwise. So a few queries are computed in parts.
    """
    L, S, most = q.shape[2], k.shape[2], max(1, _ROWS * k.shape[1] // q.shape[1])
    if not most < L <= _FEW:
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask, sinks=sinks)
    parts = []
    for start in range(0, L, most):
        end = min(start + most, L)
        seen = S - L + end if mask == "causal" else S
        part_mask = mask[start:end] if isinstance(mask, mx.array) else mask
        if end - start == 1 and mask == "causal":
            part_mask = None
        keys, values = k[:, :, :seen], v[:, :, :seen]
        parts.append(
            mx.fast.scaled_dot_product_attention(
                q[:, :, start:end], keys, values, scale=scale, mask=part_mask, sinks=sinks
            )
        )
    return mx.concatenate(parts, axis=2)
