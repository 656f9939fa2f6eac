"""ChatSession: a conversation with a model, turn by turn, which feeds the model only what is new.

What the model wrote stays in the prompt with exactly the ids it wrote, and the engine keeps its caches between turns.
Once a turn is answered, its reasoning is left out of the prompt (harmony's rule), so the next turn steps the caches
back to the point before that reasoning and feeds the answer again. `tool_loop` defines what happens in a turn. Knows
nothing of terminals, and nothing of MLX.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, Never

from mlx_oss.chat import session_file
from mlx_oss.chat.asking import Asking
from mlx_oss.chat.history import Conversation, Effort
from mlx_oss.chat.live import LiveConversation
from mlx_oss.chat.message_reader import AnyMessage
from mlx_oss.chat.saved import Saved
from mlx_oss.chat.settings import Settings, UnknownOption, remedy
from mlx_oss.chat.setup import ContextPolicy
from mlx_oss.constrain import Guards, ToolChoice
from mlx_oss.costs import Stats, Usage
from mlx_oss.errors import OptionError
from mlx_oss.generation.engine import Engine
from mlx_oss.generation.options import SamplingOptions
from mlx_oss.harmony import ToolNamespace
from mlx_oss.shield import shielded
from mlx_oss.tokenizer import Tokenizer
from mlx_oss.tools.calls import Confirm
from mlx_oss.tools.group import ToolGroup
from mlx_oss.tools.toolset import AnyTool, rebind_tools

_SAVED_OPTIONS = ("reasoning_effort", "max_tokens", "context_limit", "context_policy")  # attributes saved as they are

# Saved only if they have other values than these, so that earlier releases open sessions without them.
_SAVED_IF_SET = {"stop": (), "tool_choice": "auto", "logprobs": False}


class ChatSession(Asking):
    """A conversation with a model, turn by turn.

    In each turn the model reads only what is new, because the engine keeps its caches between turns. Every method may
    be called from any thread or task, but only one turn of a session can run at a time. Several sessions can run turns
    at the same time: the engine can switch between them after each token.

    The methods that run a turn (`send`, `resume`, `retry`, `edit` and the async ones) return iterators of events. Their
    arguments are checked at once. The turn starts when the first event is read, and other errors are raised then or
    later. A turn can also raise DeviceError if MLX fails, and CheckpointError if experts are on disk. Closing
    the iterator, or an exception such as KeyboardInterrupt while an event is awaited, ends the turn; what the model
    wrote until then is kept. ContextError, and DeviceError before a tool has run, take the turn back. After any other
    error it stays in the conversation as far as it went: `retry` asks again, `undo` forgets it.

    The keyword arguments are also attributes. Setting one checks it at once, and the next turn uses it. The methods
    that run a turn take most of them too, for that turn only (`TurnOptions`).

    Args:
        model: The engine that runs the model, as `mlx_oss.load` returns it; in tests, a `ScriptedEngine`.
        tokenizer: The tokenizer, as `mlx_oss.load` returns it.
        instructions: Instructions of the app developer for the model; other chat APIs call this the system prompt.
        messages: What was said before, which the model need not have written: harmony messages, or dictionaries as
            OpenAI's chat API has them, such as those of `to_messages`. Messages of the role "system" or "developer" at
            the beginning become the instructions; later ones stay in their place, as messages of the developer. If the
            last one is the user's, `resume` answers it.
        reasoning_effort: "low", "medium" or "high". "none" starts the answer at once, without reasoning and tool calls;
            no model was trained for that.
        tools: What the model may call. Functions, `Tool` objects and the tools of `mlx_oss.tools` are run by the
            session, and the model continues with their results. A call of a `ToolDescription`, or of a description in
            OpenAI's form (a dict), ends the turn.
        system_tools: Built-in tools that the model may call but the session does not run: `harmony.PYTHON` and
            `harmony.BROWSER`.
        tool_choice: "auto": the model decides. "none": it calls no tool. "required": it calls one before it answers.
            The name of a tool, or OpenAI's `{"type": "function", "function": {"name": ...}}`: it calls that one before
            it answers. After the first call of a turn the model decides. OpenAI's `{"type": "allowed_tools", "mode":
            ..., "tools": [...]}`: it may call only these, or with the mode "required" must call one of them.
        confirm: Called with the `ToolCall` before the session runs it; may be async. If it returns True, the call is
            run. If it returns False, or a str with the reason, the call is refused and its result says so.
        max_rounds: How many times the model may call tools in a turn. The next call is refused, with a result that says
            to answer. If the model calls a tool even then, the turn ends.
        options: How to sample; None means the defaults of `SamplingOptions`.
        max_tokens: Limit of generated tokens in a turn, reasoning included. None means no limit but the context.
        stop: A text, or several, that end the answer where it contains one. The text itself is not part of the answer;
            `Reply.stop` says which it was. The reasoning and tool calls may contain them.
        logprobs: Report the log-probabilities of the answer's tokens (`TokenLogprob`, `Reply.logprobs`), and
            `options.top_logprobs` alternatives of each.
        response_format: What the answer must look like: a JSON schema (dict), a pydantic model class, a regular
            expression (str or compiled), a `harmony.ResponseFormat`, or one of OpenAI's forms, such as
            `{"type": "json_object"}`. Reasoning stays free. `Reply.parsed` has the answer as a value: the decoded JSON,
            the pydantic object, or the text. Needs the extra `constrain`.
        max_reasoning_tokens: Limit of reasoning tokens in a turn. When it is reached, the session ends the reasoning
            and starts the answer (`ReasoningStopped`).
        guards: Additional restrictions of the output; None means the defaults of `Guards`.
        current_date: The date in the system message, as YYYY-MM-DD; None means today. It stays the same for the whole
            session, so that a new day does not invalidate the caches.
        context_limit: Limit of tokens for prompt and answer together. None means the context of the model.
        context_policy: What happens if the conversation does not fit the context. "refuse" raises ContextError.
            "drop_oldest" removes the oldest turns and reports it (`TurnsDropped`). It frees a quarter of the context at
            once, because the model has to read the remaining turns again.
        unknown: There are no other arguments; an OptionError says what was meant.

    Raises:
        OptionError: If an option is invalid, if two tools have the same name, if `response_format` (or, with
            `Guards.strict_arguments`, the schema of a tool) cannot be enforced, or if the extra `constrain` is needed
            but not installed.
        HarmonyError: If the parameters of a tool or a response format are not a JSON schema.
    """

    def __init__(
        self,
        model: Engine,
        tokenizer: Tokenizer,
        *,
        instructions: str = "",
        messages: Iterable[AnyMessage] = (),
        reasoning_effort: Effort = "medium",
        tools: Sequence[AnyTool] = (),
        system_tools: Sequence[ToolNamespace] = (),
        tool_choice: ToolChoice = "auto",
        confirm: Confirm | None = None,
        max_rounds: int = 32,
        options: SamplingOptions | None = None,
        max_tokens: int | None = None,
        stop: str | Sequence[str] | None = None,
        logprobs: bool = False,
        response_format: Any = None,
        max_reasoning_tokens: int | None = None,
        guards: Guards | None = None,
        current_date: str | None = None,
        context_limit: int | None = None,
        context_policy: ContextPolicy = "refuse",
        **unknown: Never,
    ) -> None:
        if unknown:
            raise UnknownOption(f"ChatSession has no argument {next(iter(unknown))!r}: {remedy(next(iter(unknown)))}")
        if not isinstance(model, Engine):
            is_transformer = type(model).__name__ == "Transformer"
            raise OptionError(
                f"model is a {type(model).__name__}, expected an engine: "
                + ("LocalEngine(transformer) makes one" if is_transformer else "model, tokenizer = mlx_oss.load(...)")
            )
        if not isinstance(tokenizer, Tokenizer):
            raise OptionError(
                f"tokenizer is a {type(tokenizer).__name__}, expected the second value that `mlx_oss.load` returns, or "
                "mlx_oss.load_tokenizer()"
            )
        self._settings = Settings(
            engine=model,
            tokenizer=tokenizer,
            instructions=instructions,
            reasoning_effort=reasoning_effort,
            tools=tools,
            system_tools=system_tools,
            tool_choice=tool_choice,
            confirm=confirm,
            max_rounds=max_rounds,
            options=SamplingOptions() if options is None else options,
            max_tokens=max_tokens,
            stop=stop,
            logprobs=logprobs,
            response_format=response_format,
            max_reasoning_tokens=max_reasoning_tokens,
            guards=guards,
            current_date=current_date,
            context_limit=context_limit,
            context_policy=context_policy,
        )
        self._settings.check()
        self._total_stats = Stats()
        self._conversation, self._cache = LiveConversation(), model.make_prompt_cache()
        self._loop = None
        self._take_messages(messages)

    @property
    def usage(self) -> Usage:
        """What the last turn cost. While a turn runs: what its finished rounds cost."""
        return self._loop.usage if self._loop is not None else Usage()

    @property
    def stats(self) -> Stats:
        """What all turns of this session cost, including those undone since, and the memory of the caches."""
        return replace(self._total_stats, cache_bytes=self._cache.nbytes, snapshot_bytes=self._cache.snapshot_bytes)

    @shielded
    def save(self, path: str | Path, *, text_only: bool = False) -> None:
        """Writes the conversation, options and caches to one file; `load` restores them.

        The file is replaced as a whole: if writing fails, an existing file stays as it was. Ctrl-C takes effect when it
        has been written.

        Args:
            path: The file to write.
            text_only: Leave out the caches, which have most of the bytes. `load` then needs `text_only` as well.

        Raises:
            SessionError: If the file cannot be written, or a turn of this session is running.
            DeviceError: If MLX fails.
        """
        with self._conversation.held():
            cache = self._cache.frozen()
            saved = self._to_saved(cache.ids)
            if text_only:
                session_file.write(path, replace(saved, cached=(), model=""), lambda: ())
            else:
                session_file.write(path, saved, cache.tensors)

    def _to_saved(self, cached: Sequence[int]) -> Saved:
        return Saved(
            preamble=self._settings.preamble,
            entries=self._conversation.current.entries,
            cached=cached,
            options=self.options,
            limits={
                **{name: getattr(self, name) for name in _SAVED_OPTIONS},
                **{name: getattr(self, name) for name, usual in _SAVED_IF_SET.items() if getattr(self, name) != usual},
                **self._settings.constraints.as_json,
            },
            stats=self._total_stats,
            model=self.model.fingerprint,
        )

    @classmethod
    def load(
        cls,
        path: str | Path,
        model: Engine,
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
            model: The engine of the model that the session was saved with; with `text_only`, any engine.
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
            DeviceError: If MLX fails.
        """
        saved = session_file.read(path, damaged=text_only)
        longest = model.context  # may be less than that of the model it was saved with
        limit = min(saved.limits.get("context_limit", longest), longest)
        kwargs = saved.session_kwargs() | {"context_limit": limit, "confirm": confirm, "max_rounds": max_rounds}
        described = [*kwargs.pop("tools"), *kwargs.pop("system_tools")]
        running = {tool.namespace.name for tool in tools if isinstance(tool, ToolGroup)}
        groups = [space for space in kwargs.pop("groups") if space.name not in running]
        session = cls(model, tokenizer, tools=rebind_tools(tools, described), **kwargs)
        if groups:
            session._settings = session._settings.changed({"groups": groups})
        session._total_stats = saved.stats
        entries = tuple(entry.known_to(tokenizer) for entry in saved.entries)
        session._conversation = LiveConversation(Conversation(entries))
        if not text_only:
            session_file.restore(path, saved, session._cache, model.fingerprint)
        return session
