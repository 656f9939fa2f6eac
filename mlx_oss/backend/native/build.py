"""How the installation builds the library: on Linux, where there is a C compiler; setuptools calls this.

Without a compiler, or where it fails, the package is installed without the library. macOS does not use it, so wheels
for it hold Python only.
"""

from __future__ import annotations

import platform
from typing import Any

from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build_ext import build_ext


class Build(build_ext):
    """Builds nothing but on Linux."""

    def run(self) -> None:
        if platform.system() == "Linux":
            super().run()


class Wheel(bdist_wheel):
    """A wheel of Python only, except on Linux."""

    def finalize_options(self) -> None:
        distribution: Any = self.distribution
        if platform.system() != "Linux":
            distribution.ext_modules = None
        super().finalize_options()
