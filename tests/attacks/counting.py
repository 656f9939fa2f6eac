"""Counts up in a folder by patches until it is killed: python -m tests.attacks.counting FOLDER"""

from __future__ import annotations

import contextlib
import sys
from pathlib import Path

from mlx_oss.errors import ToolError
from mlx_oss.tools.patch import apply_patch

PATCH = """*** Begin Patch
*** Update File: n.txt
@@
-{old}
+{new}
*** Update File: log.txt
@@
+line {new}
*** End Patch"""

if __name__ == "__main__":
    root = Path(sys.argv[1])
    while True:
        with contextlib.suppress(ToolError, ValueError, OSError):  # another process was first
            old = int((root / "n.txt").read_text())
            apply_patch(PATCH.format(old=old, new=old + 1), root)
