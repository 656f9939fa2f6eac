"""Answers requests of all APIs: a place in the queue, the model, the settings, the turns.

Knows nothing of connections, and of how requests and responses are written.
"""

from __future__ import annotations

import asyncio
import datetime
import logging
import time
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

from mlx_oss.events import Finished, PrefillProgress, ToolCall
from mlx_oss.generation.options import SamplingOptions
from mlx_oss.server.asked import Asked, Frame, Writer
from mlx_oss.server.fields import RequestError
from mlx_oss.server.metrics import Metrics
from mlx_oss.server.models import Loaded, Models
from mlx_oss.server.toolbox import BuiltinTool, Toolbox
from mlx_oss.server.turn import ServedTurn
from mlx_oss.tools.calls import Confirm
from mlx_oss.tools.group import Part, ToolGroup
from mlx_oss.tools.toolset import AnyTool

_log = logging.getLogger("mlx_oss.server")

MOST_REQUESTS = 256
RETRY_SECONDS = 5
_MOST_LARGE = 16

Emit = Callable[[Iterable[Frame]], Awaitable[None]]


@dataclass(eq=False)
class Service:
    """What the server answers with. Only for the thread of its event loop.

    Attributes:
        models: The models.
        tools: The server's own tools, by name.
        runs_unasked: Whether tools that need a confirmation run without one.
        most_requests: How many requests are answered or wait at the same time; more of them are refused.
        metrics: What has been done.
        is_ending: No more requests are begun.
        toolbox: What the conversations have of the tools.
    """

    models: Models
    tools: Mapping[str, BuiltinTool] = field(default_factory=dict)
    runs_unasked: bool = False
    most_requests: int = MOST_REQUESTS
    metrics: Metrics = field(default_factory=Metrics)
    is_ending: bool = False
    toolbox: Toolbox = field(init=False)
    _large: int = 0

    def __post_init__(self) -> None:
        self.toolbox = Toolbox(self.tools)

    @contextmanager
    def large_place(self) -> Iterator[None]:
        """A place for a large body, which takes many times its bytes. Raises RequestError if there is none."""
        if self._large >= _MOST_LARGE:
            raise _busy(f"{_MOST_LARGE} requests of more than 1 MiB are")
        self._large += 1
        try:
            yield
        finally:
            self._large -= 1

    @contextmanager
    def place(self) -> Iterator[None]:
        """A place among the requests that are answered. Raises RequestError if there is none."""
        if self.is_ending:
            raise RequestError("the server is being stopped: ask again when it is back", status=503)
        if self.metrics.running >= self.most_requests:
            raise _busy(f"{self.most_requests} requests are")
        self.metrics.running += 1
        try:
            yield
        finally:
            self.metrics.running -= 1

    async def answer(self, asked: Asked, name: str, writer: Writer, emit: Emit, confirm: Confirm | None = None) -> None:
        """Answers a request.

        Args:
            asked: The request.
            name: The model, as `Models.name_of` returned it.
            writer: Writes the response.
            emit: Sends what the writer has written.
            confirm: Asked before a tool runs that needs it.

        Raises:
            MlxOssError: If it cannot be answered.
        """
        started = time.monotonic()
        async with self.models.use(name) as model:
            turns = await asyncio.to_thread(self._turns, model, asked, confirm)
            await emit(writer.begin(turns[0].prompt_tokens))
            try:
                async with asyncio.TaskGroup() as group:
                    for choice, turn in enumerate(turns):
                        group.create_task(self._run(turn, choice, model, writer, emit, started))
            except* Exception as errors:
                raise _first(errors) from None
            finally:
                if asked.builtin and asked.conversation is None:
                    await asyncio.gather(*(asyncio.to_thread(turn.close_tools) for turn in turns))
            await emit(writer.end([turn.cost for turn in turns]))

    async def _run(
        self, turn: ServedTurn, choice: int, model: Loaded, writer: Writer, emit: Emit, started: float
    ) -> None:
        ids, is_first = list[str](), True
        try:
            async with aclosing(turn.events()) as events:
                async for event in events:
                    if is_first and not isinstance(event, PrefillProgress):
                        self.metrics.count_first_token(time.monotonic() - started)
                        is_first = False
                    if isinstance(event, Finished):  # before the client can send the next request
                        model.memory.remember(turn.written, ids)
                    await emit(writer.take(event, choice))
                    if isinstance(event, ToolCall):
                        ids.append(writer.call_id(choice))
        finally:
            usage = turn.cost.usage
            self.metrics.count_tokens(
                prompt=usage.prompt_tokens, reused=usage.reused_tokens, generated=usage.generated_tokens
            )

    def _turns(self, model: Loaded, asked: Asked, confirm: Confirm | None) -> list[ServedTurn]:
        """The turns of a request, which have not begun. Called on a thread."""
        today = datetime.date.today().isoformat()
        base = model.settings({"instructions": asked.transcript.instructions, "current_date": today, **asked.fixed})
        entries = model.memory.entries_of(asked.transcript)
        turns = []
        for choice in range(asked.count):
            # Without an own tool nothing is confirmed, and what is rendered does not depend on this turn.
            given: dict[str, Any] = {**asked.free, **({"confirm": confirm} if asked.builtin else {})}
            options = asked.sampling or SamplingOptions()
            if options.seed is not None:
                options = replace(options, seed=(options.seed + choice) % 2**64)
            given["options"] = options
            if asked.builtin:
                given["tools"] = [*base.tools, *self._own_tools(asked)]
            turns.append(ServedTurn(base.changed(given), entries))
        return turns

    def _own_tools(self, asked: Asked) -> Iterator[AnyTool]:
        for tool in self.toolbox.take(asked.builtin, asked.conversation):
            if isinstance(tool, ToolGroup) and (names := asked.chosen.get(tool.namespace.name)) is not None:
                tool = Part(tool, names)
            yield tool

    def count_tokens(self, model: Loaded, asked: Asked) -> int:
        """How many tokens the prompt of a request has. Called on a thread."""
        return self._turns(model, replace(asked, count=1), None)[0].prompt_tokens


def _busy(what: str) -> RequestError:
    return RequestError(
        f"{what} being answered already: ask again in {RETRY_SECONDS} seconds", status=429, code="rate_limit_exceeded"
    )


def _first(errors: BaseExceptionGroup[Exception]) -> Exception:
    error: BaseException = errors
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    assert isinstance(error, Exception)
    return error
