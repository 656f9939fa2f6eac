"""ChatSession: a conversation with the model, turn by turn, that feeds the model only what is new.

Token-faithful: what the model wrote stays in the prompt with the ids it wrote, and the caches are kept between turns.
Once a turn is answered its reasoning leaves the prompt (harmony's rule), so the next turn steps the caches back to
where the answer began and feeds the answer again. Tools that the model calls are run between the rounds of a turn.
Knows nothing of terminals and of how tools run.
"""

from __future__ import annotations

import datetime
import itertools
from collections.abc import AsyncIterator, Generator, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any, Literal, get_args

from mlx_oss import session_file, worker
from mlx_oss.constrain import Bounds, Guards, TurnConstraint, final_header
from mlx_oss.conversation import OPENING, Conversation, Effort, Entry, preamble
from mlx_oss.errand import Errand
from mlx_oss.errors import ContextError, OptionError
from mlx_oss.events import (
    Event,
    Finished,
    Reply,
    Stats,
    ToolCall,
    ToolResult,
    TurnsDropped,
    Usage,
)
from mlx_oss.generate import room_for_answer
from mlx_oss.harmony import (
    Message,
    ToolNamespace,
    render_conversation,
)
from mlx_oss.model import Transformer
from mlx_oss.prompt_cache import PromptCache
from mlx_oss.rounds import Round
from mlx_oss.sampling import SamplingOptions
from mlx_oss.tokenizer import Tokenizer
from mlx_oss.tools.calls import AnyTool, Confirm, Run, Toolset, given_again
from mlx_oss.turn import Floor, collect

ContextPolicy = Literal["refuse", "drop_oldest"]
_LIMITS = ("reasoning_effort", "max_tokens", "context_limit", "context_policy")  # saved as they are

_MARGIN = 64  # tokens around a tool's result, and a few to answer with
_LONGEST_TOKEN = 128  # characters


class ChatSession:
    """A conversation. All methods may be called from any thread, but one turn at a time; MLX itself runs on a thread of
    the library's own (see `worker`).

    instructions      what the developer tells the model (other chats call it the system prompt)
    reasoning_effort  "low", "medium" or "high"; may be set between turns. Also "none", which no model was trained for:
                      the answer is opened at once, so there is neither reasoning nor a tool call
    tools             what the model may call: functions, `Tool`s and the tools of `mlx_oss.tools` are run, and the
                      model goes on with their results; a call of a mere `ToolDescription` ends the turn
    system_tools      built-in tools to announce without running them: `harmony.PYTHON`, `harmony.BROWSER`
    confirm           asked before each call that would be run; what it gives, or, if it is async, what awaiting it
                      gives, decides: True runs it, False or a reason refuses it, and the model is told
    max_rounds        how often in a turn the model may call tools; then it is told to answer
    options           sampling; max_tokens bounds what one turn generates
    current_date      told to the model; pinned for the session, so that midnight does not invalidate the caches
    response_format   what the answer must look like: a JSON schema (dict), a pydantic model class, a regular expression
                      (str or compiled), or `harmony.ResponseFormat`; reasoning stays free. Needs the extra `constrain`.
                      `Reply.parsed` has the answer as a value: what the JSON means, the pydantic object, the text
    max_reasoning_tokens  in a turn; at the limit the reasoning is closed and the answer opened (`ReasoningStopped`)
    guards            what the model is kept from besides: see `Guards`
    context_limit     tokens that prompt and answer may fill; None: what the model was made for
    context_policy    what a full context does: "refuse" raises ContextError; "drop_oldest" forgets the oldest turns, a
                      quarter of the context at once as what stays has to be read again, and tells with `TurnsDropped`
    """

    def __init__(
        self,
        model: Transformer,
        tokenizer: Tokenizer,
        *,
        instructions: str = "",
        reasoning_effort: Effort = "medium",
        tools: Sequence[AnyTool] = (),
        system_tools: Sequence[ToolNamespace] = (),
        confirm: Confirm | None = None,
        max_rounds: int = 32,
        options: SamplingOptions | None = None,
        max_tokens: int | None = None,
        response_format: Any = None,
        max_reasoning_tokens: int | None = None,
        guards: Guards | None = None,
        current_date: str | None = None,
        context_limit: int | None = None,
        context_policy: ContextPolicy = "refuse",
    ) -> None:
        self.model, self.tokenizer = model, tokenizer
        self.instructions, self.reasoning_effort = instructions, reasoning_effort
        self._toolset = Toolset([*tools, *system_tools], confirm)
        self.tools, self.system_tools = self._toolset.functions, self._toolset.namespaces
        self._run: Run | None = None  # of a tool, at this moment
        self.max_rounds = max_rounds
        self.options, self.max_tokens = options or SamplingOptions(), max_tokens
        self._bounds = Bounds(response_format, max_reasoning_tokens, guards)
        self.current_date = current_date or datetime.date.today().isoformat()
        most = model.context
        self.context_limit, self.context_policy = most if context_limit is None else context_limit, context_policy
        self.usage = Usage()  # of the last turn
        self._total = Stats()
        self._conversation, self._cache = Conversation(), PromptCache(model)
        self._results: list[Entry] = []  # of tools, given while the turn that calls them is running
        self._retries = 0  # of the last turn
        self._floor, self._adding, self._answering = Floor(), Lock(), False
        if type(self.context_limit) is not int or not 1 <= self.context_limit <= most:
            raise OptionError(f"context_limit is {context_limit!r}, expected 1 to {most:,} tokens or None")
        if context_policy not in get_args(ContextPolicy):
            raise OptionError(f"context_policy is {context_policy!r}, expected refuse or drop_oldest")
        self._prompt(), self._limits()  # a wrong option is reported here, not at the first question

    @property
    def messages(self) -> list[Message]:
        """The conversation so far, without the system and developer blocks."""
        return self._conversation.messages

    @property
    def turns(self) -> int:
        """How many times the user has spoken."""
        return len(self._conversation.starts)

    @property
    def context_used(self) -> int:
        """Tokens that the next turn begins with."""
        return len(self._prompt())

    @property
    def stats(self) -> Stats:
        """What all turns of this session cost, also those undone, and the memory held."""
        return replace(self._total, cache_bytes=self._cache.kv.nbytes, snapshot_bytes=self._cache.kv.snapshot_bytes)

    def ask(self, text: str) -> Reply:
        """One whole turn: see `send`."""
        return collect(self.send(text))

    def send(self, text: str) -> Iterator[Event]:
        """The user says `text`; yields events as the model answers, `Finished` last.

        Closing the iterator early keeps what was generated. Raises ContextError, with the conversation as before, if
        it does not fit the context.
        """
        return worker.pulled(self._say(text))

    def asend(self, text: str) -> AsyncIterator[Event]:
        """`send` for `async for`. Cancelling the task ends the turn within a token, and keeps what was generated."""
        return worker.PulledAsync(self._say(text))

    def add_tool_result(self, call: ToolCall, result: str) -> None:
        """Answers a tool call, which may be a turn's that is not finished yet; `resume` lets the model go on."""
        if not isinstance(result, str):
            raise OptionError(f"a tool result is text, not {type(result).__name__}: give json.dumps(result)")
        entry = Entry.answering(call, result)
        with self._adding:
            if self._answering:
                self._results.append(entry)
            else:
                self._conversation = self._conversation.plus([entry])

    def resume(self) -> Iterator[Event]:
        """The model goes on from where the conversation stands, e.g. after tool results; events as from `send`."""
        return worker.pulled(self._go_on())

    def aresume(self) -> AsyncIterator[Event]:
        """`resume` for `async for`."""
        return worker.PulledAsync(self._go_on())

    def retry(self) -> Iterator[Event]:
        """The model answers the last question once more, instead of as it did; events as from `send`.

        With a seed, each retry of a turn draws with the next higher one.
        """
        return worker.pulled(self._say(None, -1))

    def aretry(self) -> AsyncIterator[Event]:
        """`retry` for `async for`."""
        return worker.PulledAsync(self._say(None, -1))

    def edit(self, turn: int, text: str) -> Iterator[Event]:
        """The user said `text` in that turn (0 is the first, -1 the last) and nothing since; events as from `send`."""
        return worker.pulled(self._say(text, turn))

    def undo(self) -> str | None:
        """Forgets the last turn and returns what the user said in it; None if there is no turn."""
        with self._floor:
            if not self.turns:
                return None
            self._conversation, said = self._conversation.before(-1)
            return str(said.content)

    def clear(self) -> None:
        """Forgets the conversation; options stay."""
        with self._floor:
            self._conversation = Conversation()

    def cancel(self) -> None:
        """Ends the running turn after the token, or the chunk of prompt, that is being computed: `Finished` follows
        with the reason "cancelled", and what was said is kept. A tool that is running is stopped, or not waited for.
        For any thread or task; nothing happens between turns.
        """
        self._floor.cancel()
        if (run := self._run) is not None:
            run.cancel()

    def fork(self) -> ChatSession:
        """A second session that continues this one independently; both keep what is cached so far."""
        with self._floor:
            forked = copy(self)
            forked._cache, forked._results, forked._run = self._cache.fork(), [], None
            forked._floor, forked._adding = Floor(), Lock()
            return forked

    def save(self, path: str | Path) -> None:
        """Writes conversation, options and caches into one file. Raises SessionError if it cannot be written."""
        with self._floor:
            worker.run(lambda: session_file.write(path, self._saved(), self._cache.kv.tensors()))

    def _saved(self) -> session_file.Saved:
        return session_file.Saved(
            preamble=self._preamble(),
            entries=[(entry.message, entry.ids) for entry in self._conversation.entries],
            cached=self._cache.ids,
            options=self.options,
            limits={**{name: getattr(self, name) for name in _LIMITS}, **self._bounds.saved},
            stats=self._total,
            model=session_file.fingerprint(self.model),
            retries=self._retries,
        )

    @classmethod
    def load(
        cls,
        path: str | Path,
        model: Transformer,
        tokenizer: Tokenizer,
        *,
        text_only: bool = False,
        tools: Sequence[AnyTool] = (),
        confirm: Confirm | None = None,
        max_rounds: int = 32,
    ) -> ChatSession:
        """The session that was saved; it goes on without reading its prompt again.

        text_only  takes the conversation alone, from a damaged file or one of another model; it is read anew
        tools      what is to be run again: a file holds descriptions only, and one of the same name takes its place

        Raises SessionError for a file that is no session, is damaged, or belongs to another model.
        """
        saved = session_file.read(path, damaged=text_only)
        most = model.context  # which another model may have less of
        limit = min(saved.limits.get("context_limit", most), most)
        choices = saved.choices() | {"context_limit": limit, "confirm": confirm, "max_rounds": max_rounds}
        described = [*choices.pop("tools"), *choices.pop("system_tools")]
        session = cls(model, tokenizer, tools=given_again(tools, described), **choices)
        session._total, session._retries = saved.stats, saved.retries
        session._conversation = Conversation(tuple(Entry(*entry) for entry in saved.entries))
        if not text_only:
            caches = worker.run(lambda: session_file.read_caches(path, saved, model))
            session._cache.kv.restore(caches, len(saved.cached))
            session._cache.ids = list(saved.cached)
        return session

    def _say(self, text: str | None, turn: int | None = None) -> Generator[Event | Errand, None, None]:
        """The user says `text`, in place of `turn` and all after it, if one is given; None is what he said then."""
        if text is not None and not isinstance(text, str):
            raise OptionError(f"the user says text, not {type(text).__name__}")
        with self._turns_floor():
            before = self._conversation
            kept, message = (before, None) if turn is None else before.before(turn)
            self._retries = self._retries + 1 if text is None else 0
            if message is None or text is not None:
                message = Message("user", text or "")
            self._conversation = kept.plus([Entry.of(message)])
            try:
                finished = yield from self._turn(snapshot=True)
            except ContextError:
                self._conversation = before
                raise
        yield finished  # the session is free again: who stops listening here may go on with it

    def _go_on(self) -> Generator[Event | Errand, None, None]:
        with self._turns_floor():
            for result in self._conversation.unseen_results:
                yield ToolResult(result.name or "", str(result.content))
            finished = yield from self._turn(snapshot=False)
        yield finished

    @contextmanager
    def _turns_floor(self) -> Iterator[None]:
        """A turn has the floor; tool results that come meanwhile are kept apart, lest they stand before their calls."""
        with self._floor:
            with self._adding:
                self._answering = True
            try:
                yield
            finally:
                with self._adding:
                    self._answering = False
                    self._conversation, self._results = self._conversation.plus(self._results), []

    def _turn(self, *, snapshot: bool) -> Generator[Event | Errand, None, Finished]:
        """Rounds, until one calls no tool that is run here; returns the last event. `snapshot` where the next turn will
        step back to: before the first reasoning of this one.
        """
        self.usage = Usage()
        try:
            for rounds in itertools.count():
                round_ = yield from self._round(snapshot=snapshot and not rounds)
                calls = [call for call in round_.calls if self._toolset.answers(call)]
                if rounds > self.max_rounds or not calls:
                    break
                yield from self._run_tools(calls, refused=rounds == self.max_rounds)
                if calls != round_.calls:
                    break
                if self._floor.cancelled:
                    return Finished("cancelled", self.usage)
                if self.max_tokens is not None and self.usage.generated_tokens >= self.max_tokens:
                    return Finished("length", self.usage)
        finally:
            self._total = self._total.after(self.usage)
        citations, parsed = self._toolset.citations(round_.answer), self._bounds.parsed(round_.messages)
        return Finished(round_.reason, self.usage, citations, parsed)

    def _round(self, *, snapshot: bool) -> Generator[Event | Errand, None, Round]:
        conversation, dropped = self._fitting()
        prompt = self._prompt(conversation)
        room = room_for_answer(self.context_limit, len(prompt))
        self._conversation = conversation
        round_ = Round(self.model, self._cache, prompt, lambda: self._floor.cancelled, self._header(), self._limits())
        try:
            if dropped:
                yield TurnsDropped(dropped)
            most = room if self.max_tokens is None else min(self.max_tokens - self.usage.generated_tokens, room)
            yield from round_.run(self._options(), most, self.tokenizer.stop_ids, snapshot=snapshot)
        finally:
            with self._adding:
                written = [*map(Entry.written, round_.messages), *self._results]
                self._conversation, self._results = conversation.plus(written), []
            self.usage = self.usage.plus(round_.usage)
        return round_

    def _run_tools(self, calls: Sequence[ToolCall], *, refused: bool) -> Generator[Event | Errand, None, None]:
        for call in calls:
            self._run = run = self._toolset.run(call)
            if self._floor.cancelled:
                run.cancel()
            try:
                if refused:
                    run.refuse(f"not run: a turn may call tools {self.max_rounds} times; answer with what you have")
                else:
                    yield run
            finally:
                run.cancel()
                self._run = None
                result = self._as_fits(run.result)
                self._conversation = self._conversation.plus([Entry.answering(call, result.text)])
            yield result

    def _as_fits(self, result: ToolResult) -> ToolResult:
        """A result, or a word that it is too long for the context."""
        room = self.context_limit - len(self._prompt()) - _MARGIN
        if len(result.text) <= room * _LONGEST_TOKEN and len(self.tokenizer.encode(result.text)) <= room:
            return result
        error = f"the result is too long, {len(result.text):,} characters: ask for less of it"
        return ToolResult(result.recipient, f"Error: {error}", error)

    def _options(self) -> SamplingOptions:
        options = replace(self.options, logprobs=False)  # a chat tells none
        return options if options.seed is None else replace(options, seed=(options.seed + self._retries) % 2**64)

    def _fitting(self) -> tuple[Conversation, int]:
        """The conversation and the number of turns to drop from it, where that is the policy and the context full."""
        quarter = self.context_limit // 4
        room = self.context_limit - min(self.max_tokens or quarter, quarter)
        if self.context_policy == "refuse" or self.context_used <= room:
            return self._conversation, 0
        return self._conversation.without_oldest(room - quarter - len(self._prompt(Conversation())))

    def _prompt(self, conversation: Conversation | None = None) -> list[int]:
        said = self._conversation if conversation is None else conversation
        return render_conversation(self._preamble()) + said.ids() + OPENING + self._header()

    def _header(self) -> list[int]:
        """What the opening has after `<|start|>assistant`."""
        return final_header() if self.reasoning_effort == "none" else []

    def _limits(self) -> TurnConstraint | None:
        """What the model may write next."""
        return self._bounds.turn(self.tools, self.system_tools, self._header(), self._conversation.reasoned)

    def _preamble(self) -> list[Message]:
        tools, shown = (self.tools, self.system_tools), self._bounds.shown
        return preamble(self.instructions, self.reasoning_effort, *tools, self.current_date, shown)
