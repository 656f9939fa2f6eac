"""Decides which earlier messages remain in the prompt of the next turn, and with which token ids.

The rule is that of openai/harmony `docs/format.md` ("Handling reasoning output in subsequent sampling"). openai-harmony
0.0.8 applies it to the first turn only. Knows nothing of sessions and caches.
"""

from __future__ import annotations

from collections.abc import Sequence

from mlx_oss.harmony.messages import Message
from mlx_oss.harmony.parse import ParsedMessage
from mlx_oss.harmony.render import render_conversation, render_message
from mlx_oss.tokenizer import CALL, END, START, Tokenizer


def conversation_for_next_turn(messages: Sequence[Message]) -> list[Message]:
    """Drops the reasoning of finished turns: the assistant's analysis messages before its last `final` message.

    Preambles, tool calls (on any channel) and tool results are kept. Everything after the last `final` message is kept
    too, because a running tool loop needs its reasoning.

    Args:
        messages: The whole conversation, in order.

    Returns:
        The messages to render for the next turn, in order.
    """
    return [message for message, stays in zip(messages, stays_for_next_turn(messages), strict=True) if stays]


def stays_for_next_turn(messages: Sequence[Message]) -> list[bool]:
    """Returns for each message whether `conversation_for_next_turn` keeps it."""
    finals = [i for i, message in enumerate(messages) if message.role == "assistant" and message.channel == "final"]
    last_final = finals[-1] if finals else -1
    return [i > last_final or not is_reasoning(message) for i, message in enumerate(messages)]


def ids_in_history(parsed: ParsedMessage, tokenizer: Tokenizer | None = None) -> list[int]:
    """Returns the token ids with which later prompts repeat a message that the model wrote, from `<|start|>` on.

    These are the ids the model wrote, so the KV cache that holds them stays valid. Only the last token is normalised:
    `<|call|>` for a tool call, `<|end|>` for any other message. A message that had to be repaired is rendered again, so
    that the model does not see and copy its own mistakes.

    Args:
        parsed: The message.
        tokenizer: The tokenizer of the model, as `mlx_oss.load` returns it. None means that of the releases.
    """
    end = CALL if parsed.is_tool_call else END
    if parsed.notes:
        return [*render_message(parsed.message, tokenizer=tokenizer)[:-1], end]
    ids = list(parsed.ids)
    if ids[0] != START:
        ids = render_conversation((), next_role=parsed.message.role) + ids
    return [*(ids if parsed.ending == "cut" else ids[:-1]), end]


def is_reasoning(message: Message) -> bool:
    """True for the assistant's analysis without a recipient. With a recipient it is a tool call."""
    return message.role == "assistant" and message.channel == "analysis" and message.recipient is None
