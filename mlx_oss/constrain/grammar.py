"""Grammars of message bodies: a JSON schema or a regular expression, followed token by token with llguidance.

llguidance is the extra `constrain`; it is imported when the first grammar is created. Knows nothing of messages.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from functools import cache, lru_cache
from importlib.util import find_spec
from itertools import chain
from typing import Any

import numpy as np

from mlx_oss.errors import OptionError
from mlx_oss.tokenizer import LAST_TEXT_ID, N_RANKS, N_VOCAB, RETURN, load_tokenizer

# JSON is written on one line, with at most one space, after a comma or colon: a model that does not know how to go on
# fills the answer with whitespace wherever it may. The separators are regular expressions.
COMPACT = {"whitespace_flexible": False, "item_separator": ", ?", "key_separator": ": ?"}


@cache  # each turn asks
def is_installed() -> bool:
    """True if llguidance is installed, so that grammars can be created."""
    return find_spec("llguidance") is not None


def _llguidance() -> Any:
    try:
        import llguidance
    except ImportError:
        raise OptionError(
            "constraining answers and arguments needs llguidance: install mlx-oss with its extra, as in "
            "pip install 'mlx-oss[constrain]'"
        ) from None
    return llguidance


@lru_cache(maxsize=1)
def _tokenizer() -> Any:
    """llguidance's tokenizer. It takes a second to build, so it is built once per process."""
    _llguidance()
    from llguidance.tiktoken import lltokenizer_from_encoding

    return lltokenizer_from_encoding(load_tokenizer().encoding, n_vocab=N_VOCAB, eos_token=RETURN)


def prepare() -> None:
    """Builds what the first grammar would build, if llguidance is installed. Takes a second."""
    if is_installed():
        _tokenizer()


@lru_cache(maxsize=256)
def _refusal(text: str) -> str:
    """Why llguidance rejects a grammar; "" if it accepts it."""
    is_error, messages = _llguidance().LLMatcher.validate_grammar_with_warnings(text)
    return messages[0] if is_error else ""


class Grammar:
    """A grammar of a message body; created with `of_schema` or `of_regex`.

    Attributes:
        name: What the grammar belongs to, for error messages: for example "response_format".
        is_required: False if a body is free from where the grammar cannot be followed on. True makes that an error.
    """

    def __init__(self, name: str, text: str, *, is_required: bool = True) -> None:
        self.name, self._text, self.is_required = name, text, is_required
        if reason := _refusal(text):
            raise OptionError(f"{name} cannot be enforced ({' '.join(reason.split())}): simplify it")

    @classmethod
    def of_schema(
        cls, name: str, schema: Mapping[str, Any], *, lenient: bool = False, is_required: bool = True
    ) -> Grammar:
        """The grammar of JSON on one line that is valid by a schema, without properties that it does not name.

        Args:
            name: What the schema belongs to, for error messages.
            schema: The JSON schema.
            lenient: Ignore keywords that llguidance does not know, such as `uniqueItems`, and treat `oneOf` as `anyOf`.
            is_required: As the attribute.

        Raises:
            OptionError: If it is not a JSON schema, llguidance cannot enforce it, or llguidance is not installed.
        """
        options = {**COMPACT, "lenient": lenient, "coerce_one_of": lenient}
        matcher = _llguidance().LLMatcher
        try:
            text = matcher.grammar_from_json_schema(json.dumps(closed(schema)), overrides=options)
        except (TypeError, ValueError, RecursionError) as error:
            raise OptionError(f"{name} is not a JSON schema ({error}): correct it") from None
        return cls(name, text, is_required=is_required)

    @classmethod
    def of_regex(cls, name: str, regex: str) -> Grammar:
        """The grammar of text that a regular expression matches as a whole.

        Args:
            name: What the expression belongs to, for error messages.
            regex: The expression, in the syntax of Rust's `regex`: without look-around and backreferences.

        Raises:
            OptionError: If llguidance cannot enforce the expression, or llguidance is not installed.
        """
        try:
            text = _llguidance().LLMatcher.grammar_from_regex(regex)
        except UnicodeEncodeError as error:
            raise OptionError(f"{name} is no text in UTF-8 ({error.reason}): correct it") from None
        return cls(name, text)

    def matcher(self, end: int) -> Matcher:
        """A matcher for one body; `end` is the id of the control token that ends the body."""
        return Matcher(self, _llguidance().LLMatcher(_tokenizer(), self._text), end)


# Keywords of JSON schemas, by their meaning for `closed`.
_SCHEMAS_IN = {"items", "prefixItems", "anyOf", "oneOf", "additionalProperties"}  # contain a schema, or a list of them
_NAMED_SCHEMAS_IN = {"properties", "patternProperties", "$defs", "definitions"}  # map names to schemas
_APPLIED = {"anyOf", "oneOf", "$ref"}  # apply other schemas to the same object
_FURTHER_PARTS = {"allOf", "if", "dependentSchemas", "dependentRequired", "dependencies"}  # add to that description
_NAMING = {"properties", "required"}  # name properties
_MAY_NAME_MORE = {"additionalProperties", "patternProperties", "unevaluatedProperties", "minProperties"}


def closed(schema: Any) -> Any:
    """The schema, with `additionalProperties: false` wherever it names properties and does not mention others.

    The result allows only what the schema allowed before, and keeps a small model from inventing properties. The schema
    is returned unchanged if several parts of it describe the same object, because then no part names all properties.
    """
    return schema if _describes_in_parts(schema) else _closed(schema)


def _describes_in_parts(schema: Any) -> bool:
    """True if several parts of the schema describe the same object.

    That is: keywords beside `anyOf`, `oneOf` or `$ref`; `allOf`; and conditions such as `if` and `dependentSchemas`.
    """
    if isinstance(schema, list):
        return any(map(_describes_in_parts, schema))
    if not isinstance(schema, Mapping):
        return False
    descriptions = len(_APPLIED & schema.keys()) + bool((_NAMING | _MAY_NAME_MORE) & schema.keys())
    inside = (schema[key].values() if _names_schemas(schema, key) else [schema[key]] for key in schema)
    if _FURTHER_PARTS & schema.keys() or descriptions > 1:
        return True
    return any(map(_describes_in_parts, chain.from_iterable(inside)))


def _names_schemas(schema: Mapping[str, Any], key: str) -> bool:
    """True if the value of `key` maps names to schemas."""
    return key in _NAMED_SCHEMAS_IN and isinstance(schema[key], Mapping)


def _closed(schema: Any) -> Any:
    if isinstance(schema, list):
        return list(map(_closed, schema))
    if not isinstance(schema, Mapping):
        return schema
    inside = {key: _closed(value) for key, value in schema.items() if key in _SCHEMAS_IN}
    for key in schema:
        if _names_schemas(schema, key):
            inside[key] = {name: _closed(value) for name, value in schema[key].items()}
    named, required = schema.get("properties"), schema.get("required", [])
    if named and isinstance(named, Mapping) and isinstance(required, list) and not _MAY_NAME_MORE & schema.keys():
        inside |= {} if any(name not in named for name in required) else {"additionalProperties": False}
    return {**schema, **inside}


def without_patterns(schema: Any) -> Any:
    """The schema without regular expressions, which llguidance may not be able to follow."""
    patterns = ("pattern", "patternProperties")
    return _changed(schema, lambda part: {key: value for key, value in part.items() if key not in patterns})


def with_null(schema: Any) -> Any:
    """The schema with null as a choice where it says `nullable`, as OpenAPI does and harmony tells the model."""

    def change(part: dict[str, Any]) -> dict[str, Any]:
        is_nullable = part.pop("nullable", None) is True
        has_definitions = not part.keys().isdisjoint(("$defs", "definitions"))  # whose place references name
        return {"anyOf": [part, {"type": "null"}]} if is_nullable and not has_definitions else part

    try:
        return _changed(schema, change)
    except RecursionError:  # it contains itself, which whoever writes it as JSON says
        return schema


def _changed(schema: Any, change: Callable[[dict[str, Any]], dict[str, Any]]) -> Any:
    """The schema with each schema in it changed, those inside first."""
    if isinstance(schema, list):
        return [_changed(part, change) for part in schema]
    if not isinstance(schema, Mapping):
        return schema
    whole: dict[str, Any] = {}
    for key, value in schema.items():
        if _names_schemas(schema, key):
            whole[key] = {name: _changed(inner, change) for name, inner in value.items()}
        else:
            whole[key] = _changed(value, change) if key in _SCHEMAS_IN or key == "allOf" else value
    return change(whole)


class Matcher:
    """The state of one body within its grammar."""

    def __init__(self, grammar: Grammar, matcher: Any, end: int) -> None:
        self._grammar, self._matcher, self._end = grammar, matcher, end
        self._bits = np.zeros((N_VOCAB + 31) // 32, np.int32)
        self._is_free = False

    def accept(self, token: int) -> None:
        """Takes the next token of the body. Raises OptionError if a required grammar is too complex to follow."""
        if not self._is_free:
            self._matcher.consume_token(token)
            self._check()

    def allowed(self) -> np.ndarray | int | None:
        """What may come next: a mask bool (V',), with the end id if the body may end here; or the end id alone.

        None means everything: the grammar could not be followed, and is not required. Raises OptionError if it is.
        """
        if not self._is_free and not self._matcher.is_stopped():
            self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        self._check()
        if self._is_free:
            return None
        if self._matcher.is_stopped():
            return self._end
        mask = np.unpackbits(self._bits.view(np.uint8), count=LAST_TEXT_ID + 1, bitorder="little").view(bool)
        mask[N_RANKS:] = False
        mask[self._end] = self._matcher.is_accepting()
        return mask

    def _check(self) -> None:
        if self._matcher.is_error():
            if not self._grammar.is_required:
                self._is_free = True
                return
            reason = " ".join(self._matcher.get_error().split())
            raise OptionError(f"{self._grammar.name} is too complex to follow ({reason[:200]}): simplify it")
