"""What long conversations cost: no token is read again without need, and snapshots do not accumulate."""

from __future__ import annotations

import random

from mlx_oss import ChatSession, ToolCall
from mlx_oss.harmony import render_message
from mlx_oss.model import kv_cache
from tests.chat.scripted import CALL, DATE, HELLO, OPENING, THINK, TOKENIZER, said, system, turn, user

SHORT = "<|channel|>analysis<|message|>Hm<|end|><|start|>assistant<|channel|>final<|message|>Hi<|return|>"
LONG = "<|channel|>final<|message|>" + "It is a long story, told in many words. " * 4 + "<|return|>"


def test_twenty_turns_with_reasoning_and_tools_read_two_percent_more_than_must_be(session, script):
    """The minimum is each new text and header once, and a final answer once more when its reasoning is dropped.

    The logits after every third prompt are also compared with those of a fresh session.
    """
    draw = random.Random(4)
    prefilled, least, prompt = 0, len(system()), system()
    for number in range(20):
        text = f"Question {number}: " + "why? " * draw.randrange(12)
        final, uses_tool = draw.choice([HELLO, LONG]), number % 3
        question = user(text)
        script.says(*[THINK * draw.randrange(1, 4) + CALL] * (uses_tool != 0), THINK * 2 + final)
        spoken: list[int] = []
        events = turn(session, script, text)
        prefilled += len(script.fed)
        least += len(question) + len(OPENING)
        if number % 3 == 2:
            script.read(prompt, question, OPENING)
        if uses_tool:
            (call,) = [event for event in events if isinstance(event, ToolCall)]
            session.add_tool_result(call, "It rains. " * 4)
            result = render_message(session.messages[-1])
            turn(session, script, None)
            prefilled += len(script.fed)
            least += len(result) + len(OPENING)
            spoken = said(CALL) + result
        prompt = prompt + question + spoken + said(final)
        least += len(spoken) + len(said(final)) if number < 19 else 0
    assert least <= prefilled <= 1.02 * least


def test_fifty_turns_hold_only_what_they_must(model, script):
    """Keys and values of the kept tokens, and a limited number of snapshots."""
    session = ChatSession(script, TOKENIZER, current_date=DATE)
    config = model.config
    a_token = 2 * config.num_key_value_heads * config.head_dim * model.dtype.size
    ring = a_token * config.sliding_window
    for number in range(50):
        script.says(SHORT)
        for _ in session.send(f"turn {number}"):
            pass
        stats = session.stats
        positions = -(-len(session._cache.ids) // 256) * 256
        assert stats.cache_bytes <= 2 * a_token * (positions + 256) + 2 * ring
        assert stats.snapshot_bytes <= 2 * ring * kv_cache.MOST_SNAPSHOTS
    assert len(session._cache.kv._snapshots) <= kv_cache.MOST_SNAPSHOTS
