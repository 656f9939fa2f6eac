"""The scheduler: computes all requests of an engine together, a token for each at a time.

A *row* is a request that is being computed. In a tick, all rows whose readers wait for a token get one, and every
matrix of the model is read once for all of them. Between two ticks a chunk of one prompt is read. Each row keeps its
own KV cache, so rows begin and end between any two ticks, and a row whose reader is slow misses ticks without holding
up the others. Rows are at most one token ahead of their readers. Everything runs on the computing thread, one tick and
chunk at a time, so that other work gets its turn in between. Knows nothing of text and messages.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable, Collection, Iterator
from concurrent.futures import Future
from contextlib import suppress
from copy import copy
from queue import Empty, SimpleQueue

import mlx.core as mx

from mlx_oss.backend import device
from mlx_oss.backend.device_errors import device_errors
from mlx_oss.errors import ContextError, DeviceError, EngineError, NumericalError, forget_frames
from mlx_oss.generation import compute_thread
from mlx_oss.generation.engine import Item, PromptProgress, Step
from mlx_oss.generation.generate import Continuation, advance, prefill_chunks
from mlx_oss.generation.lookup import Lookup
from mlx_oss.generation.prefix_pool import Prefix, PrefixPool
from mlx_oss.generation.prompt_cache import KVPromptCache
from mlx_oss.generation.row import PAUSE, Row
from mlx_oss.generation.token_picker import Choice, TokenPicker
from mlx_oss.model.transformer import Transformer
from mlx_oss.offload.install import offload_stats

MOMENT = 0.002  # seconds that a tick waits for readers that took part in the last one
LOOK = 0.01  # seconds until it looks again whether there is room for a row that waits, if nobody reads
MOST_TOKENS = 32  # that a tick computes for all rows together, if it checks guesses
MOST_WAITING = 1024  # requests that wait for others to end
_LEAST_CHUNK = 32  # tokens; each time the system stops the GPU because a computation took too long, chunks are halved


class Scheduler:
    """Computes the rows of an engine.

    Args:
        model: The model.
        pool: Its prefixes.
        chunk: Number of tokens of a prompt that are read at a time.
        at_once: Maximum number of rows whose readers wait.
        together: Maximum number of rows in a tick.
        guesses: Whether to check what the text before suggests, several tokens at a time (see `lookup`).
        added_ids: Ids of text that a fine-tune has added.
        prepare: Called on the computing thread before something is computed.

    Attributes:
        chunk: As above.
        pool: As above.
        begun: Number of requests that have begun.
        read_tokens: Tokens of their prompts.
        reused_tokens: Tokens of their prompts that were held already.
    """

    def __init__(
        self,
        model: Transformer,
        pool: PrefixPool,
        *,
        chunk: int,
        at_once: int,
        together: int,
        guesses: bool,
        added_ids: Collection[int],
        prepare: Callable[[], None],
    ) -> None:
        self.chunk, self.pool = chunk, pool
        self.begun = self.read_tokens = self.reused_tokens = 0
        self._model, self._at_once, self._together, self._added_ids = model, at_once, together, added_ids
        self._prepare, self._guesses = prepare, guesses
        self._inbox: SimpleQueue[tuple[Row, Future[Item | None]] | None] = SimpleQueue()
        self._rows: deque[Row] = deque()  # those that have begun; the next ones to be computed come first
        self._waiting: deque[Row] = deque()
        self._is_awake = False  # True if `_work` will run

    @property
    def rows(self) -> int:
        """Number of requests that have begun and not ended, those whose readers pause included."""
        return len(self._rows)

    @property
    def waiting(self) -> int:
        """Number of requests that wait for others to end."""
        return len(self._waiting)

    def ask(self, row: Row) -> Future[Item | None]:
        """Asks for the next item of a row. May be called from any thread.

        Raises:
            EngineError: If nothing can be computed any more, or the computing thread would wait for itself.
        """
        compute_thread.check_process()  # what was awake in the process that this one was forked from sleeps here
        if compute_thread.is_current():
            raise EngineError("a constraint runs on the thread of the engine, so it cannot wait for the engine")
        future: Future[Item | None] = Future()
        self._inbox.put((row, future))
        try:
            self.wake()
        except BaseException:
            future.cancel()  # it stays in the inbox
            raise
        return future

    def wake(self) -> None:
        """Lets the computing thread look at what has changed. May be called from any thread."""
        if not self._is_awake:
            self._is_awake = True
            try:
                compute_thread.submit(self._work)
            except BaseException as error:
                self._is_awake = False
                if not isinstance(error, Exception):  # Ctrl-C: other threads have relied on this one meanwhile
                    self.wake()
                raise

    def look(self) -> None:
        """Lets the computing thread look for cancelled rows, even while it waits. May be called from any thread."""
        self._inbox.put(None)
        self.wake()

    def end(self, row: Row, error: BaseException | None = None, *, is_damaged: bool = False) -> None:
        """Ends a row at once; only for the computing thread.

        What it has read and written stays in the pool, unless it is damaged.
        """
        for rows in (self._rows, self._waiting):
            if row in rows:
                rows.remove(row)
        prefix, row.prefix = row.prefix, None
        if prefix is not None:
            if row.steps and prefix.kv.can_take_back(len(row.steps)):  # nobody has seen them
                prefix.kv.take_back(len(row.steps))
                del prefix.ids[-len(row.steps) :]
            is_damaged = is_damaged or prefix.kv.offset != len(prefix.ids)
            (self.pool.drop if is_damaged or row.cache is None else self.pool.put)(prefix)
        row.end(error)
        if self._waiting:
            self.wake()

    def _work(self) -> None:
        """Computes a tick and a chunk, and comes again if there is more to do."""
        self._is_awake = False
        try:
            self._prepare()
            self._receive()
            self._begin()
            for row in [row for row in self._rows if row.steps and row.is_asked]:
                self._give(row, row.steps.popleft())
                if row.prefix is not None and not row.steps:  # nothing can be taken back any more
                    row.prefix.kv.keep_earlier(False)
                self._end_if_failed(row)
            if rows := self._ready():
                self._tick(rows)
            if reading := [row for row in self._rows if row.reading is not None and row.is_asked]:
                self._read(reading[0])
            if self._waiting and not any(row.is_asked for row in self._rows):
                self._receive(LOOK)  # for readers that have paused: there is room when they do so for long
            if self._waiting or any(row.is_asked for row in self._rows):
                self.wake()
        except BaseException as error:  # the program is exiting
            for row in [*self._rows, *self._waiting]:
                self.end(row, error)
            raise

    def _receive(self, timeout: float | None = None) -> None:
        """Takes what readers have asked for, and ends the rows that they have cancelled."""
        with suppress(Empty):
            message = self._inbox.get_nowait() if timeout is None else self._inbox.get(timeout=timeout)
            while True:
                if message is not None:
                    self._take(*message)
                message = self._inbox.get_nowait()
        for row in [row for row in (*self._rows, *self._waiting) if row.is_cancelled]:
            self.end(row)

    def _take(self, row: Row, future: Future[Item | None]) -> None:
        row.asked.append(future)
        if row.is_cancelled or row.has_ended:
            row.end()
        elif row not in self._rows and row not in self._waiting:
            if len(self._waiting) >= MOST_WAITING:
                row.end(EngineError(f"{MOST_WAITING:,} requests are waiting already: ask again later"))
                return
            cache = row.cache() if row.cache is not None else None
            stream = row.stream() if row.stream is not None else None
            if cache is not None and stream is not None and not row.has_taken_over:
                row.has_taken_over = True
                cache.take_over(stream)
            self._waiting.append(row)

    def _begin(self) -> None:
        """Begins the rows that wait, in their order, as far as there is room for them."""
        while self._waiting and sum(row.is_asked for row in self._rows) < self._at_once:
            if self._waits_for_preamble:
                return
            row = self._waiting.popleft()
            try:
                if not self._begin_row(row):
                    if self._rows:
                        self._waiting.appendleft(row)
                        if not self._suspend():
                            return
                        continue
                    raise ContextError(
                        f"the keys and values of {len(row.prompt):,} tokens take more than the {self.pool.limit:,} "
                        "bytes that there are for conversations: shorten the conversation"
                    )
            except Exception as error:
                self._fail([row], error)

    @property
    def _waits_for_preamble(self) -> bool:
        """True if the next row that waits could begin, but another one is just reading the same preamble."""
        if not self._waiting:
            return False
        row = self._waiting[0]
        preamble = row.prompt[: row.request.preamble]
        return len(preamble) > self._model.config.sliding_window and any(
            other.is_reading(preamble) and (other.is_asked or time.perf_counter() - other.given_at < PAUSE)
            for other in self._rows
        )

    def _suspend(self) -> bool:
        """Gives up the keys and values of a row whose reader pauses. Returns False if there is none.

        When its reader comes back, the row waits for room and reads its ids again.
        """
        paused = [row for row in self._rows if row.is_paused]
        if not paused:
            return False
        row = min(paused, key=lambda row: row.given_at)
        self._rows.remove(row)
        prefix, row.prefix = row.prefix, None
        assert prefix is not None
        if row.writing is not None and row.reading is None:  # otherwise it has not read again what it had
            row.ids = list(prefix.ids)
        row.reading = None
        (self.pool.drop if row.cache is None else self.pool.put)(prefix)
        return True

    def _begin_row(self, row: Row) -> bool:
        """Begins a row, or goes on with a suspended one. Returns False if there is no room for its keys and values."""
        cache = row.cache() if row.cache is not None else None
        ids = row.prompt if row.writing is None else [*row.ids, row.writing.pending.value]
        if isinstance(cache, KVPromptCache):
            with device_errors:
                prefix = self.pool.take(ids, row.request.snapshots if row.writing is None else (), cache.prefix)
        elif row.cache is None:
            prefix = self.pool.take_new(ids, len(row.request.snapshots))
        else:  # nobody uses it any more
            self.end(row)
            return True
        if prefix is None:
            return False
        if isinstance(cache, KVPromptCache):
            cache.hold(prefix)
        row.prefix = prefix
        self._rows.append(row)
        if row.writing is not None:
            row.writing.cache = prefix.kv
            row.reading = self._reread(prefix, ids[:-1])
            return True
        reused = len(prefix.ids)
        row.reading = self._chunks(row, prefix, reused)
        if not row.has_begun:  # otherwise it was suspended in the middle of its prompt
            row.has_begun = True
            row.counts.read_tokens = row.counts.reused_tokens = reused
            self.begun += 1
            self.read_tokens += len(row.prompt)
            self.reused_tokens += reused
        return True

    def _reread(self, prefix: Prefix, ids: list[int]) -> Iterator[None]:
        """Reads what is not held any more of the ids of a suspended row. Yields after each chunk."""
        start = len(prefix.ids)
        if start < len(ids):
            for done, _ in prefill_chunks(self._model, ids[start:], prefix.kv, self.chunk):
                prefix.ids[start:] = ids[start : start + done]
                yield

    def _chunks(self, row: Row, prefix: Prefix, reused: int) -> Iterator[PromptProgress]:
        """Reads what is not held of a prompt, and takes the snapshots. Yields after each chunk."""
        request, prompt, before = row.request, row.prompt, offload_stats(self._model)
        ends = {*request.snapshots, len(prompt)}
        # A shorter preamble is soon read again. One that fits into the first chunk is not told as a chunk of its own.
        preamble = request.preamble if request.preamble > self._model.config.sliding_window else 0
        is_short = min(end for end in ends if end > reused) - reused <= self.chunk
        for end in sorted({*ends, preamble} - {0}):
            if end > reused:
                start = len(prefix.ids)
                for done, last in prefill_chunks(self._model, prompt[start:end], prefix.kv, self.chunk):
                    prefix.ids[start:] = prompt[start : start + done]
                    row.counts.read_tokens = len(prefix.ids)
                    row.counts.offload = offload_stats(self._model) - before
                    if len(prefix.ids) == len(prompt):
                        picker = TokenPicker(request.options, len(prompt), prompt, request.constraint, self._added_ids)
                        row.writing = Continuation(self._model, last, prefix.kv, picker, row.limit, request.stop_ids)
                        row.lookup = Lookup(prompt) if self._guesses else None
                    elif len(prefix.ids) == end:
                        prefix.kv.snapshot()
                    if end != preamble or end in ends or not is_short:
                        held = row.counts.reused_tokens
                        yield PromptProgress(max(0, len(prefix.ids) - held), len(prompt) - held)
            elif end == reused < len(prompt):
                prefix.kv.snapshot()

    def _read(self, row: Row) -> None:
        """Reads a chunk of a prompt."""
        assert row.reading is not None
        self._rows.remove(row)
        self._rows.append(row)
        try:
            progress = next(row.reading, None)
        except Exception as error:
            self._fail([row], error)
            return
        if row.writing is not None and progress is not None:
            row.reading = None
        if progress is not None:
            row.give(progress)
        elif row.writing is not None and row.prefix is not None and len(row.prefix.ids) >= len(row.ids):
            row.reading = None  # a suspended row has read its ids again

    def _ready(self) -> list[Row]:
        """The rows of the next tick. Waits a moment for those of the last one."""
        if not any(row.can_tick for row in self._rows):
            return []
        until = time.perf_counter() + MOMENT
        while late := [row for row in self._rows if row.is_expected and not row.is_asked]:
            if (left := until - time.perf_counter()) <= 0:
                for row in late:  # their readers are slow: no tick waits for them again before they have come
                    row.is_expected = False
                break
            self._receive(left)
        return [row for row in self._rows if row.can_tick][: self._together]

    def _tick(self, rows: list[Row]) -> None:
        """Gives a token to the reader of each row, and begins to choose the next ones.

        On the CPU backend tokens are given before the next ones are computed, so that readers look at them meanwhile.
        On a GPU the next ones are begun first, and the GPU computes them meanwhile. The last token of a row is always
        given at the end: then the row has ended, and all its tokens are held.
        """
        for row in rows:
            self._rows.remove(row)
            self._rows.append(row)
        started, before, steps = time.perf_counter(), offload_stats(self._model), dict[Row, Step]()
        choices = {row: row.writing.pending for row in rows if row.writing is not None}
        is_given_first = not device.on_gpu() or self._guesses
        if is_given_first:
            steps = self._steps(choices)
            for row, step in steps.items():
                if not step.finish:
                    row.give(step)
                    self._guess(row, step.token, len(rows))
        rows = [row for row in rows if not row.has_ended and self._has_room(row, steps.get(row))]
        sequences = {row: row.writing for row in rows if row.writing is not None}
        guesses = {row: len(sequence.guess) for row, sequence in sequences.items()}
        try:
            if sequences:
                advance(self._model, list(sequences.values()))
        except Exception as error:
            sequences.clear()  # the error refers to this frame
            self._fail(rows, error)
            return
        if not is_given_first:
            steps = self._steps({row: choices[row] for row in rows})
        seconds = time.perf_counter() - started
        for row, sequence in sequences.items():
            if row not in steps or row.prefix is None:
                continue
            row.prefix.ids += [steps[row].token, *(step.token for step in sequence.guessed)]
            row.counts.offload += offload_stats(self._model) - before
            row.steps += sequence.guessed
            row.worth.took(seconds, guesses[row], len(sequence.guessed))
            if row.lookup is not None:
                for step in sequence.guessed:
                    row.lookup.append(step.token)
            if steps[row].finish or not is_given_first:
                self._give(row, steps[row])
            else:
                row.is_expected = True
            self._end_if_failed(row)

    def _end_if_failed(self, row: Row) -> None:
        """Ends a row that has an error, when its reader has all tokens that came before."""
        if row.writing is not None and row.writing.error is not None and not row.steps:
            self._fail([row], row.writing.error)

    def _give(self, row: Row, step: Step) -> None:
        """Gives a step to the reader; the last one when the row has ended."""
        row.is_expected = not step.finish
        if step.finish:
            asked = row.asked.popleft()
            self.end(row)
            asked.set_result(step)
        else:
            row.give(step)

    def _guess(self, row: Row, token: int, rows: int) -> None:
        """Guesses what follows a token, if that is likely to save time."""
        if row.lookup is None or row.writing is None:
            return
        row.lookup.append(token)
        most = min(row.worth.most, MOST_TOKENS // rows - 1, row.writing.left - 1)
        if most > 0 and row.worth.is_worth_it():
            row.writing.guess = row.lookup.guess(most)

    def _steps(self, choices: dict[Row, Choice]) -> dict[Row, Step]:
        """What was chosen. A row for which that fails is ended."""
        steps = {}
        for row, choice in choices.items():
            try:
                assert row.writing is not None
                steps[row] = row.writing.step_of(choice)
            except Exception as error:
                self._fail([row], error)
        return steps

    def _has_room(self, row: Row, given: Step | None) -> bool:
        """Makes room for the token of a row that was chosen last. If there is none, the row ends after this token."""
        assert row.prefix is not None and row.writing is not None
        if self.pool.grow(row.prefix, 1 + len(row.writing.guess)):
            return True
        row.writing.guess = ()
        while not self.pool.grow(row.prefix, 1):
            if not self._suspend():
                break
        else:
            return True
        step = given or self._steps({row: row.writing.pending}).get(row)
        if step is None or step.finish:
            if step is not None:
                self._give(row, step)
            return False
        if given is None:
            row.give(step)
        self.end(
            row,
            ContextError(
                f"the {self.pool.limit:,} bytes that there are for conversations are used up by {len(self._rows)} "
                "of them: continue when others have ended"
            ),
        )
        return False

    def _fail(self, rows: list[Row], error: Exception) -> None:
        """Ends rows with an error. After an error of MLX, what they hold may have arrays that were never computed."""
        is_damaged = isinstance(error, DeviceError | NumericalError)
        for number, row in enumerate(rows):
            self.end(row, _copy_of(error) if number else error, is_damaged=is_damaged)
        if isinstance(error, DeviceError):
            forget_frames(error)  # they hold keys and values, and the memory may be used up
            mx.clear_cache()
            if error.took_too_long:
                self.chunk = max(_LEAST_CHUNK, self.chunk // 2)


def _copy_of(error: Exception) -> Exception:
    """The same error for another reader: each that raises it adds to its traceback, and may add notes."""
    try:
        copied = copy(error)
    except Exception:  # its class needs other arguments than those that it keeps
        return error
    copied.__cause__ = error.__cause__
    return copied.with_traceback(error.__traceback__)
