"""Measures what a conversion loses: how far stored weights are from those that were read. Knows nothing of formats."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np

How = Literal["quantised", "requantised", "dequantised", "rounded", "merged"]  # what was done to a weight


class RelativeError:
    """The relative error of a weight: |values - stored| / |values| in Euclidean norms; 0 if all values are 0.

    `add` adds values to the sums, `float()` returns the result so far.

    Args:
        how: What is done to the weight.
        before: Errors of what was done to its values before. They are included, taken as independent of this one.
    """

    def __init__(self, how: How, before: Sequence[RelativeError] = ()):
        self.how, self._before = how, tuple(before)
        self._lost = self._power = 0.0

    def __float__(self) -> float:
        earlier = sum(float(error) ** 2 * error.power for error in self._before)
        return math.sqrt(_ratio(self._lost, self._power) + _ratio(earlier, sum(e.power for e in self._before)))

    @property
    def power(self) -> float:
        """The sum of the squares of the values so far; if there are none, of those that the errors before are about."""
        return self._power or sum(error.power for error in self._before)

    def add(self, values: np.ndarray, stored: np.ndarray) -> bool:
        """Adds float32 values and the values they are stored as. Returns False if what is stored is not finite."""
        difference = (values - stored).reshape(-1)
        self._power += _squares(values.reshape(-1))
        self._lost += _squares(difference)
        return math.isfinite(self._lost)


def _squares(values: np.ndarray) -> float:
    """The sum of the squares of float32 values, in float64 where float32 overflows."""
    squares = float(np.vdot(values, values))
    return squares if math.isfinite(squares) else float(np.square(values, dtype=np.float64).sum())


def _ratio(lost: float, power: float) -> float:
    return lost / power if power else 0.0
