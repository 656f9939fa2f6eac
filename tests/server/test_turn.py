"""A turn that answers a request: what earlier requests of the same turn did does not count."""

from __future__ import annotations

from typing import Any

from mlx_oss import Message, ScriptedEngine, load_tokenizer
from mlx_oss.chat.history import Entry
from mlx_oss.chat.settings import Settings
from mlx_oss.server.turn import ServedTurn

TOKENIZER = load_tokenizer()
F = {"type": "function", "function": {"name": "f", "description": "", "parameters": {"type": "object"}}}
BEFORE = [
    Message("user", "Go on."),
    Message("assistant", "I call.", "analysis"),
    Message("assistant", "{}", "commentary", "functions.f", "<|constrain|>json"),
    Message("tool", "done", "commentary", "assistant", name="functions.f"),
]


def constraint_after_a_call(**settings: Any) -> Any:
    engine = ScriptedEngine("Done.")
    entries = [Entry(each.message, each.ids, reasoned=9) for each in map(Entry.from_message, BEFORE)]
    turn = ServedTurn(Settings(engine, TOKENIZER, tools=[F], **settings), entries)
    assert [*_synchronously(turn)]
    return engine.requests[0].constraint


def _synchronously(turn: ServedTurn) -> list[Any]:
    import asyncio

    async def all_events() -> list[Any]:
        return [event async for event in turn.events()]

    return asyncio.run(all_events())


def test_a_call_that_is_required_is_required_in_every_request():
    """Agents whose answer is a call too ask for one each time."""
    assert constraint_after_a_call(tool_choice="required")._rules.must_call == ("functions.f",)


def test_the_limit_of_reasoning_is_that_of_a_request():
    assert constraint_after_a_call(max_reasoning_tokens=8).reasoned == 0
