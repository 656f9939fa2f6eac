"""Answers the requests of a batch, several at the same time. Knows nothing of their files."""

from __future__ import annotations

from collections.abc import Generator, Iterable
from functools import partial
from queue import SimpleQueue

from mlx_oss.chat.many import begin
from mlx_oss.chat.parallel import Outcome, ParallelTurns, Turn
from mlx_oss.chat.session import ChatSession
from mlx_oss.errors import DeviceError, MlxOssError, quoted
from mlx_oss.events import Reply
from mlx_oss.generation.engine import Engine
from mlx_oss.server import chat_completions
from mlx_oss.server.asked import status_of
from mlx_oss.server.batch_files import BatchRequest
from mlx_oss.server.fields import RequestError
from mlx_oss.tokenizer import Tokenizer

_MOST_FAILURES = 16  # of the device, one after the other


def answer(
    requests: Iterable[BatchRequest], engine: Engine, tokenizer: Tokenizer, *, at_once: int | None = None
) -> Generator[tuple[BatchRequest, Reply | MlxOssError], None, None]:
    """Answers requests, several at the same time, and yields them in the order in which they are done.

    Closing the iterator, or an exception such as KeyboardInterrupt while it waits, ends those that are running.

    Args:
        requests: The requests; read a few ahead of those that are done.
        engine: The engine.
        tokenizer: The tokenizer of the model.
        at_once: How many are answered at the same time. None means as many as the engine computes together.

    Yields:
        A request and its reply; or the error for which it cannot be answered, or if it is a DeviceError could not.

    Raises:
        MlxOssError: What is nobody's own error, such as a damaged file of the model; a DeviceError that came for
            16 requests one after the other.
    """
    places = engine.at_once if at_once is None else at_once
    finished: SimpleQueue[tuple[BatchRequest, Outcome]] = SimpleQueue()
    turns, count, failures = ParallelTurns(places), 0, 0

    def put(request: BatchRequest, outcome: Outcome) -> None:
        finished.put((request, outcome))

    def next_finished() -> tuple[BatchRequest, Reply | MlxOssError]:
        nonlocal count, failures
        request, outcome = finished.get()
        count -= 1
        failures = failures + 1 if isinstance(outcome, DeviceError) else 0
        if isinstance(outcome, Reply):
            return request, outcome
        if isinstance(outcome, DeviceError) and failures < _MOST_FAILURES:
            return request, outcome
        assert outcome is not None, "nothing ends the turns before this does"
        if isinstance(outcome, MlxOssError) and status_of(outcome) < 500:
            return request, outcome
        raise outcome

    try:
        for request in requests:
            while count >= 2 * places or not finished.empty():
                yield next_finished()
            count += 1
            try:
                turn = _turn(request, engine, tokenizer)
            except Exception as error:
                put(request, error)
            else:
                turns.add(turn, partial(put, request))
        while count:
            yield next_finished()
    finally:
        turns.close()


def _turn(request: BatchRequest, engine: Engine, tokenizer: Tokenizer) -> Turn:
    fields = request.fields
    if fields.get("method") != "POST" or fields.get("url") != chat_completions.PATH:
        param = "url" if fields.get("method") == "POST" else "method"
        raise RequestError(
            f'{param} is {quoted(fields.get(param))}: give method "POST" and url "{chat_completions.PATH}"', param
        )
    asked = chat_completions.ChatCompletions().asked(fields.get("body"))
    for name, is_wanted in (("stream", asked.stream), ("n", asked.count != 1), ("tools", asked.details.custom)):
        if is_wanted:
            raise RequestError(
                f"{name} asks for a stream, several answers or a custom tool, which no batch has: leave it out",
                name,
            )
    session = ChatSession(engine, tokenizer, instructions=asked.transcript.instructions, **asked.fixed, **asked.free)
    return begin(session, asked.transcript.messages)
