"""The exit statuses of the `mlx-oss` command, and how an error is told: as a line, or with `--json` as JSON.

Knows nothing of what the commands do.
"""

from __future__ import annotations

import json
import sys

from mlx_oss.errors import (
    CheckpointError,
    ConfigError,
    EngineError,
    MlxOssError,
    SessionError,
    TokenizerError,
    WrongFolderError,
)
from mlx_oss.terminal import one_line, say

DONE, FAILED, WRONG_USE, CUT_OFF, DAMAGED, INTERRUPTED = 0, 1, 2, 3, 4, 130
EXPLAINED = (
    "exit status: 0 done; 1 it could not be done, or what was found is bad (a bug, no memory left, a problem that "
    "`doctor` names); 2 wrong use, or something that was named is not there or cannot be used; 3 the answer was cut "
    "off, or there is none; 4 files are damaged or of a kind that is not supported; 130 Ctrl-C. With --json an error "
    "is one JSON object on stdout."
)


def status_of(error: MlxOssError) -> int:
    """The exit status after an error."""
    if isinstance(error, EngineError):
        return FAILED
    if isinstance(error, WrongFolderError):
        return WRONG_USE
    return DAMAGED if isinstance(error, CheckpointError | ConfigError | SessionError | TokenizerError) else WRONG_USE


def tell(message: str, status: int, *, kind: str, as_json: bool) -> int:
    """Tells an error, and returns the exit status.

    Args:
        message: What is wrong, where, and what to do.
        status: The exit status.
        kind: The name of the error's class, such as "OptionError".
        as_json: Write `{"type": "error", "kind": ..., "message": ..., "status": ...}` to stdout, as one line, instead
            of a line to stderr.
    """
    if as_json:
        line = {"type": "error", "kind": kind, "message": message, "status": status}
        sys.stdout.write(json.dumps(line, ensure_ascii=sys.stdout.isatty()) + "\n")
        sys.stdout.flush()
    else:
        say(one_line(f"error: {message}"))
    return status
