"""The format that an app requires of the answer: a JSON schema, a pydantic model, or a regular expression.

Defines its description in the developer message, the grammar of the channel `final`, and how to parse the answer.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from mlx_oss import json_text
from mlx_oss.constrain.grammar import Grammar, without_patterns
from mlx_oss.errors import OptionError, quoted
from mlx_oss.harmony import ResponseFormat

DEFAULT_NAME = "answer"  # name of a format in the developer message, if the app gives none


@dataclass(frozen=True)
class AnswerFormat:
    """A required format of the answer; created with `from_option`.

    Attributes:
        prompt_format: What the developer message says about it. None for a regular expression, which harmony cannot
            describe.
        grammar: The grammar that the answer must follow.
        model: The pydantic class to parse the answer with, if the app gave one.
        regex: The regular expression, if the app gave one.
        is_strict: False if what of the schema cannot be enforced is left to the model.
    """

    prompt_format: ResponseFormat | None
    grammar: Grammar
    model: Any = None
    regex: str | None = None
    is_strict: bool = True

    @classmethod
    def from_option(cls, wanted: Any) -> AnswerFormat | None:
        """Creates the format from the option `response_format`; None if it says that the answer is free text.

        Args:
            wanted: A JSON schema (dict), a `harmony.ResponseFormat` (a schema with name and description), a pydantic
                model class, a regular expression (a str, or compiled without flags other than re.I and re.S), or one of
                OpenAI's forms: `{"type": "json_object"}`, `{"type": "text"}`, or `{"type": "json_schema",
                "json_schema": {"name": ..., "schema": {...}}}`. What llguidance cannot enforce of a pydantic model, or
                of a `json_schema` without `"strict": True`, is left to the model.

        Raises:
            OptionError: If `wanted` is anything else, llguidance cannot enforce it, or llguidance is not installed.
        """
        if isinstance(wanted, re.Pattern):
            return cls._of_regex(_with_flags(wanted))
        if isinstance(wanted, str):
            _refuse_what_is_no_regex(wanted)
            return cls._of_regex(wanted)
        is_strict, model = True, None
        if _is_pydantic(wanted):
            is_strict, model = False, wanted
            wanted = ResponseFormat(model.__name__, _schema_of(model))
        elif isinstance(wanted, Mapping) and wanted.get("type") == "text":
            return None
        elif isinstance(wanted, Mapping):
            wanted, is_strict = _described(wanted)
        if not isinstance(wanted, ResponseFormat):
            expected = "a JSON schema (a dict), a pydantic model, or a regular expression"
            raise OptionError(f"response_format is {wanted!r}, expected {expected}")
        grammar = (Grammar.of_schema if is_strict else _rough_grammar)("response_format", wanted.schema)
        return cls(wanted, grammar, model, is_strict=is_strict)

    @classmethod
    def _of_regex(cls, regex: str) -> AnswerFormat:
        return cls(None, Grammar.of_regex("response_format", regex), regex=regex)

    def parse(self, text: str) -> Any:
        """The answer as a value: the pydantic object or the decoded JSON; for a regular expression the text itself.

        None if the pydantic model rejects it, or Python cannot decode it, for example an integer with
        thousands of digits.
        """
        if self.regex is not None:
            return text
        try:
            return (
                json_text.loads(text) if self.model is None else self.model.model_validate_json(json_text.whole(text))
            )
        except (ValueError, RecursionError):
            return None

    @property
    def as_json(self) -> Any:
        """The format as JSON for a file; `option_from_json` reads it. A pydantic model is saved as its schema."""
        described = self.prompt_format
        if described is None:
            return self.regex
        saved = {"name": described.name, "schema": described.schema, "description": described.description}
        return saved if self.is_strict else saved | {"strict": False}


def option_from_json(saved: Any) -> Any:
    """The value of the option `response_format` for what `AnswerFormat.as_json` returned."""
    if isinstance(saved, dict):
        return ResponseFormat(**saved) if "strict" not in saved else {"type": "json_schema", "json_schema": saved}
    return re.compile(saved) if saved in _NO_REGEX else saved


# Values of this option elsewhere, which as a regular expression would allow one word only.
_NO_REGEX = ("json", "json_object", "json_schema", "text")


def _refuse_what_is_no_regex(wanted: str) -> None:
    """Raises OptionError for a text that stands for something else than a regular expression."""
    if wanted.strip().lower() in _NO_REGEX:
        raise OptionError(
            f"response_format is {wanted!r}, which as a regular expression allows this word only: give "
            '{"type": "json_object"} for any JSON object, a JSON schema (a dict), or re.compile() for the word'
        )
    is_schema = wanted.lstrip().startswith("{") and wanted.rstrip().endswith("}") and _is_json(wanted)
    if is_schema or re.fullmatch(r"[\w./-]+\.json", wanted):
        raise OptionError(
            f"response_format is the text {quoted(wanted)}, which is no regular expression: give the schema as a dict, "
            "which json.loads makes of a text"
        )


def _is_json(text: str) -> bool:
    try:
        json.loads(text)
    except (ValueError, RecursionError):
        return False
    return True


# The keys of OpenAI's form where its type is left out. As a schema they would allow any JSON.
_UNTYPED = {"name", "description", "schema", "strict", "json_schema"}


def _described(wanted: Mapping[str, Any]) -> tuple[ResponseFormat, bool]:
    """The format that a mapping describes, as a schema or in one of OpenAI's forms, and whether it is strict."""
    if wanted.get("type") == "json_object":
        return ResponseFormat(DEFAULT_NAME, {"type": "object"}), True
    is_untyped = {"schema", "json_schema"} & wanted.keys() and wanted.keys() <= _UNTYPED
    if wanted.get("type") != "json_schema" and not is_untyped:
        return ResponseFormat(DEFAULT_NAME, wanted), True
    inner = wanted.get("json_schema", wanted)
    schema = inner.get("schema") if isinstance(inner, Mapping) else None
    name, text = (inner.get("name") or DEFAULT_NAME, inner.get("description")) if schema is not None else (None, None)
    if not isinstance(schema, Mapping) or not isinstance(name, str) or not isinstance(text, str | None):
        raise OptionError(
            f"response_format is {quoted(dict(wanted))}, in which there is no schema or a wrong name: give "
            '{"type": "json_schema", "json_schema": {"name": "answer", "schema": {...}}}'
        )
    return ResponseFormat(name, schema, text), inner.get("strict") is True


def _rough_grammar(name: str, schema: Mapping[str, Any]) -> Grammar:
    """The grammar of as much of a schema as llguidance can enforce. Raises OptionError if it can enforce nothing."""
    try:
        return Grammar.of_schema(name, schema)
    except OptionError as error:
        for rougher in (schema, without_patterns(schema)):
            with suppress(OptionError):
                return Grammar.of_schema(name, rougher, lenient=True)
        raise error from None


def _schema_of(model: Any) -> dict[str, Any]:
    """The JSON schema of a pydantic model. Raises OptionError if it has none."""
    from pydantic.json_schema import GenerateJsonSchema

    class Quiet(GenerateJsonSchema):
        ignored_warning_kinds = {"skipped-choice", "non-serializable-default"}  # noqa: RUF012

    try:
        schema: dict[str, Any] = model.model_json_schema(schema_generator=Quiet)
    except Exception as error:  # what a field's type and its own methods raise
        problem = " ".join(f"{error}".split())
        raise OptionError(
            f"response_format: no JSON schema can be made of {model.__name__} ({problem[:300]}): give its fields types "
            "that JSON can express"
        ) from None
    return schema


def _with_flags(regex: re.Pattern[Any]) -> Any:
    """The text of a compiled regular expression, starting with its flags."""
    known = {re.I: "i", re.S: "s", re.U: ""}
    if unknown := re.RegexFlag(regex.flags) & ~(re.I | re.S | re.U):
        raise OptionError(
            f"response_format: a regular expression with {unknown!r} cannot be enforced: use only re.I and re.S"
        )
    letters = "".join(letter for flag, letter in known.items() if regex.flags & flag)
    return f"(?{letters}){regex.pattern}" if letters else regex.pattern


def _is_pydantic(wanted: Any) -> bool:
    pydantic = sys.modules.get("pydantic")  # not imported: then no class can be a pydantic model
    return pydantic is not None and isinstance(wanted, type) and issubclass(wanted, pydantic.BaseModel)
