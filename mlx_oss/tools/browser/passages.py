"""A search index in memory, and the passage of a text that fits a query best. Knows nothing of files.

Long texts are indexed in parts, because SQLite cannot be stopped while it takes one in or compares its matches.
"""

from __future__ import annotations

import sqlite3
import threading
from collections import Counter
from collections.abc import Iterator

from mlx_oss.errors import OptionError, ToolError
from mlx_oss.tools.base import STOPPED
from mlx_oss.tools.browser import words
from mlx_oss.tools.browser.text import pieces

_MAX_WORDS = 32  # of a query
_SHOWN_WORDS = 40
_PIECE_OF_PARTS = 1 << 13  # characters of a text with scripts without blanks: each is a word of the index
_LEAD = 5  # words before the first match
_STEPS = 200  # of SQLite's virtual machine, between two looks at `stopped`
_SEARCH = "SELECT rowid FROM pages WHERE pages MATCH ? ORDER BY bm25(pages, 4, 1), rowid"


class Passages:
    """An index of texts by name.

    Args:
        stopped: If set, `search` and `add` stop soon.

    Raises:
        OptionError: If this Python's SQLite lacks FTS5.
    """

    def __init__(self, stopped: threading.Event) -> None:
        self._stopped = stopped
        self._parts: dict[str, list[int]] = {}  # the row of each part, by the name of the text
        self._titles: dict[str, str] = {}
        self._names: dict[int, tuple[str, int]] = {}  # name and offset of the part, by its row
        self._index = sqlite3.connect(":memory:", check_same_thread=False)
        try:
            self._index.execute("CREATE VIRTUAL TABLE pages USING fts5(title, body, text UNINDEXED, tokenize='porter')")
            self._index.execute("CREATE VIRTUAL TABLE words USING fts5(word, tokenize='porter')")
            self._index.execute("CREATE VIRTUAL TABLE stems USING fts5vocab(words, row)")
        except sqlite3.OperationalError:
            raise OptionError("this Python's SQLite lacks FTS5, which searching needs: use another Python") from None

    def add(self, name: str, title: str, body: str) -> None:
        """Adds a text. Raises ToolError if stopped; a part of the text is then in the index until it is removed."""
        parts, offset = self._parts.setdefault(name, []), 0
        self._titles[name] = title
        for piece in self._pieces(body):
            found_by = words.indexed(piece)
            values = (words.indexed(title), found_by, piece if piece != found_by else None)
            row = self._index.execute("INSERT INTO pages VALUES (?, ?, ?)", values).lastrowid
            assert row is not None
            self._names[row] = name, offset
            parts.append(row)
            offset += len(piece)

    def remove(self, name: str) -> None:
        """Removes a text, or what there is of it. Raises ToolError if stopped."""
        parts = self._parts.get(name, [])
        while parts:
            self.check()
            self._index.execute("DELETE FROM pages WHERE rowid = ?", (parts[-1],))
            del self._names[parts.pop()]
        self._parts.pop(name, None)
        self._titles.pop(name, None)

    def search(self, query: str, count: int) -> list[tuple[str, str, str, int]]:
        """Returns the texts that fit a query best: those with most of its words come first, and rare words count more.

        Only the first 32 different words of the query count, and in scripts without blanks the first 32 pairs of
        characters.

        Returns:
            Name, title, and best passage of each text, and where the passage's first match is in the text.

        Raises:
            ToolError: If stopped.
        """
        wanted, parts = words.query_words(query[:100_000])
        wanted, parts = wanted[:_MAX_WORDS], parts[:_MAX_WORDS]
        patterns = [f'"{word}"' for word in wanted] + [words.pattern(part) for part in parts]
        if not patterns:
            return []
        found: dict[str, int] = {}  # the row of the best part, by the name of the text
        self._index.set_progress_handler(self._stopped.is_set, _STEPS)
        try:
            for (row,) in self._index.execute(_SEARCH, (" OR ".join(patterns),)):
                found.setdefault(self._names[row][0], row)
                if len(found) == count:
                    break
        except sqlite3.OperationalError:
            self.check()
            raise
        finally:
            self._index.set_progress_handler(None, 0)
        results, stems = [], (*self._stems(wanted), *parts)
        for name, row in found.items():
            self.check()
            (text,) = self._index.execute("SELECT ifnull(text, body) FROM pages WHERE rowid = ?", (row,)).fetchone()
            passage, at = best_passage(text, stems)
            results.append((name, self._titles[name], passage, self._names[row][1] + at))
        return results

    def _pieces(self, body: str) -> Iterator[str]:
        """Cuts a text into pieces that SQLite takes in within a moment."""
        if not body:
            yield ""
        for piece in pieces(body, self.check):
            if words.has_parts(piece):
                yield from pieces(piece, self.check, _PIECE_OF_PARTS)
            else:
                yield piece

    def check(self) -> None:
        """Raises ToolError if stopped."""
        if self._stopped.is_set():
            raise ToolError(STOPPED)

    def _stems(self, wanted: list[str]) -> tuple[str, ...]:
        """The beginnings by which the words are recognised in a text, and the words as they are."""
        self._index.execute("DELETE FROM words")
        self._index.execute("INSERT INTO words VALUES (?)", (" ".join(wanted),))
        stems = [str(term) for (term,) in self._index.execute("SELECT term FROM stems")]
        stems = [stem[:-1] if len(stem) > 2 and stem.endswith("i") else stem for stem in stems]  # happy: happi
        return tuple(dict.fromkeys([*stems, *wanted]))


def best_passage(text: str, stems: tuple[str, ...]) -> tuple[str, int]:
    """Returns the 40 words of a text in which most of the stems occur, and where the first of them is in the text."""
    spans = words.spans(text)
    matches: list[tuple[int, str]] = []  # number of the word in the text, and its stem
    for number, (start, end) in enumerate(spans):
        word = text[start : min(end, start + 100) if end > start + 1 else start + 2].lower()
        if word.startswith(stems):
            matches.append((number, max((stem for stem in stems if word.startswith(stem)), key=len)))
    first, best, window, left = 0, 0, Counter[str](), 0
    for number, stem in matches:
        window[stem] += 1
        while matches[left][0] <= number - _SHOWN_WORDS or window[matches[left][1]] > 1:
            window[matches[left][1]] -= 1
            if not window[matches[left][1]]:
                del window[matches[left][1]]
            left += 1
        if len(window) > best:
            first, best = matches[left][0], len(window)
    begin = 0 if len(spans) <= _SHOWN_WORDS else max(0, min(first - _LEAD, len(spans) - _SHOWN_WORDS))
    end = begin + _SHOWN_WORDS
    shown = text[spans[begin][0] if begin else 0 : spans[end][0] if end < len(spans) else len(text)]
    shown = f"{'... ' if begin else ''}{shown[:1000].strip()}{' ...' if end < len(spans) else ''}"
    return shown, spans[first][0] if spans else 0
