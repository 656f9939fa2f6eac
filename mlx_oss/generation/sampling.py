"""From logits to the next token: the `Sampler`, which applies `SamplingOptions`.

Only ids that can occur in text or end a message are ever sampled. What the options mean is said here, once; the
arithmetic is that of `sampling_mlx` on a GPU and of `sampling_numpy` on the CPU backend. Knows nothing of models or
text.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import mlx.core as mx
import numpy as np
from numpy.typing import NDArray

from mlx_oss.backend import device
from mlx_oss.errors import NumericalError, OptionError
from mlx_oss.generation import sampling_mlx, sampling_numpy
from mlx_oss.generation.options import SamplingOptions
from mlx_oss.tokenizer import LAST_TEXT_ID, N_RANKS

# Distance between the random seeds of successive positions: 2^64 divided by the golden ratio, so that no position of
# one seed has the same random key as a position of a nearby seed.
_APART = 0x9E3779B97F4A7C15
# How many of the largest logits are computed once more in float32 if the model computes in bfloat16. In bfloat16 many
# of them are equal (0.6 % of nano's answers have a tie for the first place), and the lowest id would win.
EXACT = 64
COLD = 1e-5  # below this temperature the most likely token always wins, and dividing by it would overflow

NOT_NUMBERS = (
    "the model's logits are not numbers: a weight is damaged, or the device computes wrong: check the weights "
    "with `mlx-oss verify FOLDER`, and the device with `mlx-oss doctor`"
)

Array = Any  # mx.array on a GPU, np.ndarray on the CPU backend


class Sampler:
    """Draws tokens as its options say. Its only state is that of its random numbers.

    On a GPU its arrays are MLX's, and nothing waits for them. On the CPU backend they are NumPy's.

    Args:
        options: How tokens are chosen.
        position: Position in the sequence of the first token to draw. With the same seed, samplers at different
            positions draw independently, and so do the turns of a chat that share a seed.
        added_ids: Ids of text that a fine-tune has added; others behind those of gpt-oss are never drawn.

    Attributes:
        options: How tokens are chosen.
        waits: True if `logits` waits until the logits are computed.
        last: The last id that can be sampled.
    """

    def __init__(self, options: SamplingOptions, position: int = 0, added_ids: Collection[int] = ()) -> None:
        self.options, self.waits = options, not device.on_gpu()
        self._added_ids = frozenset(added_ids)
        self._on: Any = sampling_numpy if self.waits else sampling_mlx
        self._xp: Any = np if self.waits else mx
        seed = int.from_bytes(os.urandom(8)) if options.seed is None else options.seed
        self._draws = self._on.Draws((seed + position * _APART) % 2**64, self.filtered)
        ids, biases = list(options.logit_bias), list(options.logit_bias.values())
        self._bias = (self._xp.array(ids), self._xp.array(biases, self._xp.float32)) if ids else None
        self.last = max(LAST_TEXT_ID, *added_ids, 0)
        self._used = None  # bool (V',), False for the ids between those of gpt-oss and the added ones
        if self.last > LAST_TEXT_ID:
            self._used = np.arange(self.last + 1) <= LAST_TEXT_ID
            self._used[list(added_ids)] = True

    @property
    def needs_recent(self) -> bool:
        """True if each choice depends on the tokens before it, so that `logits` needs them in `recent`."""
        return self.options.repetition_penalty != 1 and self.options.repetition_window > 0

    @property
    def needs_counts(self) -> bool:
        """True if each choice depends on how often tokens occur in the message, so that `logits` needs `counts`."""
        return self.options.frequency_penalty != 0 or self.options.presence_penalty != 0

    def is_text(self, token: int) -> bool:
        """True if an id is a token of text, not a control token."""
        return token < N_RANKS or token in self._added_ids

    def logits(
        self,
        logits: mx.array,
        recent: Sequence[int] = (),
        allowed: NDArray[np.bool_] | None = None,
        exact: Callable[[mx.array], mx.array] | None = None,
        counts: Mapping[int, int] | None = None,
    ) -> Array:
        """Logits (V,) of the model -> float32 (V',) of the ids that can be sampled, with bias and penalty applied.

        Args:
            logits: Logits of the model. They are not changed.
            recent: The ids before this token, for the repetition penalty.
            allowed: Bool (V',). Logits are -inf where it is False, and at ids behind its end. None allows every id.
            exact: Ids (n,) -> their logits (n,) in float32. They replace the EXACT largest logits of allowed ids,
                before bias and penalty. None means that all are exact.
            counts: How often ids occur in the message so far, for the frequency and presence penalties.

        Raises:
            OptionError: If `logit_bias` has an id that the model does not have.
            NumericalError: On the CPU backend, if logits are not numbers. On a GPU this would be a wait.
        """
        on, xp = self._on, self._xp
        logits = on.float32(logits[: self.last + 1])
        if self.waits and not np.isfinite(logits).all():
            raise NumericalError(NOT_NUMBERS)
        known = logits.shape[0]
        if self._used is not None:
            logits = on.only(logits, self._used[:known])
        if allowed is not None:
            logits = on.only(logits, np.pad(allowed[:known], (0, max(0, known - len(allowed)))))
        if exact is not None:
            best = on.largest(logits, min(EXACT, known))
            logits[best] = xp.where(xp.isinf(logits[best]), logits[best], xp.array(exact(mx.array(best))))
        if self._bias is not None:
            ids, biases = self._bias
            if (largest := max(self.options.logit_bias)) >= known:
                raise OptionError(
                    f"logit_bias[{largest}] is outside the vocabulary of {known} ids: expected 0 to {known - 1}"
                )
            logits[ids] = logits[ids] + biases
        if self.needs_recent:
            seen = {id_ for id_ in recent[-self.options.repetition_window :] if id_ < known}
            ids = xp.array(sorted(seen), xp.int32)
            values, penalty = logits[ids], self.options.repetition_penalty
            logits[ids] = xp.where(values > 0, values / penalty, values * penalty)
        if counts and self.needs_counts:
            known_counts = {id_: count for id_, count in counts.items() if id_ < known}
            ids = xp.array(list(known_counts), xp.int32)
            times = xp.array(list(known_counts.values()), xp.float32)
            logits[ids] = logits[ids] - (self.options.frequency_penalty * times + self.options.presence_penalty)
        return logits

    def sample(self, logits: Array) -> Array:
        """Logits float32 (V',) -> the next id, a scalar."""
        return logits.argmax() if self.options.temperature < COLD else self._draws(logits)

    def skip(self) -> None:
        """Goes on past a token that is not drawn. Later draws are the same as if it had been."""
        if self.options.temperature >= COLD:
            self._draws.skip()

    def filtered(self, logits: Array) -> Any:
        """Logits float32 (V',) -> how likely the ids are to be drawn at the temperature.

        top_k, min_p and top_p drop ids in this order, each from those that the previous one has kept. In MLX the result
        is an array of logits, -inf where an id is dropped, and in NumPy `Weights`.
        """
        o, on = self.options, self._on
        weights = on.weights(logits / o.temperature)
        if 0 < o.top_k < logits.shape[0]:
            weights = on.top_k(weights, o.top_k)
        if o.min_p > 0:
            weights = on.min_p(weights, o.min_p)
        return on.top_p(weights, o.top_p) if o.top_p < 1 else weights

    def log_probabilities(self, logits: Array, token: Array, count: int) -> tuple[Array, ...]:
        """Log-probability of a token and, if `count` is not 0, the most likely ids and theirs.

        Args:
            logits: Logits float32 (V',).
            token: The token.
            count: How many of the most likely ids to report.

        Returns:
            (log-probability, ids (n,) and log-probabilities (n,), the most likely first).
        """
        total = self._on.log_total(logits)
        chosen = logits[token] - total
        if count == 0:
            return (chosen,)
        ids = self._on.best_first(logits, min(count, logits.shape[0]))
        return chosen, ids, logits[ids] - total
