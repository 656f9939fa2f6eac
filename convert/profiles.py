"""Which modules are quantised, and how: profiles and overrides, applied to the paths of `mlx_oss.weights.names`."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase

from mlx_oss.config import ModelConfig, QuantizationSpec
from mlx_oss.convert.options import ConvertOptions
from mlx_oss.errors import OptionError
from mlx_oss.weights.names import Shape, can_quantize, is_expert, lossless_quantization, modules

PROFILES = {"bf16": None, "q8": QuantizationSpec(64, 8), "q4": QuantizationSpec(64, 4)}
_ROUTER_BITS = 8  # choosing experts is discrete: a rounding error can select a wrong expert

Specs = Mapping[str, QuantizationSpec]  # by module path


def specs(config: ModelConfig, options: ConvertOptions) -> Specs:
    """The quantisation of each module outside the experts that is to be quantised.

    Raises:
        OptionError: If a profile is unknown, an override matches no module, or a module cannot be quantised.
    """
    default = _profile(options.profile)
    overrides = {pattern: _profile(name) for pattern, name in options.overrides.items()}
    unused = set(overrides)
    chosen = {}
    for path, shape, _ in modules(config):
        if is_expert(path) or not can_quantize(path):
            continue
        spec = default
        if default is not None and path.endswith(".router"):
            spec = PROFILES["q8"]
        for pattern, override in overrides.items():
            if fnmatchcase(f".{path}.", f"*.{pattern}.*"):
                spec = override
                unused.discard(pattern)
        if spec is not None:
            chosen[path] = _checked(path, shape, spec)
    if unused:
        raise OptionError(
            f"--set {min(unused)}: no module that can be quantised matches: give a name such as self_attn, lm_head or "
            "layers.0.self_attn.q_proj; experts stay MXFP4"
        )
    return chosen


def quantization_entry(chosen: Specs) -> dict[str, object]:
    """The `quantization` entry of config.json."""
    modules = {
        path: {"group_size": spec.group_size, "bits": spec.bits, "mode": spec.mode} for path, spec in chosen.items()
    }
    return lossless_quantization() | modules


def _profile(name: str) -> QuantizationSpec | None:
    if name not in PROFILES:
        raise OptionError(f"profile {name!r} is unknown: choose one of {', '.join(PROFILES)}")
    return PROFILES[name]


def _checked(path: str, shape: Shape, spec: QuantizationSpec) -> QuantizationSpec:
    if path.endswith(".router") and spec.bits < _ROUTER_BITS:
        raise OptionError(f"{path} cannot be stored in fewer than {_ROUTER_BITS} bits: choose q8 or bf16 for it")
    if shape[-1] % spec.group_size:
        raise OptionError(
            f"{path} has {shape[-1]} columns, which is not a multiple of the group size {spec.group_size}: choose bf16 "
            "for it"
        )
    return spec
