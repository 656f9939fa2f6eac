"""Writes a conversation as Markdown, or as JSON that `mlx-oss render` reads."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Iterable

from mlx_oss.cli.attachments import without_attachments
from mlx_oss.errors import OptionError
from mlx_oss.files import expanded
from mlx_oss.harmony import Message, message_to_dict
from mlx_oss.json_text import whole_characters

FORMS = (".md", ".json")


def export(path: str, messages: Iterable[Message]) -> None:
    """Writes the messages to a new file that only the user can read.

    Raises:
        OptionError: If the name has another ending, the file is there already, or it cannot be written.
    """
    form = os.path.splitext(path)[1].lower()
    if form not in FORMS:
        raise OptionError(f"{path} ends with neither .md nor .json: give one of these endings")
    messages = list(messages)
    text = as_markdown(messages) if form == ".md" else as_json(messages)
    file = expanded(path)
    try:
        descriptor = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    except FileExistsError:
        raise OptionError(f"{path} is there already: give another name") from None
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise OptionError(f"{path} cannot be written ({reason}): choose another path") from None
    try:
        with open(descriptor, "w", encoding="utf-8") as stream:
            stream.write(whole_characters(text))
    except OSError as error:
        with contextlib.suppress(OSError):
            file.unlink()
        raise OptionError(f"{path} cannot be written ({error.strerror}): choose another path") from None


def as_json(messages: Iterable[Message]) -> str:
    """All messages, reasoning and calls included."""
    return json.dumps({"messages": list(map(message_to_dict, messages))}, ensure_ascii=False, indent=2) + "\n"


def as_markdown(messages: Iterable[Message]) -> str:
    """The questions and answers, and what was attached, without reasoning and calls."""
    blocks = []
    for message in messages:
        text = str(message.content)
        if message.role == "user":
            question = without_attachments(text)
            blocks.append(f"## Question\n\n{text[: len(text) - len(question)]}{question.strip()}\n")
        elif message.role == "assistant" and message.recipient is None and message.channel != "analysis":
            blocks.append(f"## Answer\n\n{text.strip()}\n")
    return "\n".join(blocks)
