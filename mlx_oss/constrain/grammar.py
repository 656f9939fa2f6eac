"""Grammars of message bodies: a JSON schema or a regular expression, followed token by token with llguidance.

llguidance is the extra `constrain`, and is loaded when the first grammar is asked for. Knows nothing of messages.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import lru_cache
from importlib.util import find_spec
from itertools import chain
from typing import Any

import numpy as np

from mlx_oss.errors import OptionError
from mlx_oss.tokenizer import LAST_TEXT_ID, N_RANKS, N_VOCAB, RETURN, load_tokenizer

# What may stand between JSON's parts: a blank, or a new line with its indentation. Bounded, as a model that does not
# know how to go on may write blanks for ever.
WHITESPACE = r"(?: |\n[ \t]{0,32})"


def is_installed() -> bool:
    """Whether there can be grammars at all."""
    return find_spec("llguidance") is not None


def _llguidance() -> Any:
    try:
        import llguidance
    except ImportError:
        raise OptionError(
            "answers and arguments that follow a schema need llguidance: pip install 'mlx-oss[constrain]'"
        ) from None
    return llguidance


@lru_cache(maxsize=1)
def _tokenizer() -> Any:
    """Built once a process, which takes a second."""
    _llguidance()
    from llguidance.tiktoken import lltokenizer_from_encoding

    return lltokenizer_from_encoding(load_tokenizer().encoding, n_vocab=N_VOCAB, eos_token=RETURN)


@lru_cache(maxsize=256)
def _refusal(text: str) -> str:
    """Why there is no such grammar; "" if there is."""
    is_error, messages = _llguidance().LLMatcher.validate_grammar_with_warnings(text)
    return messages[0] if is_error else ""


class Grammar:
    """What a body may be. Make one with `of_schema` or `of_regex`; `name` says in errors what it is of."""

    def __init__(self, name: str, text: str) -> None:
        self.name, self._text = name, text
        if reason := _refusal(text):
            raise OptionError(f"{name} cannot be held to: {' '.join(reason.split())}; simplify it")

    @classmethod
    def of_schema(cls, name: str, schema: Mapping[str, Any], *, roughly: bool = False) -> Grammar:
        """JSON that a JSON schema allows, without properties that it does not name (see `closed`). Raises OptionError
        for a schema that llguidance cannot hold to; `roughly` passes over what it does not know in one, such as
        `uniqueItems`, and takes `oneOf` for `anyOf`.
        """
        options = {"whitespace_pattern": WHITESPACE, "lenient": roughly, "coerce_one_of": roughly}
        matcher = _llguidance().LLMatcher
        try:
            text = matcher.grammar_from_json_schema(json.dumps(closed(schema)), overrides=options)
        except (TypeError, ValueError, RecursionError) as error:
            raise OptionError(f"{name} is no JSON schema ({error})") from None
        return cls(name, text)

    @classmethod
    def of_regex(cls, name: str, regex: str) -> Grammar:
        """Text that a regular expression matches as a whole (syntax of Rust's `regex`: no look-around, no groups to
        refer to).
        """
        return cls(name, _llguidance().LLMatcher.grammar_from_regex(regex))

    def matcher(self, end: int) -> Matcher:
        """Follows one body, which `end` closes."""
        return Matcher(self, _llguidance().LLMatcher(_tokenizer(), self._text), end)


_SCHEMAS_IN = {"items", "prefixItems", "anyOf", "oneOf", "additionalProperties"}
_NAMED_SCHEMAS_IN = {"properties", "patternProperties", "$defs", "definitions"}
_APPLIED = {"anyOf", "oneOf", "$ref"}
_BESIDE = {"allOf", "if", "dependentSchemas", "dependentRequired", "dependencies"}
_NAMING = {"properties", "required"}
_MAY_NAME_MORE = {"additionalProperties", "patternProperties", "unevaluatedProperties", "minProperties"}


def closed(schema: Any) -> Any:
    """The schema with `additionalProperties` false wherever it names properties and says nothing of others: what it
    allows was allowed before, and a small model does not lose itself in properties of its own making.

    As it is if parts of it speak of the same object, as none of them names all of its properties.
    """
    return schema if _has_parts(schema) else _closed(schema)


def _has_parts(schema: Any) -> bool:
    """Whether one object is spoken of in several places: beside `anyOf` or `$ref` and in them, in `allOf`, or in what
    it has to be if something else holds.
    """
    if isinstance(schema, list):
        return any(map(_has_parts, schema))
    if not isinstance(schema, Mapping):
        return False
    places = len(_APPLIED & schema.keys()) + bool((_NAMING | _MAY_NAME_MORE) & schema.keys())
    inside = (schema[key].values() if _names_schemas(schema, key) else [schema[key]] for key in schema)
    return bool(_BESIDE & schema.keys()) or places > 1 or any(map(_has_parts, chain.from_iterable(inside)))


def _names_schemas(schema: Mapping[str, Any], key: str) -> bool:
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


class Matcher:
    """A body on its way through a grammar."""

    def __init__(self, grammar: Grammar, matcher: Any, end: int) -> None:
        self._grammar, self._matcher, self._end = grammar, matcher, end
        self._bits = np.zeros((N_VOCAB + 31) // 32, np.int32)

    def accept(self, token: int) -> None:
        self._matcher.consume_token(token)
        self._check()

    def allowed(self) -> np.ndarray | int:
        """Ids that lead on, and the end where the grammar is satisfied: bool (V',), or the end alone."""
        if self._matcher.is_stopped():
            self._check()
            return self._end
        self._matcher.unsafe_compute_mask_ptr(self._bits.ctypes.data, self._bits.nbytes)
        self._check()
        mask = np.unpackbits(self._bits.view(np.uint8), count=LAST_TEXT_ID + 1, bitorder="little").view(bool)
        mask[N_RANKS:] = False
        mask[self._end] = self._matcher.is_accepting()
        return mask

    def _check(self) -> None:
        if self._matcher.is_error():
            reason = " ".join(self._matcher.get_error().split())
            raise OptionError(f"{self._grammar.name} is too much to follow ({reason[:200]}): simplify it")
