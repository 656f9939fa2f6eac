"""How modules are quantised: the `quantization` entry of an MLX folder's config, and what the shapes of tensors say."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from mlx_oss.config_checks import MAY_MATTER, mapping, require
from mlx_oss.errors import ConfigError, quoted

# MLX's modes, each with its defaults: group size and bits. Only affine has others.
_ENTRY = ("group_size", "bits", "mode")
_MODES = {"affine": (64, 4), "mxfp4": (32, 4), "nvfp4": (16, 4), "mxfp8": (32, 8)}
_AFFINE_GROUPS, _AFFINE_BITS = (32, 64, 128), (2, 3, 4, 5, 6, 8)


@dataclass(frozen=True, slots=True)
class QuantizationSpec:
    """How one module is quantised.

    Attributes:
        group_size: Number of values that share a scale.
        bits: Bits per value.
        mode: MLX's quantisation mode: "affine", "mxfp4", "nvfp4" or "mxfp8".
    """

    group_size: int
    bits: int
    mode: str = "affine"


MXFP4 = QuantizationSpec(group_size=32, bits=4, mode="mxfp4")


@dataclass(frozen=True, slots=True)
class Quantization:
    """The `quantization` entry of an MLX folder's config.

    Attributes:
        default: The entry for the whole model. How a module without an entry of its own is quantised follows from the
            shapes of its tensors, as in mlx-lm.
        modules: The entries of single modules, by path. None: the module is not quantised.
    """

    default: QuantizationSpec
    modules: Mapping[str, QuantizationSpec | None]

    def said_of(self, path: str) -> QuantizationSpec | None:
        """What the entries say of a module, which may not be what its tensors are."""
        return self.modules.get(path, self.default)


def read_quantization(raw: Any) -> Quantization | None:
    """Reads the `quantization` entry of a config. Raises ConfigError if a value is impossible."""
    if raw is None:
        return None
    raw = dict(mapping("quantization", raw))
    default = _spec("quantization", {name: raw.pop(name) for name in _ENTRY if name in raw})
    modules: dict[str, QuantizationSpec | None] = {}
    for path, entry in raw.items():
        if isinstance(entry, Mapping):
            modules[path] = _spec(f"quantization.{path}", entry)
        elif entry in (False, None):  # mlx-lm writes false for a module that it did not quantise
            modules[path] = None
        elif entry is True:
            modules[path] = default
        else:
            raise ConfigError(f"config.json: unknown key quantization.{path}: {MAY_MATTER}")
    return Quantization(default, modules)


def _spec(key: str, raw: Mapping[str, Any]) -> QuantizationSpec:
    """What an entry says; what it leaves out, or sets to null, is the default of its mode, as in MLX."""
    given = {name: value for name, value in raw.items() if value is not None}
    if unknown := sorted(set(given) - set(_ENTRY)):
        raise ConfigError(f"config.json: unknown key {key}.{unknown[0]}: {MAY_MATTER}")
    mode = given.get("mode", "affine")
    require(isinstance(mode, str) and mode in _MODES, f"{key}.mode", mode, f"one of {', '.join(_MODES)}")
    group_size, bits = (given.get(name, value) for name, value in zip(_ENTRY, _MODES[mode], strict=False))
    for name, value in (("group_size", group_size), ("bits", bits)):
        require(type(value) is int, f"{key}.{name}", value, "a whole number")
    if mode == "affine":
        require(group_size in _AFFINE_GROUPS, f"{key}.group_size", group_size, f"one of {_AFFINE_GROUPS}")
        require(bits in _AFFINE_BITS, f"{key}.bits", bits, f"one of {_AFFINE_BITS}")
    elif (group_size, bits) != _MODES[mode]:
        raise ConfigError(
            f"config.json: {key}: mode {mode} has group_size {_MODES[mode][0]} and bits {_MODES[mode][1]}, not "
            f"{quoted(group_size)} and {quoted(bits)}"
        )
    return QuantizationSpec(group_size, bits, mode)


def nan_sign(part: str, spec: QuantizationSpec | None) -> int | None:
    """Which bytes of a tensor of a quantised module stand for NaN: those that are 0xFF once this bit is set.

    Args:
        part: The tensor's own name: "weight", "scales", ...
        spec: How the module is quantised.

    Returns:
        0x80 for floats with a sign (E4M3), 0 for exponents (E8M0), None if no byte stands for NaN.
    """
    mode = "affine" if spec is None else spec.mode
    if (part, mode) in (("scales", "nvfp4"), ("weight", "mxfp8")):
        return 0x80
    return 0 if part == "scales" and mode != "affine" else None


def inferred_spec(columns: int, words: int, groups: int, is_affine: bool) -> QuantizationSpec | None:
    """How a matrix is quantised, by the shapes of its tensors. None if MLX has no such quantisation.

    Args:
        columns: Values in a row.
        words: Packed words in a row.
        groups: Scales in a row.
        is_affine: True if the scales are floats, as in the affine mode; False if they are bytes, as in all others.
    """
    if not groups or columns % groups or words * 32 % columns:
        return None
    found = columns // groups, words * 32 // columns
    if is_affine:
        fits = found[0] in _AFFINE_GROUPS and found[1] in _AFFINE_BITS
        return QuantizationSpec(*found) if fits else None
    modes = [mode for mode, defaults in _MODES.items() if mode != "affine" and defaults == found]
    return QuantizationSpec(*found, modes[0]) if modes else None
