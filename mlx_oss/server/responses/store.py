"""Keeps responses, so that a later request can continue one by its id: in memory, or in a file that lasts.

It is bounded: when it is full, those that were used longest ago are forgotten. Knows nothing of what is in them.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_oss.errors import OptionError, quoted

MEMORY_BYTES = 64 << 20
FILE_BYTES = 1 << 30
_FORMAT = 1  # of the file
_WAIT_SECONDS = 1.0  # for another program that writes to the file; nothing is answered meanwhile
_TABLES = """
CREATE TABLE IF NOT EXISTS responses (
    id TEXT PRIMARY KEY, previous TEXT, used INTEGER NOT NULL, nbytes INTEGER NOT NULL, response TEXT NOT NULL
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_use ON responses (used);
CREATE TABLE IF NOT EXISTS items (
    response TEXT, place INTEGER, is_output INTEGER NOT NULL, id TEXT NOT NULL, item TEXT NOT NULL,
    PRIMARY KEY (response, place)
) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS by_id ON items (id);
"""
_CHAIN = """
WITH RECURSIVE chain (id, previous, depth) AS (
    SELECT id, previous, 0 FROM responses WHERE id = ?
    UNION ALL
    SELECT responses.id, responses.previous, depth + 1 FROM responses JOIN chain ON responses.id = chain.previous
)
SELECT id, previous FROM chain ORDER BY depth DESC
"""

Item = Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Stored:
    """A response that is stored.

    Attributes:
        response: The response.
        items: The items of its own request, without those of the responses that it continues.
    """

    response: Mapping[str, Any]
    items: Sequence[Item]


class Store:
    """Stored responses. May be used from any thread.

    Args:
        path: The file, which only this user may read. None keeps them in memory.
        limit: The most bytes of responses.

    Raises:
        OptionError: If the file cannot be used.
    """

    def __init__(self, path: Path | None = None, limit: int | None = None) -> None:
        self._limit = limit if limit is not None else MEMORY_BYTES if path is None else FILE_BYTES
        self._lock = threading.Lock()
        try:
            self._open(path)
        except (sqlite3.Error, OSError) as error:
            raise OptionError(
                f"responses cannot be stored in {quoted(str(path))} ({error}): give another file"
            ) from None

    def _open(self, path: Path | None) -> None:
        if path is not None:
            os.close(os.open(path, os.O_RDWR | os.O_CREAT, 0o600))
        self._file = sqlite3.connect(
            ":memory:" if path is None else path, _WAIT_SECONDS, check_same_thread=False, isolation_level=None
        )
        found = self._file.execute("PRAGMA user_version").fetchone()[0]
        if found not in (0, _FORMAT):
            raise OSError(f"it has the format {found}, of another version")
        if found == 0 and self._file.execute("SELECT count(*) FROM sqlite_master").fetchone()[0]:
            raise OSError("it is a database of another program")
        if path is not None:  # not before it is known to be ours
            path.chmod(0o600)
        self._file.execute("PRAGMA journal_mode = WAL")
        self._file.execute("PRAGMA synchronous = NORMAL")
        self._file.execute("PRAGMA secure_delete = ON")  # what is deleted is overwritten
        self._file.executescript(_TABLES)
        self._file.execute(f"PRAGMA user_version = {_FORMAT}")
        count, used = self._file.execute(
            "SELECT coalesce(sum(nbytes), 0), coalesce(max(used), 0) FROM responses"
        ).fetchone()
        self._nbytes: int = count
        self._uses: int = used

    def keep(self, stored: Stored) -> None:
        """Stores a response."""
        fields = {name: value for name, value in stored.response.items() if name != "output"}
        id_, output = fields["id"], stored.response["output"]
        text = json.dumps(fields, ensure_ascii=False)
        items = [
            (id_, place, place >= len(stored.items), item["id"], json.dumps(item, ensure_ascii=False))
            for place, item in enumerate((*stored.items, *output))
        ]
        nbytes = len(text) + sum(len(item[-1]) for item in items)
        with self._lock, self._file:
            self._file.execute("BEGIN")
            self._uses += 1
            row = (id_, fields["previous_response_id"], self._uses, nbytes, text)
            self._file.execute("INSERT INTO responses VALUES (?, ?, ?, ?, ?)", row)
            self._file.executemany("INSERT INTO items VALUES (?, ?, ?, ?, ?)", items)
            self._nbytes += nbytes
            while self._nbytes > self._limit and (
                oldest := self._file.execute("SELECT id FROM responses ORDER BY used LIMIT 1").fetchone()
            ):
                self._remove(oldest[0])

    def _remove(self, id_: str) -> bool:
        found = self._file.execute("SELECT nbytes FROM responses WHERE id = ?", (id_,)).fetchone()
        if found is None:
            return False
        self._file.execute("DELETE FROM items WHERE response = ?", (id_,))
        self._file.execute("DELETE FROM responses WHERE id = ?", (id_,))
        self._nbytes -= found[0]
        return True

    def delete(self, id_: str) -> bool:
        """Forgets a response. False if it is not stored."""
        with self._lock, self._file:
            self._file.execute("BEGIN")
            return self._remove(id_)

    def get(self, id_: str) -> Stored | None:
        """A response; None if it is not stored."""
        with self._lock:
            row = self._file.execute("SELECT response FROM responses WHERE id = ?", (id_,)).fetchone()
            items = [] if row is None else self._items(id_)
        if row is None:
            return None
        output = [item for is_output, item in items if is_output]
        return Stored({**json.loads(row[0]), "output": output}, [item for is_output, item in items if not is_output])

    def _items(self, id_: str) -> list[tuple[bool, Item]]:
        query = "SELECT is_output, item FROM items WHERE response = ? ORDER BY place"
        return [(bool(is_output), json.loads(text)) for is_output, text in self._file.execute(query, (id_,))]

    def item(self, id_: str) -> Item | None:
        """An item of a request or a response; None if it is not stored."""
        with self._lock:
            row = self._file.execute("SELECT item FROM items WHERE id = ? LIMIT 1", (id_,)).fetchone()
        if row is None:
            return None
        item: Item = json.loads(row[0])
        return item

    def conversation(self, id_: str) -> list[Item] | None:
        """The items up to the end of a response, from the beginning of what it continues. None if a part is missing."""
        with self._lock, self._file:
            chain = self._file.execute(_CHAIN, (id_,)).fetchall()
            if not chain or chain[0][1] is not None:
                return None
            self._file.execute("BEGIN")
            items = []
            for one, _ in chain:  # as a whole it is used now, so that no part of it is forgotten before the rest
                self._uses += 1
                self._file.execute("UPDATE responses SET used = ? WHERE id = ?", (self._uses, one))
                items += [item for _, item in self._items(one)]
        return items

    def close(self) -> None:
        """Closes the file."""
        with self._lock:
            self._file.close()
