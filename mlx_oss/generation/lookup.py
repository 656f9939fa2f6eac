"""Prompt lookup: guesses what comes next from what the text already contains.

Code that is edited, a passage that is quoted, or the result of a tool that is repeated has stood in the text before.
Where the last ids have stood before, the ids that followed there are a guess. The model checks all ids of a guess in
one step, which reads its weights once; what it chooses stays the same. Knows nothing of models.
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import takewhile

_SPAN = 3  # ids by which an earlier place is found
LEAST_MATCH = 6  # ids that must be the same before a guess; after fewer, most guesses are wrong
MOST = 16  # ids of a guess


class Lookup:
    """The ids of a text, with the place where its end has stood before.

    Args:
        ids: The ids so far.
    """

    def __init__(self, ids: Sequence[int]) -> None:
        self._ids: list[int] = []
        self._places: dict[tuple[int, ...], int] = {}  # where the last place of _SPAN ids ends
        self._place = self._match = 0  # where the earlier place ends, and how many ids before it are the same
        for id_ in ids:
            self.append(id_)

    def append(self, id_: int) -> None:
        """Adds the next id."""
        if self._match and self._ids[self._place] == id_:
            self._place, self._match = self._place + 1, self._match + 1
            self._ids.append(id_)
        else:
            self._ids.append(id_)
            self._find()
        if len(self._ids) >= _SPAN:
            self._places[tuple(self._ids[-_SPAN:])] = len(self._ids)

    def guess(self, most: int = MOST) -> list[int]:
        """What may come next: up to `most` ids, or none."""
        return self._ids[self._place : self._place + most] if self._match >= LEAST_MATCH else []

    def _find(self) -> None:
        """Looks for an earlier place with the same last ids."""
        ids, place = self._ids, self._places.get(tuple(self._ids[-_SPAN:]), 0)
        pairs = zip(reversed(ids[max(0, place - LEAST_MATCH) : place]), reversed(ids), strict=False)
        self._place, self._match = place, sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], pairs))


class Worth:
    """Whether guesses save time for a text: compares the tokens a second with them and without.

    Attributes:
        most: How many ids the next guess should have.
    """

    def __init__(self) -> None:
        self.most = 4
        self._rates = {True: _Rate(), False: _Rate()}
        self._pause, self._left = 32, 0

    def is_worth_it(self) -> bool:
        """True if the next step should check a guess, where there is one."""
        with_guess, without = self._rates[True], self._rates[False]
        if self._left:
            return False
        if with_guess.steps < 4 or not without.steps or with_guess.value >= without.value:
            return True
        self._left, self._pause = self._pause, 2 * self._pause  # not for a while: the text may change
        self._rates[True] = _Rate()
        return False

    def took(self, seconds: float, guess: int, right: int) -> None:
        """Tells how long a step took that checked a guess of so many ids, of which so many were right."""
        self._rates[guess > 0].add(1 + right, seconds)
        if guess:
            self.most = min(MOST, 2 * right + 2)
        self._left = max(0, self._left - 1)


class _Rate:
    """Tokens a second in the last steps."""

    def __init__(self) -> None:
        self.steps, self._tokens, self._seconds = 0, 0.0, 0.0

    @property
    def value(self) -> float:
        return self._tokens / self._seconds if self._seconds else 0.0

    def add(self, tokens: int, seconds: float) -> None:
        self.steps += 1
        self._tokens, self._seconds = 0.9 * self._tokens + tokens, 0.9 * self._seconds + seconds
