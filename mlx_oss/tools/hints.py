"""Rewrites type hints so that pydantic treats them as tools promise.

Numbers, texts and booleans do not become each other, but 3.0 is a whole number. A member of an enum is known by its
text or name, dataclasses, TypedDicts and NamedTuples are objects without other fields, and null for a field means that
it is left out. pydantic models keep their own rules. This module loads pydantic and docstring_parser: import it inside
the function that needs it. Knows nothing of functions and tools.
"""

from __future__ import annotations

import contextlib
import dataclasses
import datetime
import enum
import functools
import inspect
import json
import operator
import re
import types
import typing
from collections import abc
from collections.abc import Callable, Collection, Mapping
from decimal import Decimal
from typing import Annotated, Any, Literal, NotRequired, Required, Union, get_args, get_origin, get_type_hints

import docstring_parser
import pydantic
from pydantic import BeforeValidator, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, JsonValue, Strict, TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError
from pydantic_core import CoreSchema, PydanticCustomError, PydanticKnownError, core_schema
from typing_extensions import ReadOnly, is_typeddict

_TITLES = "Args|Arguments|Parameters|Attributes|Returns?|Yields?|Raises|Examples?|Notes?"
_SECTION = re.compile(rf":\w[^:\n]*:(?:\s|$)|(?P<title>{_TITLES})(?::|(?P<underline>:?\s*\n-+))\s*(?:\n|$)")
_PARAMETER = re.compile(r"^(:(?:param|parameter|arg|argument) )[^:\n]* ([^\s:]+:)")  # with a type of several words


@dataclasses.dataclass(frozen=True, eq=False)
class Fields:
    """An object with these fields and no others, as a type hint: `Annotated[Any, Fields(...)]`.

    A field that is not required may be null. If its hint does not allow None, the field is then left out.

    Attributes:
        hints: Type hints by name.
        required: Names of the fields that must be given.
        texts: Descriptions by name.
        nullable: Names of the fields where None is not the default. The schema mentions null only for these and for
            required fields, as elsewhere null says no more than leaving the field out.
        make: Makes the value from the fields that were given.
        within: The `make` of all objects around this one.
    """

    hints: Mapping[str, Any]
    required: Collection[str]
    texts: Mapping[str, str]
    nullable: Collection[str]
    make: Callable[..., Any] = dict
    within: tuple[Any, ...] = ()

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        reference = f"{getattr(self.make, '__name__', 'object')}:{hash(self.make)}"
        if self.make in self.within:
            return core_schema.definition_reference_schema(reference)
        null_is_omission = {n for n, h in self.hints.items() if n not in self.required and not _is_optional(h)}
        fields = {}
        for name, hint in self.hints.items():
            hint = _annotated(rewritten(hint, (*self.within, self.make)), Field(description=self.texts.get(name)))
            if name in null_is_omission or (name not in self.required and name not in self.nullable):
                hint = _annotated(hint, _UnmentionedNull())
            fields[name] = core_schema.typed_dict_field(handler.generate_schema(hint), required=name in self.required)

        def make(values: dict[str, Any]) -> Any:
            omitted = {name for name, value in values.items() if value is None and name in null_is_omission}
            return self.make(**{name: value for name, value in values.items() if name not in omitted})

        schema = core_schema.typed_dict_schema(fields, extra_behavior="forbid")
        return core_schema.no_info_after_validator_function(make, schema, ref=reference)


class _UnmentionedNull:
    """Annotation that allows null, which the schema does not mention."""

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        schema = handler(source)
        return schema if schema["type"] == "nullable" else core_schema.nullable_schema(schema)

    def __get_pydantic_json_schema__(self, schema: CoreSchema, handler: GetJsonSchemaHandler) -> dict[str, Any]:
        described = handler(schema)
        choices = [choice for choice in described.pop("anyOf", ()) if choice != {"type": "null"}]
        return {**(choices[0] if len(choices) == 1 else {"anyOf": choices} if choices else {}), **described}


def rewritten(hint: Any, within: tuple[Any, ...] = ()) -> Any:
    """Returns a hint for pydantic; `within` are the types around it. A class that pydantic does not know becomes Any.

    Raises NameError, TypeError or an error of pydantic if the hint cannot be understood.
    """
    origin, arguments = get_origin(hint), get_args(hint)
    kind = origin or hint
    if origin is Annotated:
        text = next((note for note in arguments[1:] if isinstance(note, str)), None)
        notes = [note for note in arguments[1:] if isinstance(note, abc.Hashable) and not isinstance(note, str)]
        return _annotated(rewritten(arguments[0], within), *notes, Field(description=text))
    if hint is JsonValue or kind in _UNREADABLE or isinstance(hint, typing.ForwardRef | str):
        return Any
    if (inner := _unwrapped(hint)) is not hint:
        return Any if hint in within else rewritten(inner, (*within, hint))
    if origin in (Union, types.UnionType):
        return functools.reduce(operator.or_, [rewritten(choice, within) for choice in arguments])
    if origin is Literal or (isinstance(hint, type) and issubclass(hint, enum.Enum)):
        return _choice(arguments or tuple(hint))
    if hasattr(hint, "__pydantic_validator__"):  # a model or dataclass of pydantic's
        return hint
    is_class = isinstance(kind, type)
    is_named_tuple = is_class and issubclass(kind, tuple) and hasattr(kind, "_fields")
    if is_typeddict(kind) or is_named_tuple or (is_class and dataclasses.is_dataclass(kind)):
        return _annotated(Any, _fields_of(hint, within))
    if is_class and kind in _NOTES:
        return _annotated(kind, *_NOTES[kind])
    if kind in (abc.Iterable, abc.Collection):
        kind = list
    if origin is None or kind is list:
        hint = kind
    try:
        TypeAdapter(kind if arguments else hint).json_schema()
    except (PydanticSchemaGenerationError, PydanticInvalidForJsonSchema):
        if is_class:
            return Any
        raise TypeError(f"{hint!r} is not a type") from None
    if not arguments or not is_class or not issubclass(kind, abc.Collection):
        return hint
    inner_hints = [item if item is ... else rewritten(item, within) for item in arguments]
    if issubclass(kind, abc.Mapping) and arguments[0] is not str:
        inner_hints[0] = _annotated(inner_hints[0], pydantic.WrapValidator(_read_key))
    return kind[tuple(inner_hints)]


def _unwrapped(hint: Any) -> Any:
    """The hint for which another one stands, such as an alias, or which it qualifies; any other hint as it is."""
    origin = get_origin(hint)
    if isinstance(hint, dataclasses.InitVar):
        return hint.type
    if origin in (Annotated, Required, NotRequired, ReadOnly, typing.Final):
        return get_args(hint)[0]
    if hasattr(hint, "__supertype__"):
        return hint.__supertype__
    if isinstance(hint, typing.TypeVar):
        return functools.reduce(operator.or_, hint.__constraints__ or (hint.__bound__ or Any,))
    if hint is typing.LiteralString:
        return str
    if type(origin).__name__ == "TypeAliasType":
        return _specialized(origin.__value__, hint)
    return hint.__value__ if type(hint).__name__ == "TypeAliasType" else hint


def _layers(hint: Any) -> list[Any]:
    """The hint, and all that `_unwrapped` finds in it."""
    layers = [hint]
    while (inner := _unwrapped(layers[-1])) is not layers[-1]:
        layers.append(inner)
    return layers


def _is_optional(hint: Any) -> bool:
    hint = _layers(hint)[-1]
    return get_origin(hint) in (Union, types.UnionType) and type(None) in get_args(hint)


def _specialized(hint: Any, generic: Any) -> Any:
    """A hint inside a generic type such as `Pair[int]`, with int for the type variable."""
    variables = getattr(get_origin(generic), "__parameters__", None) or get_origin(generic).__type_params__
    values = dict(zip(variables, get_args(generic), strict=False))
    if isinstance(hint, typing.TypeVar):
        return values.get(hint, hint)
    inner = () if isinstance(hint, type) else getattr(hint, "__parameters__", ())
    return hint[tuple(values.get(variable, variable) for variable in inner)] if inner else hint


def _annotated(hint: Any, *notes: Any) -> Any:
    return operator.getitem(Annotated, (hint, *notes))


def _choice(choices: tuple[Any, ...]) -> Any:
    """A Literal. A member of an enum of texts is known by its text, of any other enum by its name."""

    def form(choice: Any) -> Any:
        if not isinstance(choice, enum.Enum):
            return choice
        return choice.value if all(isinstance(member.value, str) for member in type(choice)) else choice.name

    forms = tuple(map(form, choices))

    def read(value: Any) -> Any:
        for choice, known in zip(choices, forms, strict=True):
            if known == value and isinstance(known, bool) == isinstance(value, bool):
                return choice
        raise PydanticKnownError("literal_error", {"expected": " or ".join(map(repr, forms))})

    return _annotated(Any, pydantic.PlainValidator(read, json_schema_input_type=Literal[forms]))


def _read_key(text: str, read: Callable[[Any], Any]) -> Any:
    """Reads a key, which JSON has only as a text, as that text or else as the JSON value that is written in it."""
    try:
        return read(text)
    except pydantic.ValidationError as error:
        try:
            return read(json.loads(text))
        except (ValueError, RecursionError):
            raise error from None


def _read_whole(value: Any) -> Any:
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _read_decimal(value: Any) -> Any:
    if isinstance(value, str | bool):
        raise PydanticKnownError("decimal_type")
    return Decimal(repr(value)) if isinstance(value, int | float) else value


def _iso(kind: Any, form: str) -> BeforeValidator:
    def read(value: Any) -> Any:
        try:
            return value if isinstance(value, kind) else kind.fromisoformat(value)
        except (TypeError, ValueError):
            raise PydanticCustomError("iso", f"Input should be a valid {kind.__name__} in the format {form}") from None

    return BeforeValidator(read)  # pydantic would read "20260115" as a number of seconds


_NOTES: dict[Any, tuple[Any, ...]] = {  # by class, as pydantic would convert more
    **dict.fromkeys((str, bool, float, complex, datetime.timedelta), (Strict(),)),
    int: (Strict(), BeforeValidator(_read_whole)),
    Decimal: (BeforeValidator(_read_decimal),),
    datetime.date: (_iso(datetime.date, "YYYY-MM-DD"),),
    datetime.datetime: (_iso(datetime.datetime, "YYYY-MM-DDTHH:MM:SS"),),
    datetime.time: (_iso(datetime.time, "HH:MM:SS"),),
}
_UNREADABLE = (type, abc.Hashable, abc.Generator)  # not given in JSON, or read by pydantic when it is too late


def _fields_of(hint: Any, within: tuple[Any, ...]) -> Fields:
    """The fields of a dataclass, a TypedDict or a NamedTuple, which may be generic."""
    kind = get_origin(hint) or hint
    hints = get_type_hints(kind, include_extras=True)
    texts = parse_docstring(kind.__doc__)[1]
    if kind is not hint:
        hints = {name: _specialized(inner, hint) for name, inner in hints.items()}
    if is_typeddict(kind):  # whose __required_keys__ overlooks Required and NotRequired in annotations that are strings
        layers = {name: [get_origin(layer) for layer in _layers(inner)] for name, inner in hints.items()}
        required = [name for name in hints if name in kind.__required_keys__ or Required in layers[name]]
        required = [name for name in required if NotRequired not in layers[name]]
        return Fields(hints, required, texts, hints, hint, within)
    defaults = {name: parameter.default for name, parameter in inspect.signature(kind).parameters.items()}
    required = [name for name, default in defaults.items() if default is inspect.Parameter.empty]
    nullable = {name for name, default in defaults.items() if default is not None}
    return Fields({name: hints.get(name, Any) for name in defaults}, required, texts, nullable, hint, within)


def parse_docstring(docstring: str | None) -> tuple[str, dict[str, str]]:
    """Returns the text outside of sections, and descriptions of arguments or attributes by name.

    Sections may be in Google's, NumPy's or Sphinx's style; NumPy's extend to the end.
    """
    summary: list[str] = []
    sections: list[str] = []
    is_numpy = False
    for block in re.split(r"\n(?=\S)(?!-+\s*(?:\n|$))", inspect.cleandoc(docstring or "")):
        if section := _SECTION.match(block):
            if section["underline"]:  # which the library knows only in the length of the title
                is_numpy, block = True, block.replace(section["underline"], "\n" + "-" * len(section["title"]), 1)
            sections.append(_PARAMETER.sub(r"\1\2", block))
        elif is_numpy and sections:
            sections[-1] += "\n" + block
        else:
            summary.append(block)
    texts: dict[str, str] = {}
    for section_text in sections:  # one by one, as the library raises an error if it cannot read one of them
        with contextlib.suppress(docstring_parser.ParseError):
            for parameter in docstring_parser.parse("\n" + section_text).params:  # it ignores a title in the first line
                names = [name.strip(" *\\`") for name in parameter.arg_name.split(",")]
                texts |= dict.fromkeys(names, " ".join((parameter.description or "").split()))
    return re.sub(r"\n{3,}", "\n\n", "\n".join(summary)).strip(), texts
