"""An engine that decides what to write when it sees the prompt, and reads long prompts as slowly as a test wants.

It has a thread of its own that computes, as an engine with a model has, so a server is not held up while it reads. What
it writes is legal harmony whatever the constraint of the request says. Knows nothing of tools and clients.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import takewhile
from typing import Literal

from mlx_oss import Engine, Request, Stream, load_tokenizer
from mlx_oss.generation.engine import Counts, Items, PromptCache, PromptProgress, Step

CONTEXT = 131_072
STOPS = ("<|return|>", "<|call|>", "<|end|>")


@dataclass
class Turn:
    """A request, and what became of it.

    Attributes:
        prompt: The ids of the prompt.
        text: The prompt as text.
        answer: The ids that were written.
        reused: How many ids of the prompt an earlier prompt and its answer had in common with it.
        ending: "stop" or "length" as in `Step`, "left" if the reader left before the end. None as long as it runs.
    """

    prompt: list[int]
    text: str
    answer: list[int] = field(default_factory=list)
    reused: int = 0
    ending: Literal["stop", "length", "left"] | None = None


class AgentEngine(Engine):
    """Answers each request with what a function makes of its prompt.

    Args:
        decide: Makes of the text of a prompt what the model writes after `<|start|>assistant`, control tokens included
            (`<|channel|>final<|message|>Yes.<|return|>`).
        chunk: How many new tokens of a prompt are read at a time. None means all of them.
        pause: Seconds for each chunk.
        token_pause: Seconds for each token that is written.
        context: Most tokens of a prompt and its answer together.

    Attributes:
        turns: The requests so far, in the order in which they came.
    """

    fingerprint = "agent"
    at_once = 4

    def __init__(
        self,
        decide: Callable[[str], str],
        *,
        chunk: int | None = None,
        pause: float = 0.0,
        token_pause: float = 0.0,
        context: int = CONTEXT,
    ) -> None:
        self.context, self.turns = context, list[Turn]()
        self._decide, self._chunk, self._pause, self._token_pause = decide, chunk, pause, token_pause
        self._tokenizer, self._lock = load_tokenizer(), threading.Lock()
        self._thread = ThreadPoolExecutor(1, "agent-engine")

    def submit(self, request: Request) -> Stream:
        limit, prompt = request.limit(self.context), list(request.prompt)
        turn = Turn(prompt, self._tokenizer.decode(prompt))
        with self._lock:
            turn.reused = max((_shared(prompt, earlier.prompt + earlier.answer) for earlier in self.turns), default=0)
            turn.reused = min(turn.reused, len(prompt) - 1)
            self.turns.append(turn)
        counts = Counts()
        return Stream(request, self._write(request, turn, limit, counts), counts, self._thread.submit)

    def make_prompt_cache(self) -> PromptCache:
        return PromptCache()

    def _write(self, request: Request, turn: Turn, limit: int, counts: Counts) -> Items:
        cache, new = request.cache or PromptCache(), len(turn.prompt) - turn.reused
        counts.reused_tokens = turn.reused
        try:
            for start in range(0, new, self._chunk or new):
                time.sleep(self._pause)
                read = min(start + (self._chunk or new), new)
                counts.read_tokens = turn.reused + read
                yield PromptProgress(read, new)
            counts.read_tokens = len(turn.prompt)
            cache.ids = list(turn.prompt)
            for token in self._tokens(turn.text):
                time.sleep(self._token_pause)
                turn.answer.append(token)
                cache.ids.append(token)
                if token in request.stop_ids:
                    turn.ending = "stop"
                elif len(turn.answer) == limit:
                    turn.ending = "length"
                yield Step(token, 0.0 if request.options.logprobs else None, (), turn.ending)
                if turn.ending:
                    return
            raise AssertionError(f"the answer has no stop id: {self._tokenizer.decode(turn.answer)}")
        finally:
            turn.ending = turn.ending or "left"

    def _tokens(self, prompt: str) -> Iterator[int]:
        written = self._decide(prompt)
        assert written.endswith(STOPS), f"{written=} has no end"
        return iter(self._tokenizer.encode_with_specials(written))


def _shared(prompt: list[int], earlier: list[int]) -> int:
    return sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], zip(prompt, earlier, strict=False)))
