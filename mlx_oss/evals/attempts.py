"""Asks the questions of an evaluation, several at the same time, and judges the answers.

The seed of an attempt is made from the question and the number of the attempt. So what comes of it does not depend on
what is asked before and beside it. Knows nothing of files and reports.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Generator, Iterable
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial
from queue import SimpleQueue
from typing import Any

from mlx_oss.action import Action
from mlx_oss.chat.history import Effort
from mlx_oss.chat.many import begin
from mlx_oss.chat.parallel import Outcome, ParallelTurns
from mlx_oss.chat.session import ChatSession
from mlx_oss.costs import Usage
from mlx_oss.errors import ContextError, DeviceError, HarmonyError, OptionError, ToolError, forget_frames
from mlx_oss.evals.checks import Checks
from mlx_oss.evals.questions import GivenTool, Question
from mlx_oss.events import Event, Finished, Reply, ToolCall, collect
from mlx_oss.generation.engine import Engine
from mlx_oss.generation.options import SamplingOptions
from mlx_oss.harmony import Message
from mlx_oss.tokenizer import Tokenizer
from mlx_oss.tools.functions import Tool
from mlx_oss.tools.python import PythonTool
from mlx_oss.tools.toolset import AnyTool

_MOST_FAILURES = 16  # of the device, one after the other
_OF_THE_QUESTION = (ContextError, HarmonyError, OptionError)  # it cannot be asked; others could be
_CUT_OFF = {
    "length": "it was cut off by max_tokens or the context",
    "repetition": "the model repeated itself",
    "no_answer": "the model stopped without an answer",
}


@dataclass(frozen=True)
class EvalOptions:
    """How the questions of an evaluation are asked.

    Attributes:
        samples: How many times each question is asked.
        sampling: How the answers are sampled. Its seed is the one from which the seeds of all attempts are made; None
            is 0.
        reasoning_effort: As for `ChatSession`, like all that follow.
        instructions: For questions that have none.
        max_tokens: For each turn of a question.
        max_reasoning_tokens: For each turn of a question.
        response_format: What each answer has to look like.
        max_rounds: How many times the model may call tools in a turn.
        current_date: The date that the model is told. None: the day on which the evaluation begins.

    Raises:
        OptionError: If `samples` is less than 1, or more than 1 although all answers would be the same.
    """

    samples: int = 1
    sampling: SamplingOptions = field(default_factory=SamplingOptions)
    reasoning_effort: Effort = "medium"
    instructions: str = ""
    max_tokens: int | None = None
    max_reasoning_tokens: int | None = None
    response_format: Any = None
    max_rounds: int = 32
    current_date: str | None = None

    def __post_init__(self) -> None:
        if type(self.samples) is not int or not 1 <= self.samples <= 10_000:
            raise OptionError(f"samples is {self.samples!r}: give 1 to 10,000")
        if self.samples > 1 and self.sampling.temperature == 0:
            raise OptionError(
                f"{self.samples} samples at temperature 0 are {self.samples} times the same: give one of them another "
                "value"
            )

    def seed(self, question: Question, sample: int) -> int:
        """The seed of an attempt.

        Args:
            question: The question.
            sample: The number of the attempt, from 0 on.
        """
        if question.seed is not None:
            return (question.seed + sample) % 2**64
        text = f"{self.sampling.seed or 0} {sample} {question.id}"
        return int.from_bytes(hashlib.sha256(text.encode(errors="replace")).digest()[:8], "big")


@dataclass(frozen=True)
class Attempt:
    """What came of asking a question once.

    Attributes:
        number: The place of the question, from 0 on.
        sample: The number of the attempt, from 0 on.
        question: The question.
        problem: Why it is wrong; empty if all is right.
        replies: The answers of its turns, up to the first wrong one.
        seconds: How long it took, beside others.
        failure: What the device or the sandbox failed with. Then nothing is known of the answer: it may go well another
            time.
    """

    number: int
    sample: int
    question: Question
    problem: str
    replies: tuple[Reply, ...] = ()
    seconds: float = 0.0
    failure: str = ""

    @property
    def usage(self) -> Usage:
        """What its turns cost."""
        total = Usage()
        for reply in self.replies:
            total = total.plus(reply.usage)
        return total


def attempts(
    wanted: Iterable[tuple[int, int, Question]],
    engine: Engine,
    tokenizer: Tokenizer,
    options: EvalOptions,
    *,
    at_once: int | None = None,
    context: int | None = None,
) -> Generator[Attempt, None, None]:
    """Asks questions, several at the same time, and yields what came of them in the order in which that is known.

    Closing the iterator, or an exception such as KeyboardInterrupt while it waits, ends those that are running.

    Args:
        wanted: The place of each question, the number of the attempt, and the question; read a few ahead.
        engine: The engine.
        tokenizer: The tokenizer of the model.
        options: How they are asked.
        at_once: How many are asked at the same time. None means as many as the engine computes together.
        context: Limit of tokens for a conversation. None: that of the engine.

    Raises:
        MlxOssError: What is not a question's own error; a DeviceError that came 16 times, one after the other.
    """
    places = engine.at_once if at_once is None else at_once
    finished: SimpleQueue[tuple[_Asking, Outcome]] = SimpleQueue()
    turns, count, failures = ParallelTurns(places), 0, 0

    def put(asking: _Asking, outcome: Outcome) -> None:
        finished.put((asking, outcome))

    def next_finished() -> Attempt:
        nonlocal count, failures
        asking, outcome = finished.get()
        count -= 1
        is_failure = isinstance(outcome, DeviceError | ToolError)
        failures = failures + 1 if is_failure else 0
        if isinstance(outcome, BaseException) and not (is_failure and failures < _MOST_FAILURES):
            raise outcome
        return asking.attempt(str(outcome) if is_failure else "")

    try:
        for number, sample, question in wanted:
            while count >= 2 * places or not finished.empty():
                yield next_finished()
            count += 1
            asking = _Asking(number, sample, question, engine, tokenizer, options, context)
            turns.add(asking.run(), partial(put, asking))
        while count:
            yield next_finished()
    finally:
        turns.close()


class _Asking:
    """Asks a question once. `run` is a turn for `ParallelTurns`."""

    def __init__(
        self,
        number: int,
        sample: int,
        question: Question,
        engine: Engine,
        tokenizer: Tokenizer,
        options: EvalOptions,
        context: int | None,
    ) -> None:
        self._number, self._sample, self._question = number, sample, question
        self._engine, self._tokenizer, self._options, self._context = engine, tokenizer, options, context
        self._replies: list[Reply] = []
        self._problem, self._seconds, self._turn = "", 0.0, 0

    def attempt(self, failure: str) -> Attempt:
        """What came of it."""
        replies = tuple(self._replies)
        return Attempt(
            self._number, self._sample, self._question, self._problem or failure, replies, self._seconds, failure
        )

    def run(self) -> Generator[Event | Action, None, None]:
        started, tools = time.monotonic(), list[AnyTool]()
        try:
            tools += map(self._tool, self._question.tools)
            yield from self._turns(self._session(tools))
        except _OF_THE_QUESTION as error:
            forget_frames(error)
            self._problem = f"it cannot be asked: {error}"
        finally:
            for tool in tools:
                if isinstance(tool, PythonTool) and tool not in self._question.tools:
                    tool.close()
            self._seconds = time.monotonic() - started
        yield Finished("stop", Usage())

    def _session(self, tools: list[AnyTool]) -> ChatSession:
        options, question = self._options, self._question
        sampling = replace(options.sampling, seed=options.seed(question, self._sample), logprobs=False)
        return ChatSession(
            self._engine,
            self._tokenizer,
            instructions=question.instructions or options.instructions,
            messages=question.messages,
            reasoning_effort=question.reasoning_effort or options.reasoning_effort,
            tools=tools,
            options=sampling,
            max_tokens=options.max_tokens,
            max_reasoning_tokens=options.max_reasoning_tokens,
            response_format=options.response_format,
            max_rounds=options.max_rounds,
            current_date=question.current_date or options.current_date,
            context_limit=self._context,
        )

    def _turns(self, session: ChatSession) -> Generator[Action, None, None]:
        for number, turn in enumerate(self._question.turns):
            self._turn = number
            events = list[Event]()
            said = [] if turn.prompt is None else [Message("user", turn.prompt)]
            with closing(begin(session, said) if said else session._turn({})) as running:
                for item in running:
                    if isinstance(item, Action):
                        yield item
                    else:
                        events.append(item)
            reply = collect(events)
            self._replies.append(reply)
            if turn.checks.judges:
                judging = _Judging(turn.checks, reply)
                yield judging
                if problem := judging.problem():
                    self._problem = problem if len(self._question.turns) == 1 else f"turn {number + 1}: {problem}"
                    return

    def _tool(self, tool: AnyTool | GivenTool | str) -> AnyTool:
        """A tool for the session."""
        if isinstance(tool, str):
            return PythonTool()
        if not isinstance(tool, GivenTool):
            return tool
        results = tool.results
        if not results:
            return tool.description
        return Tool(tool.description, lambda **_: results[self._turn % len(results)], prepare=dict)


class _Judging(Action):
    """Judges an answer, on a thread of its own: that may take a while."""

    def __init__(self, checks: Checks, reply: Reply) -> None:
        self._checks, self._reply = checks, reply
        self._problem = ""
        self._error: Exception | None = None

    def perform(self) -> None:
        reply = self._reply
        if reply.finish_reason in _CUT_OFF:
            self._problem = _CUT_OFF[reply.finish_reason]
            return
        calls: tuple[ToolCall, ...] = reply.tool_calls
        try:
            self._problem = self._checks.problem(reply.text, calls)
        except Exception as error:  # it belongs to the turn
            self._error = error

    async def aperform(self) -> None:
        self.perform()

    def problem(self) -> str:
        """What is wrong with the answer."""
        if self._error is not None:
            raise self._error
        return self._problem
