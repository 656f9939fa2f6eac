"""The harmony chat format: messages, messages to ids, ids to messages.

The measure is openai-harmony 0.0.8. Rendering differs from it, on purpose, in this only:

- What is empty is left out: it writes `Current date: ` and `# Instructions` with nothing after them.
- Response formats are written (as `docs/format.md` of openai/harmony shows them); it cannot.
- Two namespaces of one name are refused; it keeps the last.
- Numbers of more than 15 digits that are no 64-bit integers are written as they are; its JSON reader misses some of
  them by one in the last place.
- Reasoning of finished turns is dropped where the caller asks for it, by the rule of the format document, and of every
  turn (`history`); it drops that of the first turn by itself.

Parsing differs in that it never raises, loses no text and reports each repair (`header.Repair`), and in these readings
of streams that need none: the same recipient in both sections of a header is one recipient; the content type may stand
before the recipient; one leftover word is a content type and never a recipient; tools need no recipient, users may have
names. Stop tokens and blanks between messages end nothing: they are a repair of the message that follows, and left out
behind the last one.
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
    "is_reasoning",
    "message_from_dict",
    "message_to_dict",
    "parse_messages",
    "render_conversation",
    "render_message",
    "stays_for_next_turn",
]
