"""Which modules are quantised, and how: profiles and overrides, applied to the paths of `mlx_oss.weights.names`."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

from mlx_oss.config import MXFP4, QuantizationSpec
from mlx_oss.convert.options import ConvertOptions
from mlx_oss.errors import OptionError
from mlx_oss.weights.layouts.checkpoint import Checkpoint
from mlx_oss.weights.names import Shape, can_quantize, is_expert, lossless_quantization, modules

PROFILES = {"bf16": None, "q8": QuantizationSpec(64, 8), "q4": QuantizationSpec(64, 4)}
_EXPERTS = {"mxfp4": MXFP4, "bf16": None}  # how experts can be stored
_ROUTER_BITS = 8  # choosing experts is discrete: a rounding error can select a wrong expert

Specs = Mapping[str, QuantizationSpec]  # by module path


def specs(source: Checkpoint, options: ConvertOptions) -> Specs:
    """The quantisation of each module of the MLX folder. Modules that are not quantised are left out.

    Raises:
        OptionError: If a profile is unknown, an override matches no module, or a module cannot be quantised.
    """
    default = None if options.profile is None else _profile(options.profile, PROFILES)
    overrides = {
        pattern: _profile(name, _EXPERTS if _names_experts(pattern) else PROFILES, f"--set {pattern}={name}: ")
        for pattern, name in options.overrides.items()
    }
    unused = set(overrides)
    chosen = {}
    for path, shape, _ in modules(source.config):
        if not can_quantize(path):
            continue
        stored = spec = source.specs[path]
        if is_expert(path):
            spec = stored or MXFP4
        elif options.profile is not None:
            spec = PROFILES["q8"] if default is not None and path.endswith(".router") else default
        for pattern, override in overrides.items():
            if _names_experts(pattern) == is_expert(path) and fnmatchcase(f".{path}.", f"*.{pattern}.*"):
                spec = override
                unused.discard(pattern)
        if spec is not None:
            chosen[path] = spec if spec == stored else _checked(path, shape, spec)
    if unused:
        raise OptionError(
            f"--set {min(unused)}: no module that can be quantised matches: give a name such as self_attn, lm_head, "
            "experts or layers.0.self_attn.q_proj"
        )
    return chosen


def quantization_entry(chosen: Specs) -> dict[str, object]:
    """The `quantization` entry of config.json; empty if nothing is quantised."""
    if not chosen:
        return {}
    modules = {
        path: {"group_size": spec.group_size, "bits": spec.bits, "mode": spec.mode}
        for path, spec in chosen.items()
        if not (is_expert(path) and spec == MXFP4)
    }
    return lossless_quantization() | modules


def _names_experts(pattern: str) -> bool:
    """True for a pattern that is about experts, not only about all that they belong to."""
    return any(part.strip("*") and fnmatchcase("experts", part) for part in pattern.split("."))


def _profile(name: str, known: Mapping[str, QuantizationSpec | None], where: str = "") -> QuantizationSpec | None:
    if name in known:
        return known[name]
    if known is _EXPERTS and name in PROFILES:
        raise OptionError(f"{where}experts are stored as {' or '.join(_EXPERTS)}: choose one of them")
    if known is PROFILES and name in _EXPERTS:
        raise OptionError(f"{where}only experts are stored as {name}: choose one of {', '.join(PROFILES)}")
    raise OptionError(f"profile {name!r} is unknown: choose one of {', '.join(known)}")


def _checked(path: str, shape: Shape, spec: QuantizationSpec) -> QuantizationSpec:
    if path.endswith(".router") and spec.bits < _ROUTER_BITS:
        raise OptionError(f"{path} cannot be stored in fewer than {_ROUTER_BITS} bits: choose q8 or bf16 for it")
    if shape[-1] % spec.group_size:
        raise OptionError(
            f"{path} has {shape[-1]} columns, which is not a multiple of the group size {spec.group_size}: choose bf16 "
            "for it"
        )
    return spec
