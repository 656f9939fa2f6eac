"""Which of a layer's experts have a slot, and which of them make room for others: by how often and how lately they were
needed.

Bookkeeping only; knows nothing of weights, files and MLX.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import numpy as np

# What one need counts after each further token. A half would be pure recency, 1 pure frequency.
DECAY = 0.98


class ExpertCache:
    """Experts 0 .. experts - 1 share `slots` slots, numbered from 0."""

    def __init__(self, experts: int, slots: int, decay: float = DECAY) -> None:
        assert 1 <= slots <= experts, f"{slots=} {experts=}"
        self.of = np.full(experts, -1)  # the slot of each expert, -1 without one
        self._expert = np.full(slots, -1)  # and the other way round
        self._heat = np.zeros(experts)
        self._decay = decay

    def __len__(self) -> int:
        return len(self._expert)

    def record(self, counts: np.ndarray, tokens: int) -> None:
        """Of `tokens` tokens, counts[e] needed expert e."""
        old = self._decay**tokens
        self._heat = self._heat * old + counts * ((1 - old) / (1 - self._decay) / tokens)

    def by_heat(self, experts: Iterable[int]) -> list[int]:
        """The experts, those that are likeliest to be needed again last."""
        return sorted(experts, key=lambda expert: (self._heat[expert], expert))

    def held(self, experts: Iterable[int]) -> list[int]:
        """Those of the experts that have a slot."""
        return [expert for expert in experts if self.of[expert] >= 0]

    def free(self, count: int, keep: Collection[int]) -> list[int]:
        """Takes `count` slots from whoever is the least likely to be needed again, but for those to `keep`: they are
        empty then.
        """
        kept = set(keep)
        empty = [slot for slot, expert in enumerate(self._expert) if expert < 0]
        holders = self.by_heat(int(e) for e in self._expert if e >= 0 and e not in kept)
        chosen = (empty + [int(self.of[expert]) for expert in holders])[:count]
        assert len(chosen) == count, f"{count=} {len(self)=} {len(kept)=}"
        self.empty(chosen)
        return chosen

    def empty(self, slots: Sequence[int]) -> None:
        for slot in slots:
            if (expert := self._expert[slot]) >= 0:
                self.of[expert] = -1
            self._expert[slot] = -1

    def fill(self, slot: int, expert: int) -> None:
        """The slot, which was empty, now holds the expert."""
        self._expert[slot], self.of[expert] = expert, slot
