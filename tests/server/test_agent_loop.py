"""The model reads only what is new of an agent that calls a tool again and again, whatever becomes of its reasoning."""

from __future__ import annotations

import json
import random
from itertools import count, pairwise

import pytest

from tests.http_agent_loop import APIS, PLACES, words
from tests.server.agent_engine import AgentEngine
from tests.server.served import MODEL, served


@pytest.mark.parametrize("reasoning", ["echoed", "sealed", "dropped"])
@pytest.mark.parametrize("api", APIS)
def test_each_prompt_goes_on_where_the_last_answer_ended(api, reasoning):
    draw, numbers = random.Random(api), count()

    def write(prompt: str) -> str:
        arguments = json.dumps({"place": PLACES[next(numbers) % len(PLACES)]}, indent=next(numbers) % 3)
        header = "<|start|>assistant<|channel|>commentary to=functions.look <|constrain|>json<|message|>"
        return f"<|channel|>analysis<|message|>{words(draw, 20)}<|end|>{header}{arguments}<|call|>"

    engine = AgentEngine(write)
    with served(engine) as address:
        agent = APIS[api](address, MODEL, words(draw, 300), reasoning)
        next(agent)
        for _ in range(9):
            agent.send(words(draw, 50))
    assert len(engine.turns) == 10
    for before, after in pairwise(engine.turns):
        held = before.prompt + before.answer
        assert after.prompt[: len(held)] == held and after.reused == len(held)
