"""Rewrites type hints so that pydantic treats them as tools promise.

A member of an enum is known by its text or name, dataclasses, TypedDicts and NamedTuples are objects without other
fields, and null for a field means that it is left out. pydantic models keep their own rules. This module loads pydantic
and docstring_parser: import it inside the function that needs it. Knows nothing of functions and tools.
"""

from __future__ import annotations

import dataclasses
import enum
import functools
import inspect
import operator
import re
import types
from collections import abc
from collections.abc import Callable, Collection, Mapping
from typing import Annotated, Any, Literal, NotRequired, Required, Union, get_args, get_origin, get_type_hints

import docstring_parser
from pydantic import AfterValidator, Field, GetCoreSchemaHandler, GetJsonSchemaHandler, JsonValue, TypeAdapter
from pydantic.errors import PydanticInvalidForJsonSchema, PydanticSchemaGenerationError
from pydantic_core import CoreSchema, core_schema
from typing_extensions import is_typeddict

_TITLES = "Args|Arguments|Parameters|Attributes|Returns?|Yields?|Raises|Examples?|Notes?"
_SECTION = re.compile(rf":\w[^:\n]*:(?:\s|$)|(?:{_TITLES})(?::|(?P<underline>:?\s*\n-+))\s*(?:\n|$)")


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
        reference = f"{getattr(self.make, '__name__', 'object')}:{id(self.make)}"
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
    if origin is Annotated:
        text = next((note for note in arguments[1:] if isinstance(note, str)), None)
        notes = [note for note in arguments[1:] if not isinstance(note, str)]
        return _annotated(rewritten(arguments[0], within), *notes, Field(description=text))
    if hint is JsonValue or (origin or hint) is type:  # a class cannot be given in JSON
        return Any
    if (inner := _unwrapped(hint)) is not hint:
        return Any if hint in within else rewritten(inner, (*within, hint))
    if origin in (Union, types.UnionType):
        return functools.reduce(operator.or_, [rewritten(choice, within) for choice in arguments])
    if origin is Literal or (isinstance(hint, type) and issubclass(hint, enum.Enum)):
        return _choice(arguments or tuple(hint))
    if hasattr(hint, "__pydantic_validator__"):  # a model or dataclass of pydantic's
        return hint
    kind = origin or hint
    is_class = isinstance(kind, type)
    is_named_tuple = is_class and issubclass(kind, tuple) and hasattr(kind, "_fields")
    if is_typeddict(hint) or is_named_tuple or (is_class and dataclasses.is_dataclass(kind) and origin is None):
        return _annotated(Any, _fields_of(hint, within))
    if kind in (abc.Iterable, abc.Collection):
        kind = list
    if origin and is_class and issubclass(kind, abc.Collection):
        return kind[tuple(item if item is ... else rewritten(item, within) for item in arguments)]
    if origin is None:
        hint = kind
    try:
        TypeAdapter(hint).json_schema()
    except (PydanticSchemaGenerationError, PydanticInvalidForJsonSchema):
        if is_class:
            return Any
        raise TypeError(f"{hint!r} is not a type") from None
    return hint


def _unwrapped(hint: Any) -> Any:
    """The hint inside Annotated, Required, NotRequired, InitVar, NewType or an alias; any other hint as it is."""
    if isinstance(hint, dataclasses.InitVar):
        return hint.type
    if get_origin(hint) in (Annotated, Required, NotRequired):
        return get_args(hint)[0]
    if hasattr(hint, "__supertype__"):
        return hint.__supertype__
    return hint.__value__ if type(hint).__name__ == "TypeAliasType" else hint


def _is_optional(hint: Any) -> bool:
    while (inner := _unwrapped(hint)) is not hint:
        hint = inner
    return get_origin(hint) in (Union, types.UnionType) and type(None) in get_args(hint)


def _annotated(hint: Any, *notes: Any) -> Any:
    return operator.getitem(Annotated, (hint, *notes))


def _choice(choices: tuple[Any, ...]) -> Any:
    """A Literal. A member of an enum of texts is known by its text, of any other enum by its name."""

    def form(choice: Any) -> Any:
        if not isinstance(choice, enum.Enum):
            return choice
        return choice.value if all(isinstance(member.value, str) for member in type(choice)) else choice.name

    members = {form(choice): choice for choice in choices if isinstance(choice, enum.Enum)}
    return _annotated(Literal[tuple(map(form, choices))], AfterValidator(lambda value: members.get(value, value)))


def _fields_of(kind: Any, within: tuple[Any, ...]) -> Fields:
    """The fields of a dataclass, a TypedDict or a NamedTuple."""
    hints = get_type_hints(kind, include_extras=True)
    texts = parse_docstring(kind.__doc__)[1]
    if is_typeddict(kind):  # whose __required_keys__ overlooks Required and NotRequired in annotations that are strings
        required = [n for n, h in hints.items() if n in kind.__required_keys__ or get_origin(h) is Required]
        required = [name for name in required if get_origin(hints[name]) is not NotRequired]
        return Fields(hints, required, texts, hints, kind, within)
    defaults = {name: parameter.default for name, parameter in inspect.signature(kind).parameters.items()}
    required = [name for name, default in defaults.items() if default is inspect.Parameter.empty]
    nullable = {name for name, default in defaults.items() if default is not None}
    return Fields({name: hints.get(name, Any) for name in defaults}, required, texts, nullable, kind, within)


def parse_docstring(docstring: str | None) -> tuple[str, dict[str, str]]:
    """Returns the text outside of sections, and descriptions of arguments or attributes by name.

    Sections may be in Google's, NumPy's or Sphinx's style; NumPy's extend to the end.
    """
    summary: list[str] = []
    sections = [""]  # whose titles the library does not find in the first line
    is_numpy = False
    for block in re.split(r"\n(?=\S)(?!-+\s*(?:\n|$))", inspect.cleandoc(docstring or "")):
        section = _SECTION.match(block)
        is_numpy |= section is not None and section["underline"] is not None
        (sections if section or is_numpy else summary).append(block)
    try:
        parameters = docstring_parser.parse("\n".join(sections)).params
    except docstring_parser.ParseError:
        parameters = []
    texts = {name.strip(" *"): p.description or "" for p in parameters for name in p.arg_name.split(",")}
    above = re.sub(r"\n{3,}", "\n\n", "\n".join(summary)).strip()
    return above, {name: " ".join(text.split()) for name, text in texts.items()}
