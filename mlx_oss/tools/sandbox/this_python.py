"""The files that this Python needs to run, wherever it is installed. Knows nothing of sandboxes.

A prefix such as ~/.local holds much else, so it is never listed as a whole: what Python needs in it has known names.
"""

from __future__ import annotations

import contextlib
import json
import os
import re
import site
import sys
from collections.abc import Iterator
from pathlib import Path

_VERSION = f"python{sys.version_info.major}.{sys.version_info.minor}{getattr(sys, 'abiflags', '')}"
_EXECUTABLE = re.compile(r"python(\d+(\.\d+)?t?)?")
_LIBRARY = re.compile(r".+\.so(\.[\d.]+)?|.+\.dylib")
_SYSTEM = ("/usr/", "/bin/", "/sbin/", "/lib/", "/lib32/", "/lib64/", "/libx32/")  # where nobody's own files lie
_MOST_LINKS = 40  # that lead from one file to another


def files() -> list[str]:
    """Files, links and folders outside the system's own; none lies in a folder of the list.

    These are, in each prefix: the executables named `python`, `pyvenv.cfg`, the standard library, and the shared
    libraries that lie in `lib`; of Homebrew also those of the formulas that Python depends on; and the folders named
    `site-packages` or `dist-packages` on `sys.path`, except the user's own, which an isolated interpreter ignores.
    """
    found = set(_links(sys.executable))
    for prefix in _prefixes():
        found.update(_in_prefix(prefix))
        found.update(_of_homebrew(prefix))
    own = site.getusersitepackages() if site.ENABLE_USER_SITE is not None else ""
    packages = [path for path in sys.path if os.path.basename(path) in ("site-packages", "dist-packages")]
    found.update(path for path in packages if os.path.isdir(path) and path != own)
    found.update(os.path.realpath(path) for path in list(found) if os.path.isdir(path))
    folders = {path for path in found if os.path.isdir(path) and not os.path.islink(path)}
    return sorted(path for path in found if not path.startswith(_SYSTEM) and not _inside(path, folders))


def _prefixes() -> set[str]:
    prefixes = {sys.prefix, sys.base_prefix, sys.exec_prefix, sys.base_exec_prefix}
    prefixes |= {os.path.dirname(os.path.dirname(path)) for path in _links(sys.executable)}
    prefixes |= {os.path.realpath(prefix) for prefix in prefixes}
    return {prefix for prefix in prefixes if os.path.isdir(prefix) and prefix != "/"}


def _in_prefix(prefix: str) -> Iterator[str]:
    for name in _listed(f"{prefix}/bin"):
        if _EXECUTABLE.fullmatch(name):
            yield from _links(f"{prefix}/bin/{name}")
    names = ["pyvenv.cfg", f"lib/{_VERSION.replace('.', '')}.zip"]
    if sys.platform == "darwin":  # a framework build starts this application
        names += ["Python", "Resources/Python.app"]
    names += [f"{library}/{_VERSION}" for library in ("lib", "lib64")]
    yield from (f"{prefix}/{name}" for name in names if os.path.exists(f"{prefix}/{name}"))
    yield from _libraries(f"{prefix}/lib")
    yield from _libraries(f"{prefix}/lib64")


def _of_homebrew(prefix: str) -> Iterator[str]:
    """Shared libraries of the formulas that the Python of Homebrew depends on, and its dynamic loader on Linux."""
    home, cellar, rest = prefix.partition("/Cellar/")
    keg = Path(home + cellar, *rest.split("/")[:2])
    receipt: object = None
    if cellar:
        with contextlib.suppress(OSError, ValueError):
            receipt = json.loads((keg / "INSTALL_RECEIPT.json").read_text())
    needed = receipt.get("runtime_dependencies") if isinstance(receipt, dict) else None
    for formula in needed if isinstance(needed, list) else ():
        name = str(formula.get("full_name", "")) if isinstance(formula, dict) else ""
        yield from _libraries(f"{home}/opt/{name.rpartition('/')[2]}/lib")
    if cellar and os.path.exists(f"{home}/lib/ld.so"):
        yield from _links(f"{home}/lib/ld.so")


def _libraries(folder: str) -> Iterator[str]:
    for name in _listed(folder):
        if _LIBRARY.fullmatch(name) and os.path.isfile(f"{folder}/{name}"):
            yield from _links(f"{folder}/{name}")


def _listed(folder: str) -> list[str]:
    try:
        return os.listdir(folder)
    except OSError:
        return []


def _links(path: str) -> Iterator[str]:
    """A file, and if it is a link, what it leads to, also without links in the folders on the way."""
    for _ in range(_MOST_LINKS):
        if os.path.lexists(path):
            yield path
        if not os.path.islink(path):
            break
        path = os.path.normpath(os.path.join(os.path.dirname(path), os.readlink(path)))
    real = os.path.realpath(path)
    if os.path.exists(real):
        yield real


def _inside(path: str, folders: set[str]) -> bool:
    return any(str(parent) in folders for parent in Path(path).parents)
