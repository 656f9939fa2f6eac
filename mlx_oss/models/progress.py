"""How far a model is on its way to a folder that can be loaded, as plain values."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class Progress:
    """How far a model is on its way to a folder that can be loaded.

    Attributes:
        step: "downloading" or "converting".
        done: Bytes that are there.
        total: Bytes of the whole step.
        waiting: True while nothing is done but waiting for another process, which downloads the same files.
    """

    step: Literal["downloading", "converting"]
    done: int
    total: int
    waiting: bool = False


OnProgress = Callable[[Progress], None]
