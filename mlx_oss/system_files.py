"""Files that a system adds to folders on its own, such as .DS_Store. Knows nothing of what else is in a folder."""

from __future__ import annotations

from pathlib import Path

# What the Finder and Windows leave in folders that they show.
_NAMES = {".DS_Store", ".localized", "Icon\r", "Thumbs.db", "desktop.ini"}


def is_system_file(name: str) -> bool:
    """True for the name of a file that a system adds to folders on its own, such as .DS_Store.

    Names that begin with `._` are among them: on disks that are not its own, such as exFAT and SMB, macOS keeps the
    extended attributes of a file NAME in `._NAME`.
    """
    return name in _NAMES or name.startswith("._")


def is_empty(folder: Path) -> bool:
    """True if a folder holds nothing, or only what a system has added. False if it is no folder."""
    return folder.is_dir() and all(is_system_file(path.name) and not path.is_dir() for path in folder.iterdir())
