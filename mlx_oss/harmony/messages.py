"""The messages of the harmony format as plain dataclasses.

Names and defaults follow openai/harmony `docs/format.md`. Knows nothing of tokens: `render` turns messages into token
ids, `parse` turns token ids into messages.
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
    """A function the model may call.

    Attributes:
        name: Name of the function, without its namespace.
        description: What the function does, for the model. Lines are separated by a newline.
        parameters: JSON schema of the arguments, an object. None means that the function takes no arguments.
    """

    name: str
    description: str = ""
    parameters: Mapping[str, Any] | None = None


@dataclass(frozen=True, slots=True)
class ToolNamespace:
    """Functions grouped under one name; the model calls `<namespace>.<function>`.

    Attributes:
        name: Name of the namespace, e.g. `functions`, `browser` or `python`.
        description: What the namespace is for, for the model. None means no description.
        tools: The functions. If there are none, the model calls the namespace itself, as with `python`.
    """

    name: str
    description: str | None = None
    tools: tuple[ToolDescription, ...] = ()


@dataclass(frozen=True, slots=True)
class ResponseFormat:
    """A format of the final answer that is described to the model.

    The description alone does not force the model to follow the schema. Only a grammar during sampling can do that.

    Attributes:
        name: Name of the format.
        schema: JSON schema of the answer.
        description: What the format is for, for the model. None means no description.
    """

    name: str
    schema: Mapping[str, Any]
    description: str | None = None


@dataclass(frozen=True, slots=True)
class SystemContent:
    """The content of the system message. The line of a field that is None or empty is left out.

    Attributes:
        model_identity: The first line of the message, which says who the model is.
        reasoning_effort: How much the model should reason: "low", "medium" or "high".
        conversation_start_date: The current date, e.g. "2025-08-05".
        knowledge_cutoff: Month up to which the model has knowledge, e.g. "2024-06".
        valid_channels: The channels the model may use.
        tools: Namespaces of the built-in tools, e.g. `PYTHON` and `BROWSER`.
    """

    model_identity: str | None = IDENTITY
    reasoning_effort: ReasoningEffort | None = "medium"
    conversation_start_date: str | None = None
    knowledge_cutoff: str | None = KNOWLEDGE_CUTOFF
    valid_channels: tuple[str, ...] = CHANNELS
    tools: tuple[ToolNamespace, ...] = ()


@dataclass(frozen=True, slots=True)
class DeveloperContent:
    """The content of the developer message. Empty sections are left out.

    Attributes:
        instructions: What the model should do, often called the system prompt. None means no instructions.
        tools: Namespaces of the tools of the application. Its functions are in the namespace `functions`.
        response_formats: Formats that the application wants answers in.
    """

    instructions: str | None = None
    tools: tuple[ToolNamespace, ...] = ()
    response_formats: tuple[ResponseFormat, ...] = ()

    @classmethod
    def with_functions(cls, instructions: str | None, functions: tuple[ToolDescription, ...]) -> DeveloperContent:
        """Creates the content with these functions in the namespace `functions`, without it if there are none.

        Args:
            instructions: What the model should do. None means no instructions.
            functions: The functions the model may call.
        """
        return cls(instructions, (ToolNamespace("functions", None, functions),) if functions else ())


Content = str | SystemContent | DeveloperContent


@dataclass(frozen=True, slots=True)
class Message:
    """One message of a conversation.

    Attributes:
        role: Author of the message: "system", "developer", "user", "assistant" or "tool".
        content: The text. For a system or developer message, a SystemContent or DeveloperContent that is rendered to
            text. A tuple of these is rendered in order, with nothing between them.
        channel: "analysis" (reasoning), "commentary" (preambles, tool calls and tool results) or "final" (the answer).
            None means no channel.
        recipient: Addressee, e.g. `functions.get_weather`, `python` or `assistant`. None means everyone.
        content_type: Format of the content, e.g. `<|constrain|>json`. The model sets it on tool calls.
        name: The author's name. A tool message has the name of its tool here, e.g. `functions.get_weather`.
    """

    role: Role
    content: Content | tuple[Content, ...]
    channel: str | None = None
    recipient: str | None = None
    content_type: str | None = None
    name: str | None = None

    @property
    def contents(self) -> tuple[Content, ...]:
        """The content as a tuple, even if it is a single value."""
        return self.content if isinstance(self.content, tuple) else (self.content,)
