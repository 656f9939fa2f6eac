"""The messages of a chat and the ids they stand in the prompt with.

What the model wrote keeps the ids it wrote; the reasoning of answered turns leaves the prompt (harmony's rule). Knows
harmony and ids; nothing of models, caches and turns that run.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import Literal, get_args

from mlx_oss.errors import OptionError
from mlx_oss.events import ToolCall
from mlx_oss.harmony import (
    DeveloperContent,
    Message,
    ParsedMessage,
    ReasoningEffort,
    ResponseFormat,
    SystemContent,
    ToolDescription,
    ToolNamespace,
    ids_in_history,
    is_reasoning,
    render_conversation,
    render_message,
    stays_for_next_turn,
)
from mlx_oss.tokenizer import MESSAGE

Effort = (
    Literal["none"] | ReasoningEffort
)  # "none" is ours: the system block says low, and the answer is opened at once
EFFORTS: tuple[str, ...] = ("none", *get_args(ReasoningEffort))
OPENING = render_conversation([], next_role="assistant")  # of what the model writes: the last ids of every prompt


def preamble(
    instructions: str,
    effort: Effort,
    tools: Sequence[ToolDescription],
    system_tools: Sequence[ToolNamespace],
    current_date: str | None,
    answer: ResponseFormat | None = None,
) -> list[Message]:
    """The system block and, if there is anything to say in it, the developer block."""
    if effort not in EFFORTS:
        raise OptionError(f"reasoning_effort is {effort!r}, expected one of {', '.join(EFFORTS)}")
    told: ReasoningEffort = "low" if effort == "none" else effort
    system = SystemContent(reasoning_effort=told, conversation_start_date=current_date, tools=tuple(system_tools))
    if not instructions and not tools and answer is None:
        return [Message("system", system)]
    developer = DeveloperContent.with_functions(instructions or None, tuple(tools))
    if answer is not None:
        developer = replace(developer, response_formats=(answer,))
    return [Message("system", system), Message("developer", developer)]


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """A message, the ids it stands in the prompt with, how many tokens of reasoning the model wrote in it, and if it is
    the user's, how often it was answered once more.
    """

    message: Message
    ids: Sequence[int]
    reasoned: int = 0
    retries: int = 0

    @classmethod
    def of(cls, message: Message) -> Entry:
        """A message that the model did not write."""
        return cls(message, render_message(message))

    @classmethod
    def answering(cls, call: ToolCall, result: str) -> Entry:
        """The result of a call; it goes back on the channel of the call."""
        channel = call.channel or "commentary"
        return cls.of(Message("tool", result, name=call.recipient, recipient="assistant", channel=channel))

    @classmethod
    def written(cls, parsed: ParsedMessage) -> Entry:
        """A message that the model wrote."""
        return cls(parsed.message, ids_in_history(parsed), _reasoned(parsed))


@dataclass(frozen=True, slots=True, eq=False)
class Conversation:
    """Everything said since the preamble. A value: what changes it gives another one, and earlier ones stay good."""

    entries: tuple[Entry, ...] = ()

    @property
    def messages(self) -> list[Message]:
        return [entry.message for entry in self.entries]

    @property
    def starts(self) -> list[int]:
        """Where each turn begins: with what the user says."""
        return [number for number, entry in enumerate(self.entries) if entry.message.role == "user"]

    @property
    def unseen_results(self) -> list[Message]:
        """Of tools: what the model reads before it goes on."""
        return list(takewhile(lambda message: message.role == "tool", reversed(self.messages)))[::-1]

    @property
    def reasoned(self) -> int:
        """Tokens of reasoning since the user spoke last."""
        return sum(entry.reasoned for entry in self.entries[max(self.starts, default=0) :])

    def plus(self, entries: Iterable[Entry]) -> Conversation:
        return Conversation((*self.entries, *entries))

    @property
    def retries(self) -> int:
        """Of the last turn."""
        starts = self.starts
        return self.entries[starts[-1]].retries if starts else 0

    def before(self, turn: int) -> tuple[Conversation, Entry]:
        """What was said before a turn (0 is the first, -1 the last), and what the user said in it."""
        starts = self.starts
        if not -len(starts) <= turn < len(starts):
            raise OptionError(f"there is no turn {turn}: the conversation has {len(starts)}")
        start = starts[turn]
        return Conversation(self.entries[:start]), self.entries[start]

    def without_oldest(self, most: int) -> tuple[Conversation, int]:
        """What is left when whole turns are dropped until `ids` are at most `most`, or one turn is left; and how many
        were dropped.
        """
        sizes, starts = list(map(len, self._kept())), self.starts
        for count, start in enumerate(starts[1:], start=1):
            if sum(sizes[start:]) <= most or count == len(starts) - 1:
                return Conversation(self.entries[start:]), count
        return self, 0

    def ids(self) -> list[int]:
        """What stands in the prompt of what comes next."""
        return [id_ for ids in self._kept() for id_ in ids]

    def _kept(self) -> list[Sequence[int]]:
        stays = stays_for_next_turn(self.messages)
        return [entry.ids if kept else () for entry, kept in zip(self.entries, stays, strict=True)]


def _reasoned(parsed: ParsedMessage) -> int:
    """Tokens of reasoning as the model wrote them, stray ones too; at least one, lest empty thoughts go on for ever."""
    if not is_reasoning(parsed.message):
        return 0
    ids = parsed.ids
    header = ids.index(MESSAGE) + 1 if MESSAGE in ids else 0
    return max(len(ids) - header - (parsed.ending != "cut"), 1)
