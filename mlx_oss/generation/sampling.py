"""From logits to the next token: `SamplingOptions`, and the `Sampler` that applies them.

Only ids that can occur in text or end a message are ever sampled. Knows nothing of models or text.
"""

from __future__ import annotations

import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import mlx.core as mx

from mlx_oss.backend.cores import side_stream
from mlx_oss.backend.device import compiled
from mlx_oss.errors import OptionError
from mlx_oss.tokenizer import LAST_TEXT_ID

# Distance between the random seeds of successive positions: 2^64 divided by the golden ratio, so that no position of
# one seed has the same random key as a position of a nearby seed.
_APART = 0x9E3779B97F4A7C15
COLD = 1e-5  # below this temperature the most likely token always wins, and dividing by it would overflow


@dataclass(frozen=True, slots=True)
class SamplingOptions:
    """How the next token is chosen.

    The defaults are OpenAI's for gpt-oss: temperature 1, top_p 1 and nothing else. `top_k`, `min_p` and `top_p`
    apply in this order, each to what the previous one has kept.

    Attributes:
        temperature: From 0 to 100. 0 is greedy: the most likely token, or the lowest id of equally likely ones.
        top_p: Keep the fewest most likely tokens whose probabilities add up to this; above 0, up to 1. 1 keeps all.
        top_k: Keep this many of the most likely tokens, and those as likely as the last of them. 0 keeps all.
        min_p: Keep tokens at least this many times as likely as the most likely one; from 0 to 1. 0 keeps all.
        seed: From 0 to 2^64 - 1. The same seed gives the same tokens after the same prompt. None draws a new seed.
        logit_bias: By token id, a number from -1000 to 1000 that is added to the id's logit, in nats. -100 practically
            bans the id.
        repetition_penalty: From 0.01 to 100. Above 1 it makes tokens of the last `repetition_window` less likely
            (arXiv 1909.05858). It distorts JSON and code, so it is off (1) by default.
        repetition_window: Number of preceding tokens that the penalty applies to. 0 turns it off.
        logprobs: Report the log-probability of each token. False saves one pass over the vocabulary in each step.
        top_logprobs: Report this many of the most likely tokens in each step; 0 to 100. Ignored without `logprobs`.

    Raises:
        OptionError: If a value is out of its range or has the wrong type.
    """

    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int | None = None
    logit_bias: Mapping[int, float] = field(default_factory=dict)
    repetition_penalty: float = 1.0
    repetition_window: int = 64
    logprobs: bool = True
    top_logprobs: int = 0

    def __post_init__(self) -> None:
        _between("temperature", self.temperature, 0, 100)
        _between("top_p", self.top_p, 0, 1)
        _between("min_p", self.min_p, 0, 1)
        _between("repetition_penalty", self.repetition_penalty, 0.01, 100)
        for name, limit in (("top_k", LAST_TEXT_ID), ("top_logprobs", 100), ("repetition_window", 2**31)):
            value = getattr(self, name)
            if type(value) is not int or not 0 <= value <= limit:
                raise OptionError(f"{name} is {value!r}, expected a whole number from 0 to {limit}")
        if self.top_p == 0:
            raise OptionError("top_p is 0, which keeps no token: to always pick the most likely one, use temperature=0")
        if self.seed is not None and (type(self.seed) is not int or not 0 <= self.seed < 2**64):
            raise OptionError(f"seed is {self.seed!r}, expected a whole number from 0 to 2^64 - 1 or None")
        if not isinstance(self.logit_bias, Mapping):
            raise OptionError(
                f"logit_bias is {self.logit_bias!r}, expected a mapping from token ids to biases, such as {{1234: -5}}"
            )
        for token, bias in self.logit_bias.items():
            if type(token) is not int or not 0 <= token <= LAST_TEXT_ID:
                raise OptionError(f"logit_bias has the key {token!r}, expected token ids from 0 to {LAST_TEXT_ID}")
            _between(f"logit_bias[{token}]", bias, -1000, 1000)


def _between(name: str, value: object, low: float, high: float) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not low <= value <= high:
        raise OptionError(f"{name} is {value!r}, expected a number from {low} to {high}")


class Sampler:
    """Draws tokens as its options say. Its only state is a random key.

    Args:
        options: How tokens are chosen.
        position: Position in the sequence of the first token to draw. With the same seed, samplers at different
            positions draw independently, and so do the turns of a chat that share a seed.
    """

    def __init__(self, options: SamplingOptions, position: int = 0) -> None:
        self.options = options
        seed = int.from_bytes(os.urandom(8)) if options.seed is None else options.seed
        self._key = mx.random.key((seed + position * _APART) % 2**64)
        ids, biases = list(options.logit_bias), list(options.logit_bias.values())
        self._bias = (mx.array(ids), mx.array(biases)) if ids else None
        self._draw = compiled(self.draw)

    @property
    def needs_recent(self) -> bool:
        """True if each choice depends on the tokens before it, so that `logits` needs them in `recent`."""
        return self.options.repetition_penalty != 1 and self.options.repetition_window > 0

    def logits(self, logits: mx.array, recent: Sequence[int] = (), allowed: mx.array | None = None) -> mx.array:
        """Logits (V,) of the model -> float32 (V',) of the ids that can be sampled, with bias and penalty applied.

        Args:
            logits: Logits of the model. They are not changed.
            recent: The ids before this token, for the repetition penalty.
            allowed: Bool (V',). Logits are -inf where it is False. None allows every id.

        Raises:
            OptionError: If `logit_bias` has an id that the model does not have.
        """
        logits = logits[: LAST_TEXT_ID + 1].astype(mx.float32)
        known = logits.shape[0]
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
        return logits if allowed is None else mx.where(allowed[:known], logits, -math.inf)

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
        noise = mx.random.gumbel(logits.shape, key=key, stream=side_stream())
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
