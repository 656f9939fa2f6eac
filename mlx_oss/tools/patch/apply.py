"""Applies patches to the files of one folder, for the function tool `apply_patch`.

The format is that of openai/gpt-oss `gpt_oss/tools/apply_patch.md`: the sections between `*** Begin Patch` and
`*** End Patch` add, delete, update and move files. Every path must stay inside the folder: absolute paths, `..`,
symbolic links and `.git` (where hooks could be installed) are refused. A patch is also refused if a file has changed
since it was read. If writing fails, everything written so far is undone. Only if the process is killed at that moment
can a part of the patch remain. Knows nothing of sessions.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mlx_oss.errors import OptionError, ToolError
from mlx_oss.files import expanded
from mlx_oss.harmony import ToolDescription
from mlx_oss.tools.functions import Tool
from mlx_oss.tools.patch.anchored_paths import AnchoredFolder, AnchoredPath
from mlx_oss.tools.patch.hunks import Add, Delete, Operation, Update, apply_hunks, parse

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

    def __str__(self) -> str:
        if self.moved_to is not None:
            return f"moved {self.path} to {self.moved_to}"
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
    schema = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}

    def apply(input: str) -> str:
        done = ", ".join(map(str, apply_patch(input, folder, dry_run=dry_run)))
        return f"The patch fits: {done}. This is a dry run, nothing is written." if dry_run else f"Done: {done}."

    return Tool(ToolDescription("apply_patch", _DESCRIPTION, schema), apply)


def apply_patch(text: str, folder: str | Path, *, dry_run: bool = False) -> list[Change]:
    """Applies a patch to the files of a folder.

    Args:
        text: The patch, from `*** Begin Patch` to `*** End Patch`.
        folder: The folder that the paths in the patch are relative to.
        dry_run: If True, nothing is written.

    Returns:
        The changes, in the order of the patch.

    Raises:
        ToolError: If the patch is malformed, does not fit the files, names a path that is refused, or cannot be
            written. Nothing is changed then.
    """
    root, operations = Path(os.path.realpath(expanded(folder))), parse(text)
    with _locks.setdefault(root, threading.Lock()):
        changes = [_change(root, operation) for operation in operations]
        paths = [path for change in changes for path in (change.path, change.moved_to) if path is not None]
        if repeated := {path for path in paths if paths.count(path) > 1}:
            raise ToolError(f"{min(repeated)} occurs twice in the patch: put all its changes into one section")
        if not dry_run:
            _write(root, changes)
    return changes


def _change(root: Path, operation: Operation) -> Change:
    path = _inside(root, operation.path)
    name = path.relative_to(root).as_posix()
    match operation:
        case Add(_, lines):
            if path.exists():
                raise ToolError(f"{name} exists already: update it instead of adding it")
            return Change(name, None, "".join(f"{line}\n" for line in lines))
        case Delete():
            return Change(name, _read(path, name), None)
        case Update(_, hunks, move_to):
            before = _read(path, name)
            after = apply_hunks(before, hunks, name)
            if move_to is None:
                return Change(name, before, after)
            target = _inside(root, move_to)
            if target.exists():
                raise ToolError(f"{move_to} exists already: nothing can be moved there")
            return Change(name, before, after, target.relative_to(root).as_posix())
    raise AssertionError(operation)


def _inside(root: Path, path: str) -> Path:
    """Returns the full path for a path in a patch. Raises ToolError if it could lead out of the folder."""
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or "\0" in path or "\\" in path:
        raise ToolError(f"{path!r} is refused: give a relative path without `..`, within the folder")
    if not pure.parts or ".git" in map(str.lower, pure.parts):
        raise ToolError(f"{path!r} is refused: it names no file that a patch may change")
    full = root
    for part in pure.parts:
        full = full / part
        if full.is_symlink():
            raise ToolError(f"{path!r} is refused: {full.relative_to(root)} is a symbolic link")
    return full


def _read(path: Path, name: str) -> str:
    try:
        if not stat.S_ISREG(path.stat().st_mode):
            raise ToolError(f"{name} is no file")
        return path.read_bytes().decode()
    except UnicodeDecodeError:
        raise ToolError(f"{name} is no text in UTF-8") from None
    except OSError as error:
        raise ToolError(f"{name} cannot be read ({error.strerror})") from None


def _write(root: Path, changes: list[Change]) -> None:
    """Writes the new contents to temporary files, then moves them into place. If anything fails, undoes everything.

    Raises ToolError, also if a file has changed since the patch was checked.
    """
    steps = [step for change in changes for step in _steps(change)]
    moved_aside: list[AnchoredPath] = []
    with contextlib.ExitStack() as open_folders:
        try:
            folder = open_folders.enter_context(AnchoredFolder(root))
            with contextlib.ExitStack() as undo:
                temporaries = [_write_temporary(folder, step, undo) for step in steps]
                for step, temporary in zip(steps, temporaries, strict=True):
                    target = folder.resolve(step.path, undo)
                    if step.before is not None:
                        moved_aside.append(aside := target.temporary_sibling())
                        target.rename(aside)
                        undo.callback(aside.rename, target)
                    if target.mode is not None or (step.before is not None and aside.read() != step.before.encode()):
                        raise ToolError(f"nothing is changed: {step.path} has changed meanwhile, look at it again")
                    if temporary is not None:
                        temporary.rename(target)
                        undo.callback(target.unlink)
                undo.pop_all()
            for aside in moved_aside:
                with contextlib.suppress(OSError):  # the patch is applied, even if an old version cannot be deleted
                    aside.unlink()
        except OSError as error:
            name = Path(error.filename or root).name
            raise ToolError(f"nothing is changed: {name} cannot be written ({error.strerror})") from None


@dataclass(frozen=True, slots=True)
class _Step:
    """The change of one path: a moved file takes two steps, one for the old path and one for the new."""

    path: str
    before: str | None  # None: the file does not exist yet
    after: str | None  # None: the file is deleted
    mode_from: str  # path of the file that it gets its permissions from


def _steps(change: Change) -> list[_Step]:
    if change.moved_to is None:
        return [_Step(change.path, change.before, change.after, change.path)]
    source = _Step(change.path, change.before, None, change.path)
    return [source, _Step(change.moved_to, None, change.after, change.path)]


def _write_temporary(folder: AnchoredFolder, step: _Step, undo: contextlib.ExitStack) -> AnchoredPath | None:
    """Writes the new text to a temporary file next to the target; None if the step deletes the file."""
    if step.after is None:
        return None
    temporary = folder.resolve(step.path, undo).temporary_sibling()
    undo.callback(temporary.unlink)
    temporary.write(step.after.encode(), folder.resolve(step.mode_from, undo).mode)
    return temporary
