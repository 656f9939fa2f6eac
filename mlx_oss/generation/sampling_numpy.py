"""The arithmetic of `sampling` in NumPy, for MLX's CPU backend, where MLX takes ten times as long.

Has the same names as `sampling_mlx`. The logits are on the host, so `float32` waits until they are computed. Knows
nothing of options.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
Ids = NDArray[np.intp]
_BLOCK = 512  # weights; adding up all of them one after the other would take longer than everything else
_NEVER = -87.0  # e to this is about the smallest float32 that is quick to compute with


@dataclass(frozen=True, slots=True)
class Weights:
    """How likely ids are.

    Attributes:
        values: (V',) probabilities as multiples of the largest one.
        least: Ids with less than this are dropped.
    """

    values: Floats
    least: float = 0.0

    def from_(self, least: float) -> Weights:
        """Drops the ids with less than this, too."""
        return Weights(self.values, max(self.least, least))

    def kept(self) -> Floats:
        """The values, 0 where an id is dropped."""
        return self.values * (self.values >= self.least) if self.least > 0 else self.values


class Draws:
    """A sequence of random choices, each from one random number.

    Args:
        seed: From 0 to 2^64 - 1. The same seed makes the same choices.
        filtered: Logits (V',) -> their weights.
    """

    def __init__(self, seed: int, filtered: Callable[[Floats], Weights]) -> None:
        self._random, self._filtered = np.random.default_rng(seed), filtered

    def __call__(self, logits: Floats) -> np.intp:
        """Logits (V',) -> an id, drawn with the probabilities that the weights have."""
        return _reaching(self._filtered(logits).kept(), 1 - self._random.random())

    def skip(self) -> None:
        """Goes on as if an id had been drawn."""
        self._random.random()


def float32(logits: mx.array) -> Floats:
    """Logits of the model in any dtype -> float32."""
    return np.array(logits.astype(mx.float32))


def only(logits: Floats, allowed: NDArray[np.bool_]) -> Floats:
    """Logits (V',) -> the same, -inf where `allowed` (V',) is False."""
    with np.errstate(divide="ignore"):
        # Adds 0 or -inf. np.where takes ten times as long if there is no pattern in the mask.
        return logits + np.log(allowed, dtype=np.float32)


def largest(logits: Floats, count: int) -> Ids:
    """The ids of the `count` largest logits, in any order."""
    return best_first(logits, count)


def best_first(logits: Floats, count: int) -> Ids:
    """The ids of the `count` largest logits, the largest first, of equal ones the lowest id first."""
    least = _kth_largest(logits, count)
    above = np.flatnonzero(logits > least)
    above = above[np.argsort(-logits[above], kind="stable")]
    return np.concatenate([above, np.flatnonzero(logits == least)[: count - len(above)]])


def log_total(logits: Floats) -> np.float32:
    """The logarithm of the sum of their powers of e."""
    total: np.float32 = logits.max() + np.log(weights(logits).values.sum())
    return total


def weights(logits: Floats) -> Weights:
    """Logits (V',) -> their weights."""
    below = logits - logits.max()
    if below.min() > _NEVER:
        return Weights(np.exp(below, out=below))
    return Weights(np.exp(np.maximum(below, _NEVER)) * (below > _NEVER))


def top_k(weights: Weights, k: int) -> Weights:
    """Keeps the k most likely ids, and those as likely as the last of them."""
    values = weights.values
    if k <= len(values) // _BLOCK:
        return weights.from_(_kth_largest(values, k))
    return weights.from_(_split(values, k)[1].min())


def min_p(weights: Weights, least: float) -> Weights:
    """Keeps ids that are at least `least` times as likely as the most likely one."""
    return weights.from_(least)


def top_p(weights: Weights, share: float) -> Weights:
    """Keeps the fewest most likely ids whose probabilities reach this share (arXiv 1904.09751), and at least one."""
    values = weights.values
    total = float(np.dot(values, values >= weights.least))
    # Ids with less have less than the rest together. They are usually nearly all.
    rest = _from(values, max(weights.least, (1 - share) * total / len(values)))
    wanted, count = share * total, 1
    while len(rest) > 32 * _BLOCK:
        smaller, larger = _split(rest, len(rest) // 2)
        if (reached := float(larger.sum())) >= wanted:
            rest = larger
        else:
            rest, wanted, count = smaller, wanted - reached, count + len(larger)
    descending = np.sort(rest)[::-1]
    last = int(_reaching(descending, 1, wanted))
    least, count = max(weights.least, float(descending[last])), count + last
    enough = values >= least
    if (surplus := np.count_nonzero(enough) - count) > 0:
        end = np.flatnonzero(values == least)[-surplus]  # of equal ones, the lowest ids stay
        enough[end:] &= values[end:] > least
    return Weights(values * enough)


def _from(values: Floats, least: float) -> Floats:
    """The values from `least` on, or all of them where taking out so many would take longer than it saves."""
    enough = values >= least
    return values[np.flatnonzero(enough)] if np.count_nonzero(enough) < len(values) // 4 else values


def _kth_largest(values: Floats, k: int) -> float:
    """The k-th largest value, for a small k."""
    tops = np.maximum.reduceat(values, np.arange(0, len(values), _BLOCK))
    least = np.sort(tops)[-k] if k <= len(tops) else -math.inf  # k blocks have a value that is as large or larger
    return float(np.sort(_from(values, least))[-k])


def _split(weights: Floats, k: int) -> tuple[Floats, Floats]:
    """All but the k largest, and those, each in any order."""
    sample = np.sort(weights[:: len(weights) // 2048 or 1])
    eighth = max(1, len(sample) // 8)
    if (sample[eighth:] == sample[:-eighth]).any():
        # Many are equal. Then np.partition takes ten times as long as otherwise, and np.sort a tenth.
        ordered = np.sort(weights)
    else:  # Numbers that are not negative have the order of their bits, and NumPy partitions integers faster.
        ordered = np.partition(weights.view(np.int32), len(weights) - k).view(np.float32)
    return ordered[: len(weights) - k], ordered[len(weights) - k :]


def _reaching(weights: Floats, share: float, total: float | None = None) -> np.intp:
    """Index of the weight with which the running sum reaches a share, above 0 and up to 1, of the total.

    It is never that of a weight of 0, because the sum reaches every amount with a weight that adds to it. `total` is
    that of the weights if it is None.
    """
    reached = np.cumsum(np.add.reduceat(weights, np.arange(0, len(weights), _BLOCK)), dtype=np.float64)
    wanted = min(share * (reached[-1] if total is None else total), reached[-1])
    block = np.searchsorted(reached, wanted)
    within = np.cumsum(weights[block * _BLOCK : (block + 1) * _BLOCK], dtype=np.float64)
    rest = wanted - (reached[block - 1] if block else 0)
    return np.intp(block * _BLOCK + np.searchsorted(within, min(rest, within[-1])))
