"""Functions of the app as tools: described to the model by their hints and docstring, called with what it wrote.

    @dataclass ... Tool(description, handler)      a handler with a schema of one's own
    tool_from(function)                            schema and description from the function itself

Whatever the model writes as arguments, an answer comes of it: bad JSON and wrong values are told to it in a sentence.
Knows nothing of sessions, threads and event loops.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import functools
import importlib.util
import inspect
import json
import math
from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any, get_type_hints

from mlx_oss.errors import OptionError, ToolError
from mlx_oss.harmony import ToolDescription
from mlx_oss.tools import docstrings
from mlx_oss.tools.schemas import WrongValue, fields_of, object_schema


@dataclass(frozen=True, slots=True)
class Tool:
    """A function the model may call.

    description  its name, what it is for, and the JSON schema of its arguments, as the model is told
    handler      called with the arguments by name; may be an async function; returns any value that JSON can say, or a
                 dataclass or pydantic model. What it raises is told to the model.
    prepare      makes the arguments for the handler from the object that the model wrote; None: as they are, checked
                 with `jsonschema` where that is installed
    """

    description: ToolDescription
    handler: Callable[..., Any]
    prepare: Callable[[dict[str, Any]], dict[str, Any]] | None = None

    @property
    def name(self) -> str:
        return self.description.name

    def arguments(self, text: str) -> dict[str, Any]:
        """The arguments in a call's text, for the handler. Raises ToolError with a sentence for the model."""
        try:
            given = json.loads(text) if text.strip() else {}
        except (ValueError, RecursionError) as error:
            raise ToolError(f"the arguments are no JSON ({error}): write one JSON object") from None
        if not isinstance(given, dict):
            raise ToolError("the arguments must be one JSON object")
        try:
            return self._as_described(given) if self.prepare is None else self.prepare(given)
        except WrongValue as error:
            raise ToolError(f"wrong arguments for {self.name}: {error}") from None

    def _as_described(self, given: dict[str, Any]) -> dict[str, Any]:
        schema = self.description.parameters or {}
        for name in schema.get("required", ()):
            if name not in given:
                raise WrongValue(f"`{name}` is missing")
        if schema and importlib.util.find_spec("jsonschema"):
            from jsonschema import Draft202012Validator
            from jsonschema.exceptions import best_match

            if (error := best_match(Draft202012Validator(dict(schema)).iter_errors(given))) is not None:
                raise WrongValue(f"`{error.json_path.removeprefix('$.')}`: {error.message}")
        try:
            inspect.signature(self.handler).bind(**given)
        except TypeError as error:
            raise WrongValue(str(error)) from None
        return given


def tool_from(function: Callable[..., Any], *, name: str | None = None, description: str | None = None) -> Tool:
    """The function as a tool. Its docstring says what it is for, and of each argument in Google's, NumPy's or Sphinx's
    style, or `Annotated[int, "of the year"]` does; arguments with a default may be left out.

    Raises OptionError for a function that cannot be called with arguments by name.
    """
    inner = _inner(function)
    name = str(name or getattr(inner, "__name__", type(inner).__name__))
    if not name.isidentifier():
        raise OptionError(f"the tool {function!r} has no name to call it by: give one with tool_from(..., name=...)")
    parameters = _parameters(function, name)
    hints = _hints(inner, {parameter.name for parameter in parameters}, name)
    taken = {parameter.name: hints.get(parameter.name, Any) for parameter in parameters}
    required = [parameter.name for parameter in parameters if parameter.default is parameter.empty]
    summary, said = docstrings.parse(_documentation(inner))
    nullable = {parameter.name for parameter in parameters if parameter.default is not None}
    schema = _schema(taken, required, said, nullable, name) if taken else None
    for parameter in parameters:
        if schema and (default := _json(parameter.default)) is not None:
            schema["properties"][parameter.name]["default"] = default
    described = ToolDescription(name, summary if description is None else description, schema)
    return Tool(described, function, lambda given: fields_of(taken, required, given, ""))


def text_of(result: Any) -> str:
    """What the model reads of a handler's result: a text as it is, all else as JSON. Raises ToolError."""
    if isinstance(result, str):
        return result
    try:
        return json.dumps(_said(result), ensure_ascii=False)
    except (TypeError, ValueError, RecursionError) as error:
        raise ToolError(f"the result is nothing that JSON can say ({error})") from None


def _parameters(function: Callable[..., Any], name: str) -> list[inspect.Parameter]:
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        raise OptionError(
            f"the tool {name} has no signature: describe it with Tool(ToolDescription(...), ...)"
        ) from None
    for parameter in parameters:
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
            raise OptionError(f"the tool {name} takes `{parameter}`, which has no name to call it by: give it one")
    given = function.keywords if isinstance(function, functools.partial) else {}
    parameters = [parameter for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD]
    return [parameter for parameter in parameters if parameter.name not in given]


def _inner(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function that a partial or a decorator has been put around."""
    while isinstance(function, functools.partial) or hasattr(function, "__wrapped__"):
        function = function.func if isinstance(function, functools.partial) else inspect.unwrap(function)
    return function


def _documentation(function: Callable[..., Any]) -> str | None:
    """Of an object that can be called, what it says of being called goes first."""
    called = None if inspect.isroutine(function) or inspect.isclass(function) else type(function).__call__
    return (called and called.__doc__) or inspect.getdoc(function)


def _hints(function: Callable[..., Any], names: Set[str], name: str) -> dict[str, Any]:
    """Of the parameters named; what is returned may have a hint that cannot be read."""
    annotated = function if inspect.isroutine(function) or inspect.isclass(function) else type(function).__call__
    annotated = inspect.unwrap(annotated.__init__ if inspect.isclass(annotated) else annotated)
    hints = {name: hint for name, hint in getattr(annotated, "__annotations__", {}).items() if name in names}
    try:
        return get_type_hints(
            SimpleNamespace(__annotations__=hints), getattr(annotated, "__globals__", {}), include_extras=True
        )
    except Exception as error:  # hints in quotes are code
        raise _unreadable(name, error) from None


def _schema(
    hints: dict[str, Any], required: list[str], said: Mapping[str, str], nullable: Set[str], name: str
) -> dict[str, Any]:
    try:
        return object_schema(hints, required, said, nullable)
    except Exception as error:  # of a class among them
        raise _unreadable(name, error) from None


def _unreadable(name: str, error: Exception) -> OptionError:
    return OptionError(f"the tool {name} has hints that cannot be read ({type(error).__name__}: {error})")


def _json(default: Any) -> Any:
    """A default that the model can be told; None if there is none or it cannot."""
    if isinstance(default, enum.Enum) or (isinstance(default, float) and not math.isfinite(default)):
        return None
    return default if isinstance(default, str | int | float | bool) else None


def _said(value: Any) -> Any:
    """A value as JSON can say it; a number that JSON has not is null."""
    if isinstance(value, float) and not isinstance(value, enum.Enum):
        return value if math.isfinite(value) else None
    if value is None or (isinstance(value, str | int) and not isinstance(value, enum.Enum)):
        return value
    if isinstance(value, Mapping):
        return {_key(key): _said(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_said(item) for item in value]
    return _said(_plain(value))


def _key(key: Any) -> Any:
    """Of an object in JSON: a text, or what becomes one there."""
    key = _said(key)
    return key if key is None or isinstance(key, str | int | float) else json.dumps(key, ensure_ascii=False)


def _plain(value: Any) -> Any:
    """What JSON has no form for, in one that it has."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    if hasattr(value, "model_dump"):  # a pydantic model
        return value.model_dump(mode="json")
    if isinstance(value, enum.Enum):
        return value.value
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, Set):
        return sorted(value, key=repr)
    if hasattr(value, "tolist"):  # an array of numbers
        return value.tolist()
    return str(value)
