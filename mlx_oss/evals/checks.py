"""How an answer is judged: by its text, by the last number in it, by its form, by Python code, and by what was called.

Knows nothing of questions, files and models.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from decimal import Decimal, DecimalException
from functools import lru_cache
from typing import Any

from mlx_oss import json_text
from mlx_oss.errors import EvaluationError, quoted
from mlx_oss.evals import python_check
from mlx_oss.events import ToolCall
from mlx_oss.tools.schema_check import strict_validator

LONGEST_TIME = 600.0  # seconds that a Python check may ask for
# gpt-oss likes the signs of printers and of LaTeX: narrow spaces or {,} in 1 234 567, hyphens that do not break in -5.
_BETWEEN = r"(?:[,\N{NARROW NO-BREAK SPACE}\N{NO-BREAK SPACE}\N{THIN SPACE}]|\{,\}|\\,)"
_MINUS = r"\N{MINUS SIGN}\N{NON-BREAKING HYPHEN}-"
_NUMBER = re.compile(
    rf"(?:(?<![\w)])[+{_MINUS}])?(?:[0-9]{{1,3}}(?:{_BETWEEN}[0-9]{{3}})+(?![0-9])|[0-9]+|(?=\.[0-9]))(?:\.[0-9]+)?"
    r"(?:[eE][-+]?[0-9]+)?"
)
_FENCED = re.compile(r"\s*```(?:json)?[ \t]*\n(.*)\n[ \t]*```\s*", re.DOTALL)


@dataclass(frozen=True, slots=True)
class ExpectedCall:
    """A call of a tool that an answer has to make.

    Attributes:
        name: The tool; None: any.
        arguments: Its arguments, all of them; None: any.
    """

    name: str | None = None
    arguments: Mapping[str, Any] | None = None


@dataclass(frozen=True)
class Checks:
    """How an answer is judged. All that is given has to hold; without anything, every answer will do.

    Attributes:
        answer: Texts; the answer has to be one of them, apart from whitespace around it.
        number: Numbers; the last number in the answer has to be one of them.
        tolerance: By how much that number may differ.
        regex: Regular expressions of Rust's kind; one of them has to match somewhere in the answer.
        contains: Texts; all of them have to be in the answer, in capitals or not. A tuple in place of a text: one of
            these will do.
        schema: A JSON schema; the answer has to be JSON that follows it.
        python: Code that gets the texts `answer` and `code`: the first fenced block of the answer, or all of it. It has
            to end without an exception, and if its last line is an expression, that has to be true, or None. It runs in
            a sandbox.
        seconds: How long this code may take.
        calls: Calls that have to be made, in this order, and no others. None: it does not matter.

    Raises:
        EvaluationError: If something of it cannot be used.
    """

    answer: Sequence[str] = ()
    number: Sequence[float | int] = ()
    tolerance: float = 0
    regex: Sequence[str] = ()
    contains: Sequence[str | Sequence[str]] = ()
    schema: Mapping[str, Any] | None = None
    python: str | None = None
    seconds: float = 10.0
    calls: Sequence[ExpectedCall] | None = None
    _program: str = field(default="", init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for expression in self.regex:
            _finder(expression)
        if self.schema is not None:
            _schema_problem(json.dumps(self.schema))
        if self.python is not None:
            object.__setattr__(self, "_program", python_check.program(self.python))

    @property
    def judges(self) -> bool:
        """Whether there is anything to check."""
        return bool(self.answer or self.number or self.regex or self.contains or self.python is not None) or (
            self.schema is not None or self.calls is not None
        )

    def problem(self, text: str, calls: Sequence[ToolCall] = ()) -> str:
        """What is wrong with an answer, in a sentence; empty if it is right.

        Args:
            text: The answer.
            calls: The calls that were made for it.

        Raises:
            ToolError: If there is no sandbox for the Python check any more.
        """
        steps: list[Callable[[], str]] = [
            lambda: self._called(calls),
            lambda: self._texts(text),
            lambda: self._number(text),
            lambda: self._schema(text),
            lambda: python_check.problem(self._program, text, self.seconds) if self._program else "",
        ]
        return next((problem for step in steps if (problem := step())), "")

    def _called(self, calls: Sequence[ToolCall]) -> str:
        if self.calls is None:
            return ""
        if len(calls) != len(self.calls):
            return f"{len(calls)} calls were made, not {len(self.calls)}"
        for call, expected in zip(calls, self.calls, strict=True):
            if expected.name is not None and call.name != expected.name:
                return f"{quoted(call.name)} was called, not {quoted(expected.name)}"
            if expected.arguments is not None and not _is_json_of(call.arguments, expected.arguments):
                return f"{call.name} was called with {quoted(call.arguments)}, not {json.dumps(expected.arguments)}"
        return ""

    def _texts(self, text: str) -> str:
        if self.answer and text.strip() not in [each.strip() for each in self.answer]:
            return f"it is not {_one_of(self.answer)}"
        for wanted in self.contains:
            choices = [wanted] if isinstance(wanted, str) else wanted
            if not any(choice.lower() in text.lower() for choice in choices):
                return f"{_one_of(choices)} is not in it"
        if self.regex and not any(_finder(expression)(text) for expression in self.regex):
            return f"{_one_of(self.regex)} does not match"
        return ""

    def _number(self, text: str) -> str:
        if not self.number:
            return ""
        found = last_number(text)
        if found is None:
            return "there is no number in it"
        if not any(_is_near(found, wanted, self.tolerance) for wanted in self.number):
            return f"the number is {quoted(str(found))}, not {_one_of(self.number)}"
        return ""

    def _schema(self, text: str) -> str:
        if self.schema is None:
            return ""
        try:
            value = json_text.loads(fenced[1] if (fenced := _FENCED.fullmatch(text)) else text, is_strict=True)
        except (ValueError, RecursionError) as error:
            return f"it is not JSON: {error}"
        return _schema_problem(json.dumps(self.schema), json.dumps(value))


def last_number(text: str) -> Decimal | None:
    """The last number in a text, such as -1,234.5; None if there is none, NaN if it cannot be computed with."""
    found = _NUMBER.findall(text)
    try:
        return Decimal(re.sub(r"[^-+0-9.eE]", "", re.sub(f"[{_MINUS}]", "-", found[-1]))) if found else None
    except DecimalException:  # its exponent is beyond all bounds
        return Decimal("NaN")


def _is_near(found: Decimal, wanted: float, tolerance: float) -> bool:
    exact = Decimal(str(wanted))  # as it is written; NumPy's repr has more
    try:
        return found == exact or abs(found - exact) <= Decimal(str(tolerance))
    except DecimalException:  # out of all proportion
        return False


def _one_of(values: Sequence[object]) -> str:
    return " or ".join(map(quoted, values[:5])) + (" or another of them" if len(values) > 5 else "")


def _is_json_of(text: str, expected: Mapping[str, Any]) -> bool:
    try:
        return _are_equal(json_text.loads(text or "{}"), expected)
    except (ValueError, RecursionError):
        return False


def _are_equal(one: Any, other: Any) -> bool:
    """Whether two values are the same JSON: to Python, true equals 1."""
    if isinstance(one, bool) or isinstance(other, bool):
        return one is other
    if isinstance(one, Mapping) and isinstance(other, Mapping):
        return one.keys() == other.keys() and all(_are_equal(value, other[key]) for key, value in one.items())
    if isinstance(one, list) and isinstance(other, list | tuple):
        return len(one) == len(other) and all(map(_are_equal, one, other))
    return bool(one == other)


@lru_cache(maxsize=1024)
def _finder(expression: str) -> Callable[[str], bool]:
    """Says of a text whether a regular expression matches in it, in time proportional to its length."""
    from pydantic_core import SchemaError, SchemaValidator, core_schema

    try:
        return SchemaValidator(core_schema.str_schema(pattern=expression, regex_engine="rust-regex")).isinstance_python
    except SchemaError as error:
        reason = " ".join(str(error).split())
        raise EvaluationError(
            f"regex is {quoted(expression)}, which cannot be used ({reason}): give one without look-around and "
            "backreferences"
        ) from None


def _schema_problem(schema: str, value: str | None = None) -> str:
    """What is wrong with a value; both are given as JSON. Without a value only the schema is checked."""
    validator = _validator(schema)
    if value is None:
        return ""
    from jsonschema.exceptions import best_match

    try:
        error = best_match(validator.iter_errors(json.loads(value)))
    except RecursionError:
        return "it is nested too deeply"
    if error is None:
        return ""
    message = error.message if len(error.message) <= 200 else error.message[:200] + " ..."
    return f"{error.json_path}: {message}"


@lru_cache(maxsize=256)
def _validator(schema: str) -> Any:
    """A validator of a schema, given as JSON, that passes nothing over."""
    try:
        return strict_validator(json.loads(schema))
    except ModuleNotFoundError:
        raise EvaluationError("schema needs the package jsonschema: run `pip install jsonschema`") from None
    except (ValueError, RecursionError) as error:
        raise EvaluationError(f"schema is no JSON schema that can be checked ({error}): correct it") from None
