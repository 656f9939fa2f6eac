"""A tool with which the model asks itself questions in fresh sessions, several of them at the same time.

What a sub-task reads does not fill the context of the conversation: only its answer does. Its session begins as the
conversation does, with the same instructions and tools, so the engine does not read that beginning again. Knows nothing
of how turns run.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from contextlib import suppress
from copy import copy
from dataclasses import dataclass
from typing import Any

from mlx_oss.chat.history import Conversation
from mlx_oss.chat.live import LiveConversation
from mlx_oss.chat.many import begin
from mlx_oss.chat.parallel import MOST_AT_ONCE, Outcome, ParallelTurns
from mlx_oss.chat.session import ChatSession
from mlx_oss.costs import Usage
from mlx_oss.errors import OptionError, ToolError
from mlx_oss.events import Reply
from mlx_oss.harmony import ToolDescription
from mlx_oss.tools.base import SystemTool
from mlx_oss.tools.functions import Tool

NAME = "subtasks"
_DESCRIPTION = """\
Gives independent questions to assistants with the same tools, who work at the same time and know only what is in their
question. Returns their answers."""
_PARAMETERS = {
    "type": "object",
    "properties": {
        "questions": {
            "type": "array",
            "items": {"type": "string"},
            "description": "questions that each stand for themselves, with all that is needed to answer them",
        }
    },
    "required": ["questions"],
}
_LONGEST = 4000  # characters of a question that is refused or repeated


@dataclass(frozen=True, slots=True)
class SubtaskLimits:
    """How much sub-tasks may take.

    Attributes:
        tokens: Tokens that each may generate.
        calls: How many times each may call tools.
        seconds: How long all sub-tasks of one call may take.
        tasks: How many sub-tasks there may be in all, those of sub-tasks included.
        at_once: How many run at the same time.
        depth: How deeply they may be nested; 1: a sub-task has none of its own.

    Raises:
        OptionError: If one of them is out of range.
    """

    tokens: int = 4000
    calls: int = 16
    seconds: float = 600.0
    tasks: int = 32
    at_once: int = 4
    depth: int = 1

    def __post_init__(self) -> None:
        for name, most in (("tokens", 10**9), ("calls", 10**9), ("tasks", 10**9), ("at_once", MOST_AT_ONCE)):
            value = getattr(self, name)
            if type(value) is not int or not 1 <= value <= most:
                raise OptionError(f"{name} is {value!r}, expected a whole number from 1 to {most:,}")
        if type(self.depth) is not int or not 1 <= self.depth <= 8:
            raise OptionError(f"depth is {self.depth!r}, expected 1 to 8")
        if isinstance(self.seconds, bool) or not isinstance(self.seconds, int | float) or not 0 < self.seconds < 1e9:
            raise OptionError(f"seconds is {self.seconds!r}, expected more than 0")


class Subtasks:
    """Sub-tasks that the model of a session has given.

    Attributes:
        limits: How much they may take.
        started: How many there have been.
        usage: What those that ended with an answer have cost.
    """

    def __init__(self, limits: SubtaskLimits) -> None:
        self.limits, self.started, self.usage = limits, 0, Usage()
        self._lock = threading.Lock()

    def _start(self, count: int) -> None:
        """Raises ToolError if there are too many."""
        with self._lock:
            if self.started + count > self.limits.tasks:
                left = max(0, self.limits.tasks - self.started)
                raise ToolError(f"{left} more sub-tasks may be given, not {count}: answer with what you have")
            self.started += count

    def _count(self, reply: Reply) -> None:
        with self._lock:
            self.usage = self.usage.plus(reply.usage)


def add_subtasks(session: ChatSession, limits: SubtaskLimits | None = None) -> Subtasks:
    """Gives a session the tool `subtasks`, with which its model asks several questions in fresh sessions at once.

    The sub-tasks have the instructions, tools and options that the session has now, and `confirm` is asked about their
    calls too, from several threads at the same time. Each has a browser that counts its own pages; other tools are
    shared. Cancelling the turn ends them.

    Args:
        session: The session; no turn of it runs. One that was loaded needs them added again.
        limits: How much they may take. None: `SubtaskLimits()`.

    Returns:
        What has become of the sub-tasks.

    Raises:
        OptionError: If the session has a tool of that name.
        SessionError: If a turn of the session is running.
    """
    subtasks = Subtasks(limits or SubtaskLimits())
    # A session that was loaded has the description of the tool that it had before.
    before = [tool for tool in session._settings.tools if not (isinstance(tool, ToolDescription) and tool.name == NAME)]
    base = session.fork()
    base._conversation = LiveConversation(Conversation())
    base._settings = base._settings.changed({"tools": before})
    tool = _tool(subtasks, base, before, depth=1)
    session._settings = session._settings.changed({"tools": [*before, tool]})
    return subtasks


def _tool(subtasks: Subtasks, base: ChatSession, tools: Sequence[Any], depth: int) -> Tool:
    """The tool for a session at a depth. It is described alike at each, so that all prompts begin alike."""

    async def run(questions: list[str]) -> list[str]:
        _check(questions)
        if depth > subtasks.limits.depth:
            raise ToolError("a sub-task has no more sub-tasks of its own: answer the question yourself")
        subtasks._start(len(questions))
        sessions = [_session(subtasks, base, tools, depth) for _ in questions]
        outcomes = await _run(sessions, questions, subtasks.limits)
        return [_told(subtasks, session, outcome) for session, outcome in zip(sessions, outcomes, strict=True)]

    return Tool(ToolDescription(NAME, _DESCRIPTION, _PARAMETERS), run)


def _check(questions: Any) -> None:
    if not isinstance(questions, list) or not questions or not all(isinstance(each, str) for each in questions):
        raise ToolError("questions is a list of texts, at least one")
    if any(not each.strip() or len(each) > _LONGEST for each in questions):
        raise ToolError(f"a question is empty, or has more than {_LONGEST:,} characters")


def _session(subtasks: Subtasks, base: ChatSession, tools: Sequence[Any], depth: int) -> ChatSession:
    """A fresh session for a sub-task."""
    session = copy(base)
    session._conversation, session._cache = LiveConversation(Conversation()), base.model.make_prompt_cache()
    own = [tool.fork() if isinstance(tool, SystemTool) else tool for tool in tools]
    limits = subtasks.limits
    most = limits.tokens if base.max_tokens is None else min(base.max_tokens, limits.tokens)
    session._settings = base._settings.changed(
        {"tools": [*own, _tool(subtasks, base, tools, depth + 1)], "max_tokens": most, "max_rounds": limits.calls}
    )
    return session


async def _run(sessions: Sequence[ChatSession], questions: Sequence[str], limits: SubtaskLimits) -> list[Outcome]:
    """Runs the sub-tasks; those that are not done in time have the outcome None."""
    loop, turns = asyncio.get_running_loop(), ParallelTurns(min(limits.at_once, len(sessions)))
    outcomes: list[Outcome] = [None] * len(sessions)
    done = [asyncio.Event() for _ in sessions]

    def add(number: int) -> None:
        def finish(outcome: Outcome) -> None:
            outcomes[number] = outcome
            with suppress(RuntimeError):  # the loop is closed: nobody waits any more
                loop.call_soon_threadsafe(done[number].set)

        turns.add(begin(sessions[number], questions[number], number), finish)

    try:
        for number in range(len(sessions)):
            add(number)
        with suppress(TimeoutError):
            async with asyncio.timeout(limits.seconds):
                for each in done:
                    await each.wait()
    except BaseException:  # the call was cancelled, and nobody waits for its end
        turns.end()
        raise
    await turns.aclose()
    return outcomes


def _told(subtasks: Subtasks, session: ChatSession, outcome: Outcome) -> str:
    """What the model reads of a sub-task."""
    if outcome is None:
        return f"(no answer: it was not done within {subtasks.limits.seconds:g} seconds)"
    if isinstance(outcome, BaseException):
        return f"(no answer: {type(outcome).__name__}: {' '.join(str(outcome).split())[:300]})"
    subtasks._count(outcome)
    text = _with_sources(outcome)
    if outcome.finish_reason != "stop":
        text += f" (cut off: {outcome.finish_reason})"
    return text.strip() or "(no answer)"


def _with_sources(reply: Reply) -> str:
    """The answer; its citations name the pages, whose numbers mean nothing to others."""
    text = reply.text
    for citation in reversed(reply.citations):
        if not text.startswith("【", citation.start):
            continue
        where = f"({citation.source}, lines {citation.first_line} to {citation.last_line})"
        text = text[: citation.start] + where + text[citation.end :]
    return text
