"""Checks of values in a `config.json`: each raises ConfigError with the key and what is expected. Knows no key."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

from mlx_oss.errors import ConfigError, quoted

MAY_MATTER = "it may change the computation: remove it if it does not"


def require(good: bool, key: str, value: object, wanted: str) -> None:
    """Raises ConfigError if a value is not good."""
    if not good:
        raise ConfigError(f"config.json: {key} is {quoted(value)}, expected {wanted}")


def is_positive(value: object) -> bool:
    """True for a number > 0 that a float can represent."""
    return isinstance(value, (int, float)) and type(value) is not bool and 0 < value <= sys.float_info.max


def mapping(key: str, value: Any) -> Mapping[str, Any]:
    """The value, which has to be an object."""
    if not isinstance(value, Mapping):
        raise ConfigError(f"config.json: {key} is {quoted(value)}, expected an object")
    return value
