"""Turns pydantic's errors about a JSON value into a sentence for the model. Knows nothing of type hints."""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pydantic import ValidationError
    from pydantic_core import ErrorDetails

_NOUNS = {  # by the type of the error; pydantic's own words are used for other types
    **dict.fromkeys(("string_type", "bytes_type"), "a text"),
    "bool_type": "true or false",
    **dict.fromkeys(("complex_type", "complex_str_parsing"), 'a complex number as a text such as "1+2j"'),
    **dict.fromkeys(("float_type", "decimal_type", "decimal_parsing"), "a number"),
    **dict.fromkeys(("int_type", "int_from_float", "int_parsing"), "a whole number"),
    **dict.fromkeys(("list_type", "tuple_type", "set_type", "frozen_set_type"), "a list"),
    **dict.fromkeys(("dict_type", "model_type", "dataclass_type"), "an object"),
}
_MAX_PROBLEMS = 5  # named in one sentence


def sentence(error: ValidationError, value: Any, where: str, known: Collection[str]) -> str:
    """Says what is wrong and where, such as "`when.year` must be a whole number, not \\"x\\"".

    Args:
        error: What pydantic found.
        value: The JSON value.
        where: Name of the value; "" if it is an object whose fields are named.
        known: Names of its fields, if it is an object.
    """
    problems: dict[tuple[str, str], list[str]] = {}  # beginning and end: what stands between, joined by "or"
    is_union = False
    for detail in error.errors(include_url=False):
        place, passed_choice = _place(detail, value, where)
        is_union |= passed_choice
        beginning, middle, end = _problem(detail, place)
        if detail["type"] == "extra_forbidden" and len(detail["loc"]) == 1:
            end = f"; there are: {', '.join(f'`{name}`' for name in known) or 'none'}"
        middles = problems.setdefault((beginning, end), [])
        middles += [middle] if middle not in middles else []
        if len(problems) > _MAX_PROBLEMS:  # there may be millions
            break
    texts = [beginning + " or ".join(middles) + end for (beginning, end), middles in problems.items()]
    return (", or " if is_union else "; ").join(texts[:_MAX_PROBLEMS])


def _problem(detail: ErrorDetails, place: str) -> tuple[str, str, str]:
    """The beginning of a sentence, what may be joined with others by "or", and the end."""
    kind, message = detail["type"], detail["msg"]
    if kind == "missing":
        return f"{place} is missing", "", ""
    if kind == "extra_forbidden":
        return f"{place} is unknown", "", ""
    if kind == "recursion_loop" or "recursion limit exceeded" in message:
        return f"{place} is nested too deeply", "", ""
    if kind.endswith("_parsing"):  # "Input should be a valid date, input is too short"
        message = message.partition(", ")[0]
    noun = _NOUNS.get(kind) or message.removeprefix("Input should be ")
    if noun != message:
        return f"{place} must be ", noun, f", not {_shown(detail['input'])}"
    subject, _, demand = message.partition(" should ")  # "List should have at least 2 items"
    if demand and " " not in subject:
        return f"{place} must ", demand.replace(" after validation", ""), ""
    message = message.removeprefix("Value error, ").removeprefix("Assertion failed, ")
    return f"{place}: ", message or "is not valid", ""


def _place(detail: ErrorDetails, value: Any, where: str) -> tuple[str, bool]:
    """Where in `value` the error is, and whether it is about one choice of a union."""
    place, is_choice, is_key = where, False, False
    last = len(detail["loc"]) - 1
    for number, part in enumerate(detail["loc"]):
        is_missing = detail["type"] == "missing" and number == last
        if isinstance(value, list) and isinstance(part, int):
            place += f"[{part}]"
            value = None if is_missing else value[part]
        elif isinstance(value, dict) and (is_missing or part in value):
            name = _shortened(json.dumps(part, ensure_ascii=False).strip('"'))
            place += f".{name}" if place else name
            value = value.get(part)
        elif part == "[key]":
            is_key = True
        else:  # pydantic's name of the choice, which stands nowhere in the value
            is_choice = True
    quoted = f"`{place}`" if place else "the value"
    return f"the key {quoted}" if is_key else quoted, is_choice


def _shown(value: Any) -> str:
    return _shortened(json.dumps(value, ensure_ascii=False, default=str))


def _shortened(text: str) -> str:
    return text if len(text) <= 60 else text[:60] + " ..."
