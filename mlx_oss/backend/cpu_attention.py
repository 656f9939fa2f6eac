"""Attention on MLX's CPU backend, divided among the cores and computed tile by tile.

MLX's own kernel for the CPU computes all scores of a layer at once and on one core. Here the kv heads are divided among
the cores. Each core computes the scores tile by tile (some queries times some keys) and updates the softmax after each
tile. This is the online softmax of Milakov and Gimelshein (arXiv 1805.02867), in the order of FlashAttention
(arXiv 2205.14135). Memory for scores does not grow with the length of a prompt, and a tile stays in a core's cache.
Knows nothing of the model.
"""

from __future__ import annotations

import math

import mlx.core as mx

from mlx_oss.backend import cores

SCORES = 1 << 18  # scores in a tile
KEYS = 512  # minimum number of keys in a tile, so that its matrix products are large
# The softmax uses powers of 2: MLX's CPU backend takes 5 ns for one, and 13 ns for a power of e
# (`python -m tests.bench_matrices`).
_LOG2E = math.log2(math.e)


def attention(
    q: mx.array, k: mx.array, v: mx.array, *, scale: float, mask: mx.array | str | None, sinks: mx.array
) -> mx.array:
    """Same arguments and result as `model.attention.attention`."""
    (B, H, L, D), (K, S) = q.shape, k.shape[1:3]

    def heads(q: mx.array, k: mx.array, v: mx.array, sinks: mx.array) -> mx.array:
        """Attention of n kv heads with G = H / K query heads each. The L queries are the last of the S positions.

        q (n, B, G, L, D), k and v (n, B, S, D), sinks (n, 1, G, 1, 1) -> (n, B, G, L, D)
        """
        rows = q.size // (L * D)
        step = min(L, max(1, SCORES // (rows * KEYS)))
        keys = max(1, SCORES // (rows * step))
        outputs: list[mx.array] = []
        for start in range(0, L, step):
            end = min(start + step, L)
            seen = S - L + end if mask == "causal" else S
            tile_mask = mask[start:end] if isinstance(mask, mx.array) else mask
            # Waits for the previous queries: otherwise MLX would compute all tiles at once and hold them in memory.
            queries = mx.depends(q[..., start:end, :], outputs[-1:])
            outputs.append(_tiled(queries, k[:, :, :seen], v[:, :, :seen], sinks, tile_mask, keys))
        return outputs[0] if len(outputs) == 1 else mx.concatenate(outputs, axis=3)

    grouped = (q.astype(mx.float32) * (scale * _LOG2E)).reshape(B, K, H // K, L, D).swapaxes(0, 1)
    exponents = (sinks.astype(mx.float32) * _LOG2E).reshape(K, 1, H // K, 1, 1)
    work = 4 * max(k.size + v.size, B * H * L * S)
    out = cores.over_cores(heads, grouped, k.swapaxes(0, 1), v.swapaxes(0, 1), exponents, work=work)
    return out.swapaxes(0, 1).reshape(B, H, L, D).astype(q.dtype)


def _tiled(q: mx.array, k: mx.array, v: mx.array, sinks: mx.array, mask: mx.array | str | None, keys: int) -> mx.array:
    """q (n, B, G, L, D), k and v (n, B, S, D), sinks (n, 1, G, 1, 1) -> (n, B, G, L, D), `keys` keys at a time.

    Scores and sinks are exponents of 2. Three running results describe the tiles so far, for each query: the largest
    exponent, the sum of all powers of 2 relative to it, and the sum of the values weighted with those powers. They
    start with the sink, which has an exponent but no value.
    """
    n, B, G, L, D = q.shape
    S = k.shape[2]
    q = q.reshape(n, B, G * L, D)
    top = mx.broadcast_to(sinks, (n, B, G, L, 1)).reshape(n, B, G * L, 1)
    total, out = mx.ones_like(top), mx.zeros_like(q)
    for start in range(0, S, keys):
        end = min(start + keys, S)
        q = mx.depends(q, [out, total])
        scores = q @ k[:, :, start:end].swapaxes(-1, -2)
        visible = mask[:, start:end] if isinstance(mask, mx.array) else None
        if mask == "causal" and end > S - L + 1:
            visible = mx.arange(start, end) <= mx.arange(S - L, S)[:, None]
        if visible is not None:
            scores = mx.where(visible, scores.reshape(n, B, G, L, -1), -mx.inf).reshape(scores.shape)
        largest = mx.maximum(top, scores.max(-1, keepdims=True))
        powers, shrink = mx.power(2.0, scores - largest), mx.power(2.0, top - largest)
        total = total * shrink + powers.sum(-1, keepdims=True)
        out, top = out * shrink + powers @ v[:, :, start:end], largest
    return (out / total).reshape(n, B, G, L, D)
