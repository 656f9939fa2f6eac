"""Type hints as JSON schemas, and JSON values as what a hint promises.

Whatever a schema made here allows, `value_of` accepts, and it says in words what is wrong with anything else; only a
type that contains itself is any object to the schema there. A hint that is not known here allows everything. pydantic
models are understood where the program has imported pydantic; it is never imported here. Knows nothing of functions and
tools.
"""

from __future__ import annotations

import dataclasses
import datetime
import decimal
import enum
import functools
import json
import operator
import pathlib
import sys
import types
import uuid
from collections import abc
from collections.abc import Callable, Container, Iterable, Mapping
from typing import Annotated, Any, Literal, NotRequired, Required, Union, get_args, get_origin, get_type_hints
from typing import is_typeddict as _is_typed_dict

from mlx_oss.tools import docstrings

Schema = dict[str, Any]

_PRIMITIVE: dict[Any, tuple[str, tuple[type, ...]]] = {
    str: ("string", (str,)),
    bool: ("boolean", (bool,)),
    int: ("integer", (int,)),
    float: ("number", (int, float)),
    type(None): ("null", (type(None),)),
    None: ("null", (type(None),)),
}
_LISTS = (list, set, frozenset, abc.Sequence, abc.MutableSequence, abc.Iterable, abc.Collection, abc.Set)
_DICTS = (dict, abc.Mapping, abc.MutableMapping)
_IN_WORDS = {"string": "a text", "boolean": "true or false", "integer": "a whole number", "number": "a number"}


class WrongValue(ValueError):
    """A value that its hint does not allow; the message is a sentence for the model."""


def schema_of(hint: Any, within: tuple[Any, ...] = ()) -> Schema:
    """The JSON schema of the values that `hint` stands for; `within`: the types whose field it is."""
    hint, said = _plain(hint)
    schema = _schema(hint, within)
    return schema | {"description": said} if said else schema


def value_of(hint: Any, value: Any, where: str) -> Any:
    """`value`, as JSON gives it, as an object of the hinted type. Raises WrongValue, naming `where` it is."""
    hint, _ = _plain(hint)
    origin, inner = get_origin(hint), get_args(hint)
    if _is_primitive(hint):
        return _primitive(hint, value, where)
    if origin in (Union, types.UnionType):
        return _member(inner, value, where)
    if origin is Literal:
        return _one_of(inner, value, where)
    if _is_class(hint, enum.Enum):
        return _one_of(hint, value, where)
    if _is_model(hint):
        return _model(hint, value, where)
    if _has_fields(hint):
        return _fields_of(hint, value, where)
    if (spelt := _spelt(hint)) is not None:
        return _read(hint, spelt, value, where)
    kind = origin or hint
    if kind in _LISTS or kind is tuple:
        return _list(kind, inner, value, where)
    if kind in _DICTS:
        name, item = inner if len(inner) == 2 else (Any, Any)
        entries = _checked(value, dict, "an object", where).items()
        return {_key(name, key, where): value_of(item, entry, f"{where}.{key}") for key, entry in entries}
    return value


def is_optional(hint: Any) -> bool:
    """Whether None is among what the hint allows."""
    hint, _ = _plain(hint)
    return get_origin(hint) in (Union, types.UnionType) and type(None) in get_args(hint)


def without_none(hint: Any) -> Any:
    """The hint without None; what `Optional` was said of."""
    hint, said = _plain(hint)
    rest = tuple(choice for choice in get_args(hint) if choice is not type(None))
    plain = functools.reduce(operator.or_, rest)  # `Union` wants hashes
    return Annotated[plain, said] if said else plain


def _plain(hint: Any) -> tuple[Any, str]:
    """A hint without what is wrapped around it, and the text that `Annotated` gives it."""
    said = ""
    while True:
        if get_origin(hint) in (Annotated, Required, NotRequired):
            hint, *notes = get_args(hint)
            said = said or next((note for note in notes if isinstance(note, str)), "")
        elif hasattr(hint, "__supertype__"):  # NewType
            hint = hint.__supertype__
        elif type(hint).__name__ == "TypeAliasType":  # `type Name = ...`, from Python 3.12 on
            hint = hint.__value__
        else:
            return hint, said


def _schema(hint: Any, within: tuple[Any, ...]) -> Schema:
    origin, inner = get_origin(hint), get_args(hint)
    if _is_primitive(hint):
        return {"type": _PRIMITIVE[hint][0]}
    if origin in (Union, types.UnionType):
        return _union([schema_of(choice, within) for choice in inner])
    if origin is Literal:
        return _enumeration(map(_form, inner))
    if _is_class(hint, enum.Enum):
        return _enumeration(map(_form, hint))
    if _is_model(hint):
        schema = hint.model_json_schema()
        return _inlined({key: schema[key] for key in schema if key != "$defs"}, schema.get("$defs", {}), ())
    if _has_fields(hint):
        return {"type": "object"} if hint in within else object_schema(*_described_fields(hint), (*within, hint))
    if (spelt := _spelt(hint)) is not None:
        return dict(spelt.schema)
    return _container(origin or hint, inner, within)


def _container(kind: Any, inner: tuple[Any, ...], within: tuple[Any, ...]) -> Schema:
    if kind is tuple and inner and inner[-1] is not Ellipsis:
        items = [schema_of(item, within) for item in inner]
        return {"type": "array", "prefixItems": items, "items": False, "minItems": len(items)}
    if kind in _LISTS or kind is tuple:
        schema: Schema = {"type": "array", "items": schema_of(inner[0], within)} if inner else {"type": "array"}
        return schema | ({"uniqueItems": True} if kind in (set, frozenset, abc.Set) else {})
    if kind in _DICTS:
        values = {"additionalProperties": schema_of(inner[1], within)} if inner else {}
        return {"type": "object"} | values | _keys(inner)
    return {}


def _keys(inner: tuple[Any, ...]) -> Schema:
    """Of an object whose keys may not be any text."""
    schema = schema_of(inner[0]) if inner else {}
    if schema.get("type") == "integer":
        return {"propertyNames": {"pattern": r"^-?(0|[1-9][0-9]*)$"}}
    return {"propertyNames": {"enum": schema["enum"]}} if schema.get("type") == "string" and "enum" in schema else {}


def _key(hint: Any, key: str, where: str) -> Any:
    """A key, which JSON has as a text, as its hint promises."""
    if schema_of(hint).get("type") not in ("integer", "number", "boolean"):
        return value_of(hint, key, f"a key of {where}")
    try:
        return value_of(hint, json.loads(key), f"a key of {where}")
    except (ValueError, RecursionError) as error:
        raise WrongValue(str(error) if isinstance(error, WrongValue) else f"`{key}` is no key of {where}") from None


def object_schema(
    hints: Mapping[str, Any],
    required: Iterable[str],
    said: Mapping[str, str],
    nullable: Container[str] = (),
    within: tuple[Any, ...] = (),
) -> Schema:
    """Of an object with these fields and no others; `said` describes them. To say None of one that is not `nullable` is
    to leave it out.
    """
    properties = {}
    required = list(required)
    for name, hint in hints.items():
        if name not in required and name not in nullable and is_optional(hint):
            hint = without_none(hint)
        schema = schema_of(hint, within)
        properties[name] = schema | {"description": said[name]} if said.get(name) else schema
    schema = {"type": "object", "properties": properties}
    return schema | ({"required": required} if required else {}) | {"additionalProperties": False}


def fields_of(
    hints: Mapping[str, Any], required: Iterable[str], value: Any, where: str, optional_none: bool = True
) -> dict[str, Any]:
    """The fields of an object as the hints promise. Raises WrongValue for a missing, an unknown or a wrong one.

    What may be left out may be null instead.
    """
    given = _checked(value, dict, "an object", where or "what is given")
    prefix = f"{where}." if where else ""
    required = list(required)
    for name in required:
        if name not in given:
            raise WrongValue(f"`{prefix}{name}` is missing")
    for name in given:
        if name not in hints:
            known = ", ".join(f"`{known}`" for known in hints) or "none"
            raise WrongValue(f"`{prefix}{name}` is unknown; there are: {known}")
    left_out = {name for name, field in given.items() if field is None and name not in required}
    left_out = {name for name in left_out if not is_optional(hints[name])}
    return {name: value_of(hints[name], given[name], prefix + name) for name in given if name not in left_out}


def _fields_of(hint: Any, value: Any, where: str) -> Any:
    hints, required, *_ = _described_fields(hint)
    return hint(**fields_of(hints, required, value, where))


def _described_fields(hint: Any) -> tuple[dict[str, Any], list[str], dict[str, str], set[str]]:
    """The fields of a dataclass, a TypedDict or a NamedTuple: their hints, which are required, what the docstring says
    of them, and of which None says something else than leaving it out.
    """
    hints = get_type_hints(hint, include_extras=True)
    said = docstrings.parse(hint.__doc__)[1]
    if _is_typed_dict(hint):
        # __required_keys__ overlooks both where annotations are strings
        kept = [name for name in hints if get_origin(hints[name]) is not NotRequired]
        required = [n for n in kept if n in hint.__required_keys__ or get_origin(hints[n]) is Required]
        return hints, required, said, set(hints)
    if _is_class(hint, tuple):
        defaults = hint._field_defaults
        hints = {name: hints.get(name, Any) for name in hint._fields}
        return hints, [n for n in hints if n not in defaults], said, {n for n in defaults if defaults[n] is not None}
    fields = [field for field in dataclasses.fields(hint) if field.init]
    missing = dataclasses.MISSING
    required = [field.name for field in fields if field.default is missing and field.default_factory is missing]
    nullable = {field.name for field in fields if field.default is not None}
    return {field.name: hints[field.name] for field in fields}, required, said, nullable


def _union(schemas: list[Schema]) -> Schema:
    if all(set(schema) == {"type"} and isinstance(schema["type"], str) for schema in schemas):
        return {"type": [schema["type"] for schema in schemas]}
    return {"oneOf": schemas}


def _enumeration(values: Iterable[Any]) -> Schema:
    values = list(values)
    kinds = {_PRIMITIVE[type(value)][0] for value in values if type(value) in _PRIMITIVE}
    return {"type": kinds.pop(), "enum": values} if len(kinds) == 1 else {"enum": values}


def _inlined(schema: Any, definitions: Mapping[str, Any], within: tuple[str, ...]) -> Any:
    """The schema with its definitions put where they are referred to; one that contains itself ends as any object."""
    if isinstance(schema, list):
        return [_inlined(item, definitions, within) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if (reference := schema.get("$ref")) is not None:
        name = str(reference).rpartition("/")[2]
        target = {"type": "object"} if name in within else _inlined(definitions[name], definitions, (*within, name))
        return target | {key: value for key, value in schema.items() if key != "$ref"}
    return {key: _inlined(value, definitions, within) for key, value in schema.items()}


def _primitive(hint: Any, value: Any, where: str) -> Any:
    name, accepted = _PRIMITIVE[hint]
    if hint is int and isinstance(value, float) and value.is_integer():
        return int(value)
    if not isinstance(value, accepted) or (isinstance(value, bool) and hint is not bool):
        raise WrongValue(f"`{where}` must be {_IN_WORDS.get(name, name)}, not {_shown(value)}")
    return float(value) if hint is float and isinstance(value, int | float) else value


def _member(choices: tuple[Any, ...], value: Any, where: str) -> Any:
    """The value as the first of the choices that takes it; one that takes it as it is goes first."""
    exact = [choice for choice in choices if _is_primitive(choice) and type(value) in _PRIMITIVE[choice][1][:1]]
    wrong: list[str] = []
    for choice in [*exact, *choices]:
        try:
            return value_of(choice, value, where)
        except WrongValue as error:
            wrong.append(str(error))
    raise WrongValue(", or ".join(dict.fromkeys(wrong)))


def _one_of(choices: Iterable[Any], value: Any, where: str) -> Any:
    choices = list(choices)
    for choice in choices:
        form = _form(choice)
        if form == value and isinstance(form, bool) == isinstance(value, bool):
            return choice
    known = ", ".join(_shown(_form(choice)) for choice in choices)
    raise WrongValue(f"`{where}` must be one of {known}, not {_shown(value)}")


def _form(choice: Any) -> Any:
    """How a choice is told and given: a member of an enumeration of texts by its text, of any other by its name."""
    if not isinstance(choice, enum.Enum):
        return choice
    return choice.value if all(isinstance(member.value, str) for member in type(choice)) else choice.name


def _list(kind: Any, inner: tuple[Any, ...], value: Any, where: str) -> Any:
    items = _checked(value, list, "a list", where)
    if kind is tuple and inner and inner[-1] is not Ellipsis:
        if len(items) != len(inner):
            raise WrongValue(f"`{where}` must have {len(inner)} items, not {len(items)}")
        return tuple(value_of(hint, item, f"{where}[{at}]") for at, (hint, item) in enumerate(zip(inner, items)))  # noqa: B905
    hint = inner[0] if inner else Any
    made = [value_of(hint, item, f"{where}[{at}]") for at, item in enumerate(items)]
    make = {tuple: tuple, set: set, abc.Set: set, frozenset: frozenset}.get(kind, list)
    return make(made)


@dataclasses.dataclass(frozen=True)
class _Spelt:
    """A class whose objects JSON spells: how, and how they are made of that."""

    schema: Schema
    words: str
    make: Callable[[Any, Any], Any]


def _of_iso(kind: Any, text: str) -> Any:
    return kind.fromisoformat(text)


_SPELT = {  # the first that a hint is a class of
    datetime.datetime: _Spelt({"type": "string", "format": "date-time"}, "an ISO datetime", _of_iso),
    datetime.date: _Spelt({"type": "string", "format": "date"}, "an ISO date", _of_iso),
    datetime.time: _Spelt({"type": "string", "format": "time"}, "an ISO time", _of_iso),
    uuid.UUID: _Spelt({"type": "string", "format": "uuid"}, "a UUID", lambda kind, text: kind(text)),
    pathlib.PurePath: _Spelt({"type": "string"}, "a path", lambda kind, text: kind(text)),
    decimal.Decimal: _Spelt({"type": "number"}, "a number", lambda kind, number: kind(repr(number))),
}


def _spelt(hint: Any) -> _Spelt | None:
    return next((spelt for base, spelt in _SPELT.items() if _is_class(hint, base)), None)


def _read(hint: Any, spelt: _Spelt, value: Any, where: str) -> Any:
    kinds = str if spelt.schema["type"] == "string" else (int, float)
    try:
        if isinstance(value, kinds) and not isinstance(value, bool):
            return spelt.make(hint, value)
    except (ValueError, ArithmeticError):
        pass
    raise WrongValue(f"`{where}` must be {spelt.words}, not {_shown(value)}")


def _model(hint: Any, value: Any, where: str) -> Any:
    try:
        return hint.model_validate(value)
    except ValueError as error:  # pydantic's ValidationError is one
        details = error.errors() if hasattr(error, "errors") else []
        places = [".".join(map(str, (where, *detail["loc"]))) + ": " + detail["msg"] for detail in details]
        raise WrongValue("; ".join(places) or str(error)) from None


def _checked(value: Any, kind: type, in_words: str, where: str) -> Any:
    if not isinstance(value, kind):
        raise WrongValue(f"`{where}` must be {in_words}, not {_shown(value)}")
    return value


def _is_primitive(hint: Any) -> bool:
    return hint is None or (isinstance(hint, type) and hint in _PRIMITIVE)  # what is no class may have no hash


def _is_class(hint: Any, base: type) -> bool:
    return isinstance(hint, type) and issubclass(hint, base)


def _has_fields(hint: Any) -> bool:
    named = _is_class(hint, tuple) and hasattr(hint, "_fields")
    return named or _is_typed_dict(hint) or (dataclasses.is_dataclass(hint) and isinstance(hint, type))


def _is_model(hint: Any) -> bool:
    pydantic = sys.modules.get("pydantic")
    return pydantic is not None and _is_class(hint, pydantic.BaseModel)


def _shown(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:60] + " ..."
