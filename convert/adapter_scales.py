"""The factor of the product that a LoRA adapter adds to a module, as PEFT and mlx-lm compute it from its config."""

from __future__ import annotations

import math
import re
import time
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from mlx_oss.convert.adapter_folders import CONFIG
from mlx_oss.errors import ConfigError, quoted

MERGE = (
    "merge the adapter with the program that trained it (PEFT: merge_and_unload, then save_pretrained; mlx-lm: "
    "mlx_lm.fuse)"
)
_MOST_PATTERNS, _LONGEST = 500, 300  # entries of alpha_pattern, and characters of one
_SECONDS = 1.0  # for all patterns of an adapter: what somebody else wrote can take for ever
# What Python's `re`, which PEFT uses, and `regex`, which can be stopped, understand alike.
_ALIKE = re.compile(r"(?:[\w.^$|)\]*+?,\-/ ]|\((?!\?)|\(\?:|\[(?!\[)|\\[\w.\-/]|\{\d+(?:,\d*)?\})*", re.ASCII)


class Scales:
    """Computes the factors of an adapter.

    Args:
        folder: The adapter's folder, for messages.
        settings: Its config.

    Raises:
        ConfigError: If the config has patterns that cannot be understood here.
    """

    def __init__(self, folder: Path, settings: Mapping[str, Any]) -> None:
        self._folder, self._settings = folder, settings
        self._left = _SECONDS
        self._patterns: dict[str, Any] = settings.get("alpha_pattern") or {}
        if not isinstance(self._patterns, dict) or len(self._patterns) > _MOST_PATTERNS:
            raise ConfigError(f"{folder / CONFIG}: alpha_pattern is no object with names of modules: {MERGE}")
        for pattern in self._patterns:
            if _compiled(pattern) is None:
                raise self._not_understood(pattern)

    def of(self, module: str, rank: int, of_mlx_lm: bool) -> float:
        """The factor of a module: for PEFT lora_alpha / rank, or lora_alpha / sqrt(rank) if it is rank-stabilised.

        Args:
            module: The module's path.
            rank: The rank of its factors.
            of_mlx_lm: True for mlx-lm's adapters, whose config has the factor itself.

        Raises:
            ConfigError: If the config has no number for it, or its patterns take too long.
        """
        settings, by = self._settings, 1.0
        if of_mlx_lm:
            parameters = settings.get("lora_parameters")
            value: Any = parameters.get("scale") if isinstance(parameters, dict) else None
            where = "lora_parameters.scale"
        else:
            where, value = "lora_alpha", settings.get("lora_alpha")
            if (pattern := self._first_match(module)) is not None:
                where, value = "alpha_pattern", self._patterns[pattern]
            by = math.sqrt(rank) if settings.get("use_rslora") else rank
        try:
            scale = float(value) / by if type(value) in (int, float) else math.nan
        except OverflowError:
            scale = math.inf
        if not math.isfinite(scale):
            raise ConfigError(
                f"{self._folder / CONFIG}: {where} is no number: use the config that was saved with the adapter"
            )
        return scale

    def _first_match(self, module: str) -> str | None:
        """The first entry of `alpha_pattern`, whose keys PEFT takes for regular expressions, that fits a module."""
        # PEFT compares the path of a module, or of a parameter if single parameters were trained.
        is_parameter = module.endswith(".router") and bool(self._settings.get("target_parameters"))
        path = f"{module}.weight" if is_parameter else module
        for pattern in self._patterns:
            begun = time.monotonic()
            try:
                fits = _compiled(pattern).match(path, timeout=max(self._left, 1e-3))
            except TimeoutError:
                raise self._not_understood(pattern) from None
            self._left -= time.monotonic() - begun
            if fits:
                return pattern
        return None

    def _not_understood(self, pattern: str) -> ConfigError:
        return ConfigError(
            f"{self._folder / CONFIG}: alpha_pattern has {quoted(pattern)}, which cannot be read as a regular "
            f"expression here, or takes too long: {MERGE}"
        )


@cache
def _compiled(pattern: str) -> Any:
    """PEFT's regular expression for a key of `alpha_pattern`. None for one that is wrong, or odd."""
    import regex

    if len(pattern) > _LONGEST or not _ALIKE.fullmatch(pattern):
        return None
    try:
        re.compile(pattern)
        return regex.compile(rf"(.*\.)?({pattern})$", regex.VERSION0)
    except (re.error, regex.error, RecursionError, OverflowError):
        return None
