"""A model of random weights with tools and no constraint: whatever it writes, a turn ends, and no text of it is lost.

RANDOM_TURNS=2000 has as many; CI has a sample.
"""

from __future__ import annotations

import os
import random

import pytest

from mlx_oss import ChatSession, Finished, SamplingOptions, ToolDescription
from mlx_oss.chat import response
from mlx_oss.chat.stream import begun
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
    """The tokens of every round; some rounds begin as a model that has learned to would."""
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
            heard = [*(event for token in tokens for event in parser.feed(token)), *begun(parser.finish())]
            parsed = [event.message for event in heard if isinstance(event, MessageFinished)]
            finals = [at for at, item in enumerate(parsed) if item.message.channel == "final"]
            told = parsed[: finals[0] + 1] if finals else parsed  # a message begun after the answer is none
            rest = [id_ for item in parsed[len(told) :] for id_ in item.ids]
            assert [item.message for item in told] == said[: len(told)], seed
            assert not TOKENIZER.decode(id_ for id_ in rest if id_ not in CONTROLS).strip() or finals, seed
            said = said[len(told) :]
            while said and said[0].role == "tool" and said[0].recipient == "assistant":
                calls, said = calls + 1, said[1:]
        assert said == [], seed
    assert calls > TURNS // 50  # it was worth looking
