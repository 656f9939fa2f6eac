"""Reads the tokenizer.json of a model's folder: whether it is gpt-oss's tokenizer, and which tokens it adds.

A fine-tune may give names to the unused ids from 200013 on, and to ids behind the vocabulary. Everything else has to be
as in the releases: any other tokenizer would be misread in silence. Knows nothing of layouts, weights and messages.
"""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from mlx_oss.errors import TokenizerError, quoted
from mlx_oss.files import COMPANION_BYTES, expanded, read_bytes
from mlx_oss.tokenizer import (
    ENDOFPROMPT,
    LONGEST_TOKEN,
    MOST_IDS,
    N_RANKS,
    NAMED,
    SPECIAL_TOKENS,
    AddedToken,
    bundled_tokens,
    byte_letters,
)

FIRST_UNUSED = 200013  # the reserved ids before it lie between the control tokens of harmony

# The releases' tokenizer.json, and what Hugging Face's tokenizers writes when it saves it with more tokens, are the
# same from here on: vocabulary and merges. Hashing 28 MB takes 0.05 s, parsing them 1.5 s.
_MODEL_AT = b'\n  "model": {'
MODEL_SHA256 = "0a2a34d5f479f65229a591d775af14457c79d75ae8f929ecf16534b310e585dc"

_REMEDY = (
    "If the model was trained with gpt-oss's own tokens, put the tokenizer.json of openai/gpt-oss-20b in its place; "
    "otherwise the model cannot be used here"
)


def added_tokens(folder: str | Path, rows: int | None = None) -> tuple[AddedToken, ...]:
    """The tokens that the tokenizer.json of a folder adds to those of gpt-oss; none if there is no such file.

    A UserWarning names a token that text is not encoded to as Hugging Face's tokenizers would.

    Args:
        folder: The folder of a model.
        rows: Number of ids that the model has embeddings for. Tokens with higher ids are left out: their texts are read
            as ordinary text. A UserWarning names the first one that is not special. None leaves out none.

    Raises:
        TokenizerError: As `check_tokenizer_json`.
    """
    path = expanded(folder) / "tokenizer.json"
    if not os.path.lexists(path):
        return ()
    added = check_tokenizer_json(path)
    kept = tuple(token for token in added if rows is None or token.id < rows)
    if lost := [token for token in added if token not in kept and not token.special]:
        warnings.warn(
            f"{path}: token {quoted(lost[0].text)} has the id {lost[0].id}, but the model has {rows} ids: it is read "
            "as ordinary text",
            stacklevel=2,
        )
    if stripping := [token for token in kept if token.strips and not token.special]:
        warnings.warn(
            f"{path}: token {quoted(stripping[0].text)} takes the blanks beside it away in Hugging Face's tokenizers, "
            "but here they are kept",
            stacklevel=2,
        )
    if long := [token for token in kept if len(token.text) > LONGEST_TOKEN and not token.special]:
        warnings.warn(
            f"{path}: token {quoted(long[0].text)} has more than {LONGEST_TOKEN} characters: it is read as ordinary "
            "text",
            stacklevel=2,
        )
    return kept


def check_tokenizer_json(path: str | Path) -> tuple[AddedToken, ...]:
    """Checks that a `tokenizer.json` assigns the ids of gpt-oss to the tokens of gpt-oss.

    Args:
        path: The file.

    Returns:
        The tokens that it adds, by id.

    Raises:
        TokenizerError: If the file cannot be read or is another tokenizer; names the first id that differs.
    """
    path = expanded(path)
    try:
        content = read_bytes(path, COMPANION_BYTES)
        at = content.find(_MODEL_AT)
        if at >= 0 and hashlib.sha256(memoryview(content)[at:]).hexdigest() == MODEL_SHA256:
            vocab, added = None, _added(json.loads(content[:at] + b'"model": null}'))
        else:
            data = json.loads(content)
            vocab, added = _vocab(data), _added(data)
    except OSError as error:
        raise TokenizerError(f"{path} cannot be read ({error.strerror}): download it again") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise TokenizerError(
            f"{path}: not a tokenizer.json with model.vocab and added_tokens ({quoted(error)}): download it again"
        ) from error
    try:
        more = {} if vocab is None else _compare_ranks(vocab)
        return tuple(_checked(more | added))
    except _OtherToken as other:
        raise TokenizerError(f"{path}: {other}: this is not a tokenizer of gpt-oss. {_REMEDY}") from None


class _OtherToken(Exception):
    """An id has another token than in gpt-oss."""

    def __init__(self, id_: int, theirs: str | None, ours: str) -> None:
        found = "is missing" if theirs is None else f"is {quoted(theirs)}"
        super().__init__(f"id {id_} {found}, but it is {quoted(ours)} in gpt-oss")


def _vocab(data: Any) -> dict[str, int]:
    vocab: dict[str, int] = data["model"]["vocab"]
    if not {*map(type, vocab.values())} <= {int}:
        raise TypeError("an id is no whole number")
    return vocab


def _added(data: Any) -> dict[int, AddedToken]:
    added = {}
    for entry in data["added_tokens"]:
        id_, text = entry["id"], entry["content"]
        if type(id_) is not int or not isinstance(text, str) or not text:
            raise TypeError("an added token has no id or no content")
        special, single_word = entry.get("special", True) is not False, entry.get("single_word", False) is True
        added[id_] = AddedToken(id_, text, special, single_word, True in (entry.get("lstrip"), entry.get("rstrip")))
    return added


def _compare_ranks(vocab: Mapping[str, int]) -> dict[int, AddedToken]:
    """Compares the vocabulary with the bundled one. Returns what it has behind it. Raises _OtherToken."""
    letters = "".join(byte_letters())
    ours = {token.decode("latin-1").translate(letters): rank for rank, token in enumerate(bundled_tokens())}
    if vocab == ours:
        return {}
    by_id = {id_: token for token, id_ in vocab.items()}
    for token, rank in ours.items():
        if by_id.get(rank) != token:
            raise _OtherToken(rank, by_id.get(rank), token)
    return {id_: AddedToken(id_, token) for id_, token in by_id.items() if not 0 <= id_ < N_RANKS}


def _checked(tokens: Mapping[int, AddedToken]) -> Iterator[AddedToken]:
    """Yields the tokens that gpt-oss does not have. Raises _OtherToken if one has the place of another."""
    names = {id_: name for name, id_ in SPECIAL_TOKENS.items()}
    ids_of_named = {names[id_]: id_ for id_ in NAMED}
    ranks = bundled_tokens() if any(0 <= id_ < N_RANKS for id_ in tokens) else []
    for id_ in sorted({*tokens, *NAMED}):
        token, name = tokens.get(id_), names.get(id_)
        if token is None:
            raise _OtherToken(id_, None, names[id_])
        if 0 <= id_ < N_RANKS:
            if token.text.encode(errors="replace") != ranks[id_]:
                raise _OtherToken(id_, token.text, ranks[id_].decode(errors="replace"))
        elif name == token.text:
            continue
        elif token.text in ids_of_named:
            raise _OtherToken(ids_of_named[token.text], None, token.text)
        elif name is not None and (id_ < FIRST_UNUSED or id_ == ENDOFPROMPT):
            raise _OtherToken(id_, token.text, name)
        elif not 0 <= id_ < MOST_IDS:
            raise _OtherToken(id_, token.text, "no id")
        else:
            yield token
