"""Finds the other processes that compute a model together, as `mlx.launch` has told where they are.

Knows nothing of models.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from typing import Any

import mlx.core as mx
import numpy as np

from mlx_oss.distributed import is_launched
from mlx_oss.errors import EngineError

_PATIENCE = 30.0  # seconds in which all machines have to be there


def group() -> Any:
    """MLX's group of the machines; None if there is only this one.

    Raises:
        EngineError: If the others cannot be reached.
    """
    if not is_launched():
        return None
    try:
        with _limited(_PATIENCE):
            found = mx.distributed.init(strict=True)
    except (RuntimeError, ValueError) as error:
        raise EngineError(
            f"the machines do not find each other ({' '.join(str(error).split())}): `mlx-oss hosts check` says why"
        ) from None
    return found if found.size() > 1 else None


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    """Ends this process with a sentence if what is in the context takes longer.

    MLX waits for the other machines without an end, and nothing in this process runs meanwhile. So another one watches.
    """
    program = (
        "import os, select, signal, sys\n"
        f"if not select.select([0], [], [], {seconds})[0]:\n"
        f"    sys.stderr.write('error: the other machines have not come within {seconds:g} s: '\n"
        "        '`mlx-oss hosts check` says why\\n')\n"
        f"    os.kill({os.getpid()}, signal.SIGKILL)\n"
    )
    watch = subprocess.Popen([sys.executable, "-I", "-S", "-c", program], stdin=subprocess.PIPE)
    try:
        yield
    finally:
        with suppress(OSError):
            watch.communicate()


def first_address() -> str:
    """The address of the first machine, by which the others reach it."""
    if coordinator := os.environ.get("MLX_JACCL_COORDINATOR"):
        return coordinator.rpartition(":")[0].strip("[]")
    try:
        with open(os.environ["MLX_HOSTFILE"], encoding="utf-8") as file:
            address: str = json.load(file)[0][0]
        return address.rpartition(":")[0].strip("[]")
    except (KeyError, OSError, ValueError, LookupError, TypeError):
        return "127.0.0.1"


def agreed(group: Any, text: str) -> str:
    """A text of the first machine, of at most 200 bytes, on all of them."""
    data = np.zeros(200, np.uint8)
    data[: len(text)] = np.frombuffer(text.encode(), np.uint8)
    found = mx.distributed.all_gather(mx.array(data)[None], group=group)[0]
    mx.eval(found)
    return bytes(np.array(found)).rstrip(b"\0").decode()
