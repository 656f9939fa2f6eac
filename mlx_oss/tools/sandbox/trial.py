"""Tries out what the sandbox promises on this machine: from inside, and against real things outside."""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import socket
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path

from mlx_oss.tools.sandbox.guarantees import Isolation
from mlx_oss.tools.sandbox.output import Limits
from mlx_oss.tools.sandbox.process import Sandbox

_LIMITS = Limits(seconds=30, memory_bytes=256 << 20, processes=16)
_TRIES = """
import ctypes, json, os, socket
def refused(what, *arguments):
    try:
        what(*arguments)
    except OSError:
        return True
    return False
def call(*arguments):
    if libc.syscall(*arguments) == -1:
        raise OSError(ctypes.get_errno(), "")
libc = ctypes.CDLL(None, use_errno=True)
numbers = {"x86_64": 250, "aarch64": 219, "riscv64": 219}  # of keyctl; -3 is the session keyring
given = json.loads(GIVEN)
for path in given["new"]:
    refused(open, path, "xb")  # in a folder of its own that has the same name it may succeed
print(json.dumps({
    "network": refused(socket.create_connection, ("127.0.0.1", given["port"]), 5),
    "files": all(refused(open, path, "rb") for path in given["files"]),
    "keyring": not given["keyring"] or refused(call, numbers[os.uname().machine], 0, -3, 0),
}))
"""
_HUNGRY = """
import os, time
for _ in range(6):
    if os.fork() == 0:
        x = b"x" * (80 << 20)
        time.sleep(60)
        os._exit(0)
time.sleep(60)
"""


@dataclass(frozen=True, slots=True)
class Promise:
    """A promise of the sandbox.

    Attributes:
        name: A word for it.
        text: What is promised, as a sentence.
        holds: Whether it held.
    """

    name: str
    text: str
    holds: bool


def try_promises(isolation: Isolation) -> list[Promise]:
    """Tries out the main promises of an isolation other than "limits".

    Raises:
        ToolError: If the interpreter does not start.
    """
    folders = [tempfile.gettempdir(), os.path.expanduser("~")]
    new = [f"{folder}/.mlx-oss-{secrets.token_hex(8)}" for folder in folders]
    with contextlib.ExitStack() as stack:
        server = stack.enter_context(socket.create_server(("127.0.0.1", 0)))
        private = stack.enter_context(tempfile.NamedTemporaryFile())
        sandbox = stack.enter_context(contextlib.closing(Sandbox(isolation, _LIMITS)))
        given = {
            "port": server.getsockname()[1],
            "files": [private.name, *_a_file_in(folders[1])],
            "new": new,
            "keyring": sys.platform == "linux",
        }
        output = sandbox.run(_TRIES.replace("GIVEN", repr(json.dumps(given))))
        try:
            held = json.loads(output.text)
        except ValueError:  # it ended in another way, so nothing is known
            held = {}
        server.settimeout(0)
        with contextlib.suppress(BlockingIOError):
            server.accept()[0].close()
            held["network"] = False
        held["writing"] = bool(held) and not any(map(os.path.exists, new))
        for path in new:
            with contextlib.suppress(OSError):
                os.unlink(path)
        held["memory"] = not sandbox.ended and sandbox.run(_HUNGRY).ending == "memory"
    texts = {
        "network": "it connects to nothing, also not to this machine",
        "files": "it cannot read files in the home folder and in the temporary folder",
        "writing": "it cannot write in these folders",
        "memory": "processes that together use more memory than they may are stopped",
    }
    if sys.platform == "linux":
        texts["keyring"] = "it does not reach the keyring of the caller"
    return [Promise(name, text, held.get(name) is True) for name, text in texts.items()]


def _a_file_in(folder: str) -> list[str]:
    """A file that this user can read, if the folder has one."""
    with contextlib.suppress(OSError):
        for entry in sorted(Path(folder).iterdir()):
            if entry.is_file() and os.access(entry, os.R_OK):
                return [str(entry)]
    return []
