"""Functions of the app as tools: described by their type hints and docstring, called with what the model wrote.

    Tool(description, handler)      a handler with a JSON schema that you write
    tool_from(function)             schema and description are made from the function

Arguments that are not JSON or have wrong values raise ToolError with a sentence for the model. Knows nothing of
sessions, threads and event loops.
"""

from __future__ import annotations

import enum
import functools
import inspect
import sys
import threading
from collections.abc import Callable, Collection
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Annotated, Any, get_type_hints

from mlx_oss import json_text
from mlx_oss.errors import OptionError, ToolError, quoted
from mlx_oss.harmony import ToolDescription
from mlx_oss.tools.schema_check import problem


@dataclass(frozen=True, slots=True)
class Tool:
    """A function that the model may call.

    Attributes:
        description: Its name, what it is for, and the JSON schema of its arguments, as the model sees them.
        handler: Called with the arguments by name. It may be an async function. It returns anything that JSON can
            represent, a dataclass or a pydantic model. The model sees the errors that it raises.
        prepare: Makes the arguments for the handler from the object that the model wrote, or raises ValueError with a
            sentence for the model. None: the arguments stay as they are, checked against the schema if the package
            `jsonschema` is installed. What of the schema cannot be checked is passed over.
        timeout: Seconds after which a call is stopped, and the model reads that it took too long. An async handler is
            cancelled; an ordinary function runs on, but its result is ignored. None means no limit.

    Raises:
        OptionError: If the handler cannot be called, the description is not a `ToolDescription`, or `timeout` is not a
            number above 0.
    """

    description: ToolDescription
    handler: Callable[..., Any]
    prepare: Callable[[dict[str, Any]], dict[str, Any]] | None = None
    timeout: float | None = None

    def __post_init__(self) -> None:
        if not isinstance(self.description, ToolDescription):
            raise OptionError(
                f"the description of a Tool is {quoted(self.description)}, expected ToolDescription(name, text, "
                "schema); tool_from(function) makes both"
            )
        if not callable(self.handler):
            raise OptionError(f"the handler of the tool {self.name!r} is {quoted(self.handler)}, expected a function")
        limit = self.timeout
        if limit is not None and (
            isinstance(limit, bool) or not isinstance(limit, int | float) or not 0 < limit <= threading.TIMEOUT_MAX
        ):
            raise OptionError(
                f"the timeout of the tool {self.name!r} is {limit!r}, expected seconds above 0, or None for no limit"
            )

    @property
    def name(self) -> str:
        """The name by which the model calls it."""
        return self.description.name

    def arguments(self, text: str) -> dict[str, Any]:
        """Parses and checks the arguments of a call.

        Args:
            text: What the model wrote: a JSON object, or nothing for no arguments.

        Returns:
            The arguments for the handler by name.

        Raises:
            ToolError: If they are not JSON or not what the schema asks for. The message is a sentence for the model.
        """
        try:
            arguments = json_text.loads(text) if text.strip() else {}
        except (ValueError, RecursionError) as error:
            raise ToolError(f"the arguments are no JSON ({error}): write one JSON object") from None
        if not isinstance(arguments, dict):
            raise ToolError("the arguments must be one JSON object")
        try:
            return self._checked(arguments) if self.prepare is None else self.prepare(arguments)
        except ValueError as error:
            raise ToolError(f"wrong arguments for {self.name}: {error}") from None
        except Exception as error:  # of the app's own `prepare`
            problem = " ".join(f"{type(error).__name__}: {error}".split())
            raise ToolError(f"the arguments of {self.name} cannot be checked ({problem})") from error

    def _checked(self, arguments: dict[str, Any]) -> dict[str, Any]:
        if wrong := problem(self.description.parameters or {}, arguments):
            raise ValueError(wrong)
        try:
            signature = inspect.signature(self.handler)
        except ValueError:  # a function of C, which may have none
            return arguments
        try:
            signature.bind(**arguments)
        except TypeError as error:
            raise ValueError(str(error)) from None
        return arguments


def tool_from(
    function: Callable[..., Any],
    *,
    name: str | None = None,
    description: str | None = None,
    timeout: float | None = None,
) -> Tool:
    """Makes a tool from a function. Its type hints become the JSON schema, its docstring the descriptions.

    Arguments are described by the docstring (in Google's, NumPy's or Sphinx's style) or by `Annotated[int, "text"]`.
    The model may leave out arguments that have a default.

    Args:
        function: A function, method, `functools.partial` or other object that can be called; it may be async.
        name: Name of the tool. None means the function's name.
        description: What the tool is for. None means the docstring's text outside of its sections.
        timeout: Seconds after which a call is stopped; see `Tool`.

    Returns:
        The tool, for `ChatSession(tools=[...])`.

    Raises:
        OptionError: If it cannot be called, has no usable name, has arguments that cannot be given by name, or has
            hints that cannot be read.
    """
    from mlx_oss.tools.hints import Fields, parse_docstring  # which loads pydantic
    from mlx_oss.tools.schemas import JsonType

    if not callable(function):
        raise OptionError(
            f"{quoted(function)} is not a function: give a function, a method, or an object with __call__"
        )
    inner = _innermost(function)
    name = str(name or getattr(inner, "__name__", type(inner).__name__))
    if not name.isidentifier():
        raise OptionError(f"the tool {function!r} has no name to call it by: give one with tool_from(..., name=...)")
    defaults = {parameter.name: parameter.default for parameter in _parameters(function, name)}
    required = [argument for argument, default in defaults.items() if default is inspect.Parameter.empty]
    nullable = {argument for argument, default in defaults.items() if default is not None}
    summary, texts = parse_docstring(_docstring(inner))
    try:
        hints = _hints(inner, defaults)
        arguments = JsonType(Annotated[Any, Fields(hints, required, texts, nullable)])
    except Exception as error:  # hints may be any objects, and those in quotes any code
        problem = " ".join(f"{type(error).__name__}: {error}".split())
        raise OptionError(f"the tool {name} has hints that cannot be read ({problem})") from None
    for argument, default in defaults.items():
        if _fits_schema(default):
            arguments.schema["properties"][argument]["default"] = default
    schema = arguments.schema if defaults else None
    described = ToolDescription(name, summary if description is None else description, schema)
    return Tool(described, function, arguments.read, timeout)


def _parameters(function: Callable[..., Any], name: str) -> list[inspect.Parameter]:
    """The parameters that the model may give. Raises OptionError if there are some that cannot be given by name."""
    try:
        parameters = list(inspect.signature(function).parameters.values())
    except (TypeError, ValueError):
        raise OptionError(
            f"the tool {name} has no signature: describe it with Tool(ToolDescription(...), ...)"
        ) from None
    for parameter in parameters:
        if parameter.kind in (parameter.POSITIONAL_ONLY, parameter.VAR_POSITIONAL):
            raise OptionError(f"the tool {name} takes `{parameter}`, which has no name to call it by: give it one")
    bound = function.keywords if isinstance(function, functools.partial) else {}
    parameters = [parameter for parameter in parameters if parameter.kind is not parameter.VAR_KEYWORD]
    return [parameter for parameter in parameters if parameter.name not in bound]


def _innermost(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function inside `functools.partial` and decorators."""
    while isinstance(function, functools.partial) or hasattr(function, "__wrapped__"):
        function = function.func if isinstance(function, functools.partial) else inspect.unwrap(function)
    return function


def _docstring(function: Callable[..., Any]) -> str | None:
    """For an object that can be called, the docstring of `__call__` if it has one, else that of its class."""
    called = None if inspect.isroutine(function) or inspect.isclass(function) else type(function).__call__
    return (called and called.__doc__) or inspect.getdoc(function)


def _hints(function: Callable[..., Any], names: Collection[str]) -> dict[str, Any]:
    """Hints of the named parameters, Any for those without. The hint of the result is not read: it may be invalid."""
    annotated = function if inspect.isroutine(function) or inspect.isclass(function) else type(function).__call__
    annotated = inspect.unwrap(annotated.__init__ if inspect.isclass(annotated) else annotated)
    hints = {name: hint for name, hint in getattr(annotated, "__annotations__", {}).items() if name in names}
    namespace = getattr(annotated, "__globals__", {})
    hints = get_type_hints(SimpleNamespace(__annotations__=hints), namespace, include_extras=True)
    return {name: hints.get(name, Any) for name in names}


def _fits_schema(default: Any) -> bool:
    """Whether the schema can state a default. None is not stated: it means that the argument is left out."""
    if isinstance(default, enum.Enum) or not isinstance(default, str | int | float):
        return False
    return isinstance(default, str) or abs(default) <= sys.float_info.max  # which NaN is not
