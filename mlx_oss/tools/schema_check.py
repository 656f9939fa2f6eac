"""Checks a call's arguments against a JSON schema that somebody else has written, with the package `jsonschema`.

A keyword that cannot be checked, because it is wrong itself or says something that Python cannot do, is passed over:
the model cannot help it. Regular expressions are Rust's, which take time in proportion to a text; those that need a
backtracking search are passed over. Knows nothing of tools and type hints.
"""

from __future__ import annotations

import importlib.util
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from fractions import Fraction
from functools import lru_cache
from typing import Any

_DEEP = 100  # levels of lists and objects; no real call has so many


def problem(schema: Mapping[str, Any], arguments: dict[str, Any]) -> str:
    """Says what is wrong with arguments in a sentence for the model; "" if nothing is.

    Without the package `jsonschema`, only missing arguments are found.

    Args:
        schema: The JSON schema. `$schema` says of which draft it is. Without it, the one that fits best is taken, of
            2020-12, 07 and 04.
        arguments: The arguments.
    """
    required = schema.get("required")
    for name in required if isinstance(required, list | tuple) else ():
        if isinstance(name, str) and name not in arguments:
            return f"`{name}` is missing"
    if not schema or not importlib.util.find_spec("jsonschema"):
        return ""
    from jsonschema.exceptions import best_match

    try:
        error = best_match(_validator(json.dumps(schema, default=str)).iter_errors(arguments))
    except RecursionError:
        return "they are nested too deeply" if _depth(arguments) > _DEEP else ""
    except Exception:
        return ""
    if error is None:
        return ""
    message = error.message if len(error.message) <= 200 else error.message[:200] + " ..."
    return f"`{error.json_path.removeprefix('$.')}`: {message}"


def strict_validator(schema: Any) -> Any:
    """A validator of `jsonschema` that passes nothing over, for a schema that is to be trusted with judging.

    Args:
        schema: The schema. `$schema` says of which draft it is; without it, 2020-12.

    Raises:
        ValueError: If something of the schema is wrong, or cannot be checked.
        ModuleNotFoundError: If the package `jsonschema` is not installed.
    """
    from jsonschema.exceptions import best_match
    from jsonschema.validators import Draft202012Validator, extend, validator_for

    if not isinstance(schema, dict):
        raise ValueError("it is no object")
    named = schema.get("$schema")
    draft = Draft202012Validator if named is None else validator_for(schema, default=None)
    if draft is None:
        raise ValueError(f"its draft {named!r} is unknown")
    if (error := best_match(draft(draft.META_SCHEMA).iter_errors(schema))) is not None:
        raise ValueError(f"{error.json_path}: {error.message[:200]}")
    _check_words(schema, schema)
    checks = {**draft.VALIDATORS, **{key: check for key, check in _OWN_CHECKS.items() if key in draft.VALIDATORS}}
    return extend(draft, checks)(schema)


def _check_words(inner: Any, whole: dict[str, Any]) -> None:
    """Raises ValueError for a regular expression that cannot be used, or a reference that leads nowhere."""
    for key, value in inner.items() if isinstance(inner, dict) else ():
        for pattern in [value] if key == "pattern" else value if key == "patternProperties" else ():
            try:
                isinstance(pattern, str) and _search(pattern)
            except Exception as error:
                raise ValueError(f"the pattern {pattern!r}: {' '.join(str(error).split())}") from None
        if key == "$ref" and isinstance(value, str):
            _follow(value, whole)
    values = inner.items() if isinstance(inner, dict) else enumerate(inner if isinstance(inner, list) else ())
    for key, value in values:
        if key not in ("const", "enum", "default", "examples"):
            _check_words(value, whole)


def _follow(reference: str, whole: dict[str, Any]) -> None:
    place: Any = whole
    start, *steps = reference.split("/")
    try:
        if start != "#":
            raise LookupError
        for step in steps:
            name = step.replace("~1", "/").replace("~0", "~")
            place = place[int(name)] if isinstance(place, list) else place[name]
    except (LookupError, TypeError, ValueError):
        raise ValueError(f"the reference {reference!r} leads nowhere: write it as '#/$defs/name'") from None


@lru_cache(maxsize=256)
def _validator(text: str) -> Any:
    """A validator of a schema, which is given as JSON. It never opens a connection."""
    from jsonschema.validators import Draft4Validator, Draft7Validator, Draft202012Validator, extend, validator_for
    from jsonschema_specifications import REGISTRY

    schema = json.loads(text)
    drafts = [Draft202012Validator, Draft7Validator, Draft4Validator]
    if isinstance(schema.get("$schema"), str) and (named := validator_for(schema, default=None)) is not None:
        drafts = [named]
    found = [(draft, list(draft(draft.META_SCHEMA).iter_errors(schema))) for draft in drafts]
    draft, errors = min(found, key=lambda each: len(each[1]))
    for error in errors:
        _remove(schema, list(error.absolute_path))
    checks = {**draft.VALIDATORS, **{key: check for key, check in _OWN_CHECKS.items() if key in draft.VALIDATORS}}
    lenient = extend(draft, {keyword: _passed_over(check) for keyword, check in checks.items()})
    return lenient(schema, registry=REGISTRY)


@lru_cache(maxsize=1024)
def _search(pattern: str) -> Callable[[str], bool]:
    """Says of a text whether a regular expression is in it. Raises an error of pydantic for one that Rust has not."""
    from pydantic_core import SchemaValidator, core_schema

    return SchemaValidator(core_schema.str_schema(pattern=pattern, regex_engine="rust-regex")).isinstance_python


def _pattern(validator: Any, pattern: Any, instance: Any, schema: Any) -> Iterator[Any]:
    from jsonschema.exceptions import ValidationError

    if isinstance(instance, str) and not _search(pattern)(instance):
        yield ValidationError(f"{instance!r} does not match {pattern!r}")


def _pattern_properties(validator: Any, patterns: Any, instance: Any, schema: Any) -> Iterator[Any]:
    for pattern, inner in patterns.items() if isinstance(instance, dict) else ():
        for name in filter(_search(pattern), instance):
            yield from validator.descend(instance[name], inner, path=name, schema_path=pattern)


def _additional_properties(validator: Any, allowed: Any, instance: Any, schema: Any) -> Iterator[Any]:
    from jsonschema.validators import Draft202012Validator

    if isinstance(instance, dict):
        known, searches = schema.get("properties", {}), [*map(_search, schema.get("patternProperties", {}))]
        others = {name: instance[name] for name in instance if name not in known}
        others = {name: others[name] for name in others if not any(search(name) for search in searches)}
        yield from Draft202012Validator.VALIDATORS["additionalProperties"](validator, allowed, others, {}) or ()


def _unevaluated_properties(validator: Any, allowed: Any, instance: Any, schema: Any) -> Iterator[Any]:
    from jsonschema.validators import Draft202012Validator

    if "patternProperties" not in json.dumps(schema):  # which jsonschema would look for with Python's expressions
        yield from Draft202012Validator.VALIDATORS["unevaluatedProperties"](validator, allowed, instance, schema) or ()


def _multiple_of(validator: Any, step: Any, instance: Any, schema: Any) -> Iterator[Any]:
    """In decimals, as both are written: in floats 19.99 is no multiple of 0.01."""
    from jsonschema.exceptions import ValidationError

    if validator.is_type(instance, "number") and (Fraction(repr(instance)) / Fraction(repr(step))).denominator != 1:
        yield ValidationError(f"{instance!r} is not a multiple of {step}")


_OWN_CHECKS = {
    "pattern": _pattern,
    "patternProperties": _pattern_properties,
    "additionalProperties": _additional_properties,
    "unevaluatedProperties": _unevaluated_properties,
    "multipleOf": _multiple_of,
}


def _passed_over(check: Callable[..., Any]) -> Callable[..., Iterator[Any]]:
    """A keyword's check that finds nothing where it fails, or where it leads back to itself."""
    running = threading.local()

    def checked(validator: Any, value: Any, instance: Any, schema: Any) -> Iterator[Any]:
        if instance is None and isinstance(schema, dict) and schema.get("nullable") is True:
            return  # as OpenAPI says it, and as the model is told
        step, steps = (id(schema), id(instance)), running.__dict__.setdefault("steps", set())
        if step in steps:
            return
        steps.add(step)
        try:
            yield from check(validator, value, instance, schema) or ()
        except RecursionError:
            raise
        except Exception:  # of a regular expression of another language, a reference to nowhere, and so on
            return
        finally:
            steps.discard(step)

    return checked


def _remove(schema: Any, path: list[Any]) -> None:
    """Removes the keyword that a path leads to, or leads into."""
    parents = [schema]
    for step in path[:-1]:
        try:
            parents.append(parents[-1][step])
        except (LookupError, TypeError):  # removed already
            return
    for parent, step in zip(reversed(parents), reversed(path), strict=True):
        if isinstance(parent, dict):
            parent.pop(step, None)
            return


def _depth(value: Any) -> int:
    depth, level = 0, [value]
    while level:
        depth += 1
        inside = [item for item in level if isinstance(item, list | dict)]
        level = [each for item in inside for each in (item.values() if isinstance(item, dict) else item)]
    return depth
