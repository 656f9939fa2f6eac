"""What is compared: conversations as the model reads them, and for each token what it is a part of.

Only what the model writes counts: its messages, from the channel to the last token. Knows nothing of models.
"""

from __future__ import annotations

import codecs
import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import resources
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from mlx_oss.chat.message_reader import from_items
from mlx_oss.errors import MlxOssError, OptionError, quoted
from mlx_oss.files import TEXT_BYTES, expanded, read_input
from mlx_oss.harmony import (
    DeveloperContent,
    Message,
    SystemContent,
    ToolNamespace,
    conversation_for_next_turn,
    message_from_dict,
)
from mlx_oss.harmony.render import offers_functions, render_message
from mlx_oss.harmony.schemas import with_simplified_schemas
from mlx_oss.json_lines import decoded, read_lines
from mlx_oss.tokenizer import END, MESSAGE, RETURN, load_tokenizer
from mlx_oss.tools.toolset import Toolset

CHANNELS = ("analysis", "commentary", "final")
KINDS = ("reasoning", "answers", "preambles", "JSON", "code", "text", "headers")
PIECE = 2048  # tokens of a text that are compared at a time
BUNDLED = "conversations.jsonl"
_AUTHOR = 2  # tokens of <|start|>assistant, which the model is given
_FENCED = re.compile(rb"^```[^\n]*\n(.*?)^```", re.MULTILINE | re.DOTALL)
_KEYS = ("messages", "tools", "reasoning_effort")
_REQUEST = "Write the next part of the text."


@dataclass(frozen=True, slots=True, eq=False)
class Passage:
    """A text of which the next tokens are compared.

    Attributes:
        ids: (n,) its tokens.
        labels: (n,) what each token is a part of, as `label` says; 0 for those that do not count.
    """

    ids: NDArray[np.int32]
    labels: NDArray[np.uint8]

    @property
    def counted(self) -> NDArray[np.intp]:
        """Positions of the tokens that count. The first token never does, because nothing predicts it."""
        return np.flatnonzero(self.labels[1:]) + 1


def label(channel: str, kind: str) -> int:
    """The label of a token on a channel, in a kind of text; `in_words` is the reverse."""
    return 1 + CHANNELS.index(channel) * len(KINDS) + KINDS.index(kind)


LABELS = 1 + len(CHANNELS) * len(KINDS)  # how many labels there are, 0 included


def in_words(number: int) -> tuple[str, str]:
    """The channel and the kind of text of a label other than 0."""
    channel, kind = divmod(number - 1, len(KINDS))
    return CHANNELS[channel], KINDS[kind]


def bundled_conversations() -> list[Passage]:
    """The conversations that come with mlx-oss."""
    with resources.as_file(resources.files("mlx_oss") / "data" / BUNDLED) as path:
        return read_conversations(path)


def read_conversations(path: str | Path) -> list[Passage]:
    """Reads a file with a conversation in each line.

    A line is `{"messages": [...]}`, with the messages of OpenAI's chat API (`reasoning` has the reasoning) or those of
    openai-harmony, and may have `tools`, in OpenAI's form, and `reasoning_effort`.

    Args:
        path: The file.

    Raises:
        OptionError: If it cannot be read, or a line is no conversation; names the line.
    """
    passages: list[Passage] = []
    for number, line in read_lines(path, OptionError, "give a file with a conversation in each line"):
        where = f"{path}, line {number}"
        try:
            passages += passages_of(_conversation(decoded(line, where, OptionError)))
        except (MlxOssError, RecursionError) as error:
            text = str(error)
            raise OptionError(text if text.startswith(where) else f"{where}: {text}") from None
    if not passages:
        raise OptionError(f'{path} has no message of the assistant: give a line {{"messages": [...]}} with one')
    return passages


def read_text(path: str | Path) -> list[Passage]:
    """Reads a file of plain text, as answers of 2,048 tokens to the request for the next part.

    Args:
        path: The file.

    Raises:
        OptionError: If it cannot be read, or is empty.
    """
    ids = load_tokenizer().encode(_read(path))
    if not ids:
        raise OptionError(f"{path} is empty: give a file with text")
    messages = [_system(None), Message("user", _REQUEST), Message("assistant", "", "final")]
    before, known = _rendered(messages, 2, answer_kind="text")
    passages = []
    for start in range(0, len(ids), PIECE):
        piece = ids[start : start + PIECE]
        labels = [*known[:-1], *[label("final", "text")] * len(piece)]
        passages.append(_passage([*before[:-1], *piece], labels))
    return passages


def passages_of(messages: Sequence[Message]) -> Iterator[Passage]:
    """Makes a passage of each turn of a conversation, with what the model reads before it.

    Args:
        messages: The conversation, with its system message.

    Raises:
        HarmonyError: If a message cannot be rendered.
    """
    answers = [n for n, message in enumerate(messages) if message.role == "assistant" and message.channel == "final"]
    for start, stop in pairwise([0, *(n + 1 for n in answers if n + 1 < len(messages)), len(messages)]):
        if any(message.role == "assistant" for message in messages[start:stop]):
            before = conversation_for_next_turn(messages[:start])
            ids, labels = _rendered([*before, *messages[start:stop]], len(before))
            yield _passage(ids, labels)


def _passage(ids: Sequence[int], labels: Sequence[int]) -> Passage:
    return Passage(np.array(ids, np.int32), np.array(labels, np.uint8))


def _read(path: str | Path) -> str:
    try:
        return read_input(expanded(path), TEXT_BYTES).removeprefix(codecs.BOM_UTF8).decode()
    except UnicodeDecodeError:
        raise OptionError(f"{path} is not text in UTF-8: give a text file") from None
    except (OSError, ValueError) as error:  # ValueError: an impossible path
        raise OptionError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error}): give a file") from None


def _conversation(data: Any) -> list[Message]:
    """The messages of a line. Raises OptionError or HarmonyError if it is none."""
    if not isinstance(data, Mapping) or not isinstance(items := data.get("messages"), list):
        raise OptionError(f'{quoted(data)} is no conversation: give {{"messages": [...]}}')
    if unknown := [key for key in data if key not in _KEYS]:
        raise OptionError(f"the key {quoted(unknown[0])} has no meaning: leave it out; the keys are {', '.join(_KEYS)}")
    effort = data.get("reasoning_effort")
    if effort not in (None, "low", "medium", "high"):
        raise OptionError(f"reasoning_effort is {quoted(effort)}, expected low, medium or high")
    tools = data.get("tools")
    if not isinstance(tools, list | None) or not all(isinstance(tool, Mapping) for tool in tools or ()):
        raise OptionError(f"tools is {quoted(tools)}, expected a list of functions in the form of OpenAI's API")
    if any(_is_system(item) for item in items):
        if tools or effort:
            raise OptionError("the system message says which tools and effort there are: leave out these keys")
        return [message_from_dict(item) for item in items]
    instructions, messages = from_items(items)
    space = (ToolNamespace("functions", None, Toolset(tools).functions),) if tools else ()
    head = [Message("developer", DeveloperContent(instructions or None, space))] if instructions or space else []
    return [_system(effort), *map(with_simplified_schemas, head), *messages]


def _is_system(item: Any) -> bool:
    """Whether a message is harmony's system message, which has more than instructions."""
    content = item.get("content") if isinstance(item, Mapping) else None
    parts = content if isinstance(content, list) else []
    return any(isinstance(part, Mapping) and part.get("type") == "system_content" for part in parts)


def _system(effort: Any) -> Message:
    return Message("system", SystemContent(reasoning_effort=effort or "medium"))


def _rendered(messages: Sequence[Message], first: int, answer_kind: str = "answers") -> tuple[list[int], list[int]]:
    """Tokens of a conversation, and their labels: 0 before message `first`, and where the model does not write."""
    functions = any(map(offers_functions, messages))
    ids: list[int] = []
    labels: list[int] = []
    for number, message in enumerate(messages):
        new = render_message(message, functions=functions)
        if message.role == "assistant" and number >= first:
            if new[-1] == END and message.channel == "final" and number == len(messages) - 1:
                new[-1] = RETURN  # as the model ends its turn
            labels += _labels(message, new, answer_kind)
        else:
            labels += [0] * len(new)
        ids += new
    return ids, labels


def _labels(message: Message, ids: Sequence[int], answer_kind: str) -> list[int]:
    channel = message.channel if message.channel in CHANNELS else "final"
    header, body = label(channel, "headers"), ids.index(MESSAGE) + 1
    kinds = _kinds(message, ids[body:-1], channel, answer_kind)
    return [0] * _AUTHOR + [header] * (body - _AUTHOR) + [label(channel, kind) for kind in kinds] + [header]


def _kinds(message: Message, ids: Sequence[int], channel: str, answer_kind: str) -> list[str]:
    """What each token of a message's text is."""
    text = "".join(content for content in message.contents if isinstance(content, str))
    if message.recipient is not None:
        return ["JSON" if _is_json(text) else "code"] * len(ids)
    if channel != "final":
        return ["reasoning" if channel == "analysis" else "preambles"] * len(ids)
    if _is_json(text):
        return ["JSON"] * len(ids)
    kinds = [answer_kind] * len(ids)
    lengths = [len(load_tokenizer().token_bytes(id_)) for id_ in ids]
    begins = np.array([0, *accumulate(lengths)][: len(ids)])
    for block in _FENCED.finditer(text.encode()):
        for at in np.flatnonzero((begins >= block.start(1)) & (begins < block.end(1))):
            kinds[at] = "code"
    return kinds


def _is_json(text: str) -> bool:
    try:
        return isinstance(json.loads(text), dict | list)
    except (ValueError, RecursionError):
        return False
