"""The words of a text by which it is found. In scripts without blanks these are all pairs of neighbouring characters.

SQLite takes a text apart at blanks and punctuation. A Chinese, Japanese or Thai sentence would be one word, and so
would a Korean word with its endings: their parts would not be found. Knows nothing of pages.
"""

from __future__ import annotations

import re
import unicodedata

# Thai, Lao, Myanmar, Khmer, Hiragana, Katakana, Chinese characters, Hangul
SCRIPTS = (
    "\u0e01-\u0e3a\u0e40-\u0eff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3041-\u3096\u30a1-\u30fa\u30fc-\u30ff\u31f0-\u31ff"
    "\u3400-\u4dbf\u4e00-\u9fff\uac00-\ud7a3\uf900-\ufaff\U00020000-\U000323af"
)
_RUN = re.compile(f"[{SCRIPTS}]++")
_UNIT = re.compile(rf"[{SCRIPTS}]|(?:(?![{SCRIPTS}])\w)++")
_WORD = re.compile(r"\w++")
# SQLite ends a word at the vowel signs of these scripts. It takes characters for private use to be letters.
_SIGNS = {
    code: 0xE000 + code - 0x0E00
    for block in ((0x0E00, 0x0F00), (0x1000, 0x10A0), (0x1780, 0x1800))
    for code in range(*block)
}


def indexed(text: str) -> str:
    """Replaces each run of characters of such a script by its pairs and its last character, with blanks in between."""
    if text.isascii():
        return text
    text = unicodedata.normalize("NFKC", text)
    return _RUN.sub(lambda run: f" {' '.join([*_pairs(run[0]), run[0][-1]])} ".translate(_SIGNS), text)


def has_parts(text: str) -> bool:
    """Whether a text has characters of such scripts."""
    return not text.isascii() and _RUN.search(text) is not None


def query_words(query: str) -> tuple[list[str], list[str]]:
    """Returns the words of a query, and in scripts without blanks its pairs of characters, or single characters."""
    query = unicodedata.normalize("NFKC", query)
    words = [match[0].lower() for match in _WORD.finditer(_RUN.sub(" ", query))]
    parts = [part for run in _RUN.finditer(query) for part in _pairs(run[0]) or [run[0]]]
    return list(dict.fromkeys(words)), list(dict.fromkeys(parts))


def pattern(part: str) -> str:
    """How FTS5 is asked for a part from `query_words`. A pair that begins with a single character fits it too."""
    return f'"{part.translate(_SIGNS)}"' + ("*" if len(part) == 1 else "")


def spans(text: str) -> list[tuple[int, int]]:
    """Where the words of a text are. Each character of a script without blanks counts as one."""
    return [match.span() for match in (_UNIT if has_parts(text) else _WORD).finditer(text)]


def _pairs(run: str) -> list[str]:
    return [run[at : at + 2] for at in range(len(run) - 1)]
