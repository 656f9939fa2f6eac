"""Grouped-query attention with sinks, on every backend.

A GPU uses MLX's kernel, which does not store the scores. On MLX's CPU backend `backend.native` computes the same,
where it is built. Knows nothing of the model.
"""

from __future__ import annotations

import mlx.core as mx

from mlx_oss.backend import native

_FEW, _ROWS = 8, 32  # mlx/backend/metal/scaled_dot_product_attention.cpp, has_fused_kernel


class Seen:
    """Which of S keys the last L positions see: all up to their own, or the last `window` of these.

    A forward pass makes one for all its full layers, and one for all sliding layers.

    Attributes:
        window: How many positions a query sees, its own included. None means all.
    """

    def __init__(self, window: int | None = None) -> None:
        self.window = window
        self._masks: dict[tuple[int, int], mx.array] = {}

    def mask(self, L: int, S: int) -> mx.array | str | None:
        """What MLX's kernels take: None if every query sees every key, "causal", or bool (L, S), True where it sees."""
        if L == 1:
            return None
        if self.window is None or self.window >= S:
            return "causal"
        if (L, S) not in self._masks:
            self._masks[L, S] = sliding_mask(S - L, L, self.window)
        return self._masks[L, S]


def sliding_mask(kept: int, L: int, window: int) -> mx.array:
    """Bool (L, kept + L), True where a query sees a key: at its own position and the window - 1 positions before it.

    The keys are those of `kept` positions before the first query, followed by those of the L queries.
    """
    query = mx.arange(kept, kept + L)[:, None]
    key = mx.arange(kept + L)
    return (key <= query) & (key > query - window)


def attention(q: mx.array, k: mx.array, v: mx.array, *, scale: float, seen: Seen, sinks: mx.array) -> mx.array:
    """q (B, H, L, D), k and v (B, K, S, D), sinks (H,) -> (B, L, H, D).

    Args:
        q: Queries of the last L of the S positions.
        k: Keys. For a single query they are all seen, so their order does not matter.
        v: Values.
        scale: Factor of the scores.
        seen: Which keys a query sees.
        sinks: One learned logit for each head: the softmax includes it, but it has no value.
    """
    L, S = q.shape[2], k.shape[2]
    if native.computes(None):
        return native.attention(q, k, v, scale=scale, sinks=sinks, window=seen.window if L > 1 else None)
    return _by_kernels(q, k, v, scale, seen.mask(L, S), sinks).swapaxes(1, 2)


def _by_kernels(
    q: mx.array, k: mx.array, v: mx.array, scale: float, mask: mx.array | str | None, sinks: mx.array
) -> mx.array:
    """Like `attention`, but (B, H, L, D), so that MLX always finds a kernel that fuses everything.

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
