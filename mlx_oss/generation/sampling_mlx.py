"""The arithmetic of `sampling` in MLX, for GPUs: no function waits for the logits.

Has the same names as `sampling_numpy`. Knows nothing of options.
"""

from __future__ import annotations

import math
from collections.abc import Callable

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_oss.backend.device import compiled


class Draws:
    """A sequence of random choices. Its only state is a random key.

    Args:
        seed: From 0 to 2^64 - 1. The same seed makes the same choices.
        filtered: Logits (V',) -> what they are at the temperature, -inf where an id must not be drawn.
    """

    def __init__(self, seed: int, filtered: Callable[[mx.array], mx.array]) -> None:
        self._key, self._filtered = mx.random.key(seed), filtered
        self._draw = compiled(self._drawn)

    def __call__(self, logits: mx.array) -> mx.array:
        """Logits (V',) -> an id drawn from the filtered distribution, a scalar."""
        token, self._key = self._draw(logits, self._key)
        return token

    def skip(self) -> None:
        """Goes on as if an id had been drawn."""
        self._key = mx.random.split(self._key)[0]

    def _drawn(self, logits: mx.array, key: mx.array) -> tuple[mx.array, mx.array]:
        """An id, and the next key."""
        next_key, key = mx.random.split(key)
        # Gumbel-max: the largest of logits + noise is a draw from the softmax of the logits.
        return mx.argmax(self._filtered(logits) + mx.random.gumbel(logits.shape, key=key)), next_key


def float32(logits: mx.array) -> mx.array:
    """Logits of the model in any dtype -> float32."""
    return logits.astype(mx.float32)


def only(logits: mx.array, allowed: NDArray[np.bool_]) -> mx.array:
    """Logits (V',) -> the same, -inf where `allowed` (V',) is False."""
    return mx.where(mx.array(allowed), logits, -math.inf)


def largest(logits: mx.array, count: int) -> mx.array:
    """The ids of the `count` largest logits, in any order."""
    return mx.argpartition(-logits, kth=count - 1)[:count]


def best_first(logits: mx.array, count: int) -> mx.array:
    """The ids of the `count` largest logits, the largest first."""
    ids = largest(logits, count)
    return ids[mx.argsort(-logits[ids])]


def log_total(logits: mx.array) -> mx.array:
    """The logarithm of the sum of their powers of e."""
    return mx.logsumexp(logits)


def weights(logits: mx.array) -> mx.array:
    """Logits (V',) -> what the functions below filter: the logits, -inf where an id is dropped."""
    return logits


def top_k(logits: mx.array, k: int) -> mx.array:
    """Keeps the k most likely ids, and those as likely as the last of them."""
    return mx.where(logits < mx.topk(logits, k).min(), -math.inf, logits)


def min_p(logits: mx.array, least: float) -> mx.array:
    """Keeps ids that are at least `least` times as likely as the most likely one."""
    return mx.where(logits < logits.max() + math.log(least), -math.inf, logits)


def top_p(logits: mx.array, share: float) -> mx.array:
    """Keeps the fewest most likely ids whose probabilities reach this share (arXiv 1904.09751), and at least one."""
    order = mx.argsort(-logits)
    probs = mx.softmax(logits[order], precise=True)
    before = mx.cumsum(probs, inclusive=False)
    kept = mx.where(before < share, logits[order], -math.inf)
    return mx.put_along_axis(logits, order, kept, axis=0)
