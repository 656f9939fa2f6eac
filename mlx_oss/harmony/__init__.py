"""The harmony chat format: messages, messages to ids, ids to messages."""

from mlx_oss.harmony.builtin import BROWSER, PYTHON
from mlx_oss.harmony.dicts import message_from_dict, message_to_dict
from mlx_oss.harmony.header import Header, Note, Repair
from mlx_oss.harmony.history import conversation_for_next_turn, ids_in_history, stays_for_next_turn
from mlx_oss.harmony.messages import (
    CHANNELS,
    IDENTITY,
    KNOWLEDGE_CUTOFF,
    Content,
    DeveloperContent,
    Message,
    ReasoningEffort,
    ResponseFormat,
    Role,
    SystemContent,
    ToolDescription,
    ToolNamespace,
)
from mlx_oss.harmony.parse import (
    Event,
    HarmonyParser,
    MessageFinished,
    MessageStarted,
    ParsedMessage,
    TextDelta,
    parse_messages,
)
from mlx_oss.harmony.render import render_conversation, render_message

__all__ = [
    "BROWSER",
    "CHANNELS",
    "IDENTITY",
    "KNOWLEDGE_CUTOFF",
    "PYTHON",
    "Content",
    "DeveloperContent",
    "Event",
    "HarmonyParser",
    "Header",
    "Message",
    "MessageFinished",
    "MessageStarted",
    "Note",
    "ParsedMessage",
    "ReasoningEffort",
    "Repair",
    "ResponseFormat",
    "Role",
    "SystemContent",
    "TextDelta",
    "ToolDescription",
    "ToolNamespace",
    "conversation_for_next_turn",
    "ids_in_history",
    "message_from_dict",
    "message_to_dict",
    "parse_messages",
    "render_conversation",
    "render_message",
    "stays_for_next_turn",
]
