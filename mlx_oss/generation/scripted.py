"""`ScriptedEngine`: says what it was told, so that chats, tools and servers can be tested without a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Future

from mlx_oss.errors import EngineError
from mlx_oss.generation.engine import Counts, Engine, Item, Items, PromptCache, Request, Step, Stream, room_for_answer
from mlx_oss.tokenizer import CHANNEL, MESSAGE, N_RANKS, RETURN, load_tokenizer

Answer = str | Sequence[int | Exception] | Exception


class ScriptedEngine(Engine):
    """An engine that answers each request with the next of the answers it was given. It needs no model and no MLX.

        engine = mlx_oss.ScriptedEngine("Paris.")
        session = mlx_oss.ChatSession(engine, mlx_oss.load_tokenizer())
        assert session.ask("What is the capital of France?").text == "Paris."

    A prompt cache holds ids only, and can step back to any of them. Sampling options and constraints have no influence:
    the engine says what it was told even if the session would not have allowed a model to say it.

    Args:
        *answers: One for each request, in order. A text is the whole answer. A text with control tokens, such as
            `<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>Yes.<|return|>`, is
            what the model writes after `<|start|>assistant`; so are ids. An exception is raised where it stands:
            instead of an answer, or instead of one of its ids.
        context: Maximum number of tokens of a prompt and its answer together.

    Attributes:
        requests: The requests so far. `requests[-1].prompt` has the ids that the model would have read last.
    """

    fingerprint = "scripted"

    def __init__(self, *answers: Answer, context: int = 131_072) -> None:
        self.context = context
        self.requests: list[Request] = []
        self._answers = list(answers)

    def says(self, *answers: Answer) -> None:
        """Adds answers for the next requests.

        Args:
            *answers: As in the constructor.
        """
        self._answers += answers

    def submit(self, request: Request) -> Stream:
        """Begins a request, as `Engine.submit` describes; it gets the next of the answers.

        Args:
            request: The request.

        Raises:
            ContextError: If the context has no room for a token after the prompt.
            EngineError: If there is no answer left.
        """
        room = room_for_answer(self.context, len(request.prompt))
        self.requests.append(request)
        if not self._answers:
            raise EngineError(f"request {len(self.requests)} has no answer: give ScriptedEngine one more")
        answer, limit = self._answers.pop(0), min(request.max_tokens or room, room)
        counts = Counts()
        return Stream(request, _say(answer, request, limit, counts), counts, _at_once)

    def make_prompt_cache(self) -> PromptCache:
        """Returns an empty cache for one conversation; it holds ids only."""
        return PromptCache()


def _say(answer: Answer, request: Request, limit: int, counts: Counts) -> Items:
    prompt = list(request.prompt)
    cache = request.cache or PromptCache()
    if isinstance(answer, Exception):
        raise answer
    counts.reused_tokens = cache.shared_with(prompt[:-1])
    counts.read_tokens = len(prompt)
    cache.ids = prompt
    for count, token in enumerate(_written(answer, prompt), start=1):
        if isinstance(token, Exception):
            raise token
        cache.ids.append(token)
        finish = "stop" if token in request.stop_ids else "length" if count == limit else None
        yield Step(token, 0.0 if request.options.logprobs else None, (), finish)
        if finish:
            return
    raise EngineError("the answer has ended, but the request goes on: end the answer with <|return|> or <|call|>")


def _written(answer: str | Sequence[int | Exception], prompt: Sequence[int]) -> Sequence[int | Exception]:
    """The ids that the model writes after the prompt."""
    if not isinstance(answer, str):
        return answer
    tokenizer = load_tokenizer()
    ids = tokenizer.encode_with_specials(answer)
    if any(id_ >= N_RANKS for id_ in ids):
        return ids
    is_open = prompt[-1] == MESSAGE  # without reasoning, the prompt has the header of the answer already
    return [*([] if is_open else [CHANNEL, *tokenizer.encode("final"), MESSAGE]), *ids, RETURN]


def _at_once(function: Callable[[], Item | None]) -> Future[Item | None]:
    """The result of the function, as a future that is done."""
    future: Future[Item | None] = Future()
    try:
        future.set_result(function())
    except BaseException as error:  # it belongs to whoever reads the future
        future.set_exception(error)
    return future
