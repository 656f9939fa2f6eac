"""What an app may ask the answer to look like: a JSON schema, a pydantic model, or a regular expression.

Knows what the developer block says of it, the grammar that binds `final`, and how to read the answer.
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

NAME = "answer"  # of a format that has none


@dataclass(frozen=True)
class AnswerFormat:
    """Make one with `of`.

    shown    what the developer block tells the model; of a regular expression harmony can tell nothing
    grammar  what binds the answer
    model    the pydantic class to read it with, if one was given
    """

    shown: ResponseFormat | None
    grammar: Grammar
    model: Any = None
    regex: str | None = None

    @classmethod
    def of(cls, wanted: Any) -> AnswerFormat:
        """wanted: a JSON schema as a dict, `harmony.ResponseFormat` (a schema with name and description), a pydantic
        model class, or a regular expression (str, or compiled with no flags but re.I and re.S). Raises OptionError for
        anything else, for what llguidance cannot hold to, and without llguidance.
        """
        if isinstance(wanted, re.Pattern):
            wanted = _with_flags(wanted)
        if isinstance(wanted, str):
            return cls(None, Grammar.of_regex("response_format", wanted), regex=wanted)
        model = wanted if _is_pydantic(wanted) else None
        if model is not None:
            wanted = ResponseFormat(model.__name__, model.model_json_schema())
        elif isinstance(wanted, Mapping):
            wanted = ResponseFormat(NAME, wanted)
        if not isinstance(wanted, ResponseFormat):
            kinds = "a JSON schema (a dict), a pydantic model, or a regular expression"
            raise OptionError(f"response_format is {wanted!r}, expected {kinds}")
        return cls(wanted, Grammar.of_schema("response_format", wanted.schema), model)

    def read(self, text: str) -> Any:
        """The answer as a value: of the pydantic model, or what the JSON means; for a regular expression the text.

        None if the model's own validators refuse it, or Python does: integers of thousands of digits, for one.
        """
        if self.regex is not None:
            return text
        try:
            return json.loads(text) if self.model is None else self.model.model_validate_json(text)
        except (ValueError, RecursionError):
            return None

    @property
    def saved(self) -> Any:
        """For a file, as JSON; `of_saved` makes a `response_format` of it, that of a pydantic model as its schema."""
        if self.shown is None:
            return self.regex
        return {"name": self.shown.name, "schema": self.shown.schema, "description": self.shown.description}


def of_saved(saved: Any) -> Any:
    """The `response_format` that `AnswerFormat.saved` tells of."""
    return ResponseFormat(**saved) if isinstance(saved, dict) else saved


def _with_flags(regex: re.Pattern[Any]) -> Any:
    """The text of a regular expression, with its flags in it."""
    known = {re.I: "i", re.S: "s", re.U: ""}
    if others := re.RegexFlag(regex.flags) & ~(re.I | re.S | re.U):
        raise OptionError(
            f"response_format: a regular expression with {others!r} cannot be held to, only re.I and re.S"
        )
    letters = "".join(letter for flag, letter in known.items() if regex.flags & flag)
    return f"(?{letters}){regex.pattern}" if letters else regex.pattern


def _is_pydantic(wanted: Any) -> bool:
    pydantic = sys.modules.get("pydantic")  # of which there can be no model as long as nobody has imported it
    return pydantic is not None and isinstance(wanted, type) and issubclass(wanted, pydantic.BaseModel)
