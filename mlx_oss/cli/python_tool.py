"""The Python tool of the command line: with a folder that its code reads from and writes to.

The result of a call says which files were saved, so that the user and the model know it. Knows nothing of arguments.
"""

from __future__ import annotations

from pathlib import Path

from mlx_oss.tools import Limits, PythonTool
from mlx_oss.tools.python_folder import SharedFolder
from mlx_oss.tools.sandbox import Isolation


class FolderPythonTool(PythonTool):
    """Runs Python code for the model, which gets the files of a folder and whose files come back there.

    Args:
        folder: The folder. None: a sentence says that what was written is not kept.
        stateful: As in `PythonTool`, like the others.
        limits: Limits for the code.
        isolation: The isolation.

    Raises:
        OptionError: As `PythonTool`, and if it is not a folder.
    """

    def __init__(
        self,
        folder: str | Path | None,
        *,
        stateful: bool = True,
        limits: Limits | None = None,
        isolation: Isolation | None = None,
    ) -> None:
        super().__init__(stateful=stateful, limits=limits, isolation=isolation)
        self._folder = None if folder is None else SharedFolder(folder, self.limits.file_bytes)
        if self._folder is not None:
            self._source = self._folder

    def _collect(self) -> str:
        remark = super()._collect()
        new = self.new_files()
        if self._folder is None:
            if new:
                remark += f"\n[not kept: {', '.join(new)}; --tool python=FOLDER saves what the code writes]"
            return remark
        for name in self._folder.passed_over:
            remark += f"\n[too large, or one of too many, to be passed to the code: {name}]"
        for name, content in new.items():
            saved = self._folder.save(name, content)
            renamed = f", not as {name}, which is read-only or not the file that the code had" if saved != name else ""
            remark += f"\n[saved as {self._folder.path / saved}{renamed}]" if saved else f"\n[cannot be saved: {name}]"
        return remark
