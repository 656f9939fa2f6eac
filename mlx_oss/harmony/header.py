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
    MISSPELT_ROLE = "the role's name was put right"
    REPEATED_ROLE = "the header repeats <|start|> or the role"
    UNMARKED_CHANNEL = "<|channel|> is missing in front of the channel's name"
    REPEATED_CHANNEL = "the header has several <|channel|>; the last one that exists counts"
    EMPTY_CHANNEL = "<|channel|> is followed by no name"
    MISSPELT_CHANNEL = "the channel's name was put right"
    UNKNOWN_CHANNEL = "the channel does not exist"
    SPACED_FIELD = "a blank too many inside of `to=...` or after <|constrain|>, or none in front of `to=`"
    MISSPELT_RECIPIENT = "the recipient's name was put right"
    TWO_RECIPIENTS = "the header names two recipients; the last one counts"
    EXTRA_WORDS = "the header has words without a meaning"
    SPELLED_CONTROL = "a control token is spelled as text in the header"
    MISSING_MESSAGE = "<|message|> is missing; what is not header became content"
    INTERRUPTED = "a new message begins before the end of this one"
    ENDED_BY_ENDOFTEXT = "the message ends with <|endoftext|>"
    STRAY_CONTROL = "a control token where it means nothing; left out"
    STRAY_TEXT = "blanks between messages; left out"
    UNKNOWN_ID = "an id outside the vocabulary became a replacement character"
    OTHER_ROLE = "the model speaks in another's role; a chat leaves it out"
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


# The token; ids never decode to a surrogate, so text that spells it is another thing.
CONSTRAIN_TOKEN = "<|constrain|\udc80"
_CONSTRAIN = "<|constrain|>"
_CHANNEL = "<|channel|>"
_MESSAGE = "<|message|>"
_NAMES = "|".join(CHANNELS)
_TYPES = ("json", "code")

_BLANKS = re.compile(r"\s*")
_LETTERS = re.compile(r"[A-Za-z]+")
_FIRST_WORD = re.compile(r"\s*((?:(?!to=)[^\s<])*)")
_CONTENT_TYPE = re.compile(r"(?:<\|constrain\|>)?[A-Za-z][\w./+-]*")
_RECIPIENT = re.compile(r"""[^\s"'`(){}\[\]<>,;?!\ufffd]+""")
_ROLE_AND_CHANNEL = re.compile(rf"(assistant)(?:{_NAMES})", re.IGNORECASE)

# blanks inside of fields: `to = functions.x`, `to=functions. x`, `<|constrain|> json`
_NO_FIELD = rf"(?!(?:{'|'.join(_TYPES)})(?:\s|$)|to\s*=)"
_SPACED_TO = re.compile(rf"(?<!\S)to\s*=\s*{_NO_FIELD}(?=[^\s<])")
_SPACED_NAME = re.compile(rf"((?<!\S)to=\S+?)(?:(?<=\.)\s+{_NO_FIELD}(?=\w)|\s+(?=\.\w))")
_SPACED_TYPE = re.compile(r"(<\|constrain\|>)\s+(?!to=)(?=\w)")
_REPEATED_CONSTRAIN = re.compile(r"(?:<\|constrain\|>\s*)+(?=<\|constrain\|>)")

# header fields in front of content that <|message|> never opened; a type counts only if JSON or another field follows
_AHEAD = r"(?=\s*(?:[{\[]|to=))"
_FIELDS = re.compile(
    rf"(?:\s*(?:to=\s*[^\s<{{]+|<\|constrain\|[>\udc80](?:\s*[a-z]+(?:{_AHEAD}|$))?|(?:json|code){_AHEAD}))*"
)
# and a channel's name there, whatever follows it: `final: Hello`, `analysisWe need to`
_NAME_AHEAD = re.compile(rf"\s*([^\w\s<{{]*(?:(?:{_NAMES})(?=[A-Z])|[A-Za-z]+)[^\w\s<{{\[]*)")


def read_header(sections: list[str], role: Role | None, *, complete: bool = True) -> tuple[Header, list[Note], str]:
    """Reads a header without `<|start|>` and `<|message|>`; gives the header, its repairs, and content found in it.

    sections  the text before the first `<|channel|>`, and after each, with CONSTRAIN_TOKEN for `<|constrain|>`, which
              in a header means the same when it is spelled
    role      the role if the prompt already named it, else None: the text begins with it
    complete  False if `<|message|>` never came: then all that does not look like a header is content
    """
    if not complete and (opened := _opened_by_spelled_message(sections, role)):
        return opened
    reading, body = _Reading(), ""
    author, *rest = _cut_at_spelled_channels(sections, reading, complete)
    names, rest = _take_channels(rest, complete)
    channel = _choose_channel(names, reading)
    role_word, author = _take_role_word(author, role, complete)
    for name, section in zip((role_word, *names), (author, *rest), strict=True):
        end = len(section)
        if not complete:
            found = _FIELDS.match(section)
            end = found.end() if found else 0
            if not body and (name or end) and (blanks := _BLANKS.match(section, end)):
                end = blanks.end()
        if name and section.startswith("to="):
            reading.note(Repair.SPACED_FIELD, name + section[:3])
        _read_words(section[:end], reading)
        body += section[end:]
    if complete and channel is None:
        channel = _take_unmarked_channel(reading)
    content_type = _choose_content_type(reading)
    role, name = _read_author(role_word, role, channel, reading)
    header = Header(role, channel, reading.recipient, content_type, name)
    return header, reading.notes, _without_tokens(body, reading.notes)


def _without_tokens(content: str, notes: list[Note]) -> str:
    if CONSTRAIN_TOKEN in content:
        notes.append(Note(Repair.STRAY_CONTROL, _CONSTRAIN))
    return content.replace(CONSTRAIN_TOKEN, "")


def _opened_by_spelled_message(sections: list[str], role: Role | None) -> tuple[Header, list[Note], str] | None:
    """What `read_header` gives if `<|message|>` came as text, with nothing but a header before it."""
    at = next((at for at, section in enumerate(sections) if _MESSAGE in section), None)
    if at is None:
        return None
    last, _, content = sections[at].partition(_MESSAGE)
    head = _CHANNEL.join([*sections[:at], last]).split(_CHANNEL)
    if read_header(head, role, complete=False)[2].strip():
        return None
    header, notes, _ = read_header(head, role)
    notes.insert(0, Note(Repair.SPELLED_CONTROL, _MESSAGE))
    return header, notes, _without_tokens("".join([content, *sections[at + 1 :]]), notes)


def _cut_at_spelled_channels(sections: list[str], reading: _Reading, complete: bool) -> list[str]:
    """In a header `<|channel|>` as text means the token; before content only at the very beginning."""
    cut = _CHANNEL.join(sections).split(_CHANNEL)
    if not complete:
        spelled = sections[0].lstrip().startswith(_CHANNEL)
        cut = ["", sections[0].lstrip().removeprefix(_CHANNEL), *sections[1:]] if spelled else sections
    if len(cut) > len(sections):
        reading.note(Repair.SPELLED_CONTROL, _CHANNEL)
    return cut


def _take_channels(sections: list[str], complete: bool) -> tuple[list[str], list[str]]:
    """The name each section begins with ("" if with none), and the rest of each."""
    names, rests = [], []
    for section in sections:
        match = (_FIRST_WORD if complete else _NAME_AHEAD).match(section)
        is_name = match is not None and (complete or _known_channel(match[1]) is not None)
        names.append(match[1] if match and is_name else "")
        rests.append(section[match.end() :] if match and is_name else section)
    return names, rests


def _choose_channel(names: list[str], reading: _Reading) -> str | None:
    """The last channel that exists, else the last one named."""
    if len(names) > 1:
        reading.note(Repair.REPEATED_CHANNEL, " ".join(filter(None, names)))
    written = [*filter(None, names)]
    if not written:
        if names:
            reading.note(Repair.EMPTY_CHANNEL)
        return None
    last = next((name for name in reversed(written) if _known_channel(name)), written[-1])
    known = _known_channel(last)
    if known is None:
        reading.note(Repair.UNKNOWN_CHANNEL, last)
    elif known != last:
        reading.note(Repair.MISSPELT_CHANNEL, last)
    return known or last


def _known_channel(word: str) -> str | None:
    """The channel a garbled name (`commentary?`, `Final`, `fin`) stands for."""
    match = _LETTERS.search(word)
    letters = match[0].lower() if match else ""
    return next((name for name in CHANNELS if name == letters or (len(letters) > 2 and name.startswith(letters))), None)


def _take_role_word(author: str, role: Role | None, complete: bool) -> tuple[str | None, str]:
    """Splits the role off the first section; without `<|message|>` only a true role counts as one."""
    match = _FIRST_WORD.match(author)
    assert match
    word, end = match[1], match.end()
    if complete and (both := _ROLE_AND_CHANNEL.fullmatch(word)):
        word, end = both[1], match.start(1) + both.end(1)
    if role is not None:
        taken = (word.lower() if complete else word) == role
    else:
        taken = word not in CHANNELS if complete else word.partition(":")[0] in ROLES
    return (word, author[end:]) if taken and word else (None, author)


def _read_words(text: str, reading: _Reading) -> None:
    text = text.replace(CONSTRAIN_TOKEN, _CONSTRAIN).replace(_CONSTRAIN, f" {_CONSTRAIN}")
    once = _REPEATED_CONSTRAIN.sub("", text)
    if once != text:
        reading.note(Repair.STRAY_CONTROL, _CONSTRAIN)
    joined = _SPACED_TYPE.sub(r"\1", _SPACED_NAME.sub(r"\1", _SPACED_TO.sub("to=", once)))
    if joined != once:
        reading.note(Repair.SPACED_FIELD, once.strip())
    for word in joined.split():
        if word == _CONSTRAIN:
            reading.note(Repair.STRAY_CONTROL, word)
        elif word.startswith("to=") and (match := _RECIPIENT.search(word, 3)):
            _read_recipient(match[0], word[3:], reading)
        else:
            reading.words.append(word)


def _read_recipient(recipient: str, written: str, reading: _Reading) -> None:
    if recipient != written:
        reading.note(Repair.MISSPELT_RECIPIENT, written)
    if reading.recipient not in (None, recipient):
        reading.note(Repair.TWO_RECIPIENTS, f"{reading.recipient} {recipient}")
    reading.recipient = recipient


def _take_unmarked_channel(reading: _Reading) -> str | None:
    channel = next((word for word in reading.words if word in CHANNELS), None)
    if channel is not None:
        reading.words.remove(channel)
        reading.note(Repair.UNMARKED_CHANNEL, channel)
    return channel


def _choose_content_type(reading: _Reading) -> str | None:
    """A marked word is the content type, or the only one left, or a usual one; none is ever a recipient."""
    types = [*filter(_CONTENT_TYPE.fullmatch, reading.words)]
    candidates = [word for word in types if word.startswith(_CONSTRAIN)]
    candidates += types if len(reading.words) == 1 else [word for word in types if word.lower() in _TYPES]
    chosen = next(iter(candidates), None)
    said = chosen and chosen.removeprefix(_CONSTRAIN)
    if extra := [word for word in reading.words if word.removeprefix(_CONSTRAIN) != said]:
        reading.note(Repair.EXTRA_WORDS, " ".join(extra))
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
        if word.lower() == known or word.lower().startswith(f"{known}:"):
            if not word.startswith(known):
                reading.note(Repair.MISSPELT_ROLE, word)
            return known, word if known == "tool" else word[len(known) + 1 :] or None
    # tools sign with their own name, and no tool speaks on `final`
    if channel != "final" or reading.recipient is not None:
        return "tool", word
    reading.note(Repair.UNKNOWN_ROLE, word)
    return "assistant", None
