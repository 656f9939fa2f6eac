"""Notices that a model goes round in circles: the same few tokens again and again. Constant work a token."""

from __future__ import annotations

import numpy as np

LONGEST_PERIOD = 64  # tokens
ROUNDS = 8


class RepetitionGuard:
    """`see` every token; it says whether the last ones are one cycle of at most LONGEST_PERIOD tokens, gone through at
    least ROUNDS times and `shortest` tokens long.
    """

    def __init__(self, shortest: int) -> None:
        self._recent = np.full(LONGEST_PERIOD, -1)  # the latest first
        self._agree = np.zeros(LONGEST_PERIOD, int)  # by period: how many tokens in a row equal the one a period before
        periods = np.arange(1, LONGEST_PERIOD + 1)
        self._enough = np.maximum(ROUNDS * periods, shortest) - periods

    def see(self, token: int) -> bool:
        self._agree += 1
        self._agree *= self._recent == token
        self._recent[1:] = self._recent[:-1]
        self._recent[0] = token
        return bool((self._agree >= self._enough).any())
