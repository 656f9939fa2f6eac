"""The harmony chat format: renders messages to token ids and parses token ids back to messages.

The reference is openai-harmony 0.0.8. Rendering deliberately differs from it in these points only:

- Lines without a value are left out. openai-harmony writes `Current date: ` and `# Instructions` with nothing after
  them.
- Response formats are rendered, as `docs/format.md` of openai/harmony shows them. openai-harmony cannot render them.
- Two tool namespaces with the same name raise HarmonyError. openai-harmony keeps the last one.
- Numbers of more than 15 digits that are not 64-bit integers are written unchanged. The JSON reader of openai-harmony
  changes some of them by one in the last digit.
- Reasoning of finished turns is dropped only if the caller asks for it (see `history`), by the rule of the format
  document, and then for every finished turn. openai-harmony drops the reasoning of the first turn without being asked.

Parsing differs in that it never raises (except in strict mode), loses no text, and reports each repair
(`header.Repair`). These streams need no repair, but are read differently:

- The same recipient in both sections of a header is one recipient.
- The content type may come before the recipient.
- A single leftover word is a content type, never a recipient.
- Tool messages need no recipient, and user messages may have a name.

Stop tokens and whitespace between messages do not end a message. They are reported as a repair of the message that
follows, and left out after the last message.
"""

from mlx_oss.harmony.builtin import BROWSER, PYTHON
from mlx_oss.harmony.dicts import message_from_dict, message_to_dict
from mlx_oss.harmony.header import Header, Note, Repair
from mlx_oss.harmony.history import conversation_for_next_turn, ids_in_history, is_reasoning, stays_for_next_turn
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
    HarmonyParser,
    MessageFinished,
    MessageStarted,
    ParsedMessage,
    ParserEvent,
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
    "HarmonyParser",
    "Header",
    "Message",
    "MessageFinished",
    "MessageStarted",
    "Note",
    "ParsedMessage",
    "ParserEvent",
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
    "is_reasoning",
    "message_from_dict",
    "message_to_dict",
    "parse_messages",
    "render_conversation",
    "render_message",
    "stays_for_next_turn",
]
