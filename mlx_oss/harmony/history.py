"""What earlier messages leave in the prompt of the next turn.

The rule is that of openai/harmony `docs/format.md` ("Handling reasoning output in subsequent sampling"). openai-harmony
0.0.8 applies it to the first turn only. Knows nothing of sessions and caches.
"""

from __future__ import annotations

from collections.abc import Sequence

from mlx_oss.harmony.messages import Message
from mlx_oss.harmony.parse import ParsedMessage
from mlx_oss.harmony.render import render_conversation, render_message
from mlx_oss.tokenizer import CALL, END, START


def conversation_for_next_turn(messages: Sequence[Message]) -> list[Message]:
    """`messages` without the reasoning of finished turns: the assistant's analysis before the last `final`.

    Preambles, tool calls (on any channel) and tool results stay, and so does everything since the last `final`: a
    running tool loop needs its reasoning.
    """
    return [message for message, stays in zip(messages, stays_for_next_turn(messages), strict=True) if stays]


def stays_for_next_turn(messages: Sequence[Message]) -> list[bool]:
    """For each message, whether `conversation_for_next_turn` keeps it."""
    finals = [at for at, message in enumerate(messages) if message.role == "assistant" and message.channel == "final"]
    last_final = finals[-1] if finals else -1
    return [at > last_final or not is_reasoning(message) for at, message in enumerate(messages)]


def ids_in_history(parsed: ParsedMessage) -> list[int]:
    """The ids of a message the model wrote, as later prompts repeat them, from `<|start|>` on.

    They are the ids the model wrote, so that a cache of them stays good; only the end is put right: `<|call|>` of what
    calls a tool, `<|end|>` of all else. A message that had to be repaired is rendered anew, lest its flaws be copied.
    """
    end = CALL if parsed.is_tool_call else END
    if parsed.notes:
        return [*render_message(parsed.message)[:-1], end]
    ids = list(parsed.ids)
    if ids[0] != START:
        ids = render_conversation((), next_role=parsed.message.role) + ids
    return [*(ids if parsed.ending == "cut" else ids[:-1]), end]


def is_reasoning(message: Message) -> bool:
    """Whether the model thinks aloud, to nobody."""
    return message.role == "assistant" and message.channel == "analysis" and message.recipient is None
