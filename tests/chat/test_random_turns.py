"""A model with random weights, with tools: whatever it writes, the turn ends and none of its text is lost.

RANDOM_TURNS sets the number of turns, for example 2000; CI runs a small sample.
"""

from __future__ import annotations

import os
import random
from dataclasses import replace

import numpy as np

from mlx_oss import ChatSession, Finished, LocalEngine, Request, SamplingOptions, Stream, ToolDescription
from mlx_oss.chat.translation import without_bare_header
from mlx_oss.errors import ToolError
from mlx_oss.generation.engine import Constraint
from mlx_oss.harmony import HarmonyParser, MessageFinished, ToolNamespace
from mlx_oss.tokenizer import CALL, CHANNEL, CONSTRAIN, END, ENDOFTEXT, MESSAGE, RETURN, START
from mlx_oss.tools.base import SystemTool
from tests.chat.scripted import DATE, TOKENIZER

TURNS = int(os.environ.get("RANDOM_TURNS", "25"))
WORDS = ["assistant", "analysis", "final", "commentary", " to", "=f", "unctions", ".f", " json", "{", "}", "x", '":"']
LIKELY = [token for word in WORDS for token in TOKENIZER.encode(word)]
ANSWER = TOKENIZER.encode_with_specials("<|channel|>final<|message|>")
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


class Begun:
    """A constraint that starts with the given tokens, then allows what another one allows; records all tokens.

    Attributes:
        opening: The header with which the prompt opens the answer, if it does.
    """

    def __init__(self, opening: list[int], beginning: list[int], rest: Constraint) -> None:
        self.opening, self.beginning, self.rest = opening, [] if opening else beginning, rest
        self.written: list[int] = []

    def allowed(self) -> np.ndarray | int | None:
        at = len(self.written)
        return self.beginning[at] if at < len(self.beginning) else self.rest.allowed()

    def accept(self, token: int) -> None:
        self.written.append(token)
        self.rest.accept(token)


class Wild(LocalEngine):
    """Some rounds start with a plausible beginning of a message, not with random tokens.

    Attributes:
        rounds: The constraints of the rounds so far; they have recorded the tokens.
    """

    def __init__(self, model: LocalEngine) -> None:
        super().__init__(model.transformer)
        self.rounds: list[Begun] = []
        self._rng = random.Random(0)

    def submit(self, request: Request) -> Stream:
        assert request.constraint is not None and request.max_tokens is not None
        beginning = TOKENIZER.encode_with_specials(self._rng.choice(BEGINNINGS))[: request.max_tokens - 1]
        opening = ANSWER if list(request.prompt[-len(ANSWER) :]) == ANSWER else []
        self.rounds.append(Begun(opening, beginning, request.constraint))
        return super().submit(replace(request, constraint=self.rounds[-1]))


def test_a_random_models_turns_end_and_lose_no_text(model):
    engine, session, calls = Wild(model), None, 0
    for seed in range(TURNS):
        rng = random.Random(seed)
        bias = {token: rng.uniform(8, 18) for token in (*rng.sample(CONTROLS, 7), *rng.sample(LIKELY, 9))}
        if session is None or seed % 5 == 0:
            tools = [f, Python(), ToolDescription("news")]
            session = ChatSession(engine, TOKENIZER, current_date=DATE, tools=tools, max_rounds=2, max_tokens=24)
        session.options = SamplingOptions(seed=seed, logit_bias=bias, temperature=rng.choice([0.5, 1, 2]))
        before, engine.rounds = len(session.messages), []
        events = list(session.send("Hi <|end|>"))
        assert isinstance(events[-1], Finished), seed
        said = [message for message in session.messages[before:] if message.role != "user"]
        for tokens in ([*begun.opening, *begun.written] for begun in engine.rounds):
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
