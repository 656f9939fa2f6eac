"""Writes JSON schemas as TypeScript types, the form in which the model was trained to read them.

Follows openai-harmony 0.0.8 (`json_schema_to_typescript` in src/encoding.rs) character for character, including what
looks accidental there: an array of a union has no brackets; only the first line of a comment of several lines is marked
as a comment; `anyOf`, `$ref`, `const` and an enum without a type become `any`; enums of numbers lose their values. A
session has schemas rewritten first, so that they say more (`schemas`).
Knows nothing of tokens and messages.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from decimal import Decimal
from typing import Any

_INTEGERS = range(-(2**63), 2**64)  # the integers that Rust keeps as integers
_PRIMITIVES = {"string": "string", "number": "number", "integer": "number", "boolean": "boolean"}


def type_of(schema: Any, indent: str = "") -> str:
    """Returns the TypeScript type for `schema`, `any` if unknown. Lines after the first start with `indent`."""
    if not isinstance(schema, Mapping):
        return "any"
    if isinstance(variants := schema.get("oneOf"), list | tuple):
        return "".join(f"\n{indent} | {_variant(variant, indent)}" for variant in variants)
    kind = schema.get("type")
    if isinstance(kind, list | tuple):
        names = ["number" if name == "integer" else name for name in _strings(kind)]
        return " | ".join(names) if names else "any"
    if kind == "object":
        return _object(schema, indent)
    if kind == "array":
        return f"{type_of(schema['items'], indent)}[]" if "items" in schema else "Array<any>"
    if kind == "string" and (values := _strings(schema.get("enum"))):
        return " | ".join(f'"{value}"' for value in values)
    return _PRIMITIVES.get(kind, "any") if isinstance(kind, str) else "any"


def _object(schema: Mapping[str, Any], indent: str) -> str:
    properties = schema.get("properties")
    required = _strings(schema.get("required"))
    lines = [*_comment(schema.get("description"), indent), "{\n"]
    for name, value in properties.items() if isinstance(properties, Mapping) else ():
        key = name if name in required else f"{name}?"
        lines += _property(key, value if isinstance(value, Mapping) else {}, indent)
    return "".join(lines) + indent + "}"


def _property(key: str, schema: Mapping[str, Any], indent: str) -> list[str]:
    lines = []
    if isinstance(title := schema.get("title"), str):
        lines += [f"{indent}// {title}\n", f"{indent}//\n"]
    if "oneOf" not in schema:
        lines += _comment(schema.get("description"), indent)
    if isinstance(examples := schema.get("examples"), list | tuple) and examples:
        lines += [f"{indent}// Examples:\n", *(f'{indent}// - "{example}"\n' for example in _strings(examples))]
    if isinstance(schema.get("oneOf"), list | tuple):
        return lines + _union_property(key, schema, indent)
    default = f" // {_default(schema)}" if "default" in schema and "oneOf" not in schema else ""
    return [*lines, f"{indent}{key}: {_nullable_type(schema, indent + '    ')},{default}\n"]


def _union_property(key: str, schema: Mapping[str, Any], indent: str) -> list[str]:
    variants = schema["oneOf"]
    description = _text(schema.get("description"))
    first = _text(variants[0].get("description")) if variants and isinstance(variants[0], Mapping) else None
    above = description is not None and description != first
    lines = _comment(description, indent) if above else []
    if "default" in schema:
        lines.append(f"{indent}// {_default(schema)}\n")
    lines.append(f"{indent}{key}:\n")
    for number, variant in enumerate(variants):
        facts = variant if isinstance(variant, Mapping) else {}
        own = _text(facts.get("description"))
        is_written_above = own is None or own == description or (number == 0 and above)
        comments = [] if is_written_above else [own]
        if "default" in facts:
            comments.append(_default(facts))
        lines.append(f"{indent} | {_nullable_type(variant, indent + '   ')}{_trailing(comments)}\n")
    return [*lines, f"{indent},\n"]


def _variant(schema: Any, indent: str) -> str:
    facts = schema if isinstance(schema, Mapping) else {}
    comments = [text] if (text := _text(facts.get("description"))) is not None else []
    if "default" in facts:
        # openai-harmony writes the default of an enum with quotes here, but without quotes in a property.
        comments.append(f"default: {compact_json(facts['default'])}" if _is_enum(facts) else _default(facts))
    return _nullable_type(schema, indent + "   ") + _trailing(comments)


def _nullable_type(schema: Any, indent: str) -> str:
    type_ = type_of(schema, indent)
    nullable = isinstance(schema, Mapping) and schema.get("nullable") is True
    return f"{type_} | null" if nullable and "null" not in type_ else type_


def _default(schema: Mapping[str, Any]) -> str:
    value = schema["default"]
    if not isinstance(value, str):
        return f"default: {compact_json(value)}"
    return f"default: {value}" if _is_enum(schema) else f'default: "{value}"'


def _comment(text: Any, indent: str) -> list[str]:
    return [f"{indent}// {text}\n"] if isinstance(text, str) else []


def _trailing(comments: list[Any]) -> str:
    return f" // {' '.join(comments)}" if comments else ""


def _is_enum(schema: Mapping[str, Any]) -> bool:
    return isinstance(values := schema.get("enum"), list | tuple) and len(values) > 0


def _text(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _strings(values: Any) -> list[str]:
    return [value for value in values if isinstance(value, str)] if isinstance(values, list | tuple) else []


def compact_json(value: Any) -> str:
    """Writes `value` as JSON without spaces, with numbers as Rust's serde_json writes them.

    Raises TypeError, ValueError, OverflowError or RecursionError if JSON cannot represent `value`.
    """
    if isinstance(value, float):
        return _rust_float(value)
    if isinstance(value, int) and not _INTEGERS.start <= value < _INTEGERS.stop:
        return _rust_float(float(value))
    if isinstance(value, Mapping):
        return "{" + ",".join(f"{compact_json(str(key))}:{compact_json(item)}" for key, item in value.items()) + "}"
    if isinstance(value, list | tuple):
        return "[" + ",".join(map(compact_json, value)) + "]"
    return json.dumps(value, ensure_ascii=False)


def _rust_float(value: float) -> str:
    if not math.isfinite(value):
        raise ValueError(f"JSON has no {value}")
    digits, _, exponent = repr(value).partition("e")
    if not exponent:
        return digits
    # Rust writes decimals for one power of ten more than Python, and omits "+" and leading zeros in the exponent.
    return format(Decimal(repr(value)), "f") if int(exponent) == -5 else f"{digits}e{int(exponent)}"
