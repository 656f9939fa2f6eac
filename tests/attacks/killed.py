"""Applies a patch again and again, each time in a process that is killed at another line of its code.

    python -m tests.attacks.killed FOLDER STEP FALLBACK

After each kill a patch tool is made for the folder, as the next start does. Then the folder must be as it was before
the patch, or as the patch would have made it, and nothing else may lie in it. Prints the number of kills and how often
the patch had been applied. STEP is 1 for every line; FALLBACK is what the file system lacks: "", "rename" (renames that
replace nothing, and exchanges) or "link" (these and hard links).
"""

from __future__ import annotations

import errno
import os
import shutil
import signal
import sys
from pathlib import Path
from types import FrameType
from typing import Any

from mlx_oss.tools.patch import apply_patch, patch_tool, renames

PATCH = """*** Begin Patch
*** Add File: deep/down/new.txt
+new
*** Update File: a.txt
@@
-one
+two
*** Update File: sub/b.txt
*** Move to: other/b.txt
@@
-b
+B
*** Delete File: c.txt
*** Update File: d.txt
@@
-d
+D
*** End Patch"""
BEFORE = {"a.txt": b"one\n", "sub/b.txt": b"b\n", "c.txt": b"c\n", "d.txt": b"d\n"}
AFTER = {"deep/down/new.txt": b"new\n", "a.txt": b"two\n", "other/b.txt": b"B\n", "d.txt": b"D\n"}
PACKAGE = os.path.dirname(renames.__file__)


def fill(root: Path) -> None:
    shutil.rmtree(root, ignore_errors=True)
    for name, content in BEFORE.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(content)


def state(root: Path) -> tuple[dict[str, bytes], list[str]]:
    """The files with their contents, and the folders."""
    paths = sorted(root.rglob("*"))
    files = {str(path.relative_to(root)): path.read_bytes() for path in paths if path.is_file()}
    return files, [str(path.relative_to(root)) for path in paths if path.is_dir()]


def without(what: str) -> None:
    """Makes this process one on a file system that lacks something."""
    if what:
        renames._function = lambda: None
    if what == "link":

        def link(*_: object, **__: object) -> None:
            raise PermissionError(errno.EPERM, "no hard links here")

        os.link = link


def lines_until(count: int, act: Any) -> Any:
    """A trace function that acts once, at the given line of the package's code, counted from 1."""
    left = count

    def trace(frame: FrameType, event: str, _: object) -> Any:
        nonlocal left
        if os.path.dirname(frame.f_code.co_filename) != PACKAGE:
            return None
        if event == "line":
            left -= 1
            if left == 0:
                sys.settrace(None)
                act()
        return trace

    return trace


def main(root: Path, step: int, fallback: str) -> None:
    without(fallback)
    kills = applied = 0
    for count in range(1, 100_000, step):
        fill(root)
        child = os.fork()
        if not child:
            sys.settrace(lines_until(count, lambda: os.kill(os.getpid(), signal.SIGKILL)))
            apply_patch(PATCH, root)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        patch_tool(root)
        found = state(root)
        assert found in ((BEFORE, ["sub"]), (AFTER, ["deep", "deep/down", "other", "sub"])), f"line {count}: {found}"
        applied += found[0] == AFTER
        if os.WIFEXITED(status):
            assert found[0] == AFTER
            break
        kills += 1
    print(kills, applied)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), sys.argv[3])
