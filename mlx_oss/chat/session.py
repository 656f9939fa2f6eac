"""ChatSession: a conversation with the model, turn by turn, that feeds the model only what is new.

Token-faithful: what the model wrote stays in the prompt with the ids it wrote, and the caches are kept between turns.
Once a turn is answered its reasoning leaves the prompt (harmony's rule), so the next turn steps the caches back to
where the answer began and feeds the answer again. `turns` has what happens in a turn. Knows nothing of terminals.
"""

from __future__ import annotations

import datetime
from collections.abc import AsyncIterator, Iterator, Sequence
from contextlib import contextmanager
from copy import copy
from dataclasses import replace
from pathlib import Path
from threading import Lock
from typing import Any

from mlx_oss.chat import session_file
from mlx_oss.chat.history import Conversation, Effort, Entry
from mlx_oss.chat.tool_loop import ContextPolicy, ToolLoop
from mlx_oss.chat.turn_lock import TurnLock
from mlx_oss.constrain import Guards, OutputConstraints
from mlx_oss.errors import OptionError
from mlx_oss.events import (
    Event,
    Reply,
    Stats,
    ToolCall,
    Usage,
    collect,
)
from mlx_oss.generation import compute_thread
from mlx_oss.generation.prompt_cache import PromptCache
from mlx_oss.generation.sampling import SamplingOptions
from mlx_oss.harmony import (
    Message,
    ToolNamespace,
)
from mlx_oss.model.transformer import Transformer
from mlx_oss.tokenizer import Tokenizer
from mlx_oss.tools.calls import AnyTool, Confirm, ToolInvocation, Toolset, rebind_tools

_LIMITS = ("reasoning_effort", "max_tokens", "context_limit", "context_policy")  # saved as they are


class ChatSession(ToolLoop):
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
        self._invocation: ToolInvocation | None = None  # of a tool, at this moment
        self.max_rounds = max_rounds
        self.options, self.max_tokens = options or SamplingOptions(), max_tokens
        self._bounds = OutputConstraints(response_format, max_reasoning_tokens, guards)
        self.current_date = current_date or datetime.date.today().isoformat()
        self.context_limit = model.context if context_limit is None else context_limit
        self.context_policy = context_policy
        self.usage = Usage()  # of the last turn
        self._total = Stats()
        self._conversation, self._cache = Conversation(), PromptCache(model)
        self._results: list[Entry] = []  # of tools, given while the turn that calls them is running
        self._turn_lock, self._adding, self._answering = TurnLock(), Lock(), False
        self._check()  # a wrong option is reported here, not at the first question

    @property
    def messages(self) -> list[Message]:
        """The conversation so far, without the system and developer blocks."""
        return self._conversation.messages

    @property
    def turns(self) -> int:
        """How many times the user has spoken."""
        return len(self._conversation.starts)

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
        it does not fit the context; a turn whose tools fill it is kept and ends with "length".
        """
        return compute_thread.pulled(self._say(text))

    def asend(self, text: str) -> AsyncIterator[Event]:
        """`send` for `async for`. Cancelling the task ends the turn within a token, and keeps what was generated."""
        return compute_thread.PulledAsync(self._say(text))

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
        return compute_thread.pulled(self._go_on())

    def aresume(self) -> AsyncIterator[Event]:
        """`resume` for `async for`."""
        return compute_thread.PulledAsync(self._go_on())

    def retry(self) -> Iterator[Event]:
        """The model answers the last question once more, instead of as it did; events as from `send`.

        With a seed, each retry of a turn draws with the next higher one.
        """
        return compute_thread.pulled(self._say_again())

    def aretry(self) -> AsyncIterator[Event]:
        """`retry` for `async for`."""
        return compute_thread.PulledAsync(self._say_again())

    def edit(self, turn: int, text: str) -> Iterator[Event]:
        """The user said `text` in that turn (0 is the first, -1 the last) and nothing since; events as from `send`."""
        return compute_thread.pulled(self._say(text, turn))

    def undo(self) -> str | None:
        """Forgets the last turn and returns what the user said in it; None if there is no turn."""
        with self._between_turns():
            if not self.turns:
                return None
            self._conversation, said = self._conversation.before(-1)
            return str(said.message.content)

    def clear(self) -> None:
        """Forgets the conversation; options stay."""
        with self._between_turns():
            self._conversation = Conversation()

    def cancel(self) -> None:
        """Ends the running turn after the token, or the chunk of prompt, that is being computed: `Finished` follows
        with the reason "cancelled", and what was said is kept. A tool that is running is stopped, or not waited for.
        For any thread or task; nothing happens between turns.
        """
        self._turn_lock.cancel()
        if (run := self._invocation) is not None:
            run.cancel()

    def fork(self) -> ChatSession:
        """A second session that continues this one independently; both keep what is cached so far."""
        with self._between_turns():
            forked = copy(self)
            forked._cache, forked._results, forked._invocation = self._cache.fork(), [], None
            forked._turn_lock, forked._adding = TurnLock(), Lock()
            return forked

    def save(self, path: str | Path) -> None:
        """Writes conversation, options and caches into one file. Raises SessionError if it cannot be written."""
        with self._between_turns():
            compute_thread.run(lambda: session_file.write(path, self._saved(), self._cache.kv.tensors()))

    @contextmanager
    def _between_turns(self) -> Iterator[None]:
        """The floor; a turn whose loop was left has it no longer."""
        if self._turn_lock.is_held:
            compute_thread.finish_left()
        with self._turn_lock:
            yield

    def _saved(self) -> session_file.Saved:
        return session_file.Saved(
            preamble=self._preamble(),
            entries=self._conversation.entries,
            cached=self._cache.ids,
            options=self.options,
            limits={**{name: getattr(self, name) for name in _LIMITS}, **self._bounds.saved},
            stats=self._total,
            model=session_file.fingerprint(self.model),
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
        session = cls(model, tokenizer, tools=rebind_tools(tools, described), **choices)
        session._total = saved.stats
        session._conversation = Conversation(tuple(saved.entries))
        if not text_only:
            caches = compute_thread.run(lambda: session_file.read_caches(path, saved, model))
            session._cache.kv.restore(caches, len(saved.cached))
            session._cache.ids = list(saved.cached)
        return session
