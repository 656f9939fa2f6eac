"""Scripted output: the test decides which tokens are generated, while the model and its caches are real."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_oss import (
    ChatSession,
    Event,
    Finished,
    Message,
    SamplingOptions,
    Transformer,
    load_tokenizer,
)
from mlx_oss.generation.generate import Step, prefill, prefill_chunks
from mlx_oss.harmony import (
    SystemContent,
    render_conversation,
    render_message,
)
from mlx_oss.tokenizer import END, RETURN

TOLERANCE = 1e-4
DATE = "2025-08-05"
TOKENIZER = load_tokenizer()
OPENING = render_conversation([], next_role="assistant")

THINK = "<|channel|>analysis<|message|>The user greets me.<|end|><|start|>assistant"
HELLO = "<|channel|>final<|message|>Hello, how can I help you today?<|return|>"
CALL = '<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{"city": "Oslo"}<|call|>'


def ids(text: str) -> list[int]:
    return TOKENIZER.encode_with_specials(text)


def said(text: str) -> list[int]:
    """The ids of a text that the model wrote, as later prompts should contain them."""
    written = ids(text)
    return OPENING + ([*written[:-1], END] if written[-1] == RETURN else written)


def user(text: str) -> list[int]:
    return render_message(Message("user", text))


def system(effort: str = "medium") -> list[int]:
    return render_conversation(
        [Message("system", SystemContent(reasoning_effort=effort, conversation_start_date=DATE))]
    )


class Script:
    """Replaces generation: feeds the tokens of the next script to the real model and records the prompts.

    Attributes:
        turns: The scripts of the next rounds; an exception is raised where it stands.
        fed: The prompt tokens that the model read in this turn, without the generated ones.
        logits: The logits after the last prompt.
    """

    def __init__(self, model: Transformer) -> None:
        self.model = model
        self.turns: list[list[int | Exception] | Exception] = []
        self.fed: list[int] = []
        self.logits = np.zeros(0)

    def says(self, *turns: str | list[int | Exception] | Exception) -> None:
        """Adds the scripts of the next rounds."""
        self.turns += [ids(turn) if isinstance(turn, str) else turn for turn in turns]

    def prefill_chunks(self, model: Transformer, tokens: list[int], cache: Any) -> Iterator[int]:
        self.fed += tokens
        return prefill_chunks(model, tokens, cache)

    def generate_step(
        self,
        model: Transformer,
        prompt: list[int],
        options: SamplingOptions,
        *,
        cache: Any,
        recent: Sequence[int] = (),
        max_tokens: int | None,
        stop_ids: Iterable[int],
        constraint: object = None,
    ) -> Iterator[Step]:
        script = self.turns.pop(0)
        if isinstance(script, Exception):
            raise script
        self.fed += prompt
        self.logits = np.array(prefill(model, prompt, cache))
        for count, token in enumerate(script, start=1):
            if isinstance(token, Exception):
                raise token
            model(mx.array([[token]]), cache)
            yield Step(token, 0.0, (), "stop" if token in stop_ids else "length" if count == max_tokens else None)
            if token in stop_ids or count == max_tokens:
                return
        raise AssertionError("the session asked for a token after the end of the script")

    def read(self, *parts: list[int]) -> None:
        """Asserts that the last prompt was these ids, by comparing the logits after it."""
        assert np.abs(self.logits - self.of_prompt(*parts)).max() < TOLERANCE

    def of_prompt(self, *parts: list[int]) -> np.ndarray:
        """The logits after these ids, computed without a cache."""
        prompt = mx.array([[id_ for part in parts for id_ in part]])
        return np.array(self.model.logits(self.model.hidden(prompt)[:, -1:])[0, 0])


def turn(session: ChatSession, script: Script, text: str | None) -> list[Event]:
    """Runs a whole turn (None: resume) and checks its usage."""
    script.fed = []
    events = list(session.resume() if text is None else session.send(text))
    finished = events[-1]
    assert isinstance(finished, Finished) and finished.usage == session.usage
    assert finished.usage.prompt_tokens == finished.usage.reused_tokens + len(script.fed)
    assert not any(isinstance(event, Finished) for event in events[:-1])
    return events


def text_of(events: Iterable[Event], kind: type) -> str:
    return "".join(event.text for event in events if isinstance(event, kind))


def contents(session: ChatSession) -> list[tuple[str, str | None, object]]:
    return [(message.role, message.channel, message.content) for message in session.messages]
