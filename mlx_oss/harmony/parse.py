"""Ids to messages, one id at a time, whatever the model writes.

Never raises on a model's output: what breaks the format is put right and reported as a `Note` on the message, and
control tokens never become text. The format is described in openai/harmony `docs/format.md`.
Knows nothing of turns and tools.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from mlx_oss.errors import HarmonyError
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
    N_VOCAB,
    RETURN,
    START,
    load_tokenizer,
)

Ending = Literal["end", "return", "call", "cut"]

_CONTROL_IDS = range(N_RANKS, N_VOCAB)
_ENDINGS: dict[int, Ending] = {END: "end", RETURN: "return", CALL: "call", ENDOFTEXT: "return"}
# headers are short; text without <|message|> beyond this is shown as content instead of being kept back to its end
_LONGEST_HEADER = 128


@dataclass(frozen=True, slots=True)
class ParsedMessage:
    """A message the model wrote.

    ending  how it ended: `end`, `return`, `call` by the control token, or `cut`: it was not finished
    ids     its exact ids, from `<|start|>` (if the model wrote it) to the control token that ended it; the ids of all
            messages in order are the stream, but for stop tokens and blanks after the last one
    notes   what had to be put right, in order
    """

    message: Message
    ending: Ending
    ids: tuple[int, ...]
    notes: tuple[Note, ...] = ()

    @property
    def is_tool_call(self) -> bool:
        """Whether a tool should run: the message is addressed to one, on any channel but `final`, however it ended."""
        message = self.message
        addressed = message.recipient not in (None, "all", "user", "assistant")
        return message.role == "assistant" and addressed and message.channel != "final"


@dataclass(frozen=True, slots=True)
class MessageStarted:
    """A header is complete; its message's text follows."""

    header: Header


@dataclass(frozen=True, slots=True)
class TextDelta:
    """The next piece of the message's text; never empty, never half a character."""

    text: str


@dataclass(frozen=True, slots=True)
class MessageFinished:
    """A message is complete. Its text is that of the deltas since `MessageStarted`."""

    message: ParsedMessage


Event = MessageStarted | TextDelta | MessageFinished

# events of ids that are whole characters by themselves, filled as they come up: most of what a model writes
_WHOLE: dict[int, tuple[Event, ...]] = {}
_NOTHING: dict[int, tuple[Event, ...]] = {}


def parse_messages(ids: Iterable[int], *, role: Role | None = "assistant", strict: bool = False) -> list[ParsedMessage]:
    """All messages in `ids`, the last one possibly cut. `role` and `strict` as in `HarmonyParser`."""
    parser = HarmonyParser(role, strict=strict)
    events = [event for id_ in ids for event in parser.feed(id_)] + list(parser.finish())
    return [event.message for event in events if isinstance(event, MessageFinished)]


class HarmonyParser:
    """Reads a stream of ids: `feed` each one, then `finish`; both return the events they caused.

    role    the role the prompt ended with (`<|start|>assistant`), or None if the stream begins with `<|start|>`
    strict  raise HarmonyError at the first repair; for tests of what should be well-formed
    """

    __slots__ = (
        "_body",
        "_content_at",
        "_decoder",
        "_header_at",
        "_ids",
        "_notes",
        "_role",
        "_whole",
        "header",
        "state",
        "strict",
    )

    def __init__(self, role: Role | None = "assistant", *, strict: bool = False):
        self.strict = strict
        self.state: Literal["between", "header", "content"] = "between" if role is None else "header"
        self.header: Header | None = None  # of the message whose content is being read
        self._role = role
        self._ids: list[int] = []  # of the current message
        self._notes: list[Note] = []
        self._header_at = 0
        self._content_at = 0
        self._body = b""  # content found in the header
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")
        self._whole = _NOTHING  # _WHOLE while in content and between two characters

    def feed(self, id_: int) -> tuple[Event, ...]:
        """Takes the next id."""
        self._ids.append(id_)
        return self._whole.get(id_) or self._step(id_)

    def finish(self) -> tuple[Event, ...]:
        """Ends the stream: gives back the message that was not finished, if there is one."""
        if self.state == "content":
            return self._close("cut")
        if self.state == "header" and self._ids:
            return self._open(None, complete=False) + self._close("cut")
        self._reset()
        return ()

    def copy(self) -> HarmonyParser:
        """A parser in the same state that goes its own way."""
        other = HarmonyParser(strict=self.strict)
        for slot in ("state", "header", "_role", "_header_at", "_content_at", "_body", "_whole"):
            setattr(other, slot, getattr(self, slot))
        other._ids, other._notes = self._ids.copy(), self._notes.copy()
        other._decoder.setstate(self._decoder.getstate())
        return other

    def _step(self, id_: int) -> tuple[Event, ...]:
        if not 0 <= id_ < N_VOCAB:
            self._note(Repair.UNKNOWN_ID, str(id_))
        if self.state == "content":
            return self._control(id_) if id_ in _CONTROL_IDS else self._text(id_)
        if self.state == "header":
            return self._in_header(id_)
        return self._between(id_)

    def _text(self, id_: int) -> tuple[Event, ...]:
        was_whole = self._whole is _WHOLE
        text = self._decoder.decode(load_tokenizer().token_bytes(id_))
        events = (TextDelta(text),) if text else ()
        self._whole = _NOTHING if self._decoder.getstate()[0] else _WHOLE
        if was_whole and self._whole is _WHOLE and 0 <= id_ < N_RANKS:
            _WHOLE[id_] = events
        return events

    def _control(self, id_: int) -> tuple[Event, ...]:
        if ending := _ENDINGS.get(id_):
            return self._end(id_, ending)
        if id_ in (START, CHANNEL):
            return self._interrupt(id_)
        self._note(Repair.STRAY_CONTROL, load_tokenizer().decode([id_]))
        return ()

    def _in_header(self, id_: int) -> tuple[Event, ...]:
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
        elif id_ in _CONTROL_IDS and id_ not in (CHANNEL, CONSTRAIN):
            self._note(Repair.STRAY_CONTROL, load_tokenizer().decode([id_]))
        return ()

    def _between(self, id_: int) -> tuple[Event, ...]:
        if id_ == START:
            self.state, self._role, self._header_at = "header", None, len(self._ids)
            return ()
        is_text = id_ not in _CONTROL_IDS
        text = load_tokenizer().decode([id_])
        if is_text and not text.strip():
            self._note(Repair.STRAY_TEXT, text)
        elif is_text or id_ in (CHANNEL, MESSAGE):
            self._note(Repair.MISSING_START)
            self.state, self._role, self._header_at = "header", "assistant", len(self._ids) - 1
            return self._in_header(id_)
        else:
            self._note(Repair.STRAY_CONTROL, text)
        return ()

    def _interrupt(self, id_: int) -> tuple[Event, ...]:
        """Cuts the current message off before `id_`, which begins the next one."""
        self._ids.pop()
        self._note(Repair.INTERRUPTED)
        events = self._close("cut")
        self._ids.append(id_)
        return events + self._between(id_)

    def _sections(self, end: int | None) -> list[str]:
        """The header's text, cut at each `<|channel|>`; an unfinished character at its end stays in the decoder."""
        sections = [""]
        self._decoder.reset()
        for id_ in self._ids[self._header_at : end]:
            if id_ not in _CONTROL_IDS:
                sections[-1] += self._decoder.decode(load_tokenizer().token_bytes(id_))
            elif id_ in (CHANNEL, CONSTRAIN):
                sections[-1] += self._decoder.decode(b"", final=True)
                sections += [""] if id_ == CHANNEL else []
                sections[-1] += CONSTRAIN_TOKEN if id_ == CONSTRAIN else ""
        return sections

    def _open(self, end: int | None, *, complete: bool) -> tuple[Event, ...]:
        """Reads the header, which ends at `end` of the ids so far, and begins the content."""
        sections = self._sections(end)
        if complete:
            sections[-1] += self._decoder.decode(b"", final=True)
        else:
            self._note(Repair.MISSING_MESSAGE)
        self.header, notes, body = read_header(sections, self._role, complete=complete)
        for note in notes:
            self._note(note.repair, note.text)
        held = self._decoder.getstate()[0]
        self._body = body.encode() + held
        self.state, self._content_at, self._whole = "content", len(self._ids), _NOTHING if held else _WHOLE
        started: Event = MessageStarted(self.header)
        return (started, TextDelta(body)) if body else (started,)

    def _end(self, id_: int, ending: Ending) -> tuple[Event, ...]:
        if id_ == ENDOFTEXT:
            self._note(Repair.ENDED_BY_ENDOFTEXT)
        return self._close(ending)

    def _close(self, ending: Ending) -> tuple[Event, ...]:
        """Ends the current message with the ids so far."""
        assert self.header is not None
        rest = self._decoder.decode(b"", final=True)
        content_ids = (id_ for id_ in self._ids[self._content_at :] if id_ not in _CONTROL_IDS)
        content = self._body + b"".join(map(load_tokenizer().token_bytes, content_ids))
        text = content.decode("utf-8", "replace")
        if text.encode() != content:
            self._note(Repair.INVALID_UTF8)
        header = self.header
        message = Message(header.role, text, header.channel, header.recipient, header.content_type, header.name)
        parsed = ParsedMessage(message, ending, tuple(self._ids), tuple(self._notes))
        self._reset()
        finished: Event = MessageFinished(parsed)
        return (TextDelta(rest), finished) if rest else (finished,)

    def _reset(self) -> None:
        self.state, self.header, self._role = "between", None, None
        self._ids, self._notes, self._body, self._whole = [], [], b"", _NOTHING
        self._decoder.reset()

    def _note(self, repair: Repair, text: str = "") -> None:
        if self.strict:
            raise HarmonyError(f"{repair.value} ({text!r}, after {len(self._ids)} tokens of the message)")
        self._notes.append(Note(repair, text))
