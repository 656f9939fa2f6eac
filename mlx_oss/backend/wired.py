"""Wires a model's weights while it computes on a Mac, so that macOS does not page them out between two tokens.

What is wired is lost to every other program. So only weights are counted, and nothing is wired while a model waits for
the next question. Wiring again takes time, so `release` is meant for some seconds after the last computation, not for
the end of each. Everything here runs on the computing thread. Knows nothing of models.
"""

from __future__ import annotations

from contextlib import suppress
from weakref import WeakSet

import mlx.core as mx


class WiredWeights:
    """The weights of one model.

    Args:
        nbytes: How many bytes of them may be wired; 0 for none. See `machine.Machine.wired`.
    """

    def __init__(self, nbytes: int) -> None:
        self._nbytes = nbytes

    def wire(self) -> bool:
        """Wires the weights, in addition to those of other models that are wired.

        Returns:
            False if there is nothing to wire, or if they are wired already.
        """
        if not self._nbytes or self in _wired:
            return False
        _wired.add(self)
        _set_limit(sum(weights._nbytes for weights in _wired))
        return True


_wired = WeakSet[WiredWeights]()


def release() -> None:
    """Wires nothing any more."""
    _wired.clear()
    _set_limit(0)


def _set_limit(nbytes: int) -> None:
    # macOS before 15 has no such limit, and MLX refuses one above what Metal recommends: then nothing is wired.
    with suppress(RuntimeError, ValueError):
        mx.set_wired_limit(nbytes)
