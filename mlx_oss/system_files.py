"""Files that a system adds to folders on its own, such as .DS_Store. Knows nothing of what else is in a folder."""

from __future__ import annotations

from pathlib import Path

# What the Finder and Windows leave in folders that they show.
_APPLE_DOUBLE = bytes.fromhex("00051607")  # the first bytes of a `._NAME`; RFC 1740
_NAMES = {".DS_Store", ".localized", "Icon\r", "Thumbs.db", "desktop.ini"}


def is_system_file(name: str) -> bool:
    """True for the name of a file that a system adds to folders on its own, such as .DS_Store.

    Names that begin with `._` are among them: on disks that are not its own, such as exFAT and SMB, macOS keeps the
    extended attributes of a file NAME in `._NAME`.
    """
    return name in _NAMES or name.startswith("._")


def is_empty(folder: Path) -> bool:
    """True if a folder holds nothing, or only what a system has added. False if it is no folder."""
    return folder.is_dir() and all(map(_was_added, folder.iterdir()))


def _was_added(path: Path) -> bool:
    """True if a system has added this file; a file of the user may have a name that begins with `._`."""
    if path.is_symlink() or not path.is_file() or not is_system_file(path.name):
        return False
    if path.name in _NAMES:
        return True
    with path.open("rb") as file:
        return file.read(len(_APPLE_DOUBLE)) == _APPLE_DOUBLE
