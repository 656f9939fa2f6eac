"""openai-harmony 0.0.8 as the reference. It reads the bundled vocabulary, so it needs no network."""

import base64
import json
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from unittest import mock

import pytest

from mlx_oss.harmony import Message, message_to_dict
from mlx_oss.tokenizer import N_RANKS, load_tokenizer

oh = pytest.importorskip("openai_harmony")

# By default it drops some messages, by a rule of its own.
EVERYTHING = oh.RenderConversationConfig(auto_drop_analysis=False)


def tiktoken_file() -> bytes:
    """The vocabulary in the format that tiktoken publishes: one line per token."""
    tokens = map(load_tokenizer().token_bytes, range(N_RANKS))
    return b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens))


@cache
def encoding():
    with TemporaryDirectory() as folder:
        Path(folder, "o200k_base.tiktoken").write_bytes(tiktoken_file())
        with mock.patch.dict(os.environ, {"TIKTOKEN_ENCODINGS_BASE": folder}):
            return oh.load_harmony_encoding("HarmonyGptOss")


def conversation(messages: Iterable[Message]):
    return oh.Conversation.from_json(json.dumps({"messages": [message_to_dict(message) for message in messages]}))


def render(messages: Iterable[Message], next_role: str | None = None) -> list[int]:
    if next_role is None:
        return encoding().render_conversation(conversation(messages), EVERYTHING)
    return encoding().render_conversation_for_completion(conversation(messages), oh.Role(next_role), EVERYTHING)


def parse(ids: Iterable[int], role: str | None) -> list[Message]:
    parsed = encoding().parse_messages_from_completion_tokens(list(ids), role and oh.Role(role))
    return [
        Message(m.author.role.value, m.content[0].text, m.channel, m.recipient, m.content_type, m.author.name)
        for m in parsed
    ]
