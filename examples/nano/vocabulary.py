"""The tokens that nano knows. Each has its own embedding row; all other ids share the last row, the unknown word.

The tokens are fixed before training, so that training on later data can start from earlier weights.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from functools import lru_cache

import numpy as np

from mlx_oss import tokenizer as o200k

N_WORDS = 3200  # number of common word tokens; o200k numbers its merges by frequency, so low ids are common
_WORD = re.compile(r" ?[A-Za-z][a-z]*\Z")
_MARK = re.compile(r" ?[^A-Za-z0-9]{1,2}\Z")
UNKNOWN = "\ue000"  # placeholder for an unknown word in generated text


def common_ids() -> set[int]:
    """Ids that always have a row: common words, punctuation, numbers up to three digits, bytes, control tokens."""
    tokenizer = o200k.load_tokenizer()
    texts = [tokenizer.token_bytes(id_).decode("utf-8", "replace") for id_ in range(40_000)]
    words = [id_ for id_, text in enumerate(texts) if _WORD.match(text)][:N_WORDS]
    marks = [id_ for id_, text in enumerate(texts[:2000]) if _MARK.match(text) and text.isascii()]
    numbers = [id_ for length in (1, 2, 3) for n in range(10**length) for id_ in tokenizer.encode(f"{n:0{length}}")]
    special = [
        o200k.RETURN,
        o200k.CONSTRAIN,
        o200k.CHANNEL,
        o200k.START,
        o200k.END,
        o200k.MESSAGE,
        o200k.CALL,
        o200k.ENDOFTEXT,
    ]
    return {*words, *marks, *numbers, *special, *range(256)}


class Rows:
    """Maps text and token ids to rows of the embedding.

    Args:
        ids: Token ids that have their own row, sorted.

    Attributes:
        ids: The same ids.
        unknown: Number of the last row, which all other ids share.
    """

    def __init__(self, ids: np.ndarray):
        self.ids = ids
        self.unknown = len(ids)
        self._row = {int(id_): row for row, id_ in enumerate(ids)}
        self._encode = lru_cache(maxsize=200_000)(self._rows_of)

    def of_ids(self, ids: Iterable[int]) -> list[int]:
        return [self._row.get(id_, self.unknown) for id_ in ids]

    def of_text(self, text: str) -> tuple[int, ...]:
        """The rows of a text. Each `UNKNOWN` in it becomes the shared row and includes the space before it."""
        return self._encode(text)

    def knows(self, text: str) -> bool:
        """True if all tokens of the text have their own row."""
        return self.unknown not in self._encode(text)

    def words(self) -> list[str]:
        """Known tokens that are a space and a whole ASCII word of 3 letters or more; without the space."""
        texts = [o200k.load_tokenizer().token_bytes(int(id_)).decode("utf-8", "replace") for id_ in self.ids]
        return [
            text[1:]
            for text in texts
            if text.startswith(" ") and len(text) > 3 and text[1:].isalpha() and text.isascii()
        ]

    def _rows_of(self, text: str) -> tuple[int, ...]:
        parts = text.split(UNKNOWN)
        rows: list[int] = []
        for number, part in enumerate(parts):
            rows += [self.unknown] * bool(number)
            before_unknown = number < len(parts) - 1
            rows += self.of_ids(o200k.load_tokenizer().encode(part.removesuffix(" ") if before_unknown else part))
        return tuple(rows)
