"""`replay`: tells again what happened in a research, and makes its report again, without a model."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from mlx_oss.errors import ResearchError
from mlx_oss.files import expanded
from mlx_oss.research import trace
from mlx_oss.research.report import Report, made
from mlx_oss.research.state import restored


def replay(folder: str | Path, progress: Callable[[Mapping[str, Any]], None] | None = None) -> Report:
    """Tells again what happened in a research, and makes its report again, without a model.

    Args:
        folder: The folder of the research.
        progress: Called with each line of the trace.

    Returns:
        The report. If the research has not come so far: one that has its notes.

    Raises:
        ResearchError: If the folder has no trace that can be read.
    """
    lines = trace.read(expanded(folder))
    state = restored(lines)
    if state.question is None:
        raise ResearchError(f"{folder} has the trace of no research: name the folder of one")
    for line in lines:
        if progress is not None:
            progress(line)
    return made(state)
