"""What a session binds the model to: the look of the answer, an amount of reasoning, legal headers and arguments.

Knows tools and formats; nothing of the tokens of a turn, which `turn` follows.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

from mlx_oss.constrain import grammar
from mlx_oss.constrain.answer import AnswerFormat, of_saved
from mlx_oss.constrain.grammar import Grammar
from mlx_oss.constrain.turn import Rules, TurnConstraint
from mlx_oss.errors import OptionError
from mlx_oss.harmony import ParsedMessage, ResponseFormat, ToolDescription, ToolNamespace

_NO_ARGUMENTS = {"type": "object", "additionalProperties": False}


@dataclass(frozen=True)
class Guards:
    """What a session keeps the model from, unless told otherwise.

    legal_headers     headers name known channels and known tools only. Costs nothing, and a model that writes them
                      correctly anyway writes the same
    strict_arguments  calls follow the JSON schemas of their tools, with the extra `constrain`; a schema that cannot be
                      held to is refused. None: where the extra is installed, and as far as a schema can be held to
    stop_repetition   reasoning that goes round in circles (up to 64 tokens, 8 times and 128 tokens long) is closed and
                      the answer opened; a circle of 1,024 tokens anywhere else ends the turn
    """

    legal_headers: bool = True
    strict_arguments: bool | None = None
    stop_repetition: bool = True


class OutputConstraints:
    """Of a session: see the arguments of `ChatSession`. Raises OptionError for what is none."""

    def __init__(
        self, response_format: Any = None, max_reasoning_tokens: int | None = None, guards: Guards | None = None
    ) -> None:
        most = max_reasoning_tokens
        if most is not None and (type(most) is not int or most < 0):
            raise OptionError(f"max_reasoning_tokens is {most!r}, expected a whole number from 0 on or None")
        self._format = None if response_format is None else AnswerFormat.of(response_format)
        self._most, self._guards = most, guards or Guards()
        if self._format is not None and not self._guards.legal_headers:
            raise OptionError("a response_format needs legal headers: an answer under no channel cannot be bound")

    @property
    def shown(self) -> ResponseFormat | None:
        """What the developer block says of the answer's look."""
        return None if self._format is None else self._format.shown

    def turn(
        self,
        tools: Sequence[ToolDescription] = (),
        system_tools: Sequence[ToolNamespace] = (),
        header: Sequence[int] = (),
        reasoned: int = 0,
    ) -> TurnConstraint | None:
        """For a turn, or what is left of one; None where nothing is bound. `header` and `reasoned`: of TurnConstraint.

        Raises OptionError for a tool whose schema cannot be held to, if arguments are to be strict.
        """
        guards, called = self._guards, dict(_callable(tools, system_tools))
        strict = guards.strict_arguments
        bound = grammar.is_installed() if strict is None else strict
        grammars = {name: _arguments(tool, bool(strict)) for name, tool in called.items() if tool is not None and bound}
        rules = Rules(
            recipients=tuple(called) if guards.legal_headers else None,
            arguments={name: found for name, found in grammars.items() if found is not None},
            answer=None if self._format is None else self._format.grammar,
            max_reasoning_tokens=self._most,
            stop_repetition=guards.stop_repetition,
        )
        return TurnConstraint(rules, header, reasoned) if rules.bind else None

    def parsed(self, messages: Iterable[ParsedMessage]) -> Any:
        """The answer as a value, if there is a format and the answer is finished."""
        finals = [parsed for parsed in messages if parsed.message.channel == "final"]
        if self._format is None or not finals or finals[0].ending == "cut":
            return None
        return self._format.read(str(finals[0].message.content))

    @property
    def saved(self) -> dict[str, Any]:
        """For a file, as JSON."""
        return {
            "response_format": self._format and self._format.saved,
            "max_reasoning_tokens": self._most,
            "guards": asdict(self._guards),
        }


def kwargs_from_saved(saved: Mapping[str, Any]) -> dict[str, Any]:
    """The keyword arguments of `OutputConstraints` that were saved."""
    return {
        "response_format": of_saved(saved.get("response_format")),
        "max_reasoning_tokens": saved.get("max_reasoning_tokens"),
        "guards": Guards(**saved.get("guards", {})),
    }


def _callable(
    tools: Sequence[ToolDescription], system_tools: Sequence[ToolNamespace]
) -> Iterator[tuple[str, ToolDescription | None]]:
    """Who can be called, by the name a header has, and what of; None for a namespace that is called itself."""
    for space in (ToolNamespace("functions", None, tuple(tools)), *system_tools):
        yield from ((f"{space.name}.{tool.name}", tool) for tool in space.tools)
        if not space.tools and space.name != "functions":
            yield space.name, None


def _arguments(tool: ToolDescription, strict: bool) -> Grammar | None:
    """The grammar of a tool's arguments; where that is not asked for strictly, one that comes near it, or none."""
    name, schema = f"the schema of tool {tool.name!r}", _NO_ARGUMENTS if tool.parameters is None else tool.parameters
    if strict:
        return Grammar.of_schema(name, schema)
    for roughly in (False, True):
        with suppress(OptionError):
            return Grammar.of_schema(name, schema, roughly=roughly)
    return None
