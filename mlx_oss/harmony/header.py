"""Parses the header of a message, from `<|start|>` to `<|message|>`: text to typed fields, with a note for each repair.

The mistakes of models that are repaired here were collected from openai/harmony issues 38, 80 and pull request 82, and
ggml-org/llama.cpp issue 27720. Works on text. Knows nothing of token ids and streams.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from enum import Enum

from mlx_oss.harmony.messages import CHANNELS, Role

ROLES: tuple[Role, ...] = ("system", "developer", "user", "assistant", "tool")


class Repair(Enum):
    """A deviation from the format that the parser corrected. The value describes it in words."""

    MISSING_START = "the message begins without <|start|>"
    MISSING_ROLE = "the header names no role; assistant assumed"
    UNKNOWN_ROLE = "the header names an unknown role; assistant assumed"
    MISSPELT_ROLE = "the role name was corrected"
    REPEATED_ROLE = "the header repeats <|start|> or the role"
    UNMARKED_CHANNEL = "<|channel|> is missing before the channel name"
    REPEATED_CHANNEL = "the header has several <|channel|>; the last known channel counts"
    EMPTY_CHANNEL = "there is no channel name after <|channel|>"
    MISSPELT_CHANNEL = "the channel name was corrected"
    UNKNOWN_CHANNEL = "the channel is unknown; its name is kept"
    SPACED_FIELD = "an extra space inside `to=...` or after <|constrain|>, or no space before `to=`"
    MISSPELT_RECIPIENT = "the recipient name was corrected"
    TWO_RECIPIENTS = "the header names two recipients; the last one counts"
    EXTRA_WORDS = "the header has words without a meaning; left out"
    SPELLED_CONTROL = "a control token is spelled out as text in the header"
    MISSING_MESSAGE = "<|message|> is missing; text that does not look like a header became content"
    INTERRUPTED = "a new message begins before this one ends"
    ENDED_BY_ENDOFTEXT = "the message ends with <|endoftext|>"
    STRAY_CONTROL = "a control token has no meaning at this place; left out"
    STRAY_TEXT = "whitespace between messages; left out"
    UNKNOWN_ID = "a token id outside the vocabulary became a replacement character"
    OTHER_ROLE = "the model wrote a message in a role other than assistant; a chat leaves it out"
    INVALID_UTF8 = "bytes that are not UTF-8 became replacement characters"


@dataclass(frozen=True, slots=True)
class Note:
    """One repair of a message.

    Attributes:
        repair: What was corrected.
        text: The part of the stream that was corrected, as the model wrote it. May be empty.
    """

    repair: Repair
    text: str = ""


@dataclass(frozen=True, slots=True)
class Header:
    """The fields of a message before its content.

    Attributes:
        role: Author of the message.
        channel: `analysis`, `commentary`, `final`, or another name the model wrote. None if there is none.
        recipient: Addressee, e.g. `functions.get_weather`. None if there is none.
        content_type: Format of the content, e.g. `<|constrain|>json`. None if there is none.
        name: The author's name. A tool message has the name of the tool here.
    """

    role: Role
    channel: str | None = None
    recipient: str | None = None
    content_type: str | None = None
    name: str | None = None


@dataclass(slots=True)
class _HeaderState:
    """What has been read of a header so far: repairs, words that are not yet assigned to a field, and the recipient."""

    notes: list[Note] = field(default_factory=list)
    words: list[str] = field(default_factory=list)
    recipient: str | None = None

    def note(self, repair: Repair, text: str = "") -> None:
        self.notes.append(Note(repair, text))


# Stands for the control token `<|constrain|>`. Token ids never decode to a surrogate, so it cannot occur in text.
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

# whitespace inside fields: `to = functions.x`, `to=functions. x`, `<|constrain|> json`
_NO_FIELD = rf"(?!(?:{'|'.join(_TYPES)})(?:\s|$)|to\s*=)"
_SPACED_TO = re.compile(rf"(?<!\S)to\s*=\s*{_NO_FIELD}(?=[^\s<])")
_SPACED_NAME = re.compile(rf"((?<!\S)to=\S+?)(?:(?<=\.)\s+{_NO_FIELD}(?=\w)|\s+(?=\.\w))")
_SPACED_TYPE = re.compile(r"(<\|constrain\|>)\s+(?!to=)(?=\w)")
_REPEATED_CONSTRAIN = re.compile(r"(?:<\|constrain\|>\s*)+(?=<\|constrain\|>)")

# Header fields before content when <|message|> is missing. A content type counts only if JSON or another field follows.
_AHEAD = r"(?=\s*(?:[{\[]|to=))"
_FIELDS = re.compile(
    rf"(?:\s*(?:to=\s*[^\s<{{]+|<\|constrain\|[>\udc80](?:\s*[a-z]+(?:{_AHEAD}|$))?|(?:json|code){_AHEAD}))*"
)
# A channel name in the same place, with any text after it: `final: Hello`, `analysisWe need to`.
_NAME_AHEAD = re.compile(rf"\s*([^\w\s<{{]*(?:(?:{_NAMES})(?=[A-Z])|[A-Za-z]+)[^\w\s<{{\[]*)")


def is_name(text: str) -> bool:
    """Whether a header can name an author or a recipient so."""
    return _RECIPIENT.fullmatch(text) is not None


def read_header(sections: list[str], role: Role | None, *, complete: bool = True) -> tuple[Header, list[Note], str]:
    """Parses a header, without its `<|start|>` and `<|message|>`.

    Args:
        sections: The text before the first `<|channel|>`, then the text after each `<|channel|>`. CONSTRAIN_TOKEN
            stands for the control token `<|constrain|>`. In a header the spelled-out token means the same.
        role: The role if the prompt already ended with it. None if the text begins with the role.
        complete: False if `<|message|>` is missing. Then everything that does not look like a header is content.

    Returns:
        The header, its repairs, and the content that was found in the header.
    """
    if not complete and (opened := _opened_by_spelled_message(sections, role)):
        return opened
    state, body = _HeaderState(), ""
    author, *rest = _cut_at_spelled_channels(sections, state, complete)
    names, rest = _take_channels(rest, complete)
    channel = _choose_channel(names, state)
    role_word, author = _take_role_word(author, role, complete)
    for name, section in zip((role_word, *names), (author, *rest), strict=True):
        end = len(section)
        if not complete:
            fields = _FIELDS.match(section)
            end = fields.end() if fields else 0
            if not body and (name or end) and (blanks := _BLANKS.match(section, end)):
                end = blanks.end()
        if name and section.startswith("to="):
            state.note(Repair.SPACED_FIELD, name + section[:3])
        _read_words(section[:end], state)
        body += section[end:]
    if complete and channel is None:
        channel = _take_unmarked_channel(state)
    content_type = _choose_content_type(state)
    role, name = _read_author(role_word, role, channel, state)
    header = Header(role, channel, state.recipient, content_type, name)
    return header, state.notes, _without_tokens(body, state.notes)


def _without_tokens(content: str, notes: list[Note]) -> str:
    if CONSTRAIN_TOKEN in content:
        notes.append(Note(Repair.STRAY_CONTROL, _CONSTRAIN))
    return content.replace(CONSTRAIN_TOKEN, "")


def _opened_by_spelled_message(sections: list[str], role: Role | None) -> tuple[Header, list[Note], str] | None:
    """The result of `read_header` if `<|message|>` is spelled out as text, with only a header before it; else None."""
    index = next((index for index, section in enumerate(sections) if _MESSAGE in section), None)
    if index is None:
        return None
    last, _, content = sections[index].partition(_MESSAGE)
    head = _CHANNEL.join([*sections[:index], last]).split(_CHANNEL)
    if read_header(head, role, complete=False)[2].strip():
        return None
    header, notes, _ = read_header(head, role)
    notes.insert(0, Note(Repair.SPELLED_CONTROL, _MESSAGE))
    return header, notes, _without_tokens("".join([content, *sections[index + 1 :]]), notes)


def _cut_at_spelled_channels(sections: list[str], state: _HeaderState, complete: bool) -> list[str]:
    """Splits the sections at each `<|channel|>` that is spelled out as text.

    In a complete header the spelled-out text means the token everywhere. If `<|message|>` is missing, it does so only
    at the very beginning, because the rest may be content.
    """
    cut = _CHANNEL.join(sections).split(_CHANNEL)
    if not complete:
        spelled = sections[0].lstrip().startswith(_CHANNEL)
        cut = ["", sections[0].lstrip().removeprefix(_CHANNEL), *sections[1:]] if spelled else sections
    if len(cut) > len(sections):
        state.note(Repair.SPELLED_CONTROL, _CHANNEL)
    return cut


def _take_channels(sections: list[str], complete: bool) -> tuple[list[str], list[str]]:
    """Returns the channel name at the beginning of each section ("" if there is none), and the rest of each section."""
    names, rests = [], []
    for section in sections:
        match = (_FIRST_WORD if complete else _NAME_AHEAD).match(section)
        is_name = match is not None and (complete or _known_channel(match[1]) is not None)
        names.append(match[1] if match and is_name else "")
        rests.append(section[match.end() :] if match and is_name else section)
    return names, rests


def _choose_channel(names: list[str], state: _HeaderState) -> str | None:
    """Returns the last known channel, or the last name if none is known."""
    if len(names) > 1:
        state.note(Repair.REPEATED_CHANNEL, " ".join(filter(None, names)))
    written = [*filter(None, names)]
    if not written:
        if names:
            state.note(Repair.EMPTY_CHANNEL)
        return None
    last = next((name for name in reversed(written) if _known_channel(name)), written[-1])
    known = _known_channel(last)
    if known is None:
        state.note(Repair.UNKNOWN_CHANNEL, last)
    elif known != last:
        state.note(Repair.MISSPELT_CHANNEL, last)
    return known or last


def _known_channel(word: str) -> str | None:
    """Returns the channel that a garbled name (`commentary?`, `Final`, `fin`) stands for, or None."""
    match = _LETTERS.search(word)
    letters = match[0].lower() if match else ""
    return next((name for name in CHANNELS if name == letters or (len(letters) > 2 and name.startswith(letters))), None)


def _take_role_word(author: str, role: Role | None, complete: bool) -> tuple[str | None, str]:
    """Splits the role off the first section. If `<|message|>` is missing, only an exact role name counts as a role."""
    match = _FIRST_WORD.match(author)
    assert match
    word, end = match[1], match.end()
    if complete and (joined := _ROLE_AND_CHANNEL.fullmatch(word)):
        word, end = joined[1], match.start(1) + joined.end(1)
    if role is not None:
        is_role = (word.lower() if complete else word) == role
    else:
        is_role = word not in CHANNELS if complete else word.partition(":")[0] in ROLES
    return (word, author[end:]) if is_role and word else (None, author)


def _read_words(text: str, state: _HeaderState) -> None:
    text = text.replace(CONSTRAIN_TOKEN, _CONSTRAIN).replace(_CONSTRAIN, f" {_CONSTRAIN}")
    once = _REPEATED_CONSTRAIN.sub("", text)
    if once != text:
        state.note(Repair.STRAY_CONTROL, _CONSTRAIN)
    joined = _SPACED_TYPE.sub(r"\1", _SPACED_NAME.sub(r"\1", _SPACED_TO.sub("to=", once)))
    if joined != once:
        state.note(Repair.SPACED_FIELD, once.strip())
    for word in joined.split():
        if word == _CONSTRAIN:
            state.note(Repair.STRAY_CONTROL, word)
        elif word.startswith("to=") and (match := _RECIPIENT.search(word, 3)):
            _read_recipient(match[0], word[3:], state)
        else:
            state.words.append(word)


def _read_recipient(recipient: str, written: str, state: _HeaderState) -> None:
    if recipient != written:
        state.note(Repair.MISSPELT_RECIPIENT, written)
    if state.recipient not in (None, recipient):
        state.note(Repair.TWO_RECIPIENTS, f"{state.recipient} {recipient}")
    state.recipient = recipient


def _take_unmarked_channel(state: _HeaderState) -> str | None:
    channel = next((word for word in state.words if word in CHANNELS), None)
    if channel is not None:
        state.words.remove(channel)
        state.note(Repair.UNMARKED_CHANNEL, channel)
    return channel


def _choose_content_type(state: _HeaderState) -> str | None:
    """Returns the word marked with `<|constrain|>`, else the only word left, else `json` or `code` if it is there.

    A leftover word is never read as the recipient.
    """
    types = [*filter(_CONTENT_TYPE.fullmatch, state.words)]
    candidates = [word for word in types if word.startswith(_CONSTRAIN)]
    candidates += types if len(state.words) == 1 else [word for word in types if word.lower() in _TYPES]
    chosen = next(iter(candidates), None)
    bare_type = chosen and chosen.removeprefix(_CONSTRAIN)
    if extra := [word for word in state.words if word.removeprefix(_CONSTRAIN) != bare_type]:
        state.note(Repair.EXTRA_WORDS, " ".join(extra))
    return chosen


def _read_author(
    word: str | None, role: Role | None, channel: str | None, state: _HeaderState
) -> tuple[Role, str | None]:
    if role is not None:
        if word is not None:
            state.note(Repair.REPEATED_ROLE, word)
        return role, None
    if word is None:
        state.note(Repair.MISSING_ROLE)
        return "assistant", None
    for known in ROLES:
        if word.lower() == known or word.lower().startswith(f"{known}:"):
            if not word.startswith(known):
                state.note(Repair.MISSPELT_ROLE, word)
            return known, word if known == "tool" else word[len(known) + 1 :] or None
    # Tool messages begin with the name of the tool, and no tool writes on the channel `final`.
    if channel != "final" or state.recipient is not None:
        return "tool", word
    state.note(Repair.UNKNOWN_ROLE, word)
    return "assistant", None
