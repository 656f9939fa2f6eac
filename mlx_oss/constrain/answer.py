"""The format that an app requires of the answer: a JSON schema, a pydantic model, or a regular expression.

Defines its description in the developer message, the grammar of the channel `final`, and how to parse the answer.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlx_oss.constrain.grammar import Grammar
from mlx_oss.errors import OptionError
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
    """

    prompt_format: ResponseFormat | None
    grammar: Grammar
    model: Any = None
    regex: str | None = None

    @classmethod
    def from_option(cls, wanted: Any) -> AnswerFormat:
        """Creates the format from the option `response_format`.

        Args:
            wanted: A JSON schema (dict), a `harmony.ResponseFormat` (a schema with name and description), a pydantic
                model class, or a regular expression: a str, or compiled without flags other than re.I and re.S.

        Raises:
            OptionError: If `wanted` is anything else, llguidance cannot enforce it, or llguidance is not installed.
        """
        if isinstance(wanted, re.Pattern):
            wanted = _with_flags(wanted)
        if isinstance(wanted, str):
            return cls(None, Grammar.of_regex("response_format", wanted), regex=wanted)
        model = wanted if _is_pydantic(wanted) else None
        if model is not None:
            wanted = ResponseFormat(model.__name__, model.model_json_schema())
        elif isinstance(wanted, Mapping):
            wanted = ResponseFormat(DEFAULT_NAME, wanted)
        if not isinstance(wanted, ResponseFormat):
            expected = "a JSON schema (a dict), a pydantic model, or a regular expression"
            raise OptionError(f"response_format is {wanted!r}, expected {expected}")
        return cls(wanted, Grammar.of_schema("response_format", wanted.schema), model)

    def parse(self, text: str) -> Any:
        """The answer as a value: the pydantic object or the decoded JSON; for a regular expression the text itself.

        None if the pydantic model's own validators reject it, or Python cannot decode it, for example an integer with
        thousands of digits.
        """
        if self.regex is not None:
            return text
        try:
            return json.loads(text) if self.model is None else self.model.model_validate_json(text)
        except (ValueError, RecursionError):
            return None

    @property
    def as_json(self) -> Any:
        """The format as JSON for a file; `option_from_json` reads it. A pydantic model is saved as its schema."""
        described = self.prompt_format
        if described is None:
            return self.regex
        return {"name": described.name, "schema": described.schema, "description": described.description}


def option_from_json(saved: Any) -> Any:
    """The value of the option `response_format` for what `AnswerFormat.as_json` returned."""
    return ResponseFormat(**saved) if isinstance(saved, dict) else saved


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
