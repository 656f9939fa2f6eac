"""The messages of a conversation, with the token ids that represent them in the prompt.

Messages that the model wrote keep the ids it wrote. The reasoning of answered turns is left out of the prompt
(harmony's rule). Knows harmony and ids; nothing of models, caches and running turns.
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
from mlx_oss.tokenizer import LAST_TEXT_ID, MESSAGE, Tokenizer

# "none" is not a harmony effort: the system message then says "low", and the prompt already opens the answer.
Effort = Literal["none"] | ReasoningEffort
EFFORTS: tuple[str, ...] = ("none", *get_args(ReasoningEffort))
OPENING = render_conversation([], next_role="assistant")  # the last ids of a prompt: `<|start|>assistant`


def preamble(
    instructions: str,
    effort: Effort,
    tools: Sequence[ToolDescription],
    system_tools: Sequence[ToolNamespace],
    current_date: str | None,
    answer: ResponseFormat | None = None,
    groups: Sequence[ToolNamespace] = (),
) -> list[Message]:
    """The system message, and the developer message if it has content. Raises OptionError for an unknown effort."""
    if effort not in EFFORTS:
        raise OptionError(f"reasoning_effort is {effort!r}, expected one of {', '.join(EFFORTS)}")
    system_effort: ReasoningEffort = "low" if effort == "none" else effort
    system = SystemContent(
        reasoning_effort=system_effort, conversation_start_date=current_date, tools=tuple(system_tools)
    )
    if not instructions and not tools and not groups and answer is None:
        return [Message("system", system)]
    developer = DeveloperContent.with_functions(instructions or None, tuple(tools))
    if groups:
        developer = replace(developer, tools=(*developer.tools, *groups))
    if answer is not None:
        developer = replace(developer, response_formats=(answer,))
    return [Message("system", system), Message("developer", developer)]


@dataclass(frozen=True, slots=True, eq=False)
class Entry:
    """A message of the conversation and its token ids.

    Attributes:
        message: The message.
        ids: The ids that represent it in the prompt.
        reasoned: Number of reasoning tokens in it.
        retries: For a message of the user: how often its turn was retried.
    """

    message: Message
    ids: Sequence[int]
    reasoned: int = 0
    retries: int = 0

    @classmethod
    def from_message(cls, message: Message, tokenizer: Tokenizer | None = None) -> Entry:
        """The entry of a message that the model did not write; its ids are rendered."""
        return cls(message, render_message(message, tokenizer=tokenizer))

    @classmethod
    def from_tool_result(cls, call: ToolCall, result: str, tokenizer: Tokenizer | None = None) -> Entry:
        """The entry of a tool's result, which is sent on the channel of the call."""
        channel = call.channel or "commentary"
        message = Message("tool", result, name=call.recipient, recipient="assistant", channel=channel)
        return cls.from_message(message, tokenizer)

    @classmethod
    def from_model(cls, parsed: ParsedMessage, tokenizer: Tokenizer | None = None) -> Entry:
        """The entry of a message that the model wrote; it keeps the ids that the model wrote."""
        return cls(parsed.message, ids_in_history(parsed, tokenizer), _reasoning_tokens(parsed))

    def known_to(self, tokenizer: Tokenizer) -> Entry:
        """This entry, with its ids rendered again if another tokenizer had tokens that this one does not know."""
        if all(id_ <= LAST_TEXT_ID or id_ in tokenizer.added_text_ids for id_ in self.ids):
            return self
        return replace(self, ids=render_message(self.message, tokenizer=tokenizer))


@dataclass(frozen=True, slots=True, eq=False)
class Conversation:
    """All messages after the preamble. Immutable: a change returns a new conversation and leaves the old one valid."""

    entries: tuple[Entry, ...] = ()

    @property
    def messages(self) -> list[Message]:
        return [entry.message for entry in self.entries]

    @property
    def turn_starts(self) -> list[int]:
        """Index of the first entry of each turn, which is the user's message."""
        return [number for number, entry in enumerate(self.entries) if entry.message.role == "user"]

    @property
    def pending_results(self) -> list[Message]:
        """The tool results at the end of the conversation, which the model has not read yet."""
        return list(takewhile(lambda message: message.role == "tool", reversed(self.messages)))[::-1]

    @property
    def awaits_first_round(self) -> bool:
        """True if the model has not written anything since the user's message; instructions may come after that."""
        return bool(self.entries) and self.entries[-1].message.role in ("user", "developer")

    @property
    def prompt_length(self) -> int:
        """Number of ids of the conversation in the next prompt."""
        return sum(map(len, self._prompt_parts()))

    def reasoned(self, given: int = 0) -> int:
        """Number of reasoning tokens since the user's last message, without the first `given` entries."""
        return sum(entry.reasoned for entry in self._current_turn(given))

    def has_called(self, given: int = 0) -> bool:
        """True if the model has called a tool since the user's last message, not in the first `given` entries."""
        messages = [entry.message for entry in self._current_turn(given)]
        return any(message.role == "assistant" and message.recipient is not None for message in messages)

    def _current_turn(self, given: int) -> tuple[Entry, ...]:
        return self.entries[max([given, *self.turn_starts]) :]

    @property
    def retries(self) -> int:
        """How often the last turn was retried."""
        starts = self.turn_starts
        return self.entries[starts[-1]].retries if starts else 0

    def with_entries(self, entries: Iterable[Entry]) -> Conversation:
        """This conversation with more entries at its end."""
        return Conversation((*self.entries, *entries))

    def with_messages(self, messages: Sequence[Message], tokenizer: Tokenizer | None = None) -> Conversation:
        """A conversation of these messages. Those that are in this one keep their ids, others are rendered.

        Raises:
            HarmonyError: If a message cannot be rendered.
        """
        known = {entry.message: entry for entry in self.entries}
        here: list[Entry | None] = [*self.entries, *[None] * len(messages)]
        entries = list[Entry]()
        for message, entry in zip(messages, here, strict=False):
            same = entry if entry is not None and entry.message == message else known.get(message)
            entries.append(same or Entry.from_message(message, tokenizer))
        return Conversation(tuple(entries))

    def split_before(self, turn: int) -> tuple[Conversation, Entry]:
        """The conversation before a turn, and the user's message that starts that turn.

        Args:
            turn: Index of the turn: 0 is the first, -1 the last.

        Raises:
            OptionError: If there is no such turn.
        """
        starts = self.turn_starts
        if type(turn) is not int:
            raise OptionError(f"the turn is {turn!r}, expected its number: 0 is the first, -1 the last")
        if not -len(starts) <= turn < len(starts):
            remedy = f"expected {-len(starts)} to {len(starts) - 1}" if starts else "ask something first"
            raise OptionError(f"there is no turn {turn}, the conversation has {len(starts)}: {remedy}")
        start = starts[turn]
        return Conversation(self.entries[:start]), self.entries[start]

    def without_oldest_turns(self, max_ids: int) -> tuple[Conversation, int]:
        """Drops the oldest turn, then more of them until at most `max_ids` prompt ids or only one turn is left.

        Returns:
            The remaining conversation and the number of dropped turns, which is 0 only if there is no second turn.
        """
        sizes, starts = list(map(len, self._prompt_parts())), self.turn_starts
        for count, start in enumerate(starts[1:], start=1):
            if sum(sizes[start:]) <= max_ids or count == len(starts) - 1:
                return Conversation(self.entries[start:]), count
        return self, 0

    def prompt_ids(self) -> list[int]:
        """The ids of the conversation in the next prompt."""
        return [id_ for ids in self._prompt_parts() for id_ in ids]

    def _prompt_parts(self) -> list[Sequence[int]]:
        """The ids of each entry in the next prompt; empty for reasoning that is left out."""
        stays = stays_for_next_turn(self.messages)
        return [entry.ids if kept else () for entry, kept in zip(self.entries, stays, strict=True)]


def _reasoning_tokens(parsed: ParsedMessage) -> int:
    """Number of reasoning tokens in a message, as the model wrote them, including stray control tokens.

    A reasoning message counts as at least one token, so that endless empty ones reach the limit too.
    """
    if not is_reasoning(parsed.message):
        return 0
    ids = parsed.ids
    header = ids.index(MESSAGE) + 1 if MESSAGE in ids else 0
    return max(len(ids) - header - (parsed.ending != "cut"), 1)
