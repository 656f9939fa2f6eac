"""ChatSession: a conversation with a model, turn by turn, which feeds the model only what is new.

What the model wrote stays in the prompt with exactly the ids it wrote, and the KV caches are kept between turns. Once
a turn is answered, its reasoning is left out of the prompt (harmony's rule), so the next turn steps the caches back to
the point before that reasoning and feeds the answer again. `tool_loop` defines what happens in a turn. Knows nothing of
terminals.
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

_SAVED_OPTIONS = ("reasoning_effort", "max_tokens", "context_limit", "context_policy")  # attributes saved as they are


class ChatSession(ToolLoop):
    """A conversation with a model, turn by turn.

    In each turn the model reads only what is new, because the KV caches are kept between turns. Every method may be
    called from any thread or task, but only one turn of a session can run at a time. Several sessions can run turns at
    the same time: all MLX work runs on one shared thread, which can switch between them after each event.

    The methods that run a turn (`send`, `resume`, `retry`, `edit` and the async ones) return iterators of events. The
    turn starts when the first event is read; errors are raised then or later, not by the method itself. If experts are
    on disk, a turn can also raise CheckpointError. Closing the iterator, or an exception such as KeyboardInterrupt
    while an event is awaited, ends the turn; what the model wrote until then is kept.

    The arguments `instructions`, `reasoning_effort`, `max_rounds`, `options`, `max_tokens`, `context_limit` and
    `context_policy` are also attributes. They may be set between turns; the next turn checks and uses the new values.

    Args:
        model: The model, as `mlx_oss.load` returns it.
        tokenizer: The tokenizer, as `mlx_oss.load` returns it.
        instructions: Instructions of the app developer for the model; other chat APIs call this the system prompt.
        reasoning_effort: "low", "medium" or "high". "none" starts the answer at once, without reasoning and tool calls;
            no model was trained for that.
        tools: What the model may call. Functions, `Tool` objects and the tools of `mlx_oss.tools` are run by the
            session, and the model continues with their results. A call of a `ToolDescription` ends the turn.
        system_tools: Built-in tools that the model may call but the session does not run: `harmony.PYTHON` and
            `harmony.BROWSER`.
        confirm: Called with the `ToolCall` before the session runs it; may be async. If it returns True, the call is
            run. If it returns False, or a str with the reason, the call is refused and its result says so.
        max_rounds: How many times the model may call tools in a turn. The next call is refused, with a result that says
            to answer. If the model calls a tool even then, the turn ends.
        options: How to sample; None means the defaults of `SamplingOptions`.
        max_tokens: Limit of generated tokens in a turn, reasoning included. None means no limit but the context.
        response_format: What the answer must look like: a JSON schema (dict), a pydantic model class, a regular
            expression (str or compiled), or a `harmony.ResponseFormat`. Reasoning stays free. `Reply.parsed` has the
            answer as a value: the decoded JSON, the pydantic object, or the text. Needs the extra `constrain`.
        max_reasoning_tokens: Limit of reasoning tokens in a turn. When it is reached, the session ends the reasoning
            and starts the answer (`ReasoningStopped`).
        guards: Additional restrictions of the output; None means the defaults of `Guards`.
        current_date: The date in the system message, as YYYY-MM-DD; None means today. It stays the same for the whole
            session, so that a new day does not invalidate the caches.
        context_limit: Limit of tokens for prompt and answer together. None means the context of the model.
        context_policy: What happens if the conversation does not fit the context. "refuse" raises ContextError.
            "drop_oldest" removes the oldest turns and reports it (`TurnsDropped`). It frees a quarter of the context at
            once, because the model has to read the remaining turns again.

    Attributes:
        tools: Descriptions of the functions that the model may call.
        system_tools: Descriptions of the built-in tools that the model may call.
        usage: What the last turn cost. While a turn runs: what its finished rounds cost.

    Raises:
        OptionError: If an option is invalid, if two tools have the same name, if `response_format` (or, with
            `Guards.strict_arguments`, the schema of a tool) cannot be enforced, or if the extra `constrain` is needed
            but not installed.
        HarmonyError: If the parameters of a tool or a response format are not a JSON schema.
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
        self._invocation: ToolInvocation | None = None
        self.max_rounds = max_rounds
        self.options, self.max_tokens = options or SamplingOptions(), max_tokens
        self._output_constraints = OutputConstraints(response_format, max_reasoning_tokens, guards)
        self.current_date = current_date or datetime.date.today().isoformat()
        self.context_limit = model.context if context_limit is None else context_limit
        self.context_policy = context_policy
        self.usage = Usage()
        self._total_stats = Stats()
        self._conversation, self._cache = Conversation(), PromptCache(model)
        self._late_results: list[Entry] = []
        self._turn_lock, self._results_lock, self._turn_is_running = TurnLock(), Lock(), False
        self._check_options()  # reports an invalid option here, not in the first turn

    @property
    def messages(self) -> list[Message]:
        """The conversation so far, without the system and developer messages."""
        return self._conversation.messages

    @property
    def turns(self) -> int:
        """Number of turns in the conversation; each starts with a message of the user."""
        return len(self._conversation.turn_starts)

    @property
    def stats(self) -> Stats:
        """What all turns of this session cost, including those undone since, and the memory of the caches."""
        return replace(
            self._total_stats, cache_bytes=self._cache.kv.nbytes, snapshot_bytes=self._cache.kv.snapshot_bytes
        )

    def ask(self, text: str) -> Reply:
        """Runs a turn to its end: like `send`, but returns the whole turn.

        Args:
            text: Message of the user.

        Returns:
            The answer, the reasoning, the tool calls and the costs of the turn.

        Raises:
            SessionError: If a turn of this session is running.
            ContextError: If the conversation does not fit the context; it stays as it was before the turn.
            OptionError: If `text` is not a str, an option set since the last turn is invalid, or a grammar is too
                complex to follow.
        """
        return collect(self.send(text))

    def send(self, text: str) -> Iterator[Event]:
        """Runs a turn: sends a message of the user and yields events while the model answers.

        Closing the iterator early ends the turn and keeps what was generated. If the results of tools fill the context,
        the turn is kept and ends with the reason "length".

        Args:
            text: Message of the user.

        Yields:
            Events in the order in which they happen; `Finished` is the last one.

        Raises:
            SessionError: If a turn of this session is running.
            ContextError: If the conversation does not fit the context; it stays as it was before the turn.
            OptionError: If `text` is not a str, an option set since the last turn is invalid, or a grammar is too
                complex to follow.
        """
        return compute_thread.iterate(self._user_turn(text))

    def asend(self, text: str) -> AsyncIterator[Event]:
        """Like `send`, for `async for`; same events and errors.

        Cancelling the task ends the turn within a token; what was generated is kept.
        """
        return compute_thread.AsyncIterate(self._user_turn(text))

    def add_tool_result(self, call: ToolCall, result: str) -> None:
        """Adds the result of a tool call to the conversation. `resume` then lets the model continue.

        May be called while the turn that contains the call is still running.

        Args:
            call: The call, as the turn yielded it.
            result: What the model reads.

        Raises:
            OptionError: If `result` is not a str.
        """
        if not isinstance(result, str):
            raise OptionError(f"a tool result must be a str, not {type(result).__name__}: pass json.dumps(result)")
        entry = Entry.from_tool_result(call, result)
        with self._results_lock:
            if self._turn_is_running:
                self._late_results.append(entry)
            else:
                self._conversation = self._conversation.with_entries([entry])

    def resume(self) -> Iterator[Event]:
        """Runs a turn without a message of the user: the model continues, for example after `add_tool_result`.

        Yields:
            A `ToolResult` for each result that the model has not read yet, then events as in `send`.

        Raises:
            SessionError: If a turn of this session is running.
            ContextError: If the conversation does not fit the context; it stays as it was.
            OptionError: If an option set since the last turn is invalid, or a grammar is too complex to follow.
        """
        return compute_thread.iterate(self._resumed_turn())

    def aresume(self) -> AsyncIterator[Event]:
        """Like `resume`, for `async for`; same events and errors."""
        return compute_thread.AsyncIterate(self._resumed_turn())

    def retry(self) -> Iterator[Event]:
        """Runs the last turn again, with the same message of the user; the new answer replaces the old one.

        If `options.seed` is set, each retry of a turn uses the next higher seed.

        Yields:
            Events as in `send`.

        Raises:
            SessionError: If a turn of this session is running.
            ContextError: If the conversation does not fit the context; it stays as it was.
            OptionError: If there is no turn, an option set since the last turn is invalid, or a grammar is too complex
                to follow.
        """
        return compute_thread.iterate(self._retry_turn())

    def aretry(self) -> AsyncIterator[Event]:
        """Like `retry`, for `async for`; same events and errors."""
        return compute_thread.AsyncIterate(self._retry_turn())

    def edit(self, turn: int, text: str) -> Iterator[Event]:
        """Replaces the user's message in a turn, forgets all later turns, and runs the turn again.

        Args:
            turn: Index of the turn: 0 is the first, -1 the last.
            text: The new message of the user.

        Yields:
            Events as in `send`.

        Raises:
            SessionError: If a turn of this session is running.
            ContextError: If the conversation does not fit the context; it stays as it was.
            OptionError: If there is no such turn, `text` is not a str, an option set since the last turn is invalid, or
                a grammar is too complex to follow.
        """
        return compute_thread.iterate(self._user_turn(text, turn))

    def undo(self) -> str | None:
        """Forgets the last turn.

        Returns:
            The user's message in that turn; None if there was no turn.

        Raises:
            SessionError: If a turn of this session is running.
        """
        with self._between_turns():
            if not self.turns:
                return None
            self._conversation, question = self._conversation.split_before(-1)
            return str(question.message.content)

    def clear(self) -> None:
        """Forgets the conversation; options stay. Raises SessionError if a turn of this session is running."""
        with self._between_turns():
            self._conversation = Conversation()

    def cancel(self) -> None:
        """Ends the running turn after the token, or the chunk of the prompt, that is being computed.

        The turn then yields `Finished` with the reason "cancelled"; what the model wrote until then is kept. A tool
        that is running is stopped; if it cannot be stopped, the turn no longer waits for it. May be called from any
        thread or task; does nothing if no turn is running.
        """
        self._turn_lock.cancel()
        if (run := self._invocation) is not None:
            run.cancel()

    def fork(self) -> ChatSession:
        """Returns a second session with the same conversation, tools and options, which continues independently.

        Both keep what is cached so far; they share its memory until one of them continues.

        Raises:
            SessionError: If a turn of this session is running.
        """
        with self._between_turns():
            forked = copy(self)
            forked._cache, forked._late_results, forked._invocation = self._cache.fork(), [], None
            forked._turn_lock, forked._results_lock = TurnLock(), Lock()
            return forked

    def save(self, path: str | Path) -> None:
        """Writes the conversation, options and caches to one file; `load` restores them.

        The file is replaced as a whole: if writing fails, an existing file stays as it was.

        Args:
            path: The file to write.

        Raises:
            SessionError: If the file cannot be written, or a turn of this session is running.
        """
        with self._between_turns():
            compute_thread.run(lambda: session_file.write(path, self._to_saved(), self._cache.kv.tensors()))

    @contextmanager
    def _between_turns(self) -> Iterator[None]:
        """Holds the turn lock. If it is held, waits for turns whose `async for` loop was left early."""
        if self._turn_lock.is_held:
            compute_thread.wait_for_abandoned()
        with self._turn_lock:
            yield

    def _to_saved(self) -> session_file.Saved:
        return session_file.Saved(
            preamble=self._preamble(),
            entries=self._conversation.entries,
            cached=self._cache.ids,
            options=self.options,
            limits={**{name: getattr(self, name) for name in _SAVED_OPTIONS}, **self._output_constraints.as_json},
            stats=self._total_stats,
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
        """Restores a session that `save` wrote; the model does not have to read its prompt again.

        Args:
            path: The file.
            model: The model that the session was saved with; with `text_only`, any model.
            tokenizer: The tokenizer, as `mlx_oss.load` returns it.
            text_only: Restore only the text of the conversation, without the caches; the model reads it again in the
                next turn. This accepts a file of another model, and recovers what is readable of a damaged file.
            tools: Tools for the session to run. A file contains only descriptions: a tool replaces the description of
                the same name, and other tools are added.
            confirm: As in `ChatSession`; not part of the file.
            max_rounds: As in `ChatSession`; not part of the file.

        Returns:
            The restored session.

        Raises:
            SessionError: If the file cannot be read, is not a saved session, is damaged, or was saved with another
                model.
            OptionError: If `tools` or `max_rounds` are invalid, or the extra `constrain` is needed but not installed.
        """
        saved = session_file.read(path, damaged=text_only)
        longest = model.context  # may be less than that of the model it was saved with
        limit = min(saved.limits.get("context_limit", longest), longest)
        kwargs = saved.session_kwargs() | {"context_limit": limit, "confirm": confirm, "max_rounds": max_rounds}
        described = [*kwargs.pop("tools"), *kwargs.pop("system_tools")]
        session = cls(model, tokenizer, tools=rebind_tools(tools, described), **kwargs)
        session._total_stats = saved.stats
        session._conversation = Conversation(tuple(saved.entries))
        if not text_only:
            caches = compute_thread.run(lambda: session_file.read_caches(path, saved, model))
            session._cache.kv.restore(caches, len(saved.cached))
            session._cache.ids = list(saved.cached)
        return session
