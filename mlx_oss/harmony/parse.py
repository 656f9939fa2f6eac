"""Parses token ids to messages, one id at a time, for any output of a model.

Never raises because of a model's output, except in strict mode. Deviations from the format are corrected and reported
as a `Note` on the message, and control tokens never become text. The format is described in openai/harmony
`docs/format.md`. Knows nothing of turns and tools.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from mlx_oss.errors import HarmonyError, OptionError
from mlx_oss.harmony.header import CONSTRAIN_TOKEN, Header, Note, Repair, read_header
from mlx_oss.harmony.messages import Message, Role
from mlx_oss.tokenizer import (
    CALL,
    CHANNEL,
    CONSTRAIN,
    END,
    ENDOFTEXT,
    MESSAGE,
    N_RANKS,
    RETURN,
    START,
    Tokenizer,
    load_tokenizer,
)

Ending = Literal["end", "return", "call", "cut"]

_ENDINGS: dict[int, Ending] = {END: "end", RETURN: "return", CALL: "call", ENDOFTEXT: "return"}
# In tokens. Headers are short: a longer text without <|message|> is content, and is returned as it comes instead of at
# the end of the message.
_LONGEST_HEADER = 128


@dataclass(frozen=True, slots=True)
class ParsedMessage:
    """A message the model wrote, with the token ids it was parsed from.

    Attributes:
        message: The message.
        ending: How the message ended: "end", "return" or "call" by its control token ("return" also by
            `<|endoftext|>`), "cut" if it is unfinished.
        ids: The exact token ids, from `<|start|>` (if the model wrote it) to the control token that ended the message.
            The ids of all messages, in order, are the whole stream, except for stop tokens and whitespace after the
            last message.
        notes: The repairs, in order.
    """

    message: Message
    ending: Ending
    ids: tuple[int, ...]
    notes: tuple[Note, ...] = ()

    @property
    def is_tool_call(self) -> bool:
        """True if the assistant addressed the message to a tool, on any channel except `final`, with any ending."""
        message = self.message
        addressed = message.recipient not in (None, "all", "user", "assistant")
        return message.role == "assistant" and addressed and message.channel != "final"


@dataclass(frozen=True, slots=True)
class MessageStarted:
    """A header is complete. The text of the message follows.

    Attributes:
        header: The fields of the message.
    """

    header: Header


@dataclass(frozen=True, slots=True)
class TextDelta:
    """The next part of the message's text.

    Attributes:
        text: Whole characters, never empty.
    """

    text: str


@dataclass(frozen=True, slots=True)
class MessageFinished:
    """A message is complete, or was cut off.

    Attributes:
        message: The message. Its text equals the text of all `TextDelta` events since `MessageStarted`.
    """

    message: ParsedMessage


ParserEvent = MessageStarted | TextDelta | MessageFinished

# The events of ids that consist of whole characters, which are most ids a model writes. Filled when an id first occurs.
_EVENTS_OF_WHOLE_CHARACTERS: dict[int, tuple[ParserEvent, ...]] = {}
_NO_CACHE: dict[int, tuple[ParserEvent, ...]] = {}


def parse_messages(
    ids: Iterable[int],
    *,
    role: Role | None = "assistant",
    strict: bool = False,
    tokenizer: Tokenizer | None = None,
) -> list[ParsedMessage]:
    """Parses token ids to messages.

    Args:
        ids: The whole stream.
        role: The role the prompt ended with (`<|start|>assistant`). None if the stream begins with `<|start|>`.
        strict: Raise HarmonyError at the first repair.
        tokenizer: The tokenizer of the model, as `mlx_oss.load` returns it. None means that of the releases.

    Returns:
        All messages, in order. The last one has the ending "cut" if it is unfinished.

    Raises:
        HarmonyError: If `strict` is set and the stream breaks the format.
        OptionError: If the ids are a text.
    """
    if isinstance(ids, str | bytes):
        raise OptionError("the ids are a text: encode it first, with tokenizer.encode_with_specials(text)")
    parser = HarmonyParser(role, strict=strict, tokenizer=tokenizer)
    events = [event for id_ in ids for event in parser.feed(id_)] + list(parser.finish())
    return [event.message for event in events if isinstance(event, MessageFinished)]


class HarmonyParser:
    """Parses a stream of token ids: call `feed` with each id, then `finish`. Both return the events they caused.

    Args:
        role: The role the prompt ended with (`<|start|>assistant`). None if the stream begins with `<|start|>`.
        strict: Raise HarmonyError at the first repair, to test streams that should be well-formed.
        tokenizer: The tokenizer of the model, as `mlx_oss.load` returns it. None means that of the releases.

    Attributes:
        state: "between" two messages, in a "header", or in "content".
        header: Header of the message whose content is being read, else None.
        strict: Whether a repair raises HarmonyError.
    """

    __slots__ = (
        "_body",
        "_cached_events",
        "_content_at",
        "_decoder",
        "_header_at",
        "_ids",
        "_notes",
        "_role",
        "_tokenizer",
        "header",
        "state",
        "strict",
    )

    def __init__(self, role: Role | None = "assistant", *, strict: bool = False, tokenizer: Tokenizer | None = None):
        self.strict = strict
        self.state: Literal["between", "header", "content"] = "between" if role is None else "header"
        self.header: Header | None = None
        self._tokenizer = tokenizer or load_tokenizer()
        self._role = role
        self._ids: list[int] = []  # of the current message
        self._notes: list[Note] = []
        self._header_at = 0
        self._content_at = 0
        self._body = b""  # content that was found in the header
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._cached_events = _NO_CACHE  # the cache applies only in content, between two characters

    def feed(self, id_: int) -> tuple[ParserEvent, ...]:
        """Reads the next id.

        Args:
            id_: A token id. An id outside the vocabulary becomes a replacement character.

        Returns:
            The events this id caused, possibly none.

        Raises:
            HarmonyError: If `strict` is set and the id breaks the format.
        """
        self._ids.append(id_)
        return self._cached_events.get(id_) or self._step(id_)

    def finish(self) -> tuple[ParserEvent, ...]:
        """Ends the stream. An unfinished message is returned with the ending "cut".

        Returns:
            The events of the unfinished message, none if there is no such message.

        Raises:
            HarmonyError: If `strict` is set and the unfinished message breaks the format.
        """
        if self.state == "content":
            return self._close("cut")
        if self.state == "header" and self._ids:
            return self._open(None, complete=False) + self._close("cut")
        self._reset()
        return ()

    def copy(self) -> HarmonyParser:
        """Returns an independent parser in the same state."""
        other = HarmonyParser(strict=self.strict, tokenizer=self._tokenizer)
        for slot in ("state", "header", "_role", "_header_at", "_content_at", "_body", "_cached_events"):
            setattr(other, slot, getattr(self, slot))
        other._ids, other._notes = self._ids.copy(), self._notes.copy()
        other._decoder.setstate(self._decoder.getstate())
        return other

    def _step(self, id_: int) -> tuple[ParserEvent, ...]:
        if not self._tokenizer.knows(id_):
            self._note(Repair.UNKNOWN_ID, str(id_))
        if self.state == "content":
            return self._control(id_) if self._tokenizer.is_control(id_) else self._text(id_)
        if self.state == "header":
            return self._in_header(id_)
        return self._between(id_)

    def _text(self, id_: int) -> tuple[ParserEvent, ...]:
        was_between_characters = self._cached_events is _EVENTS_OF_WHOLE_CHARACTERS
        text = self._decoder.decode(self._tokenizer.token_bytes(id_))
        events = (TextDelta(text),) if text else ()
        self._cached_events = _NO_CACHE if self._decoder.getstate()[0] else _EVENTS_OF_WHOLE_CHARACTERS
        if was_between_characters and self._cached_events is _EVENTS_OF_WHOLE_CHARACTERS and 0 <= id_ < N_RANKS:
            _EVENTS_OF_WHOLE_CHARACTERS[id_] = events
        return events

    def _control(self, id_: int) -> tuple[ParserEvent, ...]:
        if ending := _ENDINGS.get(id_):
            return self._end(id_, ending)
        if id_ in (START, CHANNEL):
            return self._interrupt(id_)
        self._note(Repair.STRAY_CONTROL, self._tokenizer.decode([id_]))
        return ()

    def _in_header(self, id_: int) -> tuple[ParserEvent, ...]:
        if id_ == MESSAGE:
            return self._open(-1, complete=True)
        if ending := _ENDINGS.get(id_):
            return self._open(-1, complete=False) + self._end(id_, ending)
        if id_ == START:
            if "".join(self._sections(-1)).strip():
                return self._open(-1, complete=False) + self._interrupt(id_)
            self._note(Repair.REPEATED_ROLE, "<|start|>")
            self._role, self._header_at = None, len(self._ids)
        elif len(self._ids) - self._header_at >= _LONGEST_HEADER:
            return self._open(None, complete=False)
        elif self._tokenizer.is_control(id_) and id_ not in (CHANNEL, CONSTRAIN):
            self._note(Repair.STRAY_CONTROL, self._tokenizer.decode([id_]))
        return ()

    def _between(self, id_: int) -> tuple[ParserEvent, ...]:
        if id_ == START:
            self.state, self._role, self._header_at = "header", None, len(self._ids)
            return ()
        is_text = not self._tokenizer.is_control(id_)
        text = self._tokenizer.decode([id_])
        if is_text and not text.strip():
            self._note(Repair.STRAY_TEXT, text)
        elif is_text or id_ in (CHANNEL, MESSAGE):
            self._note(Repair.MISSING_START)
            self.state, self._role, self._header_at = "header", "assistant", len(self._ids) - 1
            return self._in_header(id_)
        else:
            self._note(Repair.STRAY_CONTROL, text)
        return ()

    def _interrupt(self, id_: int) -> tuple[ParserEvent, ...]:
        """Ends the current message before `id_`, which begins the next one."""
        self._ids.pop()
        self._note(Repair.INTERRUPTED)
        events = self._close("cut")
        self._ids.append(id_)
        return events + self._between(id_)

    def _sections(self, end: int | None) -> list[str]:
        """Returns the header's text, split at each `<|channel|>`.

        The bytes of an incomplete character at its end stay in the decoder.

        Args:
            end: Index of the id at which the header ends. None means all ids so far.
        """
        sections = [""]
        self._decoder.reset()
        for id_ in self._ids[self._header_at : end]:
            if not self._tokenizer.is_control(id_):
                sections[-1] += self._decoder.decode(self._tokenizer.token_bytes(id_))
            elif id_ in (CHANNEL, CONSTRAIN):
                sections[-1] += self._decoder.decode(b"", final=True)
                sections += [""] if id_ == CHANNEL else []
                sections[-1] += CONSTRAIN_TOKEN if id_ == CONSTRAIN else ""
        return sections

    def _open(self, end: int | None, *, complete: bool) -> tuple[ParserEvent, ...]:
        """Parses the header, which ends at index `end` of the ids so far, and begins the content."""
        sections = self._sections(end)
        if complete:
            sections[-1] += self._decoder.decode(b"", final=True)
        else:
            self._note(Repair.MISSING_MESSAGE)
        self.header, notes, body = read_header(sections, self._role, complete=complete)
        for note in notes:
            self._note(note.repair, note.text)
        incomplete = self._decoder.getstate()[0]  # the bytes of an incomplete character
        self._body = body.encode() + incomplete
        self.state, self._content_at, self._cached_events = (
            "content",
            len(self._ids),
            _NO_CACHE if incomplete else _EVENTS_OF_WHOLE_CHARACTERS,
        )
        started: ParserEvent = MessageStarted(self.header)
        return (started, TextDelta(body)) if body else (started,)

    def _end(self, id_: int, ending: Ending) -> tuple[ParserEvent, ...]:
        if id_ == ENDOFTEXT:
            self._note(Repair.ENDED_BY_ENDOFTEXT)
        return self._close(ending)

    def _close(self, ending: Ending) -> tuple[ParserEvent, ...]:
        """Ends the current message. Its ids are all ids so far."""
        assert self.header is not None
        rest = self._decoder.decode(b"", final=True)
        is_control = self._tokenizer.is_control
        content_ids = (id_ for id_ in self._ids[self._content_at :] if id_ < N_RANKS or not is_control(id_))
        content = self._body + b"".join(map(self._tokenizer.token_bytes, content_ids))
        text = content.decode("utf-8", "replace")
        if text.encode() != content:
            self._note(Repair.INVALID_UTF8)
        header = self.header
        message = Message(header.role, text, header.channel, header.recipient, header.content_type, header.name)
        parsed = ParsedMessage(message, ending, tuple(self._ids), tuple(self._notes))
        self._reset()
        finished: ParserEvent = MessageFinished(parsed)
        return (TextDelta(rest), finished) if rest else (finished,)

    def _reset(self) -> None:
        self.state, self.header, self._role = "between", None, None
        self._ids, self._notes, self._body, self._cached_events = [], [], b"", _NO_CACHE
        self._decoder.reset()

    def _note(self, repair: Repair, text: str = "") -> None:
        if self.strict:
            raise HarmonyError(f"{repair.value} ({text!r}, after {len(self._ids)} tokens of the message)")
        self._notes.append(Note(repair, text))
