"""`ask_many`: asks many questions at the same time, for programs that have a list, and gives the replies in order.

`parallel` runs the turns; this module takes the questions from the list, a window at a time. Knows nothing of what a
turn does.
"""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator, Iterable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from itertools import takewhile
from typing import Any, Generic, Literal, TypeVar, cast, overload

from mlx_oss.action import Wait
from mlx_oss.chat.history import Entry
from mlx_oss.chat.live import LiveConversation
from mlx_oss.chat.parallel import MOST_AT_ONCE, Outcome, ParallelTurns, Turn
from mlx_oss.chat.session import ChatSession
from mlx_oss.costs import Usage
from mlx_oss.errors import OptionError, quoted
from mlx_oss.events import Reply
from mlx_oss.harmony import DeveloperContent, Message
from mlx_oss.shield import shield

T = TypeVar("T")
Question = str | Sequence[Message]

# Questions that are taken from the list before the first of them is answered, for each place: while a long answer holds
# up the replies that come after it, the other places go on.
_WINDOW = 8


@overload
def ask_many(
    session: ChatSession,
    questions: Iterable[Question],
    *,
    at_once: int | None = None,
    on_error: Literal["raise"] = "raise",
) -> Replies[Reply]: ...


@overload
def ask_many(
    session: ChatSession, questions: Iterable[Question], *, at_once: int | None = None, on_error: Literal["return"]
) -> Replies[Reply | BaseException]: ...


def ask_many(
    session: ChatSession,
    questions: Iterable[Question],
    *,
    at_once: int | None = None,
    on_error: Literal["raise", "return"] = "raise",
) -> Replies[Any]:
    """Asks many questions, several at the same time, and returns the replies in the order of the questions.

    Each question is asked in a fork of the session. So it has the options, tools and conversation of the session as
    they are now; no question knows of another one, and the session stays as it is. Its tools are shared, and like
    `confirm` they are called on other threads. With `options.seed`, question k (the first is 0) draws with `seed + k`,
    so its answer does not depend on what is asked beside it.

    Args:
        session: The session to ask in.
        questions: Messages of the user; or conversations, as lists of messages, which the model continues. A message
            of the system in front of a conversation takes the place of the session's instructions. It is read when a
            reply is asked for, and at most 8 questions ahead for each place; so it may be an endless generator.
        at_once: How many questions are asked at the same time, at most 256. None means as many as the engine computes
            together.
        on_error: What happens with a question that cannot be answered, for example because it is too long. "raise"
            raises its error in the place of its reply; the next `next` goes on with the reply after it. "return"
            returns the error in that place.

    Returns:
        An iterator of the replies.

    Raises:
        OptionError: If `at_once`, `on_error` or `questions` is invalid, or an option set in the session is.
        SessionError: If a turn of the session is running.
    """
    if not isinstance(session, ChatSession):
        raise OptionError(f"session is a {type(session).__name__}, expected a ChatSession: its options are used")
    places = session.model.at_once if at_once is None else at_once
    if type(places) is not int or not 1 <= places <= MOST_AT_ONCE:
        raise OptionError(f"at_once is {places!r}, expected 1 to {MOST_AT_ONCE}, or None")
    if on_error not in ("raise", "return"):
        raise OptionError(f"on_error is {on_error!r}, expected raise or return")
    if isinstance(questions, str | bytes) or not isinstance(questions, Iterable):
        raise OptionError(f"questions is a {type(questions).__name__}, expected a list of texts or of conversations")
    return Replies(session.fork(), questions, places, returns_errors=on_error == "return")


class Replies(Iterator[T], AsyncIterator[T], Generic[T]):
    """The replies that `ask_many` returns, in the order of the questions.

    Iterate over it with `for` or `async for`, in one thread or task. If the loop is left early, `close` ends what is
    still running, or `with` does; so does letting go of this object. After Ctrl-C in the middle of waiting, and after
    the last reply, nothing is running any more.

    Args:
        session: The session that is forked for each question; nothing else uses it.
        questions: As for `ask_many`.
        places: How many questions are asked at the same time.
        returns_errors: Whether an error is returned in the place of a reply, or raised.

    Attributes:
        done: How many questions are done so far, in any order, those that could not be answered included. May be
            read from any thread.
        usage: What the answers have cost so far, added up.
    """

    def __init__(self, session: ChatSession, questions: Iterable[Question], places: int, returns_errors: bool) -> None:
        self._session, self._returns_errors = session, returns_errors
        self._questions, self._count = iter(questions), 0  # of those that were taken
        self._length = len(questions) if isinstance(questions, Sequence) else None
        self._is_exhausted = False
        self._error: Exception | None = None  # what reading them has raised
        self._turns, self._window = ParallelTurns(places), _WINDOW * places
        self._ahead: deque[Future[Outcome]] = deque()  # of the questions that were taken and not yet delivered
        self._delivered = 0
        self._costs = _Costs()

    @property
    def done(self) -> int:
        return self._costs.done

    @property
    def usage(self) -> Usage:
        return self._costs.usage

    def __length_hint__(self) -> int:
        return NotImplemented if self._length is None else max(0, self._length - self._delivered)

    def __next__(self) -> T:
        try:
            wait = self._next_reply()
            if wait is not None:
                wait.perform()
        except BaseException:
            self.close()
            raise
        if wait is None:
            self.close()
            raise StopIteration
        return self._deliver(wait.result(), StopIteration)

    async def __anext__(self) -> T:
        self._turns.loop = asyncio.get_running_loop()
        try:
            wait = self._next_reply()
            if wait is not None:
                await wait.aperform()
        except BaseException:
            await self.aclose()
            raise
        if wait is None:
            await self.aclose()
            raise StopAsyncIteration
        return self._deliver(wait.result(), StopAsyncIteration)

    def __enter__(self) -> Replies[T]:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __del__(self) -> None:
        if hasattr(self, "_turns"):  # an interruption may have come before
            self._turns.end()

    def close(self) -> None:
        """Ends what is still running, each answer within a token or a chunk of the prompt, and waits for that."""
        self._is_exhausted = True
        self._turns.close()
        self._ahead.clear()

    async def aclose(self) -> None:
        """Like `close`, in the caller's event loop."""
        self._is_exhausted = True
        await self._turns.aclose()
        self._ahead.clear()

    def _next_reply(self) -> Wait[Outcome] | None:
        """Takes questions until the next reply is there or the window is full. None at the end."""
        self._take()
        while len(self._ahead) < self._window and not self._is_exhausted:
            if self._ahead and _is_done(self._ahead[0]):
                break
            self._take()
        if self._ahead:
            return Wait(self._ahead.popleft(), self._turns.end)
        if (error := self._error) is not None:
            self._error = None
            raise error
        return None

    def _take(self) -> None:
        """Takes a question, on the caller's thread: what it comes from may belong to that thread."""
        if self._is_exhausted:
            return
        try:
            question = next(self._questions)
        except StopIteration:
            self._is_exhausted = True
            return
        except Exception as error:  # the replies to the questions before come first
            self._is_exhausted, self._error = True, error
            return
        try:
            turn = begin(self._session.fork(), question, self._count)
        except Exception as error:
            turn = _failing(error)
        self._count += 1
        outcome: Future[Outcome] = Future()
        costs = self._costs

        def done(result: Outcome) -> None:  # does not refer to this object, which ends its turns when it is let go
            costs.add(result)
            outcome.set_result(result)

        self._ahead.append(outcome)
        self._turns.add(turn, done)

    def _deliver(self, outcome: Outcome, end: type[Exception]) -> T:
        number, self._delivered = self._delivered, self._delivered + 1
        if outcome is None:  # this object was closed meanwhile
            raise end
        if isinstance(outcome, BaseException) and not self._returns_errors:
            outcome.add_note(f"in question {number} of ask_many (the first is question 0)")
            try:
                raise outcome
            finally:
                del outcome  # it refers to this frame
        return cast(T, outcome)


def _is_done(outcome: Future[Outcome]) -> bool:
    return shield(outcome.done)


@dataclass
class _Costs:
    """What has been answered so far; the thread that runs the turns counts."""

    done: int = 0
    usage: Usage = field(default_factory=Usage)

    def add(self, outcome: Outcome) -> None:
        if isinstance(outcome, Reply):
            self.usage = self.usage.plus(outcome.usage)
        self.done += outcome is not None


def begin(session: ChatSession, question: Question, number: int = 0) -> Turn:
    """The turn in which the model answers a question, or continues a conversation; nothing of it has run.

    Args:
        session: The session, which no turn uses. Its conversation comes before the question.
        question: As for `ask_many`.
        number: Added to the seed.

    Raises:
        OptionError: If the question is something else, or ends with a message that the model cannot answer.
        HarmonyError: If a message cannot be rendered.
    """
    if session.options.seed is not None:
        session.options = replace(session.options, seed=(session.options.seed + number) % 2**64)
    messages = [Message("user", question)] if isinstance(question, str) else question
    if not isinstance(messages, Sequence) or not all(isinstance(message, Message) for message in messages):
        raise OptionError(f"a question is {quoted(question)}, expected a str, or a list of Messages")
    roles = [message.role for message in messages]
    if not roles or roles[-1] not in ("user", "tool"):
        found = f"ends with a message of role {roles[-1]!r}" if roles else "is empty"
        raise OptionError(f"a conversation {found}: end it with a message of the user, or with a tool's result")
    instructions = [*takewhile(_is_instruction, messages)]
    if instructions:
        session.instructions = "\n\n".join(str(message.content) for message in instructions)
    entries = [Entry.from_message(_said(message), session.tokenizer) for message in messages[len(instructions) :]]
    before = session._conversation.current
    session._conversation = LiveConversation(before.with_entries(entries))
    return session._turn({})


def _is_instruction(message: Message) -> bool:
    return message.role in ("system", "developer") and isinstance(message.content, str)


def _said(message: Message) -> Message:
    """A message in the form that the model knows: instructions in a section, answers on their channel."""
    if _is_instruction(message):
        return replace(message, role="developer", content=DeveloperContent(str(message.content)))
    if message.role == "assistant" and message.channel is None and message.recipient is None:
        return replace(message, channel="final")
    return message


def _failing(error: Exception) -> Turn:
    raise error
    yield
