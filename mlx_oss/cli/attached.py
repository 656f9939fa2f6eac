"""Keeps what tools give besides text, such as images, in files that the user can open. Knows nothing of tools."""

from __future__ import annotations

import mimetypes
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_oss.terminal import one_line

if TYPE_CHECKING:
    from mlx_oss.events import Attachment


def saved(attachments: Sequence[Attachment]) -> list[str]:
    """Writes attachments into a new folder that only the user can read. Returns a line about each."""
    if not attachments:
        return []
    try:
        folder = Path(tempfile.mkdtemp(prefix="mlx-oss-"))
        return [_written(folder, number, attached) for number, attached in enumerate(attachments, 1)]
    except OSError as error:
        return [one_line(f"[what the tool gave besides text cannot be written ({error.strerror})]")]


def _written(folder: Path, number: int, attached: Attachment) -> str:
    """Writes one. The name of the file is ours: the tool's own could be any."""
    file = folder / f"{number}{mimetypes.guess_extension(attached.media_type, strict=False) or '.bin'}"
    file.write_bytes(attached.data)
    return one_line(f"[{attached.media_type}: {file}]")
