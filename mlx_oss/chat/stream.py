"""Translates the events of the harmony parser to the events of a chat turn, and measures the times and token counts.

Knows harmony's messages and the events; nothing of models, caches and conversations.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Sequence

from mlx_oss.events import (
    AnswerDelta,
    Event,
    PreambleDelta,
    ReasoningDelta,
    RepairedOutput,
    ToolCall,
    Usage,
)
from mlx_oss.harmony import (
    Header,
    Message,
    MessageFinished,
    MessageStarted,
    Note,
    ParsedMessage,
    ParserEvent,
    Repair,
)
from mlx_oss.tokenizer import MESSAGE

_DELTAS: dict[str | None, type] = {"analysis": ReasoningDelta, "commentary": PreambleDelta}


class EventTranslator:
    """Translates parser events to chat events and collects the finished messages.

    A message that the model writes in another role, such as the user's or a tool's, is reported as a repair and is not
    collected.

    Attributes:
        messages: The assistant's messages so far, including one that was cut off.
    """

    def __init__(self) -> None:
        self.messages: list[ParsedMessage] = []
        self._header = Header("assistant")

    def translate(self, events: Iterable[ParserEvent]) -> list[Event]:
        """The chat events of some parser events, in order."""
        return [translated for event in events for translated in self._translate_one(event)]

    def _translate_one(self, event: ParserEvent) -> list[Event]:
        if isinstance(event, MessageStarted):
            self._header = event.header
            return []
        by_assistant = self._header.role == "assistant"
        if isinstance(event, MessageFinished) and not by_assistant:
            note = Note(Repair.OTHER_ROLE, str(event.message.message.content))
            return [RepairedOutput((*event.message.notes, note))]
        if isinstance(event, MessageFinished):
            self.messages.append(event.message)
            repairs: list[Event] = [RepairedOutput(event.message.notes)] if event.message.notes else []
            return repairs + ([_tool_call(event.message)] if _is_finished_call(event.message) else [])
        # The text of a call is not yielded in pieces, but in its `ToolCall` when it is complete.
        return (
            []
            if not by_assistant or _opens_call(self._header)
            else [_DELTAS.get(self._header.channel, AnswerDelta)(event.text)]
        )

    @property
    def answered(self) -> bool:
        """True once there is a message on the channel `final`."""
        return any(parsed.message.channel == "final" for parsed in self.messages)

    @property
    def calls(self) -> list[ToolCall]:
        """The finished tool calls."""
        return [_tool_call(parsed) for parsed in self.messages if _is_finished_call(parsed)]


def without_bare_header(events: Sequence[ParserEvent]) -> Sequence[ParserEvent]:
    """The events of a message that was cut off (`HarmonyParser.finish`); none if it has only a part of a header."""
    last = events[-1] if events else None
    bare = isinstance(last, MessageFinished) and MESSAGE not in last.message.ids and not last.message.message.content
    return () if bare else events


def _is_finished_call(parsed: ParsedMessage) -> bool:
    return parsed.is_tool_call and parsed.ending != "cut"


def _opens_call(header: Header) -> bool:
    message = Message(header.role, "", header.channel, header.recipient)
    return ParsedMessage(message, "cut", ()).is_tool_call


def _tool_call(parsed: ParsedMessage) -> ToolCall:
    message = parsed.message
    assert message.recipient is not None and isinstance(message.content, str)
    return ToolCall(message.recipient, message.content, message.channel)


class UsageTimer:
    """Measures one round, from the construction of the timer until `stop`.

    Attributes:
        prompt_tokens: Prompt tokens that the model has read so far, including the reused ones.
    """

    def __init__(self, reused_tokens: int) -> None:
        self.prompt_tokens = self._reused_tokens = reused_tokens
        self._generated = 0
        self._started = time.perf_counter()
        self._first: float | None = None
        self._stopped: float | None = None

    def tick(self) -> None:
        """Counts a generated token."""
        if self._generated == 0:
            self._first = time.perf_counter()
        self._generated += 1

    def stop(self) -> None:
        self._stopped = time.perf_counter()

    def usage(self) -> Usage:
        """The times and token counts until `stop`, or until now; the values about experts are 0."""
        end = self._stopped or time.perf_counter()
        first = self._first or end
        counts = self.prompt_tokens, self._reused_tokens, self._generated
        return Usage(*counts, prefill_seconds=first - self._started, generate_seconds=end - first)
