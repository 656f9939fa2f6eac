"""Files that go into the Python sandbox, and the names of those that come out. Knows nothing of sandboxes."""

from __future__ import annotations

import os
import unicodedata
from collections.abc import Iterable, Mapping, Set
from pathlib import Path
from typing import Protocol, TypeGuard

from mlx_oss.errors import OptionError, ToolError, quoted
from mlx_oss.files import check_regular, expanded, identity, read_bytes

Files = Mapping[str, str | os.PathLike[str] | bytes] | Iterable[str | os.PathLike[str]]

MOST_FILES = 200  # that go in
_MOST_NAME_BYTES = 120  # of a name that comes out
_HARMFUL = '/\\:*?"<>|'  # in some shells and file systems


class Source(Protocol):
    """Where the files come from that go in.

    Attributes:
        writable: Whether the code may change its copies.
    """

    writable: bool

    def read(self, anew: bool) -> dict[str, bytes]:
        """The contents, by name, that have changed since the last time; all if `anew`. Raises ToolError."""


class GivenFiles:
    """Files that an app has chosen, or their contents."""

    writable = False

    def __init__(self, files: Files, most_bytes: int) -> None:
        """Looks at the kind and size of each.

        Raises:
            OptionError: If one cannot be read, or they are too many or too large.
        """
        if isinstance(files, str | bytes | os.PathLike):
            raise OptionError(f"files={quoted(files)} is one path: give a list of paths, or a mapping from names")
        if not isinstance(files, Iterable):
            raise OptionError(f"files={quoted(files)}: give a list of paths, or a mapping from names")
        self._files: dict[str, Path | bytes] = {}
        self._passed: dict[str, tuple[int, ...]] = {}
        for name, content in files.items() if isinstance(files, Mapping) else ((None, path) for path in files):
            place = _place(content, may_be_content=name is not None)
            name = place.name if isinstance(place, Path) and name is None else name
            if not _is_name(name):
                raise OptionError(f"files: {quoted(name)} is no name of a file: give one without folders")
            if name in self._files:
                raise OptionError(f"files: two are called {name!r}: give a mapping from different names")
            self._files[name] = place
        self._most_bytes, size = most_bytes, 0
        for place in self._files.values():
            try:
                size += len(place) if isinstance(place, bytes) else _size(place)
            except (OSError, ValueError) as error:
                reason = getattr(error, "strerror", None) or str(error)
                raise OptionError(f"files: {place!s} cannot be read ({reason}): give a file that can") from None
        if size > most_bytes or len(self._files) > MOST_FILES:
            raise OptionError(
                f"files: {len(self._files):,} files with {size:,} bytes are too many or too large: give at most "
                f"{MOST_FILES}, with {most_bytes:,} bytes together (Limits.file_bytes)"
            )

    def read(self, anew: bool) -> dict[str, bytes]:
        """See `Source`. Files are read again when they have changed."""
        if anew:
            self._passed.clear()
        found, room = {}, self._most_bytes
        for name, place in self._files.items():
            try:
                now = (id(place),) if isinstance(place, bytes) else identity(place)
                if self._passed.get(name) == now:
                    continue
                content = place if isinstance(place, bytes) else read_bytes(place, room)
            except OSError as error:
                raise ToolError(f"the file {name} cannot be read any more: {error.strerror}") from None
            self._passed[name] = now
            found[name] = content
            room -= len(content)
        return found


def _place(content: object, *, may_be_content: bool) -> Path | bytes:
    """The path or the content that an app has given. Raises OptionError for anything else."""
    if may_be_content and isinstance(content, bytes | bytearray):
        return bytes(content)
    if not isinstance(content, str | os.PathLike):
        kinds = "a str, a Path, or the content in bytes" if may_be_content else "a str or a Path"
        raise OptionError(f"files: {quoted(content)} is no path: give {kinds}")
    return expanded(content)


def _is_name(name: object) -> TypeGuard[str]:
    try:
        return (
            isinstance(name, str)
            and 0 < len(os.fsencode(name)) < 256
            and not ({*name} & {"/", "\0"})
            and name not in (".", "..")
        )
    except UnicodeEncodeError:  # half of a character
        return False


def _size(path: Path) -> int:
    status = os.stat(path)
    check_regular(path, status)
    if not os.access(path, os.R_OK):
        raise PermissionError(13, "Permission denied")
    return status.st_size


def harmless_name(path: str, taken: Set[str] = frozenset()) -> str:
    """A path from the sandbox as one that can be used everywhere, and that only shows what it is.

    Args:
        path: As the code has named it, with / between folders.
        taken: Names that it must differ from, case-folded: in some file systems upper and lower case do not count.

    Returns:
        A relative path. Folders stay; control, invisible and reordering characters, and those with a meaning in shells
        and file systems, become "_"; no part begins with a dot or a hyphen, and long ones are shortened.
    """
    name = "/".join(_harmless_part(part) for part in path.split("/") if part) or "_"
    root, extension = os.path.splitext(name)
    number = 1
    while name.casefold() in taken:
        name, number = f"{root}-{number}{extension}", number + 1
    return name


def _harmless_part(part: str) -> str:
    text = unicodedata.normalize("NFC", part)
    text = "".join(
        "_" if character in _HARMFUL or (unicodedata.category(character)[0] in "CZ" and character != " ") else character
        for character in text
    ).strip(" ")
    text = text.rstrip(".") or "_"
    if text[0] in ".-~":
        text = f"_{text[1:]}"
    root, extension = os.path.splitext(text)
    extension = extension if len(extension.encode()) <= 20 else ""
    while len(root.encode() + extension.encode()) > _MOST_NAME_BYTES:
        root = root[:-1]
    return root + extension
