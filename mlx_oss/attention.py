"""Attention, grouped and with sinks, on every backend.

A GPU has a kernel for it that holds no scores. MLX's CPU backend computes all scores of a layer on one core: there the
kv heads are shared out among the cores, and where there are many scores the queries taken some at a time, so that
memory does not grow with the length of a prompt. Knows nothing of the model.
"""

from __future__ import annotations

import mlx.core as mx

from mlx_oss import device

SCORES = 1 << 20  # at a time, on each core


def attention(
    q: mx.array, k: mx.array, v: mx.array, *, scale: float, mask: mx.array | str | None, sinks: mx.array
) -> mx.array:
    """q (B, H, L, D), k and v (B, K, S, D), sinks (H,) -> (B, H, L, D); the queries are the last L of the S positions.

    mask  "causal", bool (L, S), or None: every query sees every key
    """
    if device.on_gpu():
        return mx.fast.scaled_dot_product_attention(q, k, v, scale=scale, mask=mask, sinks=sinks)
    (B, H, L, D), (K, S) = q.shape, k.shape[1:3]
    scores = B * (H // K) * S  # of one kv head, for each query

    def heads(q: mx.array, k: mx.array, v: mx.array, sinks: mx.array) -> mx.array:
        """Some kv heads: q (k, G, B, L, D), k and v (k, B, S, D), sinks (k, G) -> (k, G, B, L, D)."""
        n = k.shape[0]
        q, k, v, sinks = q.flatten(0, 1).swapaxes(0, 1), k.swapaxes(0, 1), v.swapaxes(0, 1), sinks.flatten()
        step = max(1, SCORES // (n * scores))
        parts = []
        for start in range(0, L, step):
            end = min(start + step, L)
            seen = S - L + end if mask == "causal" else S
            part = mask[start:end] if isinstance(mask, mx.array) else mask
            parts.append(
                mx.fast.scaled_dot_product_attention(
                    q[:, :, start:end], k[:, :, :seen], v[:, :, :seen], scale=scale, mask=part, sinks=sinks
                )
            )
        out = parts[0] if len(parts) == 1 else mx.concatenate(parts, axis=2)
        return out.swapaxes(0, 1).reshape(n, H // K, B, L, D)

    grouped = q.swapaxes(0, 1).reshape(K, H // K, B, L, D)
    rows = (grouped, k.swapaxes(0, 1), v.swapaxes(0, 1), sinks.reshape(K, H // K))
    block = max(1, SCORES // (scores * L))
    out = device.over_cores(heads, *rows, work=4 * max(k.size + v.size, K * scores * L), block=block)
    return out.reshape(H, B, L, D).swapaxes(0, 1)
