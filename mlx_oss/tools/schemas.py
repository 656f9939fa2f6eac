"""JSON schemas for type hints, and JSON values converted to what the hints promise.

This module loads pydantic, which does the work: import it inside the function that needs it. Knows nothing of functions
and tools.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from pydantic import TypeAdapter, ValidationError
from pydantic.json_schema import GenerateJsonSchema
from pydantic_core import core_schema

from mlx_oss.tools.hints import rewritten
from mlx_oss.tools.wrong_values import sentence

Schema = dict[str, Any]

_SAYING_NOTHING = [("items", {}), ("additionalProperties", True)]


class JsonType:
    """What JSON values of a type hint look like, and how they become Python values.

    Attributes:
        schema: The JSON schema, without references: a type that contains itself is any object there. Otherwise it
            allows only what `read` accepts, except where a pydantic model or `__post_init__` checks more.
    """

    def __init__(self, hint: Any) -> None:
        """Raises NameError, TypeError or an error of pydantic if the hint cannot be understood."""
        self._adapter: TypeAdapter[Any] = TypeAdapter(rewritten(hint))
        schema = self._adapter.json_schema(schema_generator=_SchemaGenerator)
        self.schema: Schema = _tidied(schema, schema.pop("$defs", {}), ())

    def read(self, value: Any, where: str = "") -> Any:
        """Converts a JSON value to what the hint promises.

        Args:
            value: Result of `json.loads`. A whole number may be written as 3.0.
            where: Name of the value in error messages; "" if it is an object whose fields are named.

        Raises:
            ValueError: If the hint does not allow the value. The message is a sentence for the model.
        """
        try:
            return self._adapter.validate_json(json.dumps(_with_whole_numbers(value)), strict=True)
        except ValidationError as error:
            raise ValueError(sentence(error, value, where, self.schema.get("properties", ()))) from None
        except RecursionError:
            raise ValueError("the value is nested too deeply") from None


class _SchemaGenerator(GenerateJsonSchema):
    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def dict_schema(self, schema: core_schema.DictSchema) -> Schema:
        is_int = schema.get("keys_schema", {}).get("type") == "int"
        names = {"propertyNames": {"pattern": r"^-?(0|[1-9][0-9]*)$"}} if is_int else {}
        return super().dict_schema(schema) | names

    def decimal_schema(self, schema: core_schema.DecimalSchema) -> Schema:
        number: Schema = super().decimal_schema(schema)["anyOf"][0]  # a text is accepted too
        return number


def _tidied(schema: Any, definitions: Mapping[str, Any], within: tuple[str, ...]) -> Any:
    """The schema without references and titles, and with `oneOf` and `enum`, which harmony can render."""
    if isinstance(schema, list):
        return [_tidied(item, definitions, within) for item in schema]
    if not isinstance(schema, dict):
        return schema
    if (reference := schema.get("$ref")) is not None:
        name = str(reference).rpartition("/")[2]
        target = definitions[name]
        if name in within:
            target = {key: target[key] for key in ("type",) if key in target}
        return _tidied(target, definitions, (*within, name)) | {key: schema[key] for key in schema if key != "$ref"}
    tidy: Schema = {}
    for key, value in schema.items():
        if key in ("properties", "patternProperties"):
            tidy[key] = {name: _tidied(inner, definitions, within) for name, inner in value.items()}
        elif key in ("const", "enum", "default", "examples"):
            tidy |= {"enum": [value]} if key == "const" else {key: value}
        elif key == "anyOf":
            choices = _tidied(value, definitions, within)
            plain = all(set(choice) == {"type"} and isinstance(choice["type"], str) for choice in choices)
            tidy |= {"type": [choice["type"] for choice in choices]} if plain else {"oneOf": choices}
        elif key not in ("title", "discriminator") and (key, value) not in _SAYING_NOTHING:
            tidy[key] = _tidied(value, definitions, within)
    return tidy


def _with_whole_numbers(value: Any) -> Any:
    """The value with 3 for 3.0: to JSON they are the same number, to pydantic only the first is an int."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    if isinstance(value, list):
        return [_with_whole_numbers(item) for item in value]
    return {key: _with_whole_numbers(item) for key, item in value.items()} if isinstance(value, dict) else value
