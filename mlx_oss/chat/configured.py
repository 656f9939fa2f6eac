"""The options of a session as its attributes: setting one checks it, and a name that does not exist is refused.

Knows nothing of conversations and turns.
"""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from typing import Any, Generic, TypeVar, overload

from mlx_oss.chat.history import Effort
from mlx_oss.chat.settings import Settings, UnknownOption, remedy
from mlx_oss.chat.setup import ContextPolicy
from mlx_oss.constrain import Guards, ToolChoice
from mlx_oss.generation.engine import Engine
from mlx_oss.generation.options import SamplingOptions
from mlx_oss.harmony import ToolDescription, ToolNamespace
from mlx_oss.tokenizer import Tokenizer
from mlx_oss.tools.calls import Confirm
from mlx_oss.tools.toolset import AnyTool

T = TypeVar("T")


class Setting(Generic[T]):
    """An attribute of a session that is one of its settings: setting it checks it."""

    def __set_name__(self, owner: type, name: str) -> None:
        self._name = name

    @overload
    def __get__(self, session: None, owner: type) -> Setting[T]: ...
    @overload
    def __get__(self, session: Configured, owner: type) -> T: ...
    def __get__(self, session: Configured | None, owner: type) -> Setting[T] | T:
        if session is None:
            return self
        value: T = getattr(session._settings, self._name)
        return value

    def __set__(self, session: Configured, value: T) -> None:
        session._settings = session._settings.changed({self._name: value})


class Configured:
    """The part of `ChatSession` that has its options as attributes."""

    _settings: Settings

    instructions = Setting[str]()
    reasoning_effort = Setting[Effort]()
    tool_choice = Setting[ToolChoice]()
    confirm = Setting[Confirm | None]()
    max_rounds = Setting[int]()
    options = Setting[SamplingOptions]()
    max_tokens = Setting[int | None]()
    stop = Setting[str | Sequence[str] | None]()
    logprobs = Setting[bool]()
    response_format = Setting[Any]()
    max_reasoning_tokens = Setting[int | None]()
    guards = Setting[Guards]()
    current_date = Setting[str]()
    context_limit = Setting[int]()
    context_policy = Setting[ContextPolicy]()

    @property
    def model(self) -> Engine:
        """The engine."""
        return self._settings.engine

    @property
    def tokenizer(self) -> Tokenizer:
        """The tokenizer."""
        return self._settings.tokenizer

    @property
    def tools(self) -> Sequence[ToolDescription]:
        """Descriptions of the functions that the model may call. May be set to tools as in `ChatSession`."""
        return self._settings.toolset.functions

    @tools.setter
    def tools(self, tools: Sequence[AnyTool]) -> None:
        self._settings = self._settings.changed({"tools": tools})

    @property
    def system_tools(self) -> Sequence[ToolNamespace]:
        """Descriptions of the built-in tools that the model may call."""
        return self._settings.toolset.namespaces

    @system_tools.setter
    def system_tools(self, tools: Sequence[ToolNamespace]) -> None:
        self._settings = self._settings.changed({"system_tools": tools})

    @property
    def tool_groups(self) -> Sequence[ToolNamespace]:
        """What servers of tools among the tools offer, as the model reads it."""
        return self._settings.toolset.groups

    @property
    def tools_left_out(self) -> Sequence[str]:
        """Names of functions of these servers that the model is not told of, because there are too many."""
        return self._settings.toolset.left_out

    def __setattr__(self, name: str, value: Any) -> None:
        if not name.startswith("_"):
            found = getattr(type(self), name, None)
            if isinstance(found, property) and found.fset is None:
                another = (
                    "ChatSession(model, tokenizer, messages=session.to_messages()) makes a session with another one"
                )
                more = f": {another}" if name in ("model", "tokenizer") else ", it is read only"
                raise UnknownOption(f"session.{name} cannot be set{more}")
            if not isinstance(found, property | Setting):
                raise UnknownOption(f"a session has no option {name!r}: {remedy(name)}")
        object.__setattr__(self, name, value)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("_"):
            raise AttributeError(f"{type(self).__name__!r} object has no attribute {name!r}")
        close = difflib.get_close_matches(name, dir(type(self)), 1)
        hint = f"did you mean {close[0]!r}?" if close else "help(mlx_oss.ChatSession) lists what it has"
        raise UnknownOption(f"a session has no attribute {name!r}: {hint}")
