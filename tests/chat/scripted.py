"""Scripted output: the test decides which tokens are generated, while the model and its caches are real."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from copy import copy
from dataclasses import dataclass, replace

import mlx.core as mx
import numpy as np

from mlx_oss import (
    Cache,
    ChatSession,
    Event,
    Finished,
    LocalEngine,
    Message,
    ModelConfig,
    Request,
    Stream,
    Transformer,
    load_tokenizer,
)
from mlx_oss.generation import compute_thread
from mlx_oss.harmony import (
    SystemContent,
    render_conversation,
    render_message,
)
from mlx_oss.tokenizer import END, RETURN
from tests.engines import rounding

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


@dataclass
class Record:
    """What a `Recording` has computed, and what it should raise.

    Attributes:
        logits: The first logits (V,) since this was set to None.
        error: Raised by the next computation, if there is one.
    """

    logits: mx.array | None = None
    error: Exception | None = None


class Recording(Transformer):
    """Keeps the first logits that it computes.

    Attributes:
        is_scripted: True if the later ones do not matter, because only one id is allowed. Then they are not computed:
            with the real vocabulary they cost several times as much as the rest of the model.
    """

    is_scripted = False

    def __init__(self, config: ModelConfig) -> None:
        super().__init__(config)
        self.record = Record()

    def hidden(self, tokens: mx.array, cache: Cache | None = None) -> mx.array:
        if self.record.error is not None:
            raise self.record.error
        return super().hidden(tokens, cache)

    def logits(self, hidden: mx.array) -> mx.array:
        if self.is_scripted and self.record.logits is not None:
            return mx.broadcast_to(hidden[..., :1], (*hidden.shape[:-1], self.config.vocab_size))
        logits = super().logits(hidden)
        if self.record.logits is None:
            self.record.logits = logits[0, -1]
            mx.eval(self.record.logits)
        return logits


class OneAtATime:
    """A constraint that allows exactly the next token of a script, and raises the exceptions in it."""

    def __init__(self, script: Sequence[int | Exception], pause: Callable[[int], None] = lambda count: None) -> None:
        self.script, self.count, self.pause = script, 0, pause

    def allowed(self) -> int:
        token = self.script[self.count] if self.count < len(self.script) else END
        return END if isinstance(token, Exception) else token

    def accept(self, token: int) -> None:
        assert self.count < len(self.script), "the session asked for a token after the end of the script"
        if isinstance(error := self.script[self.count], Exception):
            raise error
        self.count += 1
        self.pause(self.count)


class Script(LocalEngine):
    """Says what a test tells it, while the model and its caches are real; constraints are ignored.

    Attributes:
        turns: The scripts of the next rounds; an exception is raised where it stands.
        requests: The requests so far.
        logits: The logits after the last prompt.
        pause: Called on the computing thread with the number of tokens of the round, for each token.
    """

    transformer: Recording

    def __init__(self, transformer: Recording) -> None:
        scripted = copy(transformer)
        scripted.is_scripted = True
        super().__init__(scripted)
        self.turns: list[list[int | Exception] | Exception] = []
        self.requests: list[Request] = []
        self.pause: Callable[[int], None] = lambda count: None
        self._rounds: list[tuple[Request, Stream]] = []

    def says(self, *turns: str | list[int | Exception] | Exception) -> None:
        """Adds the scripts of the next rounds."""
        self.turns += [ids(turn) if isinstance(turn, str) else turn for turn in turns]

    def submit(self, request: Request) -> Stream:
        script = self.turns.pop(0) if self.turns else []
        if isinstance(script, Exception):
            script = [script]
        compute_thread.run(lambda: None)  # what follows the last token of a closed stream may still be computed
        self.transformer.record.logits = None
        self.requests.append(request)
        stream = super().submit(replace(request, constraint=OneAtATime(script, self.pause)))
        self._rounds.append((request, stream))
        return stream

    @property
    def fed(self) -> list[int]:
        """The prompt tokens that the model has read since `forget_fed`, without the generated ones."""
        parts = [
            request.prompt[stream.counts.reused_tokens : stream.counts.read_tokens] for request, stream in self._rounds
        ]
        return [id_ for part in parts for id_ in part]

    def forget_fed(self) -> None:
        self._rounds = []

    @property
    def logits(self) -> np.ndarray:
        return np.array(self.transformer.record.logits.astype(mx.float32))

    def read(self, *parts: list[int]) -> None:
        """Asserts that the last prompt was these ids, by comparing the logits after it."""
        wanted = self.of_prompt(*parts)
        assert np.abs(self.logits - wanted).max() < rounding(wanted, self.dtype)

    def of_prompt(self, *parts: list[int]) -> np.ndarray:
        """The logits after these ids, computed without a cache."""
        prompt = mx.array([[id_ for part in parts for id_ in part]])
        logits = Transformer.logits(self.transformer, self.transformer.hidden(prompt)[:, -1:])[0, 0]
        return np.array(logits.astype(mx.float32))


def turn(session: ChatSession, script: Script, text: str | None) -> list[Event]:
    """Runs a whole turn (None: resume) and checks its usage."""
    script.forget_fed()
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
