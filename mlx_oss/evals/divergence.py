"""How far two predictions of the next token are from each other: from logits, or from what was stored of them.

KL(P || Q) = sum of p (ln p - ln q) is the mean surprise that Q adds to what P expects (Kullback and Leibler 1951). It
is computed here as the sum of p (e^d - 1 - d) with d = ln q - ln p, which is the same because both probabilities add up
to one. No term is negative, and rounding of the two normalisers counts only as its square. NumPy, in float32: MLX's CPU
backend takes five times as long, and a Mac's CPU does this while its GPU computes the next logits.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float32]
TOP = 256  # tokens whose log-probabilities are stored


@dataclass(frozen=True, slots=True)
class Divergence:
    """How far one prediction Q is from another, P.

    Attributes:
        kl: KL(P || Q) in nats. If only the most likely tokens of P were stored: at least this much.
        missing: By how much KL(P || Q) may be larger than `kl`; 0 if all of P is known.
        is_same: Whether the same token is the most likely one.
        change: ln q - ln p of the token that was said.
    """

    kl: float
    missing: float
    is_same: bool
    change: float


@dataclass(frozen=True, slots=True)
class Top:
    """What is stored of a prediction.

    Attributes:
        ids: (T,) the most likely tokens, the first of them the most likely one.
        logprobs: (T,) their log-probabilities.
        rest: Log of the probability of all other tokens together; -inf if they have none.
        said: Log-probability of the token that was said.
    """

    ids: NDArray[np.int32]
    logprobs: Floats
    rest: float
    said: float


def divergence(p: Floats, q: Floats, said: int) -> Divergence:
    """Compares two predictions.

    Args:
        p: Logits (V,) of P.
        q: Logits (V,) of Q.
        said: The token that came next.
    """
    top, other_top = int(p.argmax()), int(q.argmax())
    logprobs = p - np.float32(_log_total(p, top))
    d = q - np.float32(_log_total(q, other_top))
    d -= logprobs
    change = float(d[said])
    return Divergence(_kl(logprobs, d), 0.0, top == other_top, change)


def divergence_from(top: Top, q: Floats, said: int) -> Divergence:
    """Compares a stored prediction P with Q.

    The other tokens count as one. That makes KL smaller, never larger (the inequality of data processing): what is
    missing is the sum of p (ln p - ln q) over them, less what they have together. It is bounded, because none of them
    is likelier in P than the last of the stored ones, and none less likely in Q than Q's least likely token.

    Args:
        top: What is stored of P.
        q: Logits (V,) of Q.
        said: The token that came next.
    """
    other = top_of(q, said, top.ids)
    logprobs, others = top.logprobs, other.logprobs
    missing = 0.0
    if top.rest > -math.inf and other.rest > -math.inf:
        logprobs, others = np.append(logprobs, top.rest), np.append(others, other.rest)
        least = float(q.min()) - _log_total(q, int(q.argmax()))
        missing = max(0.0, math.exp(top.rest) * (float(top.logprobs.min()) - least - (top.rest - other.rest)))
    kl = _kl(logprobs.astype(np.float32), (others - logprobs).astype(np.float32))
    return Divergence(kl, missing, int(top.ids[0]) == int(q.argmax()), other.said - top.said)


def top_of(logits: Floats, said: int, ids: NDArray[np.int32] | None = None) -> Top:
    """What is stored of a prediction.

    Args:
        logits: (V,).
        said: The token that came next.
        ids: The tokens that are not counted as the rest. None means the most likely ones.
    """
    best, count = int(logits.argmax()), min(TOP, len(logits))
    if ids is None:
        ids = np.argpartition(logits, len(logits) - count)[-count:].astype(np.int32)
        ids = np.concatenate([np.array([best], np.int32), ids[ids != best]])[:count]
    logprobs = logits - np.float32(_log_total(logits, best))
    others = logprobs.copy()
    others[ids] = -np.inf
    largest = float(others.max())
    log_rest = -math.inf
    if largest > -math.inf:  # the probabilities themselves may be too small for float32
        others -= np.float32(largest)
        log_rest = float(np.float32(largest + math.log(float(np.exp(others).sum()))))  # rounded as it is stored
    return Top(ids, logprobs[ids], log_rest, float(logprobs[said]))


def _kl(logprobs: Floats, d: Floats) -> float:
    """The sum of p (e^d - 1 - d). Changes `d`."""
    large = np.flatnonzero(d > 1)  # e^d may be too large for float32 there, and p too small
    log_p, far = logprobs[large].astype(np.float64), d[large].astype(np.float64)
    d[large] = 0
    terms = np.expm1(d)
    terms -= d
    terms *= np.exp(logprobs)
    return float(terms.sum() + (np.exp(log_p + far) - np.exp(log_p) * (1 + far)).sum())


def _log_total(logits: Floats, best: int) -> float:
    """Log of the sum of exp(logits)."""
    weights = np.exp(logits - logits[best])
    return float(logits[best]) + math.log(float(weights.sum()))
