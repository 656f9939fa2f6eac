"""Applies patches to the files of one folder, for the function tool `apply_patch`.

The format is that of openai/gpt-oss `gpt_oss/tools/apply_patch.md`: the sections between `*** Begin Patch` and
`*** End Patch` add, delete, update and move files. Every path must stay inside the folder: absolute paths, `..`,
symbolic links and `.git` (where hooks could be installed) are refused. A patch is also refused if a file has changed
since it was read. If writing fails, everything written so far is undone; if the process is killed, the next patch or
the next `patch_tool` of the folder does that. Knows nothing of sessions.
"""

from __future__ import annotations

import errno
import os
import threading
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mlx_oss.errors import OptionError, ToolError
from mlx_oss.files import can_exist, expanded
from mlx_oss.harmony import ToolDescription
from mlx_oss.json_text import whole_characters
from mlx_oss.tools.functions import Tool
from mlx_oss.tools.patch.anchored_paths import AnchoredFolder
from mlx_oss.tools.patch.hunks import apply_hunks
from mlx_oss.tools.patch.parsing import Add, Delete, Operation, Update, parse
from mlx_oss.tools.patch.transaction import MAX_BYTES, Step, is_inside, locked, recover, write

_DESCRIPTION = """\
Changes files: adds, updates, moves and deletes them, all or nothing. `input` is a patch:
*** Begin Patch
*** Add File: notes/new.txt
+every line of a new file begins with a plus
*** Update File: src/app.py
*** Move to: src/main.py
@@ def greet():
 a line of context begins with a blank
-a line to remove
+a line to insert
*** Delete File: old.txt
*** End Patch
Paths are relative. The line after @@ is optional and says below which line to look."""

_MAX_CHARACTERS = 4 * MAX_BYTES  # of all files of a patch together, before and after
_MAX_PATH, _MAX_NAME = 1000, 255  # bytes; macOS has the shorter paths
_LOCK_SECONDS = 10.0  # to wait for the patch of another process
_locks: dict[Path, threading.Lock] = {}  # by folder: only one patch is applied to a folder at a time


@dataclass(frozen=True, slots=True)
class Change:
    """What a patch does to one file.

    Attributes:
        path: Path of the file, relative to the folder.
        before: Its text before the patch; None if the file is added.
        after: Its text after the patch; None if the file is deleted.
        moved_to: The new path of a file that is moved, relative to the folder.
    """

    path: str
    before: str | None
    after: str | None
    moved_to: str | None = None

    @property
    def changes_anything(self) -> bool:
        """False for an update that gives the file the text that it has."""
        return self.before != self.after or self.moved_to is not None

    def __str__(self) -> str:
        if self.moved_to is not None:
            return f"moved {self.path} to {self.moved_to}"
        if not self.changes_anything:
            return f"left {self.path} as it was"
        verb = "added" if self.before is None else "deleted" if self.after is None else "updated"
        return f"{verb} {self.path}"


def patch_tool(folder: str | Path, *, dry_run: bool = False) -> Tool:
    """Makes the function tool `apply_patch`, with which the model can change the files of a folder.

    Args:
        folder: The folder. Files outside it cannot be changed.
        dry_run: If True, nothing is written; the model sees what the patch would change.

    Returns:
        The tool, for the `tools` of a session.

    Raises:
        OptionError: If `folder` is not a folder.
    """
    folder = expanded(folder)
    if not os.path.isdir(folder):
        raise OptionError(f"{folder} is not a folder: give one whose files the model may change")
    with locked(folder.resolve(), 0) as is_free:
        if is_free and not dry_run:
            recover(folder.resolve())
    schema = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}

    def apply(input: str) -> str:
        done = ", ".join(map(str, apply_patch(input, folder, dry_run=dry_run)))
        return f"The patch fits: {done}. This is a dry run, nothing is written." if dry_run else f"Done: {done}."

    return Tool(ToolDescription("apply_patch", _DESCRIPTION, schema), apply)


def apply_patch(text: str, folder: str | Path, *, dry_run: bool = False) -> list[Change]:
    """Applies a patch to the files of a folder.

    Args:
        text: The patch, from `*** Begin Patch` to `*** End Patch`. Halves of surrogate pairs in its lines become
            question marks.
        folder: The folder that the paths in the patch are relative to.
        dry_run: If True, nothing is written.

    Returns:
        The changes, in the order of the patch.

    Raises:
        ToolError: If the patch is malformed, does not fit the files, names a path that is refused, or cannot be
            written, or if it changes nothing. Nothing is changed then.
    """
    if not can_exist(folder):
        raise ToolError(f"{str(folder)!r} is nothing that a folder can be called")
    root, operations = Path(os.path.realpath(expanded(folder))), parse(text)
    with _locks.setdefault(root, threading.Lock()), locked(root, _LOCK_SECONDS) as is_free:
        if not is_free:
            raise ToolError(f"another program is applying a patch to {root.name}: try again when it is done")
        if not dry_run:
            recover(root)
        counts = Counter(path for operation in operations for path in _paths(operation))
        if repeated := [path for path, count in counts.items() if count > 1]:
            raise ToolError(f"{min(repeated)} occurs twice in the patch: put all its changes into one section")
        try:
            with AnchoredFolder(root) as opened:
                changes = _changes(opened, operations)
        except OSError as error:
            raise ToolError(f"{root.name} cannot be opened ({error.strerror})") from None
        steps = [step for change in changes if change.changes_anything for step in _steps(change)]
        if not steps:
            raise ToolError(
                f"the patch changes nothing: {', '.join(counts)} would stay as before; begin the lines to remove with "
                "`-`, and the new lines with `+`"
            )
        if not dry_run:
            write(root, steps)
    return changes


def _paths(operation: Operation) -> list[str]:
    """The paths that an operation names. Raises ToolError if one may not be used."""
    paths = [_checked(operation.path)]
    if isinstance(operation, Update) and operation.move_to is not None and _checked(operation.move_to) not in paths:
        paths.append(_checked(operation.move_to))
    return paths


def _changes(folder: AnchoredFolder, operations: Sequence[Operation]) -> list[Change]:
    changes, size = [], 0
    for operation in operations:
        change = _change(folder, operation)
        size += len(change.before or "") + len(change.after or "")
        if size > _MAX_CHARACTERS:
            raise ToolError("the files that the patch changes are too large together: send it in several patches")
        changes.append(change)
    return changes


def _change(folder: AnchoredFolder, operation: Operation) -> Change:
    name = _checked(operation.path)
    match operation:
        case Add(_, lines):
            if _exists(folder, name):
                raise ToolError(f"{name} exists already: update it instead of adding it")
            return Change(name, None, whole_characters("".join(f"{line}\n" for line in lines)))
        case Delete():
            return Change(name, _read(folder, name), None)
        case Update(_, hunks, move_to):
            before = _read(folder, name)
            after = whole_characters(apply_hunks(before, hunks, name))
            target = _checked(move_to) if move_to is not None else name
            if target == name:
                return Change(name, before, after)
            if _exists(folder, target):
                raise ToolError(f"{target} exists already: nothing can be moved there")
            return Change(name, before, after, target)
    raise AssertionError(operation)


def _checked(path: str) -> str:
    """Returns a path of a patch in its shortest form. Raises ToolError if it may not be used."""
    shown, pure = repr(path if len(path) <= 200 else path[:200] + "..."), PurePosixPath(path)
    try:
        sizes = [len(part.encode()) for part in (path, *pure.parts)]
    except UnicodeEncodeError:
        raise ToolError(f"{shown} is refused: it is no text that a file can be called") from None
    if sizes[0] > _MAX_PATH or max(sizes[1:], default=0) > _MAX_NAME:
        raise ToolError(f"{shown} is refused: it is too long for the path of a file")
    if pure.is_absolute() or ".." in pure.parts or "\0" in path or "\\" in path:
        raise ToolError(f"{shown} is refused: give a relative path without `..`, within the folder")
    if not is_inside(path):
        raise ToolError(f"{shown} is refused: it names no file that a patch may change")
    return pure.as_posix()


def _exists(folder: AnchoredFolder, name: str) -> bool:
    """Raises ToolError if a folder on the way is a link, or cannot be opened."""
    try:
        return folder.resolve(name).status is not None
    except FileNotFoundError:
        return False
    except OSError as error:
        raise _refused(name, error) from None


def _read(folder: AnchoredFolder, name: str) -> str:
    try:
        return folder.resolve(name).read(MAX_BYTES).decode()
    except UnicodeDecodeError:
        raise ToolError(f"{name} is no text in UTF-8") from None
    except OSError as error:
        raise _refused(name, error) from None


def _refused(name: str, error: OSError) -> ToolError:
    if error.errno in (errno.ELOOP, errno.ENOTDIR):
        return ToolError(f"{name} is refused: there is a symbolic link or a file in its path where a folder should be")
    if error.errno == errno.EISDIR:
        return ToolError(f"{name} is no file")
    return ToolError(f"{name} cannot be read ({error.strerror})")


def _steps(change: Change) -> list[Step]:
    before, after = ((text.encode() if text is not None else None) for text in (change.before, change.after))
    if change.moved_to is None:
        return [Step(change.path, before, after, change.path)]
    return [Step(change.path, before, None, change.path), Step(change.moved_to, None, after, change.path)]
