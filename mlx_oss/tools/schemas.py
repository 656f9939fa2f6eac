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

from mlx_oss.harmony.typescript import compact_json
from mlx_oss.tools.hints import rewritten
from mlx_oss.tools.wrong_values import sentence

Schema = dict[str, Any]

_SAYING_NOTHING = [("items", {}), ("additionalProperties", True)]
_LIMITS = {  # as pydantic calls them where it checks them by a function
    "gt": "exclusiveMinimum",
    "ge": "minimum",
    "lt": "exclusiveMaximum",
    "le": "maximum",
    "multiple_of": "multipleOf",
}
_KEYS = {  # of objects, by the type of what is written in the key
    "integer": {"pattern": r"^-?(0|[1-9][0-9]*)$"},
    "boolean": {"enum": ["true", "false"]},
}


class JsonType:
    """What JSON values of a type hint look like, and how they become Python values.

    Attributes:
        schema: The JSON schema, without references: a type that contains itself is any object there. Otherwise it
            allows only what `read` accepts, except where a pydantic model or `__post_init__` checks more.
            `read` accepts more than it allows where pydantic models convert, such as "3" to an int.
    """

    def __init__(self, hint: Any) -> None:
        """Raises NameError, TypeError or an error of pydantic if the hint cannot be understood."""
        self._adapter: TypeAdapter[Any] = TypeAdapter(rewritten(hint))
        schema = self._adapter.json_schema(schema_generator=_SchemaGenerator)
        self.schema: Schema = _tidied(schema, schema.pop("$defs", {}), ())

    def read(self, value: Any, where: str = "") -> Any:
        """Converts a JSON value to what the hint promises.

        Args:
            value: Result of `json.loads`. Lone surrogates in it become question marks.
            where: Name of the value in error messages; "" if it is an object whose fields are named.

        Raises:
            ValueError: If the hint does not allow the value. The message is a sentence for the model.
        """
        try:
            text = json.dumps(value, ensure_ascii=False).encode(errors="replace")  # no UTF-8 has lone surrogates
            return self._adapter.validate_json(text)
        except ValidationError as error:
            problem = sentence(error, value, where, self.schema.get("properties", ()))
        except RecursionError:
            problem = "the value is nested too deeply"
        except Exception as error:  # of a validator or a class of the app
            problem = f"the value is not accepted ({type(error).__name__}: {error})"
        raise ValueError(problem)


class _SchemaGenerator(GenerateJsonSchema):
    ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012

    def field_title_should_be_set(self, schema: Any) -> bool:
        return False

    def dict_schema(self, schema: core_schema.DictSchema) -> Schema:
        keys = self.generate_inner(schema["keys_schema"]) if "keys_schema" in schema else {}
        described = super().dict_schema(schema)
        names = _KEYS.get(str(keys.get("type")))
        return described if names is None else described | {"propertyNames": names}

    def decimal_schema(self, schema: core_schema.DecimalSchema) -> Schema:
        number: Schema = super().decimal_schema(schema)["anyOf"][0]  # a text is accepted too
        return number


def _tidied(schema: Any, definitions: Mapping[str, Any], within: tuple[str, ...]) -> Any:
    """The schema without references and names of classes, and with `oneOf` and `enum`, which harmony can render."""
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
            tidy |= {"enum": [value]} if key == "const" else {key: value} if _is_json(value) else {}
        elif key == "anyOf":
            choices = _tidied(value, definitions, within)
            plain = all(set(choice) == {"type"} and isinstance(choice["type"], str) for choice in choices)
            tidy |= {"type": [choice["type"] for choice in choices]} if plain else {"oneOf": choices}
        elif key == "title":
            tidy |= {} if "properties" in schema or "enum" in schema else {key: value}  # the name of a class
        elif key != "discriminator" and (key, value) not in _SAYING_NOTHING:
            tidy[_LIMITS.get(key, str(key))] = _tidied(value, definitions, within)
    return tidy


def _is_json(value: Any) -> bool:
    try:
        compact_json(value)
    except (ArithmeticError, RecursionError, TypeError, ValueError):
        return False
    return True
