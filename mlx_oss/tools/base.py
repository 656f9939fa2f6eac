"""What a tool with a block of its own in the system message is, whichever it is: Python, a browser."""

from __future__ import annotations

from abc import ABC, abstractmethod

from mlx_oss.events import Citation
from mlx_oss.harmony import ToolNamespace


class SystemTool(ABC):
    """A tool the model was trained with, called as `<namespace>` or `<namespace>.<function>`."""

    @property
    @abstractmethod
    def namespace(self) -> ToolNamespace:
        """What the system message says of it."""

    @abstractmethod
    def call(self, function: str, text: str) -> str:
        """The result of a call; `function` is "" if the namespace itself is called. Runs on a thread of its own, one
        call at a time. Raises ToolError with a sentence for the model.
        """

    def cancel(self) -> None:
        """Ends a call that is running, for any thread."""
        return None

    def citations(self, answer: str) -> tuple[Citation, ...]:
        """What the answer cites of the tool's results."""
        return ()

    def close(self) -> None:
        """Gives back what it holds; it is not called any more."""
        return None
