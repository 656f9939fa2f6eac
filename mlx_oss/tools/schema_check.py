"""Checks a call's arguments against a JSON schema that somebody else has written, with the package `jsonschema`.

A keyword that cannot be checked, because it is wrong itself or says something that Python cannot do, is passed over:
the model cannot help it. Knows nothing of tools and type hints.
"""

from __future__ import annotations

import importlib.util
import json
import threading
from collections.abc import Callable, Iterator, Mapping
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
    lenient = extend(draft, {keyword: _passed_over(check) for keyword, check in draft.VALIDATORS.items()})
    return lenient(schema, registry=REGISTRY)


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
