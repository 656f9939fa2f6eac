"""`Research`: answers a question from many pages, step by step, and keeps what it finds in a folder.

The steps are chosen here and not by the model: a plan, a round for each of its questions, asking what is missing, and
the report. Each is a fresh session of the same beginning, which the engine reads once. After each, a line of the trace
says what has come of it, so that a run which was stopped goes on there. Knows nothing of terminals.
"""

from __future__ import annotations

import datetime
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

from mlx_oss.chat.session import ChatSession
from mlx_oss.errors import OptionError, ResearchError
from mlx_oss.events import Reply
from mlx_oss.files import expanded
from mlx_oss.generation.engine import Engine
from mlx_oss.generation.options import SamplingOptions
from mlx_oss.harmony import ReasoningEffort
from mlx_oss.json_lines import GrowingFile
from mlx_oss.json_text import whole_characters
from mlx_oss.research import prompts
from mlx_oss.research import trace as traces
from mlx_oss.research.bounds import Bounds
from mlx_oss.research.look import Found, Look
from mlx_oss.research.report import Report, made
from mlx_oss.research.state import VERSION, State, restored
from mlx_oss.tokenizer import Tokenizer
from mlx_oss.tools.browser import BrowserTool

MOST_AT_ONCE = 16
_MOST_GAPS = 3  # how often it is asked what is missing
_LIST_TOKENS = 4000  # of an answer that is a list of questions, with its reasoning

Progress = Callable[[Mapping[str, Any]], None]


class Research:
    """Answers a question from the pages of a browser, with a report whose citations are checked.

        research = Research(model, tokenizer, "How large is Lake Aral?", BrowserTool("notes"), "aral")
        report = research.run()
        print(report.markdown, len(report.flagged))

    The folder gets `trace.jsonl` with everything that happens, as it happens, `notes.md`, and `report.md` in the end.
    If it has a trace already, `run` goes on from there.

    Args:
        model: The engine, as `mlx_oss.load` returns it. nano was not trained to browse.
        tokenizer: The tokenizer, as `mlx_oss.load` returns it.
        question: What is asked. None: what the trace in the folder says.
        browser: Where pages come from.
        folder: Where it is kept.
        bounds: How much it may take. None: what the trace says, or `Bounds()`.
        effort: How much the model thinks: "low", "medium" or "high". None: what the trace says, or "medium".
        options: How to sample. With a seed, each step uses another one.
        at_once: How many questions of the plan are looked at at the same time.
        progress: Called with each line of the trace that is written, from any thread.
        about: What else is kept in the first line of the trace, such as where the pages come from.

    Raises:
        OptionError: If an argument is invalid.
    """

    def __init__(
        self,
        model: Engine,
        tokenizer: Tokenizer,
        question: str | None,
        browser: BrowserTool,
        folder: str | Path,
        *,
        bounds: Bounds | None = None,
        effort: ReasoningEffort | None = None,
        options: SamplingOptions | None = None,
        at_once: int = 1,
        progress: Progress | None = None,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        if not isinstance(browser, BrowserTool):
            raise OptionError(f"browser is a {type(browser).__name__}, expected BrowserTool(...)")
        if question is not None and (not isinstance(question, str) or not question.strip()):
            raise OptionError("the question is empty, or no text: give what is to be found out")
        if effort not in (None, *get_args(ReasoningEffort)):
            raise OptionError(f"effort is {effort!r}, expected low, medium or high")
        if type(at_once) is not int or not 1 <= at_once <= MOST_AT_ONCE:
            raise OptionError(f"at_once is {at_once!r}, expected 1 to {MOST_AT_ONCE}")
        self._question = None if question is None else whole_characters(question).strip()
        self._model, self._tokenizer, self._browser, self._folder = model, tokenizer, browser, expanded(folder)
        self._bounds, self._effort, self._options = bounds, effort, options or SamplingOptions()
        self._at_once, self._progress, self._about = at_once, progress, dict(about or {})
        self._state = State()
        self._lock = threading.Lock()
        self._sessions: set[ChatSession] = set()  # those that run
        self._is_cancelled = False
        self._has_failed = False  # one of several rounds at once, so that the others end
        self._started = 0.0  # when this run would have begun if all runs were one
        self._trace: GrowingFile | None = None

    def run(self) -> Report:
        """Goes on until the report is written; returns it.

        Raises:
            ResearchError: If the folder cannot be used or belongs to another question, or `cancel` was called.
            OptionError: If there is no question, or it is too long for the context.
            DeviceError: If MLX fails. Another call goes on where this one has stopped.
        """
        self._has_failed = False
        self._trace, lines = traces.opened(self._folder)
        try:
            self._state = restored(lines)
            self._started = time.monotonic() - self._state.seconds
            self._begin()
            while self._state.report is None:
                self._step()
                self._write_notes()
        finally:
            self._trace.close()
        self._write_notes()  # if the last run was killed before it had
        report = made(self._state)
        traces.write_whole(self._folder / "report.md", report.markdown)
        return report

    def cancel(self) -> None:
        """Ends `run` within a token. Can be called from any thread.

        What finished rounds have found is kept, and another `Research` with the same folder goes on.
        """
        self._is_cancelled = True
        self._end_sessions()

    def _end_sessions(self) -> None:
        with self._lock:
            sessions = list(self._sessions)
        for session in sessions:
            session.cancel()

    def _begin(self) -> None:
        state = self._state
        if state.question is None:
            if self._question is None:
                raise OptionError(f"{self._folder} has no research to go on with: give a question")
            bounds = self._bounds or Bounds()
            state.bounds = self._within(bounds)
            if len(self._tokenizer.encode(self._question)) > state.bounds.context // 8:
                raise OptionError("the question is too long: give one that takes at most an eighth of the context")
            self._write(
                event="begin",
                version=VERSION,
                question=self._question,
                date=datetime.date.today().isoformat(),
                effort=self._effort or "medium",
                bounds=bounds.as_dict(),
                about=self._about,
            )
        elif self._question not in (None, state.question):
            raise ResearchError(f"{self._folder} has a research on another question: name another folder")
        self._state.bounds = self._within(self._bounds or self._state.bounds)

    def _within(self, bounds: Bounds) -> Bounds:
        return replace(bounds, context=min(bounds.context, self._model.context))

    def _step(self) -> None:
        """Does what comes next, and writes what has come of it."""
        state = self._state
        open_parts = state.open_parts()
        reached = state.stopped or self._reached()
        if state.parts and reached and (open_parts or not self._needs_no_more()):
            if state.stopped is None:
                self._write(event="stopped", reason=reached)
            self._report()
        elif not state.parts:
            self._plan()
        elif open_parts:
            self._look(open_parts[: min(self._at_once, state.bounds.rounds - len(state.notes))])
        elif self._needs_no_more():
            self._report()
        else:
            self._ask_for_gaps()

    def _needs_no_more(self) -> bool:
        return self._state.is_complete or self._state.gaps >= _MOST_GAPS

    def _reached(self) -> str | None:
        """The bound that is reached, in words."""
        state, bounds = self._state, self._state.bounds
        reached = (
            (len(state.notes), bounds.rounds, "rounds"),
            (state.tokens, bounds.tokens, "tokens"),
            (self._seconds, bounds.seconds, "seconds"),
        )
        names = [f"{bound:,} {name if bound > 1 else name[:-1]}" for now, bound, name in reached if now >= bound]
        return f"the bound of {names[0]} is reached" if names else None

    @property
    def _seconds(self) -> float:
        return time.monotonic() - self._started

    @property
    def _list_tokens(self) -> int:
        return max(1, min(_LIST_TOKENS, self._state.bounds.tokens - self._state.tokens))

    def _plan(self) -> None:
        state = self._state
        question = state.question or ""
        reply = self._ask(prompts.plan(question, state.bounds.questions), most=self._list_tokens)
        found = prompts.questions(reply.text, state.bounds.questions) or [question]
        self._write(event="plan", questions=found, tokens=reply.usage.generated_tokens)

    def _ask_for_gaps(self) -> None:
        reply = self._ask(prompts.gaps(self._state, self._tokenizer), most=self._list_tokens)
        found = prompts.questions(reply.text, self._state.bounds.questions)
        new = [question for question in found if question not in self._state.parts]
        self._write(event="gaps", questions=new, tokens=reply.usage.generated_tokens)

    def _report(self) -> None:
        state = self._state
        if not any(note.text for note in state.notes):
            self._write(event="report", text="", is_cut=False, shortened=0)
            return
        prompt, shortened = prompts.report(state, self._tokenizer)
        reply = self._ask(prompt)
        self._write(
            event="report",
            text=reply.text,
            is_cut=reply.finish_reason in ("length", "repetition"),
            shortened=shortened,
            tokens=reply.usage.generated_tokens,
        )

    def _look(self, parts: Sequence[int]) -> None:
        """Looks at several questions at the same time. Their notes are written in the order of the questions."""
        tokens = max(1, (self._state.bounds.tokens - self._state.tokens) // len(parts))
        first = len(self._state.notes)
        if len(parts) == 1:
            self._write_note(first, parts[0], self._found(first, parts[0], tokens))
            return
        with ThreadPoolExecutor(len(parts), thread_name_prefix="mlx-oss research") as threads:
            futures = [
                threads.submit(self._found, number, part, tokens) for number, part in enumerate(parts, start=first)
            ]
            try:
                for number, (part, future) in enumerate(zip(parts, futures, strict=True), start=first):
                    self._write_note(number, part, future.result())
            except BaseException:  # such as Ctrl-C: the others must not go on
                self._has_failed = True
                self._end_sessions()
                raise

    def _found(self, number: int, part: int, tokens: int) -> Found:
        browser = self._browser.fork()

        def tell(line: Mapping[str, Any]) -> None:
            self._write(**line, look=number)

        def is_over() -> bool:
            self._check()
            return self._seconds >= self._state.bounds.seconds

        self._write(event="look", look=number, part=part, question=self._state.parts[part])
        with self._session(browser, 1 + number) as session:
            look = Look(session, browser, is_over, tell)
            prompt = prompts.look(self._state, part, self._tokenizer)
            return look.run(prompt, calls=self._state.bounds.calls, tokens=tokens)

    def _write_note(self, number: int, part: int, found: Found) -> None:
        self._write(event="note", look=number, part=part, text=found.text, goes_on=found.goes_on, tokens=found.tokens)

    def _ask(self, prompt: str, most: int | None = None) -> Reply:
        with self._session(self._browser.fork(), 1000 + self._state.gaps) as session:
            reply = session.ask(prompt, tool_choice="none", max_tokens=most)
        self._check()
        return reply

    @contextmanager
    def _session(self, browser: BrowserTool, step: int) -> Iterator[ChatSession]:
        """A fresh session. All of them have the same beginning, so that the engine reads it once."""
        options = self._options
        if options.seed is not None:
            options = replace(options, seed=(options.seed + step) % 2**64)
        session = ChatSession(
            self._model,
            self._tokenizer,
            instructions=prompts.INSTRUCTIONS,
            tools=[browser],
            reasoning_effort=self._effort or self._state.effort,  # type: ignore[arg-type]  # it is checked there
            options=options,
            current_date=self._state.date,
            context_limit=self._state.bounds.context,
        )
        with self._lock:
            self._sessions.add(session)
        try:
            self._check()
            yield session
        finally:
            with self._lock:
                self._sessions.discard(session)
        self._check()

    def _check(self) -> None:
        if self._is_cancelled or self._has_failed:
            raise ResearchError(
                f"the research was stopped: what was found is in {self._folder}, and it goes on from there if it is "
                "run again"
            )

    def _write(self, **line: Any) -> None:
        """Adds a line to the trace, and takes it into account."""
        assert self._trace is not None
        line["seconds"] = round(self._seconds, 1)
        with self._lock:
            self._trace.write(line)
            self._state.apply(line)
        if self._progress is not None:
            self._progress(line)

    def _write_notes(self) -> None:
        state = self._state
        notes = [f"## {state.parts[note.part]}\n\n{note.text or 'Nothing.'}" for note in state.notes]
        traces.write_whole(self._folder / "notes.md", "\n\n".join([f"# {state.question}", *notes]) + "\n")
