"""How tokens are chosen, as an app says it. `sampling` applies the options. Knows nothing of MLX."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from mlx_oss.errors import OptionError
from mlx_oss.tokenizer import LAST_TEXT_ID


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
        frequency_penalty: From -2 to 2, as in OpenAI's API: it is subtracted from a token's logit as many times as the
            token occurs in the message that is being written. Tokens of the prompt, of headers and of earlier messages
            do not count, and control tokens are not made less likely.
        presence_penalty: From -2 to 2: it is subtracted once from the logits of the tokens in that message.
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
    frequency_penalty: float = 0.0
    presence_penalty: float = 0.0
    logprobs: bool = True
    top_logprobs: int = 0

    def __post_init__(self) -> None:
        _between("temperature", self.temperature, 0, 100)
        _between("top_p", self.top_p, 0, 1)
        _between("min_p", self.min_p, 0, 1)
        _between("repetition_penalty", self.repetition_penalty, 0.01, 100)
        _between("frequency_penalty", self.frequency_penalty, -2, 2)
        _between("presence_penalty", self.presence_penalty, -2, 2)
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
