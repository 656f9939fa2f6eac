"""Notices that a model goes round in circles: the same few tokens again and again. Constant work a token."""

from __future__ import annotations

import numpy as np

LONGEST_PERIOD = 64  # tokens
ROUNDS = 8


class RepetitionGuard:
    """`see` every token; it says how many of the last ones are one cycle of at most LONGEST_PERIOD tokens that was gone
    through at least ROUNDS times; 0: they are none.
    """

    def __init__(self) -> None:
        self._recent = np.full(LONGEST_PERIOD, -1)  # the latest first
        self._agree = np.zeros(LONGEST_PERIOD, int)  # by period: how many tokens in a row equal the one a period before
        self._periods = np.arange(1, LONGEST_PERIOD + 1)
        self._enough = (ROUNDS - 1) * self._periods

    def observe(self, token: int) -> int:
        self._agree += 1
        self._agree *= self._recent == token
        self._recent[1:] = self._recent[:-1]
        self._recent[0] = token
        is_circle = self._agree >= self._enough
        return int((self._agree + self._periods)[is_circle].max()) if is_circle.any() else 0
