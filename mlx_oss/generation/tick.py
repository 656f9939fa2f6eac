"""A tick: one step of the model for several rows, which gives each of them a token.

Every matrix of the model is read once for all of them. Knows nothing of which rows take part.
"""

from __future__ import annotations

import time

from mlx_oss.backend import device
from mlx_oss.errors import ContextError
from mlx_oss.generation.engine import Step
from mlx_oss.generation.generate import advance
from mlx_oss.generation.row import Row
from mlx_oss.generation.rows import Rows
from mlx_oss.generation.token_picker import Choice
from mlx_oss.model.transformer import Transformer
from mlx_oss.offload.install import offload_stats

MOST_TOKENS = 32  # that a tick computes for all rows together, if it checks guesses


class Ticker:
    """Computes ticks.

    Args:
        model: The model.
        rows: The rows of the engine.
        guesses: Whether to check what the text before suggests, several tokens at a time (see `lookup`).
    """

    def __init__(self, model: Transformer, rows: Rows, *, guesses: bool) -> None:
        self._model, self._rows, self._guesses = model, rows, guesses

    def tick(self, rows: list[Row]) -> None:
        """Gives a token to the reader of each row, and begins to choose the next ones.

        On the CPU backend tokens are given before the next ones are computed, so that readers look at them meanwhile.
        On a GPU the next ones are begun first, and the GPU computes them meanwhile. The last token of a row is always
        given at the end: then the row has ended, and all its tokens are held.
        """
        for row in rows:
            self._rows.put_last(row)
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
            self._rows.fail(rows, error)
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
                self._rows.give(row, steps[row])
            else:
                row.is_expected = True
            self._rows.end_if_failed(row)

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
                self._rows.fail([row], error)
        return steps

    def _has_room(self, row: Row, given: Step | None) -> bool:
        """Makes room for the token of a row that was chosen last. If there is none, the row ends after this token."""
        assert row.prefix is not None and row.writing is not None
        if self._rows.pool.grow(row.prefix, 1 + len(row.writing.guess)):
            return True
        row.writing.guess = ()
        while not self._rows.pool.grow(row.prefix, 1):
            if not self._rows.suspend():
                break
        else:
            return True
        step = given or self._steps({row: row.writing.pending}).get(row)
        if step is None or step.finish:
            if step is not None:
                self._rows.give(row, step)
            return False
        if given is None:
            row.give(step)
        self._rows.end(
            row,
            ContextError(
                f"the {self._rows.pool.limit:,} bytes that there are for conversations are used up by "
                f"{len(self._rows.begun)} of them: continue when others have ended"
            ),
        )
        return False
