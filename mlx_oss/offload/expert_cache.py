"""Which experts of a layer have a slot, and which of them make room for others.

The choice depends on how often and how recently an expert was needed. Bookkeeping only; knows nothing of weights, files
and MLX.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence

import numpy as np

# Factor by which the heat of an expert (how often it was needed) decays with each token. 0.5 would order experts by
# recency alone, 1 by frequency alone.
DECAY = 0.98


class ExpertCache:
    """Assigns slots 0 .. slots - 1 to some of the experts 0 .. experts - 1.

    Attributes:
        of: The slot of each expert, or -1 if it has none.
    """

    def __init__(self, experts: int, slots: int, decay: float = DECAY) -> None:
        assert 1 <= slots <= experts, f"{slots=} {experts=}"
        self.of = np.full(experts, -1)
        self._expert = np.full(slots, -1)  # the expert of each slot, or -1 if it is empty
        self._heat = np.zeros(experts)  # how often each expert was needed, with older tokens counting less
        self._decay = decay

    def __len__(self) -> int:
        return len(self._expert)

    def record(self, counts: np.ndarray, tokens: int) -> None:
        """Records that counts[e] of the last `tokens` tokens needed expert e."""
        old = self._decay**tokens
        self._heat = self._heat * old + counts * ((1 - old) / (1 - self._decay) / tokens)

    def by_heat(self, experts: Iterable[int]) -> list[int]:
        """The experts sorted by how likely they are to be needed again, the most likely last."""
        return sorted(experts, key=lambda expert: (self._heat[expert], expert))

    def held(self, experts: Iterable[int]) -> list[int]:
        """The experts among these that have a slot."""
        return [expert for expert in experts if self.of[expert] >= 0]

    def free(self, count: int, keep: Collection[int]) -> list[int]:
        """Empties `count` slots and returns them.

        Takes slots that are already empty first, then those of the experts least likely to be needed again, but never
        those of the experts in `keep`.
        """
        kept = set(keep)
        empty = [slot for slot, expert in enumerate(self._expert) if expert < 0]
        holders = self.by_heat(int(e) for e in self._expert if e >= 0 and e not in kept)
        chosen = (empty + [int(self.of[expert]) for expert in holders])[:count]
        assert len(chosen) == count, f"{count=} {len(self)=} {len(kept)=}"
        self.empty(chosen)
        return chosen

    def empty(self, slots: Sequence[int]) -> None:
        """Takes the slots away from their experts."""
        for slot in slots:
            if (expert := self._expert[slot]) >= 0:
                self.of[expert] = -1
            self._expert[slot] = -1

    def fill(self, slot: int, expert: int) -> None:
        """Assigns an empty slot to an expert."""
        self._expert[slot], self.of[expert] = expert, slot
