"""What a turn is run with: the options of a session, checked and rendered once. Knows nothing of how turns run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

from mlx_oss.chat.history import OPENING, Conversation
from mlx_oss.constrain import Rules, TurnConstraint, final_header
from mlx_oss.errors import OptionError
from mlx_oss.generation.options import SamplingOptions
from mlx_oss.tokenizer import Tokenizer

ContextPolicy = Literal["refuse", "drop_oldest"]


@dataclass(frozen=True)
class Limits:
    """The limits of a turn; the arguments of `ChatSession` with these names.

    Raises:
        OptionError: If a limit is invalid.
    """

    context_limit: int
    context_policy: ContextPolicy
    max_tokens: int | None
    max_rounds: int

    def __post_init__(self) -> None:
        if self.context_policy not in get_args(ContextPolicy):
            raise OptionError(f"context_policy is {self.context_policy!r}, expected refuse or drop_oldest")
        if self.max_tokens is not None and (type(self.max_tokens) is not int or self.max_tokens < 1):
            raise OptionError(f"max_tokens is {self.max_tokens!r}, expected at least 1 or None")
        if type(self.max_rounds) is not int or self.max_rounds < 0:
            raise OptionError(f"max_rounds is {self.max_rounds!r}, expected at least 0")

    def check_context(self, longest: int) -> None:
        """Raises OptionError if `context_limit` is not from 1 to `longest`, the context of the engine."""
        limit: Any = self.context_limit
        if type(limit) is not int or not 1 <= limit <= longest:
            raise OptionError(f"context_limit is {limit!r}, expected 1 to {longest:,} tokens or None")


@dataclass(frozen=True)
class Frame:
    """What stands around the conversation in every prompt of a turn.

    Attributes:
        preamble: The ids of the system and developer messages.
        header: The ids of the opening after `<|start|>assistant`; with the effort "none", they open the answer.
    """

    preamble: Sequence[int]
    header: Sequence[int]

    @property
    def opening(self) -> list[int]:
        """The last ids of every prompt: they open the model's message."""
        return [*OPENING, *self.header]

    def prompt(self, conversation: Conversation) -> list[int]:
        """All ids of the prompt for a conversation, from the system message to the opening of the model's message."""
        return [*self.preamble, *conversation.prompt_ids(), *self.opening]

    def prompt_length(self, conversation: Conversation) -> int:
        """Number of ids in the prompt for a conversation."""
        return len(self.preamble) + conversation.prompt_length + len(self.opening)


@dataclass(frozen=True)
class TurnSetup:
    """What a turn is run with.

    Attributes:
        frame: What stands around the conversation in the prompts.
        options: How to sample.
        limits: Limits of tokens and rounds.
        rules: What the model may write.
        tokenizer: The tokenizer of the model.
        stop: Texts that end the answer.
        logprobs: Whether to report the log-probabilities of the answer's tokens.
        given: How many entries of the conversation belong to earlier requests, even if of the same turn of the user:
            what the model reasoned and called there does not count.
    """

    frame: Frame
    options: SamplingOptions
    limits: Limits
    rules: Rules
    tokenizer: Tokenizer
    stop: tuple[str, ...] = ()
    logprobs: bool = False
    given: int = 0

    def with_open_answer(self) -> TurnSetup:
        """This setup with prompts that open the answer."""
        return replace(self, frame=replace(self.frame, header=final_header()))

    def constraint(self, conversation: Conversation) -> TurnConstraint:
        """The constraint for the rest of the turn that a conversation ends with."""
        rules = self.rules.after_call() if conversation.has_called(self.given) else self.rules
        return TurnConstraint(rules, self.frame.header, conversation.reasoned(self.given), self.tokenizer)
