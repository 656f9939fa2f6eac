"""What the model has written lately, so that a conversation that a client sends again has the ids that it had before.

A client sends the whole conversation with each request, some of them without the reasoning, and none with ids. So the
server remembers: for the id of each call what was written up to it, and for each message its ids. Messages of others
are remembered as well, which saves encoding them again. Knows nothing of requests and sessions.
"""

from __future__ import annotations

import json
import threading
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from mlx_oss.chat.history import Entry
from mlx_oss.chat.transcript import OWN_CALL, Transcript
from mlx_oss.harmony import Message, is_reasoning
from mlx_oss.tokenizer import Tokenizer

_BYTES = 64 << 20
_OVERHEAD = 600  # bytes of an entry without its text and ids


@dataclass(frozen=True, slots=True)
class _Round:
    """What was written up to a call: reasoning, a preamble, and the call."""

    entries: tuple[Entry, ...]
    nbytes: int


class Memory:
    """Remembers entries; the oldest ones are forgotten when they take too many bytes.

    Args:
        tokenizer: The tokenizer of the model.
        limit: The most bytes.
    """

    def __init__(self, tokenizer: Tokenizer, limit: int = _BYTES) -> None:
        self._tokenizer, self._limit, self._nbytes = tokenizer, limit, 0
        self._known: OrderedDict[str | Message, _Round] = OrderedDict()
        self._lock = threading.Lock()

    def remember(self, entries: Sequence[Entry], call_ids: Sequence[str]) -> None:
        """Remembers what a turn has added to its conversation: up to each call, and its result if the server ran it.

        Args:
            entries: What was added.
            call_ids: The ids that its calls have got, in order.
        """
        ids, since, called = iter(call_ids), list[Entry](), list[Entry]()
        id_: str | None = None
        for entry in entries:
            message = entry.message
            if message.role != "assistant":
                if called and id_ is not None:
                    self._keep(id_, [*called, entry])
                since, called = [], []
                continue
            since.append(entry)
            if message.recipient is not None:
                if (id_ := next(ids, None)) is not None:
                    self._keep(id_, since)
                since, called = [], since
            else:
                self._keep(message, [entry])

    def entries_of(self, transcript: Transcript) -> list[Entry]:
        """The entries of a conversation that a client has sent, with the ids that they had."""
        entries, channels = list[Entry](), dict[str, str]()  # the channel of the last call, by recipient
        answered = max((place for place, message in enumerate(transcript.messages) if _is_answer(message)), default=-1)
        for place, (message, call_id) in enumerate(zip(transcript.messages, transcript.call_ids, strict=True)):
            if message.role == "tool" and (channel := channels.get(message.name or "", message.channel)) is not None:
                message = replace(message, channel=channel)
            written = self._known_as(call_id) if call_id is not None else None
            if message == OWN_CALL:
                if written is not None and place > answered:
                    _restore(entries, written)
            elif written is not None and _is_same_call(written[-1].message, message):
                _restore(entries, written)
            else:
                entries.append(self._entry(message))
            if entries and (last := entries[-1].message).role == "assistant" and last.recipient is not None:
                channels[last.recipient] = last.channel or "commentary"
        return entries

    def _entry(self, message: Message) -> Entry:
        if known := self._known_as(message):
            return known[0]
        entry = Entry.from_message(message, self._tokenizer)
        self._keep(message, [entry])
        return entry

    def _known_as(self, key: str | Message) -> tuple[Entry, ...] | None:
        with self._lock:
            if (found := self._known.get(key)) is None:
                return None
            self._known.move_to_end(key)
            return found.entries

    def _keep(self, key: str | Message, entries: Sequence[Entry]) -> None:
        packed = tuple(replace(entry, ids=array("I", entry.ids)) for entry in entries)
        nbytes = sum(_OVERHEAD + len(str(entry.message.content)) + 4 * len(entry.ids) for entry in packed)
        with self._lock:
            if (old := self._known.pop(key, None)) is not None:
                self._nbytes -= old.nbytes
            self._known[key] = _Round(packed, nbytes)
            self._nbytes += nbytes
            while self._nbytes > self._limit:
                self._nbytes -= self._known.popitem(last=False)[1].nbytes


def _restore(entries: list[Entry], written: Sequence[Entry]) -> None:
    """Adds what was written up to a call, in place of what the client tells of it."""
    told = _said_before(entries)
    if _reasoning(told) in ("", _reasoning(written), _said(written)):
        del entries[len(entries) - len(told) :]
        entries += written
    else:  # the client has changed it
        entries += [entry for entry in written if entry.message.recipient is not None]


def _is_answer(message: Message) -> bool:
    return message.role == "assistant" and message.channel == "final"


def _said_before(entries: Sequence[Entry]) -> Sequence[Entry]:
    """What the assistant has said at the end, without calls and answers."""
    start = len(entries)
    while start and _is_before_call(entries[start - 1].message):
        start -= 1
    return entries[start:]


def _is_before_call(message: Message) -> bool:
    return message.role == "assistant" and message.recipient is None and message.channel != "final"


def _reasoning(entries: Sequence[Entry]) -> str:
    return _joined(entry.message for entry in entries if is_reasoning(entry.message))


def _said(entries: Sequence[Entry]) -> str:
    """The reasoning with the preambles, which beside a format are told as a part of it."""
    return _joined(entry.message for entry in entries if _is_before_call(entry.message))


def _joined(messages: Iterable[Message]) -> str:
    """The texts without blanks: clients may have put them together in their own way."""
    return "".join("".join(str(message.content).split()) for message in messages)


def _is_same_call(written: Message, told: Message) -> bool:
    """Whether a client tells the call that was written.

    It may have spelled the JSON in another way, and added arguments that the model has left out: Claude Code tells what
    was done for those.
    """
    if written.recipient != told.recipient:
        return False
    if written.content == told.content:
        return True
    before, now = _arguments(written), _arguments(told)
    return all(name in now and now[name] == value for name, value in before.items())


def _arguments(call: Message) -> dict[str, object]:
    """The arguments of a call, as an object, as which clients are told what is none."""
    text = str(call.content).strip()
    try:
        value = json.loads(text or "{}")
    except (ValueError, RecursionError):
        value = None
    return value if isinstance(value, dict) else {"input": call.content}
