"""Base class of tools that have a section of their own in the system message, such as Python and the browser."""

from __future__ import annotations

from abc import ABC, abstractmethod

from mlx_oss.events import Citation
from mlx_oss.harmony import ToolNamespace

STOPPED = "stopped before it was done"  # the model reads this as the error of a call that was cancelled


class SystemTool(ABC):
    """A tool that the model was trained with, called as `<namespace>` or `<namespace>.<function>`."""

    @property
    @abstractmethod
    def namespace(self) -> ToolNamespace:
        """The tool's description in the system message."""

    @abstractmethod
    def call(self, function: str, text: str) -> str:
        """Runs one call and returns its result. Each call runs on a new thread.

        Calls can overlap: a session does not wait for a cancelled call, and sessions can share a tool.

        Args:
            function: Name of the function; "" if the namespace itself is called.
            text: What the model wrote as arguments.

        Returns:
            The result as the model reads it.

        Raises:
            ToolError: If the call fails. The message is a sentence for the model.
        """

    def cancel(self) -> None:
        """Stops a running call. Can be called from any thread."""
        return None

    def citations(self, answer: str) -> tuple[Citation, ...]:
        """Returns the parts of the tool's results that an answer cites."""
        return ()

    def fork(self) -> SystemTool:
        """Returns the tool for another session that runs beside this one: the tool itself, unless it counts pages."""
        return self

    def close(self) -> None:
        """Releases the resources of the tool."""
        return None
