"""Detects that a model repeats the same few tokens again and again. Constant work per token."""

from __future__ import annotations

import numpy as np

LONGEST_PERIOD = 64  # longest cycle that is detected, in tokens
MIN_REPEATS = 8  # how many times in a row a cycle must occur to be detected


class RepetitionGuard:
    """Detects repetition in a stream of tokens: call `observe` for each one."""

    def __init__(self) -> None:
        self._recent = np.full(LONGEST_PERIOD, -1)  # the last tokens, latest first
        # For each period: the number of last tokens that equal the token one period earlier.
        self._agree = np.zeros(LONGEST_PERIOD, int)
        self._periods = np.arange(1, LONGEST_PERIOD + 1)
        self._enough = (MIN_REPEATS - 1) * self._periods

    def observe(self, token: int) -> int:
        """Takes the next token of the stream.

        Returns:
            How many of the last tokens are repetitions of one cycle, which has at most LONGEST_PERIOD tokens and occurs
            at least MIN_REPEATS times in a row. 0 if there is no such cycle.
        """
        self._agree += 1
        self._agree *= self._recent == token
        self._recent[1:] = self._recent[:-1]
        self._recent[0] = token
        is_cycle = self._agree >= self._enough
        return int((self._agree + self._periods)[is_cycle].max()) if is_cycle.any() else 0
