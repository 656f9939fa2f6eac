"""What a session restricts: the format of the answer, the amount of reasoning, legal headers, tool arguments.

Knows tools and formats; nothing of the tokens of a turn, which `turn` follows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from mlx_oss.constrain import grammar
from mlx_oss.constrain.answer import AnswerFormat, option_from_json
from mlx_oss.constrain.grammar import Grammar, with_null
from mlx_oss.constrain.turn import Rules
from mlx_oss.errors import OptionError, quoted
from mlx_oss.harmony import ParsedMessage, ResponseFormat, ToolDescription, ToolNamespace

# "auto": the model decides. "none": it calls no tool. "required": it calls one before it answers. The name of a tool,
# or OpenAI's {"type": "function", "function": {"name": ...}}: it calls this one before it answers. OpenAI's
# {"type": "allowed_tools", "mode": "auto" or "required", "tools": [{"name": ...}, ...]}: only these may be called.
ToolChoice = str | Mapping[str, Any]

_NO_ARGUMENTS = {"type": "object", "additionalProperties": False}


@dataclass(frozen=True)
class Guards:
    """Restrictions of what the model may write, besides `response_format` and `max_reasoning_tokens`.

    Attributes:
        legal_headers: Message headers may name only known channels and known tools; without tools the channel
            `commentary` is not known. If the model ends its turn outside `final`, without an answer, it may go on with
            another message; when it does so a second time, the answer is opened for it. This costs no time, and a
            model that writes legal headers by itself, and then an answer, writes the same tokens.
        strict_arguments: Whether tool calls must follow the JSON schemas of their tools. True needs the extra
            `constrain`, and refuses a schema that cannot be enforced with an OptionError. None enforces what can be
            enforced if the extra is installed. False leaves arguments free.
        stop_repetition: Reasoning that repeats itself is ended, and the answer is started: when a cycle of up to 64
            tokens occurs at least 8 times in a row, over at least 128 tokens. Anywhere else, such a repetition over
            1,024 tokens ends the turn.

    Raises:
        OptionError: If a value is not True or False.
    """

    legal_headers: bool = True
    strict_arguments: bool | None = None
    stop_repetition: bool = True

    def __post_init__(self) -> None:
        for name, kinds in (("legal_headers", bool), ("strict_arguments", bool | None), ("stop_repetition", bool)):
            if not isinstance(value := getattr(self, name), kinds):
                raise OptionError(f"{name} is {value!r}, expected True or False")


class OutputConstraints:
    """The output restrictions of a session.

    The arguments are those of `ChatSession`. Raises OptionError if one is invalid.
    """

    def __init__(
        self, response_format: Any = None, max_reasoning_tokens: int | None = None, guards: Guards | None = None
    ) -> None:
        limit = max_reasoning_tokens
        if limit is not None and (type(limit) is not int or limit < 0):
            raise OptionError(f"max_reasoning_tokens is {limit!r}, expected an integer of at least 0, or None")
        self._format = None if response_format is None else AnswerFormat.from_option(response_format)
        self._max_reasoning_tokens, self._guards = limit, guards or Guards()
        if self._format is not None and not self._guards.legal_headers:
            raise OptionError(
                "response_format needs Guards(legal_headers=True): an answer without a channel cannot be constrained"
            )

    @property
    def prompt_format(self) -> ResponseFormat | None:
        """What the developer message says about the format of the answer."""
        return None if self._format is None else self._format.prompt_format

    def rules(
        self,
        tools: Sequence[ToolDescription] = (),
        system_tools: Sequence[ToolNamespace] = (),
        choice: ToolChoice = "auto",
    ) -> Rules:
        """The rules of a turn.

        Args:
            tools: Functions that the model may call.
            system_tools: Built-in tools that the model may call.
            choice: Whether the model may, must or must not call one.

        Raises:
            OptionError: If arguments are strict and the schema of a tool cannot be enforced, or there is no such tool
                to choose.
        """
        guards, callables = self._guards, dict(_callables(tools, system_tools))
        may_call, must_call = _may_and_must_call(choice, tuple(callables))
        if choice != "auto" and not guards.legal_headers:
            raise OptionError(f"tool_choice is {choice!r}, which needs Guards(legal_headers=True)")
        strict = guards.strict_arguments
        constrained = grammar.is_installed() if strict is None else strict
        described = {name: tool for name, tool in callables.items() if tool is not None and constrained}
        grammars = {name: _arguments_grammar(tool, bool(strict)) for name, tool in described.items()}
        return Rules(
            recipients=may_call if guards.legal_headers else None,
            arguments={name: grammar_ for name, grammar_ in grammars.items() if grammar_ is not None},
            answer=None if self._format is None else self._format.grammar,
            max_reasoning_tokens=self._max_reasoning_tokens,
            stop_repetition=guards.stop_repetition,
            must_call=must_call,
        )

    def parse_answer(self, messages: Iterable[ParsedMessage]) -> Any:
        """The answer as a value; None if there is no format, or the answer is unfinished or cannot be parsed."""
        finals = [parsed for parsed in messages if parsed.message.channel == "final"]
        if self._format is None or not finals or finals[0].ending == "cut":
            return None
        return self._format.parse(str(finals[0].message.content))

    @property
    def as_json(self) -> dict[str, Any]:
        """The restrictions as JSON for a file; `kwargs_from_saved` reads it."""
        return {
            "response_format": self._format and self._format.as_json,
            "max_reasoning_tokens": self._max_reasoning_tokens,
            "guards": asdict(self._guards),
        }


def kwargs_from_saved(saved: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments of `OutputConstraints` for what `OutputConstraints.as_json` returned."""
    return {
        "response_format": option_from_json(saved.get("response_format")),
        "max_reasoning_tokens": saved.get("max_reasoning_tokens"),
        "guards": Guards(**saved.get("guards", {})),
    }


def _may_and_must_call(choice: ToolChoice, names: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...] | None]:
    """The names in headers that may be called, and those of which one must be; None if none must."""
    if isinstance(choice, Mapping) and choice.get("type") == "allowed_tools":
        inner = choice.get("allowed_tools", choice)
        tools, mode = (inner.get("tools"), inner.get("mode", "auto")) if isinstance(inner, Mapping) else (None, None)
        if not isinstance(tools, list | tuple) or not tools or mode not in ("auto", "required"):
            raise OptionError(
                f"tool_choice is {quoted(choice)}: give allowed_tools the mode auto or required, and a list of tools"
            )
        allowed = tuple(dict.fromkeys(name for tool in tools for name in _named(tool, names)))
        return allowed, allowed if mode == "required" else None
    if choice == "auto":
        return names, None
    if choice == "none":
        return (), None
    if choice == "required" and names:
        return names, names
    return names, _named(choice, names)


def _named(choice: Any, names: tuple[str, ...]) -> tuple[str, ...]:
    """The names of a tool, or of the tools of a namespace. Raises OptionError if there is none."""
    function = choice.get("function", choice) if isinstance(choice, Mapping) else None
    wanted = function.get("name") if isinstance(function, Mapping) else choice
    named = [name for name in names if wanted in (name, name.removeprefix("functions."), name.partition(".")[0])]
    if not named or wanted == "functions":
        known = ", ".join(name.removeprefix("functions.") for name in names)
        raise OptionError(
            f"tool_choice is {quoted(choice)}, "
            + (f"expected auto, none, required, or one of the tools: {known}" if known else "but there are no tools")
            + ("" if known else ": give tools=[...], or tool_choice='auto'")
        )
    return tuple(named)


def _callables(
    tools: Sequence[ToolDescription], system_tools: Sequence[ToolNamespace]
) -> Iterator[tuple[str, ToolDescription | None]]:
    """The name in a header and the description of each function; None for a namespace that is called as a whole."""
    for space in (ToolNamespace("functions", None, tuple(tools)), *system_tools):
        yield from ((f"{space.name}.{tool.name}", tool) for tool in space.tools)
        if not space.tools and space.name != "functions":
            yield space.name, None


def _arguments_grammar(tool: ToolDescription, strict: bool) -> Grammar | None:
    """The grammar of a tool's arguments; unless `strict`, possibly a lenient one, or None if there is none."""
    name = f"the schema of tool {tool.name!r}"
    schema = _NO_ARGUMENTS if tool.parameters is None else with_null(tool.parameters)
    if strict:
        return Grammar.of_schema(name, schema)
    for lenient in (False, True):
        with suppress(OptionError):
            return Grammar.of_schema(name, schema, lenient=lenient, is_required=False)
    return None
