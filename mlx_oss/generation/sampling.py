"""From logits to the next token: the `Sampler`, which applies `SamplingOptions`.

Only ids that can occur in text or end a message are ever sampled. Knows nothing of models or text.
"""

from __future__ import annotations

import math
import os
from collections.abc import Callable, Collection, Sequence

import mlx.core as mx
import numpy as np

from mlx_oss.backend.device import compiled
from mlx_oss.errors import OptionError
from mlx_oss.generation.options import SamplingOptions
from mlx_oss.tokenizer import LAST_TEXT_ID

# Distance between the random seeds of successive positions: 2^64 divided by the golden ratio, so that no position of
# one seed has the same random key as a position of a nearby seed.
_APART = 0x9E3779B97F4A7C15
# How many of the largest logits are computed once more in float32 if the model computes in bfloat16. In bfloat16 many
# of them are equal (0.6 % of nano's answers have a tie for the first place), and the lowest id would win.
EXACT = 64
COLD = 1e-5  # below this temperature the most likely token always wins, and dividing by it would overflow


class Sampler:
    """Draws tokens as its options say. Its only state is a random key.

    Args:
        options: How tokens are chosen.
        position: Position in the sequence of the first token to draw. With the same seed, samplers at different
            positions draw independently, and so do the turns of a chat that share a seed.
        added_ids: Ids of text that a fine-tune has added; others behind those of gpt-oss are never drawn.
    """

    def __init__(self, options: SamplingOptions, position: int = 0, added_ids: Collection[int] = ()) -> None:
        self.options = options
        seed = int.from_bytes(os.urandom(8)) if options.seed is None else options.seed
        self._key = mx.random.key((seed + position * _APART) % 2**64)
        ids, biases = list(options.logit_bias), list(options.logit_bias.values())
        self._bias = (mx.array(ids), mx.array(biases)) if ids else None
        self._last = max(LAST_TEXT_ID, *added_ids, 0)
        self._unused = None  # bool (V',), True for the ids between those of gpt-oss and the added ones
        if self._last > LAST_TEXT_ID:
            unused = np.arange(self._last + 1) > LAST_TEXT_ID
            unused[list(added_ids)] = False
            self._unused = mx.array(unused)
        self._draw = compiled(self.draw)

    @property
    def needs_recent(self) -> bool:
        """True if each choice depends on the tokens before it, so that `logits` needs them in `recent`."""
        return self.options.repetition_penalty != 1 and self.options.repetition_window > 0

    def logits(
        self,
        logits: mx.array,
        recent: Sequence[int] = (),
        allowed: mx.array | None = None,
        exact: Callable[[mx.array], mx.array] | None = None,
    ) -> mx.array:
        """Logits (V,) of the model -> float32 (V',) of the ids that can be sampled, with bias and penalty applied.

        Args:
            logits: Logits of the model. They are not changed.
            recent: The ids before this token, for the repetition penalty.
            allowed: Bool (V',). Logits are -inf where it is False, and at ids behind its end. None allows every id.
            exact: Ids (n,) -> their logits (n,) in float32. They replace the EXACT largest logits of allowed ids,
                before bias and penalty. None means that all are exact.

        Raises:
            OptionError: If `logit_bias` has an id that the model does not have.
        """
        logits = logits[: self._last + 1].astype(mx.float32)
        known = logits.shape[0]
        if self._unused is not None:
            logits = mx.where(self._unused[:known], -math.inf, logits)
        if allowed is not None:
            if len(allowed) < known:
                allowed = mx.pad(allowed, (0, known - len(allowed)))
            logits = mx.where(allowed[:known], logits, -math.inf)
        if exact is not None:
            best = mx.argpartition(-logits, kth=min(EXACT, known) - 1)[:EXACT]
            logits[best] = mx.where(mx.isinf(logits[best]), logits[best], exact(best))
        if self._bias is not None:
            ids, biases = self._bias
            if (largest := max(self.options.logit_bias)) >= known:
                raise OptionError(
                    f"logit_bias[{largest}] is outside the vocabulary of {known} ids: expected 0 to {known - 1}"
                )
            logits = logits.at[ids].add(biases)
        if self.needs_recent:
            seen = {id_ for id_ in recent[-self.options.repetition_window :] if id_ < known}
            ids = mx.array(sorted(seen), mx.int32)
            values, penalty = logits[ids], self.options.repetition_penalty
            logits[ids] = mx.where(values > 0, values / penalty, values * penalty)
        return logits

    def sample(self, logits: mx.array) -> mx.array:
        """Logits float32 (V',) -> the next id, a scalar."""
        if self.options.temperature < COLD:
            return mx.argmax(logits)
        token, self._key = self._draw(logits, self._key)
        return token

    def skip(self) -> None:
        """Advances the random key past a token that is not drawn. Later draws are the same as if it had been."""
        if self.options.temperature >= COLD:
            self._key = mx.random.split(self._key)[0]

    def draw(self, logits: mx.array, key: mx.array) -> tuple[mx.array, mx.array]:
        """Logits float32 (V',) and a random key -> an id drawn from the filtered distribution, and the next key."""
        next_key, key = mx.random.split(key)
        # Gumbel-max: the largest of logits + noise is a draw from the softmax of the logits. The noise does not depend
        # on them, so it is ready when they are.
        noise = mx.random.gumbel(logits.shape, key=key)
        return mx.argmax(self.filtered(logits) + noise), next_key

    def filtered(self, logits: mx.array) -> mx.array:
        """Logits float32 (V',) -> filtered logits float32 (V',).

        They are divided by the temperature. Then top_k, min_p and top_p, in this order, set those that they drop to
        -inf.
        """
        o = self.options
        logits = logits / o.temperature
        if 0 < o.top_k < logits.shape[0]:
            logits = mx.where(logits < mx.topk(logits, o.top_k).min(), -math.inf, logits)
        if o.min_p > 0:
            logits = mx.where(logits < logits.max() + math.log(o.min_p), -math.inf, logits)
        return _nucleus(logits, o.top_p) if o.top_p < 1 else logits


def _nucleus(logits: mx.array, top_p: float) -> mx.array:
    """Keeps the fewest most likely tokens whose probabilities reach top_p (arXiv 1904.09751), and at least one."""
    order = mx.argsort(-logits)
    probs = mx.softmax(logits[order], precise=True)
    before = mx.cumsum(probs, inclusive=False)
    kept = mx.where(before < top_p, logits[order], -math.inf)
    return mx.put_along_axis(logits, order, kept, axis=0)
