"""`ScriptedEngine`: returns scripted answers, so that chats, tools and servers can be tested without a model."""

from __future__ import annotations

import reprlib
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Literal

from mlx_oss.errors import EngineError, OptionError
from mlx_oss.generation.engine import Counts, Engine, Item, Items, PromptCache, Request, Step, Stream
from mlx_oss.tokenizer import CHANNEL, MESSAGE, N_RANKS, N_VOCAB, RETURN, load_tokenizer

Token = int | Exception | Callable[[], object]
Answer = str | Sequence[Token] | Exception


class ScriptedEngine(Engine):
    """An engine that answers each request with the next of the answers it was given. It needs no model and no MLX.

        engine = mlx_oss.ScriptedEngine("Paris.")
        session = mlx_oss.ChatSession(engine, mlx_oss.load_tokenizer())
        assert session.ask("What is the capital of France?").text == "Paris."

    All sessions on one engine, forks too, take their answers from the same queue, in the order of their requests. A
    prompt cache holds ids only, and can step back to any of them. Sampling options and constraints have no influence:
    the engine writes its script even where the constraints would have forbidden it to a model. A saved session can be
    opened with any other scripted engine.

    Args:
        *answers: One for each request, in order. A text is the whole answer. A text with control tokens is what the
            model writes after `<|start|>assistant`, up to `<|return|>` or `<|call|>`:
            `<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes.<|return|>`. So is
            a sequence of ids. An exception is raised where it stands: instead of an answer, or instead of one of its
            ids. A function among the ids is called there, by the thread that reads, for example to wait or to cancel.
        context: Maximum number of tokens of a prompt and its answer together.

    Attributes:
        requests: The requests so far. `requests[-1].prompt` has the ids that the model would have read last.

    Raises:
        OptionError: If an answer is something else, or `context` is less than 1.
    """

    fingerprint = "scripted"

    def __init__(self, *answers: Answer, context: int = 131_072) -> None:
        if type(context) is not int or context < 1:
            raise OptionError(f"context is {context!r}, expected at least 1 token")
        self.context = context
        self.requests: list[Request] = []
        self._answers: list[Answer] = []
        self._lock = threading.Lock()
        self.says(*answers)

    def says(self, *answers: Answer) -> None:
        """Adds answers for the next requests.

        Args:
            *answers: As in the constructor.

        Raises:
            OptionError: If an answer is something else.
        """
        for answer in answers:
            _check(answer)
        self._answers += answers

    def submit(self, request: Request) -> Stream:
        """Begins a request, as `Engine.submit` describes; it gets the next of the answers.

        Args:
            request: The request.

        Raises:
            ContextError: If the context has no room for a token after the prompt.
            OptionError: If the prompt cache is not of a scripted engine.
            EngineError: If there is no answer left.
        """
        limit = request.limit(self.context)
        if request.cache is not None and type(request.cache) is not PromptCache:
            raise OptionError("the prompt cache is of another engine: take it from `make_prompt_cache` of this one")
        with self._lock:
            self.requests.append(request)
            if not self._answers:
                raise EngineError(f"request {len(self.requests)} has no answer: give ScriptedEngine one more")
            answer = self._answers.pop(0)
        counts = Counts()
        return Stream(request, _write(answer, request, limit, counts), counts, self._at_once)

    def _at_once(self, function: Callable[[], Item | None]) -> Future[Item | None]:
        """The result of the function, as a future that is done."""
        future: Future[Item | None] = Future()
        try:
            item = function()
        except BaseException as error:  # it belongs to whoever reads the future
            future.set_exception(error)
        else:
            future.set_result(item)
        return future

    def make_prompt_cache(self) -> PromptCache:
        """Returns an empty cache for one conversation; it holds ids only."""
        return PromptCache()


def _check(answer: Answer) -> None:
    """Raises OptionError for something that is not an answer."""

    def is_id(token: object) -> bool:
        return type(token) is int and 0 <= token < N_VOCAB

    tokens = [] if isinstance(answer, str | Exception) else answer
    if (
        not isinstance(tokens, Sequence)
        or isinstance(tokens, bytes | bytearray)
        or not all(is_id(token) or isinstance(token, Exception) or callable(token) for token in tokens)
    ):
        raise OptionError(f"the answer {reprlib.repr(answer)} is not a str, a sequence of ids, or an exception")


def _write(answer: Answer, request: Request, limit: int, counts: Counts) -> Items:
    prompt, cache = list(request.prompt), request.cache or PromptCache()
    if isinstance(answer, Exception):
        raise answer
    counts.reused_tokens, counts.read_tokens = cache.shared_with(prompt[:-1]), len(prompt)
    cache.ids = prompt
    count = 0
    for token in _tokens(answer, prompt):
        if isinstance(token, Exception):
            raise token
        if not isinstance(token, int):
            token()
            continue
        count += 1
        cache.ids.append(token)
        finish: Literal["stop", "length"] | None
        finish = "stop" if token in request.stop_ids else "length" if count == limit else None
        yield Step(token, 0.0 if request.options.logprobs else None, (), finish)
        if finish:
            return
    raise EngineError("the answer has ended, but the request goes on: end the answer with <|return|> or <|call|>")


def _tokens(answer: str | Sequence[Token], prompt: Sequence[int]) -> Sequence[Token]:
    """What the model writes after the prompt."""
    if not isinstance(answer, str):
        return answer
    tokenizer = load_tokenizer()
    ids = tokenizer.encode_with_specials(answer)
    if any(id_ >= N_RANKS for id_ in ids):
        return ids
    is_open = prompt[-1] == MESSAGE  # without reasoning, the prompt has the header of the answer already
    return [*([] if is_open else [CHANNEL, *tokenizer.encode("final"), MESSAGE]), *ids, RETURN]
