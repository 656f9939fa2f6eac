"""How the installation builds the library: on Linux, where there is a C compiler; setuptools calls this.

Without a compiler, or where it fails, the package is installed without the library. macOS does not use it, so wheels
for it hold Python only. So do those for a free-threaded Python, which cannot load what is built for all versions.
"""

from __future__ import annotations

import platform
import sysconfig
from typing import Any

from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext


def _is_built() -> bool:
    return platform.system() == "Linux" and not sysconfig.get_config_var("Py_GIL_DISABLED")


class Build(build_ext):
    """Builds nothing where the library is not used."""

    def run(self) -> None:
        if _is_built():
            super().run()


class Wheel(bdist_wheel):
    """A wheel of Python only where the library is not used."""

    def finalize_options(self) -> None:
        distribution: Any = self.distribution
        if not _is_built():
            distribution.ext_modules = None
            self.py_limited_api: Any = False
        super().finalize_options()
