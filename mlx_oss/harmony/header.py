"""The header of a message, from `<|start|>` to `<|message|>`: its text to typed fields, with a note for each repair.

Works on text; knows nothing of ids and streams. What a model gets wrong here was
collected from openai/harmony issues 38, 80 and pull request 82, and ggml-org/llama.cpp issue 27720.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum

from mlx_oss.harmony.messages import CHANNELS, Role

ROLES: tuple[Role, ...] = ("system", "developer", "user", "assistant", "tool")


class Repair(Enum):
    """What the parser had to put right; the value says it in words."""

    MISSING_START = "the message begins without <|start|>"
    MISSING_ROLE = "the header names no role; assistant assumed"
    UNKNOWN_ROLE = "the header names an unknown role; assistant assumed"
    REPEATED_ROLE = "the header repeats <|start|> or the role"
    REPEATED_CHANNEL = "the header has several <|channel|>; the last one counts"
    EMPTY_CHANNEL = "<|channel|> is followed by no name"
    MISSPELT_CHANNEL = "the channel's name was put right"
    UNKNOWN_CHANNEL = "the channel does not exist"
    SPACED_FIELD = "a blank inside of `to=...` or after <|constrain|>"
    TWO_RECIPIENTS = "the header names two recipients; the last one counts"
    EXTRA_WORDS = "the header has words without a meaning"
    SPELLED_CONTROL = "a control token is spelled as text in the header"
    MISSING_MESSAGE = "<|message|> is missing; what is not header became content"
    INTERRUPTED = "a new message begins before the end of this one"
    ENDED_BY_ENDOFTEXT = "the message ends with <|endoftext|>"
    STRAY_CONTROL = "a control token where it means nothing; left out"
    STRAY_TEXT = "blanks between messages; left out"
    UNKNOWN_ID = "an id outside the vocabulary became a replacement character"
    INVALID_UTF8 = "bytes that are not UTF-8 became replacement characters"


@dataclass(frozen=True, slots=True)
class Note:
    """One repair and the piece of the stream it is about."""

    repair: Repair
    text: str = ""


@dataclass(frozen=True, slots=True)
class Header:
    """Everything a message says about itself before its content; the fields are those of `Message`."""

    role: Role
    channel: str | None = None
    recipient: str | None = None
    content_type: str | None = None
    name: str | None = None


@dataclass(slots=True)
class _Reading:
    """What has been found in a header so far."""

    notes: list[Note] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    recipient: str | None = None

    def note(self, repair: Repair, text: str = "") -> None:
        self.notes.append(Note(repair, text))


_CONSTRAIN = "<|constrain|>"
_CHANNEL = "<|channel|>"
# header fields in front of content that <|message|> never opened; a type counts only if JSON or another field follows
_AHEAD = r"(?=\s*(?:[{\[]|to=))"
_FRONT = re.compile(
    rf"(?:\s*(?:to=\s*[^\s<{{]+|<\|constrain\|>(?:\s*[a-z]+(?:{_AHEAD}|$))?|(?:json|code){_AHEAD}))*\s*"
)
_CONTENT_TYPE = re.compile(r"(?:<\|constrain\|>)?[A-Za-z][\w./+-]*")
_FIRST_WORD = re.compile(r"\s*([^\s<]*)")
_LETTERS = re.compile(r"[A-Za-z]+")


def read_header(sections: list[str], role: Role | None, *, complete: bool = True) -> tuple[Header, list[Note], str]:
    """Reads a header without `<|start|>` and `<|message|>`; gives the header, its repairs, and content found in it.

    sections  the text before the first `<|channel|>`, and after each; `<|constrain|>` is spelled out
    role      the role if the prompt already named it, else None: the text begins with it
    complete  False if `<|message|>` never came: then all that does not look like a header is content
    """
    reading = _Reading()
    if complete and any(_CHANNEL in section for section in sections):
        reading.note(Repair.SPELLED_CONTROL, _CHANNEL)
        sections = _CHANNEL.join(sections).split(_CHANNEL)
    author, *sections = sections
    channel, sections = _read_channel(sections, reading, complete)
    role_word, author = _take_role_word(author, role, complete)
    bodies = []
    for section in (author, *sections):
        front = None if complete else _FRONT.match(section)
        end = front.end() if front else len(section)
        _read_words(section[:end], reading)
        bodies.append(section[end:])
    content_type = _read_content_type(reading)
    role, name = _read_author(role_word, role, channel, reading)
    header = Header(role, channel, reading.recipient, content_type, name)
    body = " ".join(filter(None, bodies))
    if _CONSTRAIN in body:
        reading.note(Repair.STRAY_CONTROL, _CONSTRAIN)
    return header, reading.notes, body.replace(_CONSTRAIN, "")


def _read_channel(sections: list[str], reading: _Reading, complete: bool) -> tuple[str | None, list[str]]:
    """The channel's name, and the sections without the names."""
    names, rests = [], []
    for section in sections:
        match = _FIRST_WORD.match(section)
        assert match
        word = match[1]
        is_name = not word.startswith("to=") and (complete or _known_channel(word) is not None)
        names.append(word if is_name else "")
        rests.append(section[match.end() :] if is_name else section)
    if len(names) > 1:
        reading.note(Repair.REPEATED_CHANNEL, " ".join(filter(None, names)))
    written = next(filter(None, reversed(names)), None)
    if written is None:
        if sections:
            reading.note(Repair.EMPTY_CHANNEL)
        return None, rests
    known = _known_channel(written)
    if known is None:
        reading.note(Repair.UNKNOWN_CHANNEL, written)
    elif known != written:
        reading.note(Repair.MISSPELT_CHANNEL, written)
    return known or written, rests


def _known_channel(word: str) -> str | None:
    """The channel a garbled name (`commentary?`, `Final`, `fin`) stands for."""
    match = _LETTERS.search(word)
    letters = match[0].lower() if match else ""
    return next((name for name in CHANNELS if name == letters or (len(letters) > 2 and name.startswith(letters))), None)


def _take_role_word(author: str, role: Role | None, complete: bool) -> tuple[str | None, str]:
    """Splits the role off the first section; without `<|message|>` only a true role counts as one."""
    match = _FIRST_WORD.match(author)
    assert match
    word = match[1]
    if role is not None:
        taken = word == role
    else:
        taken = not word.startswith("to=") and (complete or word.partition(":")[0] in ROLES)
    return (word, author[match.end() :]) if taken and word else (None, author)


def _read_words(head: str, reading: _Reading) -> None:
    words = iter(head.replace(_CONSTRAIN, f" {_CONSTRAIN}").split())
    for word in words:
        if word in ("to=", _CONSTRAIN):
            reading.note(Repair.SPACED_FIELD, word)
            word += next(words, "")
        if not word.startswith("to="):
            reading.words.append(word)
            continue
        recipient = word.removeprefix("to=")
        if reading.recipient not in (None, recipient):
            reading.note(Repair.TWO_RECIPIENTS, f"{reading.recipient} {recipient}")
        reading.recipient = recipient or reading.recipient


def _read_content_type(reading: _Reading) -> str | None:
    """One leftover word is the content type, marked ones before bare ones; it never is a recipient."""
    types = sorted(filter(_CONTENT_TYPE.fullmatch, reading.words), key=lambda word: not word.startswith(_CONSTRAIN))
    marked = bool(types) and types[0].startswith(_CONSTRAIN)
    chosen = types[0] if types and (marked or len(reading.words) == 1) else None
    if rest := [word for word in reading.words if word != chosen]:
        reading.note(Repair.EXTRA_WORDS, " ".join(rest))
    return chosen


def _read_author(
    word: str | None, role: Role | None, channel: str | None, reading: _Reading
) -> tuple[Role, str | None]:
    if role is not None:
        if word is not None:
            reading.note(Repair.REPEATED_ROLE, word)
        return role, None
    if word is None:
        reading.note(Repair.MISSING_ROLE)
        return "assistant", None
    for known in ROLES:
        if word == known or word.startswith(f"{known}:"):
            return known, word if known == "tool" else word[len(known) + 1 :] or None
    # tools sign with their own name, and no tool speaks on `final`
    if channel != "final" or reading.recipient is not None:
        return "tool", word
    reading.note(Repair.UNKNOWN_ROLE, word)
    return "assistant", None
