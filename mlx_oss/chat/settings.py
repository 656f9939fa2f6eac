"""What turns are run with: the options of a session, checked as a whole whenever one of them changes.

A session has its `Settings`, and a call may have others for one turn. Knows nothing of conversations and running turns.
"""

from __future__ import annotations

import datetime
import difflib
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, fields, replace
from functools import cached_property
from typing import Any, TypedDict

from mlx_oss.chat.history import Effort, preamble
from mlx_oss.chat.setup import ContextPolicy, Frame, Limits, TurnSetup
from mlx_oss.constrain import Guards, OutputConstraints, Rules, ToolChoice, final_header
from mlx_oss.errors import OptionError, quoted
from mlx_oss.generation.engine import Engine
from mlx_oss.generation.options import SamplingOptions
from mlx_oss.harmony import DeveloperContent, Message, ToolNamespace, render_conversation, render_message
from mlx_oss.harmony.schemas import with_simplified_schemas
from mlx_oss.tokenizer import Tokenizer
from mlx_oss.tools.calls import Confirm
from mlx_oss.tools.fitting import Room
from mlx_oss.tools.toolset import AnyTool, Toolset

_SHARE_OF_GROUPS = 3  # groups of functions may take one part in so many of the context


class TurnOptions(TypedDict, total=False):
    """Keyword arguments of the methods that run a turn: options of `ChatSession` with other values for this turn.

    With other `tools`, another `response_format` or `reasoning_effort`, the model reads the conversation again.

    Attributes:
        options: How to sample.
        max_tokens: Limit of generated tokens, reasoning included.
        stop: A text, or several, that end the answer.
        tools: What the model may call, instead of the tools of the session. Descriptions out of `session.tools` stand
            for the tools themselves.
        tool_choice: Whether the model may, must or must not call a tool.
        logprobs: Whether to report the log-probabilities of the answer's tokens.
        response_format: What the answer must look like; `{"type": "text"}` is free text.
        reasoning_effort: "low", "medium", "high" or "none".
        max_reasoning_tokens: Limit of reasoning tokens.
        max_rounds: How many times the model may call tools.
        confirm: Called with each `ToolCall` before it is run.
    """

    options: SamplingOptions | None
    max_tokens: int | None
    stop: str | Sequence[str] | None
    tools: Sequence[AnyTool]
    tool_choice: ToolChoice
    logprobs: bool
    response_format: Any
    reasoning_effort: Effort
    max_reasoning_tokens: int | None
    max_rounds: int
    confirm: Confirm | None


class UnknownOption(OptionError, AttributeError):
    """An attribute is read or set that a session does not have, or that cannot be set."""


@dataclass(frozen=True)
class Settings:
    """The options of `ChatSession` with these names, which describes them.

    `groups` is one that only the server has: functions of the app in namespaces of their own.

    Raises:
        OptionError: If an option is invalid, or two of them do not go together.
        HarmonyError: If the parameters of a tool or a response format are not a JSON schema.
    """

    engine: Engine
    tokenizer: Tokenizer
    instructions: str = ""
    reasoning_effort: Effort = "medium"
    tools: Sequence[AnyTool] = ()
    system_tools: Sequence[ToolNamespace] = ()
    groups: Sequence[ToolNamespace] = ()
    tool_choice: ToolChoice = "auto"
    confirm: Confirm | None = None
    max_rounds: int = 32
    options: SamplingOptions = field(default_factory=SamplingOptions)
    max_tokens: int | None = None
    stop: str | Sequence[str] | None = ()
    logprobs: bool = False
    response_format: Any = None
    max_reasoning_tokens: int | None = None
    guards: Guards | None = None
    current_date: str | None = None
    context_limit: int | None = None
    context_policy: ContextPolicy = "refuse"

    def __post_init__(self) -> None:
        _set(self, options=SamplingOptions() if self.options is None else self.options, stop=_strings(self.stop))
        _set(self, tools=_list("tools", self.tools), system_tools=_list("system_tools", self.system_tools))
        date: Any = self.current_date or datetime.date.today()
        date = date.isoformat() if isinstance(date, datetime.date) else date
        _set(self, current_date=date, guards=Guards() if self.guards is None else self.guards)
        if self.context_limit is None:
            _set(self, context_limit=self.engine.context)
        for name, kind, expected in _KINDS:
            if not isinstance(value := getattr(self, name), kind):
                raise OptionError(f"{name} is {quoted(value)}, expected {expected}")

    def changed(self, values: Mapping[str, Any]) -> Settings:
        """These settings with other values, checked."""
        values = {**values, **({"tools": self.toolset.with_handlers(values["tools"])} if "tools" in values else {})}
        settings = replace(self, **values)
        for part, names in _USED_BY.items():  # what does not depend on a change is not made again
            if part in self.__dict__ and names.isdisjoint(values):
                settings.__dict__[part] = self.__dict__[part]
        settings.check()
        return settings

    def for_turn(self, given: Mapping[str, Any]) -> Settings:
        """The settings of one turn. Raises OptionError if a key is not one of `TurnOptions`."""
        known = TurnOptions.__annotations__
        if unknown := [name for name in given if name not in known]:
            raise OptionError(f"a turn has no option {unknown[0]!r}: {remedy(unknown[0], known)}")
        return self.changed(given) if given else self

    def check(self) -> None:
        """Makes everything that a turn needs, so that whatever is invalid is reported."""
        _ = self.limits, self.frame, self.rules

    @cached_property
    def toolset(self) -> Toolset:
        """The tools that the model may call."""
        return Toolset([*self.tools, *self.system_tools], self.confirm, self.groups, self._room)

    @property
    def _room(self) -> Room:
        """How much of the context groups of functions may take."""

        def cost(space: ToolNamespace) -> int:
            message = with_simplified_schemas(Message("developer", DeveloperContent(None, (space,))))
            return len(render_message(message, tokenizer=self.tokenizer))

        return Room((self.context_limit or self.engine.context) // _SHARE_OF_GROUPS, cost, self.instructions)

    @property
    def is_current(self) -> bool:
        """Whether the tools are described as they are now."""
        return self.toolset.is_current

    def renewed(self) -> Settings:
        """These settings, with the tools described as they are now."""
        return self.changed({"tools": self.tools})

    @cached_property
    def constraints(self) -> OutputConstraints:
        """What the model may write."""
        return OutputConstraints(self.response_format, self.max_reasoning_tokens, self.guards)

    @property
    def limits(self) -> Limits:
        """The limits of a turn, checked."""
        limits = Limits(self.context_limit or 0, self.context_policy, self.max_tokens, self.max_rounds)
        limits.check_context(self.engine.context)
        return limits

    @cached_property
    def rules(self) -> Rules:
        """The restrictions of a turn."""
        if self.reasoning_effort == "none" and self.tool_choice not in ("auto", "none"):
            raise OptionError(
                f"tool_choice is {self.tool_choice!r}, but reasoning_effort 'none' starts the answer at once: "
                "choose another effort, or tool_choice='auto'"
            )
        toolset = self.toolset
        return self.constraints.rules(toolset.functions, (*toolset.groups, *toolset.namespaces), self.tool_choice)

    @cached_property
    def frame(self) -> Frame:
        """What stands around the conversation in the prompts."""
        header = final_header() if self.reasoning_effort == "none" else []
        messages = map(with_simplified_schemas, self.preamble)
        return Frame(render_conversation(messages, tokenizer=self.tokenizer), header)

    @property
    def preamble(self) -> list[Message]:
        """The system and developer messages."""
        tools, answer = (self.toolset.functions, self.toolset.namespaces), self.constraints.prompt_format
        return preamble(
            self.instructions, self.reasoning_effort, *tools, self.current_date, answer, self.toolset.groups
        )

    @property
    def setup(self) -> TurnSetup:
        """What a turn is run with."""
        stop = tuple(self.stop or ())
        return TurnSetup(self.frame, self.options, self.limits, self.rules, self.tokenizer, stop, self.logprobs)


# What is made of which settings.
_USED_BY = {
    "toolset": {"tools", "system_tools", "groups", "confirm"},
    "constraints": {"response_format", "max_reasoning_tokens", "guards"},
}
_USED_BY["rules"] = {*_USED_BY["toolset"], *_USED_BY["constraints"], "tool_choice", "reasoning_effort"}
_USED_BY["frame"] = {*_USED_BY["rules"], "instructions", "current_date"}

_KINDS: tuple[tuple[str, Any, str], ...] = (
    ("instructions", str, "a text"),
    ("options", SamplingOptions, "SamplingOptions(...), for example SamplingOptions(temperature=0.7)"),
    ("logprobs", bool, "True or False; how many likely tokens are reported is SamplingOptions(top_logprobs=...)"),
    ("guards", Guards, "Guards(...) or None"),
    ("current_date", str, "a date such as '2025-08-05', or None for today"),
    ("confirm", Callable | None, "a function that is called with a ToolCall, or None"),
)


def _set(settings: Settings, **values: Any) -> None:
    for name, value in values.items():
        object.__setattr__(settings, name, value)


def _list(name: str, values: Any) -> tuple[Any, ...]:
    if isinstance(values, str | bytes | Mapping) or not hasattr(values, "__iter__"):
        raise OptionError(f"{name} is {quoted(values)}, expected a list, for example {name}=[get_weather]")
    return tuple(values)


def _strings(stop: Any) -> tuple[str, ...]:
    strings = (stop,) if isinstance(stop, str) else () if stop is None else stop
    if not isinstance(strings, list | tuple) or not all(isinstance(text, str) and text for text in strings):
        raise OptionError(f"stop is {quoted(stop)}, expected a text or a list of texts, none of them empty")
    return tuple(strings)


# What other libraries call the options and methods of a session.
_ELSEWHERE = {
    "system": "instructions",
    "system_prompt": "instructions",
    "max_new_tokens": "max_tokens",
    "max_completion_tokens": "max_tokens",
    "stop_sequences": "stop",
    "history": "messages",
    "functions": "tools",
    "n_ctx": "context_limit",
}


def remedy(name: str, known: Iterable[str] = ()) -> str:
    """What to do instead of using an option that does not exist; `known` are those of a turn, or all of a session."""
    of_session = [*[each.name for each in fields(Settings)][2:], "messages"]
    known = list(known) or of_session
    if name in {each.name for each in fields(SamplingOptions)}:
        return f"give options=SamplingOptions({name}=...)"
    if name == "stream":
        return "`send` returns the events of an answer while it is written"
    if name == "n":
        return "`ask` and `aask` give several answers, `ask(text, n=3)`"
    if name in of_session and name not in known:
        return "set it on the session"
    close = [_ELSEWHERE.get(name, "")] if _ELSEWHERE.get(name) in known else difflib.get_close_matches(name, known, 1)
    return f"did you mean {close[0]!r}?" if close else f"the options are {', '.join(known)}"
