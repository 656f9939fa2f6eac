"""The messages of the harmony format as plain data.

Knows nothing of tokens: `render` turns messages into ids, `parse` turns ids into messages.
Names and defaults follow openai/harmony `docs/format.md`.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

Role = Literal["system", "developer", "user", "assistant", "tool"]
ReasoningEffort = Literal["low", "medium", "high"]

IDENTITY = "You are ChatGPT, a large language model trained by OpenAI."
KNOWLEDGE_CUTOFF = "2024-06"
CHANNELS = ("analysis", "commentary", "final")


@dataclass(frozen=True, slots=True)
class ToolDescription:
    """A function the model may call: its name, what it does, the JSON schema of its arguments (None: no arguments)."""

    name: str
    description: str = ""
    parameters: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ToolNamespace:
    """Functions under one name: the model calls `<namespace>.<function>`. Without functions the namespace itself is
    called.
    """

    name: str
    description: str | None = None
    tools: tuple[ToolDescription, ...] = ()


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """What the final answer shall look like: a name, the JSON schema of the answer, what it is for.

    The model is told of it, not bound to it: only a grammar at sampling can do that.
    """

    name: str
    schema: Mapping[str, Any]
    description: str | None = None


@dataclass(frozen=True, slots=True)
class SystemContent:
    """What the system block says. A field that is None (or empty) leaves its line out."""

    model_identity: str | None = IDENTITY
    reasoning_effort: ReasoningEffort | None = "medium"
    conversation_start_date: str | None = None
    knowledge_cutoff: str | None = KNOWLEDGE_CUTOFF
    valid_channels: tuple[str, ...] = CHANNELS
    tools: tuple[ToolNamespace, ...] = ()


@dataclass(frozen=True, slots=True)
class DeveloperContent:
    """What the developer block says: instructions, the functions the app offers (namespace `functions`), and the
    formats it wants answers in.
    """

    instructions: str | None = None
    tools: tuple[ToolNamespace, ...] = ()
    response_formats: tuple[ResponseFormat, ...] = ()

    @classmethod
    def with_functions(cls, instructions: str | None, functions: tuple[ToolDescription, ...]) -> DeveloperContent:
        return cls(instructions, (ToolNamespace("functions", None, functions),) if functions else ())


Content = str | SystemContent | DeveloperContent


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation.

    role          who speaks
    content       text; or SystemContent / DeveloperContent for the blocks the format writes itself; or several of
                  these, written one after the other with nothing between them
    channel       analysis (reasoning), commentary (preambles, tool calls and results) or final; None: no channel
    recipient     to whom, e.g. `functions.get_weather`, `python`, `assistant`; None: everyone
    content_type  e.g. `<|constrain|>json`; set by the model on tool calls
    name          the author's name; a tool message carries its tool's name here, e.g. `functions.get_weather`
    """

    role: Role
    content: Content | tuple[Content, ...]
    channel: str | None = None
    recipient: str | None = None
    content_type: str | None = None
    name: str | None = None

    @property
    def contents(self) -> tuple[Content, ...]:
        """The content as a tuple, whether it is one or several."""
        return self.content if isinstance(self.content, tuple) else (self.content,)
