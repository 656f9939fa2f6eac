"""apply_patch: the model changes the files of one folder, all of a patch or nothing of it.

The format is that of openai/gpt-oss `gpt_oss/tools/apply_patch.md`: between `*** Begin Patch` and `*** End Patch` files
are added, deleted, updated and moved. A path leads nowhere but into the folder: absolute ones, `..`, symbolic links and
`.git` (where hooks could be put) are refused; so is a file that has changed since it was read. What fails while files
are being written is undone; only a process killed in that moment leaves some of them written. Knows nothing of
sessions.
"""

from __future__ import annotations

import contextlib
import os
import stat
import threading
from dataclasses import dataclass
from pathlib import Path, PurePosixPath

from mlx_oss.errors import OptionError, ToolError
from mlx_oss.harmony import ToolDescription
from mlx_oss.tools.functions import Tool
from mlx_oss.tools.patch.anchored_paths import AnchoredFolder, AnchoredPath
from mlx_oss.tools.patch.hunks import Add, Delete, Operation, Update, changed, parse

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

_patching: dict[Path, threading.Lock] = {}  # one patch of a folder at a time


@dataclass(frozen=True, slots=True)
class Change:
    """What a patch does to a file: its text before and after (None: it is not there), paths within the folder."""

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
    """The function `apply_patch` for a session, on this folder. Raises OptionError if that is no folder.

    dry_run  says what would be done and does nothing
    """
    folder = Path(folder)
    if not os.path.isdir(folder):
        raise OptionError(f"{folder} is no folder: name one whose files the model may change")
    schema = {"type": "object", "properties": {"input": {"type": "string"}}, "required": ["input"]}

    def apply(input: str) -> str:
        done = ", ".join(map(str, apply_patch(input, folder, dry_run=dry_run)))
        return f"The patch fits: {done}. This is a dry run, nothing is written." if dry_run else f"Done: {done}."

    return Tool(ToolDescription("apply_patch", _DESCRIPTION, schema), apply)


def apply_patch(text: str, folder: str | Path, *, dry_run: bool = False) -> list[Change]:
    """Applies a patch to the files below the folder; gives what it did. Raises ToolError, with nothing changed."""
    root, operations = Path(folder).resolve(), parse(text)
    with _patching.setdefault(root, threading.Lock()):
        changes = [_change_by(root, operation) for operation in operations]
        touched = [path for change in changes for path in (change.path, change.moved_to) if path is not None]
        if twice := {path for path in touched if touched.count(path) > 1}:
            raise ToolError(f"{min(twice)} occurs twice in the patch: put all its changes into one section")
        if not dry_run:
            _write(root, changes)
    return changes


def _change_by(root: Path, operation: Operation) -> Change:
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
            after = changed(before, hunks, name)
            if move_to is None:
                return Change(name, before, after)
            target = _inside(root, move_to)
            if target.exists():
                raise ToolError(f"{move_to} exists already: nothing can be moved there")
            return Change(name, before, after, target.relative_to(root).as_posix())
    raise AssertionError(operation)


def _inside(root: Path, path: str) -> Path:
    """The place of a path that a patch names. Raises ToolError where it could lead out of the folder."""
    pure = PurePosixPath(path)
    if pure.is_absolute() or ".." in pure.parts or "\0" in path or "\\" in path:
        raise ToolError(f"{path!r} is refused: give a relative path without `..`, within the folder")
    if not pure.parts or ".git" in map(str.lower, pure.parts):
        raise ToolError(f"{path!r} is refused: it names no file that a patch may change")
    place = root
    for part in pure.parts:
        place = place / part
        if place.is_symlink():
            raise ToolError(f"{path!r} is refused: {place.relative_to(root)} is a symbolic link")
    return place


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
    """Writes new contents beside their files, then puts them in place; on a failure everything is put back."""
    steps = [step for change in changes for step in _steps(change)]
    moved_aside: list[AnchoredPath] = []
    with contextlib.ExitStack() as still_open:
        try:
            places = still_open.enter_context(AnchoredFolder(root))
            with contextlib.ExitStack() as undo:
                new = [_beside(places, step, undo) for step in steps]
                for step, unfinished in zip(steps, new, strict=True):
                    place = places.of(step.path, undo)
                    if step.before is not None:
                        moved_aside.append(aside := place.beside())
                        place.rename(aside)
                        undo.callback(aside.rename, place)
                    if place.mode is not None or (step.before is not None and aside.read() != step.before.encode()):
                        raise ToolError(f"nothing is changed: {step.path} has changed meanwhile, look at it again")
                    if unfinished is not None:
                        unfinished.rename(place)
                        undo.callback(place.unlink)
                undo.pop_all()
            for aside in moved_aside:
                with contextlib.suppress(OSError):  # all is done, whatever is left over
                    aside.unlink()
        except OSError as error:
            name = Path(error.filename or root).name
            raise ToolError(f"nothing is changed: {name} cannot be written ({error.strerror})") from None


@dataclass(frozen=True, slots=True)
class _Step:
    """What is in a file and what is to be (None: it is not there), and whose permissions it is to have."""

    path: str
    before: str | None
    after: str | None
    like: str


def _steps(change: Change) -> list[_Step]:
    if change.moved_to is None:
        return [_Step(change.path, change.before, change.after, change.path)]
    source = _Step(change.path, change.before, None, change.path)
    return [source, _Step(change.moved_to, None, change.after, change.path)]


def _beside(places: AnchoredFolder, step: _Step, undo: contextlib.ExitStack) -> AnchoredPath | None:
    """A file with the new text next to where it is wanted, if it is."""
    if step.after is None:
        return None
    unfinished = places.of(step.path, undo).beside()
    undo.callback(unfinished.unlink)
    unfinished.write(step.after.encode(), places.of(step.like, undo).mode)
    return unfinished
