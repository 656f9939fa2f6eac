"""The harmony chat format: messages, messages to ids, ids to messages."""

from mlx_oss.harmony.builtin import BROWSER, PYTHON
from mlx_oss.harmony.messages import (
    CHANNELS,
    IDENTITY,
    KNOWLEDGE_CUTOFF,
    DeveloperContent,
    Message,
    ReasoningEffort,
    Role,
    SystemContent,
    ToolDescription,
    ToolNamespace,
)
from mlx_oss.harmony.render import render_conversation, render_message

__all__ = [
    "BROWSER",
    "CHANNELS",
    "IDENTITY",
    "KNOWLEDGE_CUTOFF",
    "PYTHON",
    "DeveloperContent",
    "Message",
    "ReasoningEffort",
    "Role",
    "SystemContent",
    "ToolDescription",
    "ToolNamespace",
    "render_conversation",
    "render_message",
]
