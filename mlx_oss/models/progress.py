"""What a caller of `folder_of` is told on the way to a folder that can be loaded, and what it is asked."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from mlx_oss.weights.layouts.checkpoint import Checkpoint


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
Check = Callable[[Checkpoint], str]
