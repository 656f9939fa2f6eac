"""Translates the events of the harmony parser to the events of a chat turn.

Knows harmony's messages and the events; nothing of engines, conversations and running turns.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence

from mlx_oss.events import AnswerDelta, Event, PreambleDelta, ReasoningDelta, RepairedOutput, ToolCall
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


def chat_events(header: Header | None, events: Iterable[ParserEvent]) -> Iterator[Event]:
    """Yields the chat events of some parser events.

    A message that the model writes in another role, such as the user's or a tool's, is reported as a repair.

    Args:
        header: Header of the message that was being read before these events; None between messages.
        events: What the parser reported.
    """
    for event in events:
        if isinstance(event, MessageStarted):
            header = event.header
        elif isinstance(event, MessageFinished):
            yield from _finished(event.message)
        elif header is not None and header.role == "assistant" and not _opens_call(header):
            # The text of a call is not yielded in pieces, but in its `ToolCall` when it is complete.
            yield _DELTAS.get(header.channel, AnswerDelta)(event.text)


def _finished(parsed: ParsedMessage) -> Iterator[Event]:
    if parsed.message.role != "assistant":
        yield RepairedOutput((*parsed.notes, Note(Repair.OTHER_ROLE, str(parsed.message.content))))
        return
    if parsed.notes:
        yield RepairedOutput(parsed.notes)
    yield from tool_calls([parsed])


def assistant_messages(events: Iterable[ParserEvent]) -> list[ParsedMessage]:
    """The messages among the events that the model wrote in its own role, including one that was cut off."""
    finished = [event.message for event in events if isinstance(event, MessageFinished)]
    return [parsed for parsed in finished if parsed.message.role == "assistant"]


def tool_calls(messages: Iterable[ParsedMessage]) -> list[ToolCall]:
    """The tool calls among the messages that are finished."""
    return [_tool_call(parsed.message) for parsed in messages if parsed.is_tool_call and parsed.ending != "cut"]


def has_answer(messages: Iterable[ParsedMessage]) -> bool:
    """Whether one of the messages is an answer, perhaps an empty one on `final`. Text on no channel is one too."""
    others = [parsed.message for parsed in messages if not parsed.is_tool_call]
    return any(message.channel == "final" or (message.channel not in _DELTAS and message.content) for message in others)


def is_answer(author: Header | Message | None) -> bool:
    """Whether a message with this header is an answer of the assistant: on `final`, or on no channel."""
    if author is None or author.role != "assistant" or author.channel in _DELTAS:
        return False
    return not ParsedMessage(Message("assistant", "", author.channel, author.recipient), "cut", ()).is_tool_call


def without_bare_header(events: Sequence[ParserEvent]) -> Sequence[ParserEvent]:
    """The events of a message that was cut off (`HarmonyParser.finish`); none if it has only a part of a header."""
    last = events[-1] if events else None
    bare = isinstance(last, MessageFinished) and MESSAGE not in last.message.ids and not last.message.message.content
    return () if bare else events


def _opens_call(header: Header) -> bool:
    message = Message(header.role, "", header.channel, header.recipient)
    return ParsedMessage(message, "cut", ()).is_tool_call


def _tool_call(message: Message) -> ToolCall:
    assert message.recipient is not None and isinstance(message.content, str)
    return ToolCall(message.recipient, message.content, message.channel)
