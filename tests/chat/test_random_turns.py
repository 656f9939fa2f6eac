"""A model with random weights, with tools: whatever it writes, the turn ends and none of its text is lost.

RANDOM_TURNS sets the number of turns, for example 2000; CI runs a small sample.
"""

from __future__ import annotations

import os
import random

import pytest

from mlx_oss import ChatSession, Finished, SamplingOptions, ToolDescription
from mlx_oss.chat import response
from mlx_oss.chat.stream import without_bare_header
from mlx_oss.errors import ToolError
from mlx_oss.generation.generate import Step, generate_step
from mlx_oss.harmony import HarmonyParser, MessageFinished, ToolNamespace
from mlx_oss.tokenizer import CALL, CHANNEL, CONSTRAIN, END, ENDOFTEXT, MESSAGE, RETURN, START
from mlx_oss.tools.base import SystemTool
from tests.chat.scripted import DATE, TOKENIZER

TURNS = int(os.environ.get("RANDOM_TURNS", "25"))
WORDS = ["assistant", "analysis", "final", "commentary", " to", "=f", "unctions", ".f", " json", "{", "}", "x", '":"']
LIKELY = [token for word in WORDS for token in TOKENIZER.encode(word)]
CONTROLS = [START, CHANNEL, MESSAGE, MESSAGE, CALL, END, CONSTRAIN, RETURN, ENDOFTEXT]


class Python(SystemTool):
    namespace = ToolNamespace("python")

    def call(self, function: str, text: str) -> str:
        if len(text) % 2:
            raise ToolError("odd")
        return text


def f(x: str = "") -> list[str]:
    return [x] * len(x)


BEGINNINGS = [
    "",
    "<|channel|>commentary to=functions.f <|constrain|>json<|message|>{",
    "<|channel|>analysis to=python code<|message|>",
    "<|channel|>analysis<|message|>",
]


@pytest.fixture
def written(monkeypatch) -> list[list[int]]:
    """The tokens of every round. Some rounds start with a plausible beginning of a message, not with random tokens."""
    written: list[list[int]] = []
    rng = random.Random(0)

    def watched(model, prompt, options, *, max_tokens, **others):
        beginning = TOKENIZER.encode_with_specials(rng.choice(BEGINNINGS))[: max_tokens - 1]
        written.append(list(beginning))
        yield from (Step(token, 0.0, (), None) for token in beginning)
        prompt, max_tokens = [*prompt, *beginning], max_tokens - len(beginning)
        for step in generate_step(model, prompt, options, max_tokens=max_tokens, **others):
            written[-1].append(step.token)
            yield step

    monkeypatch.setattr(response, "generate_step", watched)
    return written


def test_a_random_models_turns_end_and_lose_no_text(model, written):
    session, calls = None, 0
    for seed in range(TURNS):
        rng = random.Random(seed)
        bias = {token: rng.uniform(8, 18) for token in (*rng.sample(CONTROLS, 7), *rng.sample(LIKELY, 9))}
        if session is None or seed % 5 == 0:
            tools = [f, Python(), ToolDescription("news")]
            session = ChatSession(model, TOKENIZER, current_date=DATE, tools=tools, max_rounds=2, max_tokens=24)
        session.options = SamplingOptions(seed=seed, logit_bias=bias, temperature=rng.choice([0.5, 1, 2]))
        before, written[:] = len(session.messages), []
        events = list(session.send("Hi <|end|>"))
        assert isinstance(events[-1], Finished), seed
        said = [message for message in session.messages[before:] if message.role != "user"]
        for tokens in written:
            parser = HarmonyParser()
            parser_events = [event for token in tokens for event in parser.feed(token)]
            parser_events += without_bare_header(parser.finish())
            parsed = [event.message for event in parser_events if isinstance(event, MessageFinished)]
            finals = [at for at, item in enumerate(parsed) if item.message.channel == "final"]
            kept = parsed[: finals[0] + 1] if finals else parsed  # a message after the answer is not part of the turn
            rest = [id_ for item in parsed[len(kept) :] for id_ in item.ids]
            assert [item.message for item in kept] == said[: len(kept)], seed
            assert not TOKENIZER.decode(id_ for id_ in rest if id_ not in CONTROLS).strip() or finals, seed
            said = said[len(kept) :]
            while said and said[0].role == "tool" and said[0].recipient == "assistant":
                calls, said = calls + 1, said[1:]
        assert said == [], seed
    assert calls > TURNS // 50  # otherwise the test would check hardly any calls
