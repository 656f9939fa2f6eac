"""Checks the installed MLX by its files, and the environment variables that change what it does. Imports no MLX."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import metadata
from importlib.util import find_spec
from pathlib import Path

from mlx_oss.doctor.findings import Finding
from mlx_oss.doctor.host import Computer, as_numbers
from mlx_oss.doctor.system import OLDEST_MACOS

GROUP = "MLX"
# The first generation of chips with matrix units in the GPU, and the first macOS that lets MLX use them.
MATRIX_UNITS, MATRIX_MACOS = 5, (26, 2)
# Packages with the part of MLX that differs between machines.
BACKENDS = ("mlx-metal", "mlx-cuda-13", "mlx-cuda-12", "mlx-cuda", "mlx-cpu")

_OURS = ("MLX_OSS_CACHE",)


@dataclass(frozen=True, slots=True)
class Wheel:
    """An installed package.

    Attributes:
        version: Its version.
        platform: What it is built for, for example "macosx_26_0_arm64"; empty if unknown.
        kernels: Whether the file with Metal's kernels is there; None if the package has no list of its files.
    """

    version: str
    platform: str
    kernels: bool | None

    @property
    def macos(self) -> tuple[int, ...]:
        """The version of macOS that it is built for: (26, 0); empty if unknown."""
        name, _, rest = self.platform.partition("_")
        return as_numbers(".".join(rest.split("_")[:2])) if name == "macosx" else ()


def wheel(name: str) -> Wheel | None:
    """The installed package of this name, or None."""
    try:
        package = metadata.distribution(name)
    except metadata.PackageNotFoundError:
        return None
    tags = [
        line.partition(":")[2].strip() for line in (package.read_text("WHEEL") or "").splitlines() if "Tag:" in line
    ]
    files = [file for file in package.files or () if file.name == "mlx.metallib"]
    kernels = any(Path(file.locate()).is_file() for file in files) if package.files else None
    return Wheel(package.version, tags[0].rpartition("-")[2] if tags else "", kernels)


def check(computer: Computer) -> Iterator[Finding]:
    """Checks that the packages of MLX belong together and to this machine, and the environment."""
    mlx = wheel("mlx")
    if mlx is None and find_spec("mlx") is None:
        yield Finding(GROUP, "version", "problem", "MLX is not installed in this Python.", "Run `pip install mlx`.")
    else:
        yield from _versions(computer, mlx)
    yield from _environment(computer)


def _versions(computer: Computer, mlx: Wheel | None) -> Iterator[Finding]:
    version = mlx.version if mlx else "unknown"
    found = {name: each for name in BACKENDS if (each := wheel(name))}
    details = {"mlx": version, **{name: each.version for name, each in found.items()}}
    others = [f"{name} {each.version}" for name, each in found.items() if each.version != version]
    if mlx and others:
        text = f"mlx is {version}, but {' and '.join(others)} is installed beside it."
        remedy = f"Run `pip install --force-reinstall mlx=={version}`: both have to be the same version."
        yield Finding(GROUP, "version", "problem", text, remedy, details)
    else:
        yield Finding(GROUP, "version", "ok", f"MLX {version} is installed ({', '.join(found)}).", "", details)
    if computer.system != "Darwin":
        return
    metal = found.get("mlx-metal")
    if metal is None:
        text = "MLX was not installed with pip or uv, so what it is built for cannot be seen."
        yield Finding(GROUP, "wheel", "ok", text, "", details)
        return
    yield _wheel(computer, metal)
    if metal.kernels is False:
        text, remedy = "The file with Metal's kernels (mlx.metallib) is missing.", _again(metal)
        yield Finding(GROUP, "kernels", "problem", text, remedy)
    if as_numbers(computer.python_says)[:2] < computer.release[:2]:
        text = (
            f"This is macOS {computer.version}, but this Python says that it is macOS {computer.python_says}, so pip "
            "chooses packages for that one."
        )
        remedy = "Install a newer Python, create a new virtual environment with it, and install mlx-oss there."
        details = {"macos": computer.version, "python_says": computer.python_says}
        yield Finding(GROUP, "macOS of Python", "note", text, remedy, details)


def _again(metal: Wheel) -> str:
    return f"Run `pip install --force-reinstall --no-deps mlx-metal=={metal.version}`."


def _wheel(computer: Computer, metal: Wheel) -> Finding:
    details = {"platform": metal.platform, "generation": computer.generation}
    needs = ".".join(map(str, metal.macos))
    has_units = (computer.generation or 0) >= MATRIX_UNITS
    newer = ".".join(map(str, MATRIX_MACOS))
    if metal.macos and computer.release[0] < metal.macos[0] > OLDEST_MACOS:
        text = f"mlx-metal is built for macOS {needs}, but this is macOS {computer.version}."
        return Finding(GROUP, "wheel", "problem", text, _again(metal), details)
    if has_units and metal.macos >= (26,) and computer.release < MATRIX_MACOS:
        text = (
            f"mlx-metal is built for macOS {newer}, where it uses the matrix units of {computer.chip}, but this is "
            f"macOS {computer.version}."
        )
        return Finding(GROUP, "wheel", "problem", text, f"Update macOS to {newer} or later.", details)
    if has_units and metal.macos and metal.macos < (26,):
        text = f"mlx-metal is built for macOS {needs}, so it does not use the matrix units of {computer.chip}."
        remedy = _again(metal)
        if computer.release < MATRIX_MACOS:
            remedy = f"Update macOS to {newer} or later. Then {remedy[0].lower()}{remedy[1:]}"
        elif as_numbers(computer.python_says) < (26,):
            remedy = (
                "Install a Python that knows this macOS (see below), create a new virtual environment with it, and "
                "install mlx-oss there."
            )
        return Finding(GROUP, "wheel", "note", f"{text} Prompts take several times as long.", remedy, details)
    return Finding(GROUP, "wheel", "ok", f"mlx-metal is built for macOS {needs}.", "", details)


def _environment(computer: Computer) -> Iterator[Finding]:
    variables = {name: value for name, value in sorted(os.environ.items()) if name.startswith("MLX_")}
    variables = {name: value for name, value in variables.items() if name not in _OURS}
    if computer.system == "Darwin" and variables.get("MLX_METAL_FAST_SYNCH", "0") not in ("", "0"):
        value = variables.pop("MLX_METAL_FAST_SYNCH")
        text = f"MLX_METAL_FAST_SYNCH={value} is set: it can lock up the GPU until the Mac is restarted."
        remedy = "Run `unset MLX_METAL_FAST_SYNCH`, and remove it from your shell's start files."
        yield Finding(GROUP, "MLX_METAL_FAST_SYNCH", "problem", text, remedy)
    tf32 = variables.pop("MLX_ENABLE_TF32", None)
    if (computer.generation or 0) >= MATRIX_UNITS or wheel("mlx-cuda-13") or wheel("mlx-cuda-12"):
        exact = tf32 == "0"
        text = f"Products in float32 are {'exact' if exact else 'rounded to TF32'}"
        text += f" (MLX_ENABLE_TF32 is {'not set' if tf32 is None else tf32})."
        yield Finding(GROUP, "TF32", "ok", text, "", {"MLX_ENABLE_TF32": tf32})
    if variables:
        text = f"Variables that change what MLX does are set: {', '.join(variables)}."
        yield Finding(GROUP, "environment", "note", text, "Unset them, unless you need them.", variables)
    else:
        yield Finding(GROUP, "environment", "ok", "No other variable changes what MLX does.")
