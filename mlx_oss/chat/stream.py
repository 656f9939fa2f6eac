"""One turn of a chat as its caller has it: what the parser says becomes events; times and counts are taken; it can be
cancelled.

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
from mlx_oss.harmony import Event as ParserEvent
from mlx_oss.harmony import Header, Message, MessageFinished, MessageStarted, Note, ParsedMessage, Repair
from mlx_oss.tokenizer import MESSAGE

_DELTAS: dict[str | None, type] = {"analysis": ReasoningDelta, "commentary": PreambleDelta}


class EventTranslator:
    """Turns what the parser says into what the session's caller hears, and remembers the messages.

    What a model says in another's role, as the user or a tool, is told as a repair: it is no part of what was said.
    """

    def __init__(self) -> None:
        self.messages: list[ParsedMessage] = []
        self._header = Header("assistant")

    def translate(self, events: Iterable[ParserEvent]) -> list[Event]:
        return [heard for event in events for heard in self._translate(event)]

    def _translate(self, event: ParserEvent) -> list[Event]:
        if isinstance(event, MessageStarted):
            self._header = event.header
            return []
        ours = self._header.role == "assistant"
        if isinstance(event, MessageFinished) and not ours:
            note = Note(Repair.OTHER_ROLE, str(event.message.message.content))
            return [RepairedOutput((*event.message.notes, note))]
        if isinstance(event, MessageFinished):
            self.messages.append(event.message)
            heard: list[Event] = [RepairedOutput(event.message.notes)] if event.message.notes else []
            return heard + ([_call(event.message)] if _calls_tool(event.message) else [])
        # The text of a call is told as a whole, when it is complete.
        return (
            []
            if not ours or _opens_call(self._header)
            else [_DELTAS.get(self._header.channel, AnswerDelta)(event.text)]
        )

    @property
    def answered(self) -> bool:
        return any(parsed.message.channel == "final" for parsed in self.messages)

    @property
    def calls(self) -> list[ToolCall]:
        """What the model waits for."""
        return [_call(parsed) for parsed in self.messages if _calls_tool(parsed)]


def begun(events: Sequence[ParserEvent]) -> Sequence[ParserEvent]:
    """The events of a message that was cut off; none if it is a header, in which nothing has been said yet."""
    last = events[-1] if events else None
    bare = isinstance(last, MessageFinished) and MESSAGE not in last.message.ids and not last.message.message.content
    return () if bare else events


def _calls_tool(parsed: ParsedMessage) -> bool:
    return parsed.is_tool_call and parsed.ending != "cut"


def _opens_call(header: Header) -> bool:
    message = Message(header.role, "", header.channel, header.recipient)
    return ParsedMessage(message, "cut", ()).is_tool_call


def _call(parsed: ParsedMessage) -> ToolCall:
    message = parsed.message
    assert message.recipient is not None and isinstance(message.content, str)
    return ToolCall(message.recipient, message.content, message.channel)


class UsageTimer:
    """Takes the times and counts of a round, from its making until `stop`.

    prompt_tokens  that the model has read until now, the reused ones included
    """

    def __init__(self, reused_tokens: int) -> None:
        self.prompt_tokens = self._reused_tokens = reused_tokens
        self._generated = 0
        self._started = time.perf_counter()
        self._first: float | None = None
        self._stopped: float | None = None

    def tick(self) -> None:
        if self._generated == 0:
            self._first = time.perf_counter()
        self._generated += 1

    def stop(self) -> None:
        self._stopped = time.perf_counter()

    def usage(self) -> Usage:
        end = self._stopped or time.perf_counter()
        first = self._first or end
        counts = self.prompt_tokens, self._reused_tokens, self._generated
        return Usage(*counts, prefill_seconds=first - self._started, generate_seconds=end - first)
