"""Begins the rows that wait when there is room for their keys and values. Knows nothing of how they are computed."""

from __future__ import annotations

import time
from collections.abc import Collection
from functools import partial

from mlx_oss.backend.device_errors import device_errors
from mlx_oss.errors import ContextError
from mlx_oss.generation.prompt_cache import KVPromptCache
from mlx_oss.generation.prompt_reading import read_prompt, reread
from mlx_oss.generation.row import PAUSE, Row
from mlx_oss.generation.rows import Rows
from mlx_oss.model.transformer import Transformer


class Admission:
    """Begins rows.

    Args:
        model: The model.
        rows: The rows of the engine.
        at_once: Maximum number of rows whose readers wait.
        added_ids: Ids of text that a fine-tune has added.
        guesses: Whether rows guess what comes next.

    Attributes:
        at_once: As above.
        requests: Number of rows that have begun.
        read_tokens: Tokens of their prompts.
        reused_tokens: Tokens of their prompts that were held already.
    """

    def __init__(
        self, model: Transformer, rows: Rows, *, at_once: int, added_ids: Collection[int], guesses: bool
    ) -> None:
        self.at_once = at_once
        self.requests = self.read_tokens = self.reused_tokens = 0
        self._model, self._rows = model, rows
        self._read = partial(read_prompt, added_ids=added_ids, guesses=guesses)

    def begin(self) -> None:
        """Begins the rows that wait, in their order, as far as there is room for them."""
        while self._rows.waiting and sum(row.is_asked for row in self._rows.begun) < self.at_once:
            if self._waits_for_preamble:
                return
            row = self._rows.waiting.popleft()
            try:
                if not self._begin_row(row):
                    if self._rows.begun:
                        self._rows.waiting.appendleft(row)
                        if not self._rows.suspend():
                            return
                        continue
                    raise ContextError(
                        f"the keys and values of {len(row.prompt):,} tokens take more than the "
                        f"{self._rows.pool.limit:,} bytes that there are for conversations: shorten the conversation"
                    )
            except Exception as error:
                self._rows.fail([row], error)

    @property
    def _waits_for_preamble(self) -> bool:
        """True if the next row that waits could begin, but another one is just reading the same preamble."""
        if not self._rows.waiting:
            return False
        row = self._rows.waiting[0]
        preamble = row.prompt[: row.request.preamble]
        return len(preamble) > self._model.config.sliding_window and any(
            other.is_reading(preamble) and (other.is_asked or time.perf_counter() - other.given_at < PAUSE)
            for other in self._rows.begun
        )

    def _begin_row(self, row: Row) -> bool:
        """Begins a row, or goes on with a suspended one. Returns False if there is no room for its keys and values."""
        cache = row.cache() if row.cache is not None else None
        ids = row.prompt if row.writing is None else [*row.ids, row.writing.pending.value]
        if isinstance(cache, KVPromptCache):
            with device_errors:
                prefix = self._rows.pool.take(ids, row.request.snapshots if row.writing is None else (), cache.prefix)
        elif row.cache is None:
            prefix = self._rows.pool.take_new(ids, len(row.request.snapshots))
        else:  # nobody uses it any more
            self._rows.end(row)
            return True
        if prefix is None:
            return False
        if isinstance(cache, KVPromptCache):
            cache.hold(prefix)
        row.prefix = prefix
        self._rows.begun.append(row)
        if row.writing is not None:
            row.writing.cache = prefix.kv
            row.reading = reread(self._model, prefix, ids[:-1], self._rows.chunk)
            return True
        reused = len(prefix.ids)
        row.reading = self._read(self._model, row, prefix, self._rows.chunk)
        if not row.has_begun:  # otherwise it was suspended in the middle of its prompt
            row.has_begun = True
            row.counts.read_tokens = row.counts.reused_tokens = reused
            self.requests += 1
            self.read_tokens += len(row.prompt)
            self.reused_tokens += reused
        return True
