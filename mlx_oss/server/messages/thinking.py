"""Reasoning in Anthropic's API: how much is wanted, whether it is shown, and the signature that brings it back.

    effort (`output_config`)          low, medium and high are the model's; xhigh and max are high
    thinking enabled, without effort  low below a budget of 4,096 tokens, medium below 16,384, else high
    thinking adaptive                 medium, unless there is an effort
    thinking disabled, or not given   low, unless there is an effort; it is not shown

A budget is the most tokens of reasoning. The model always reasons: none was trained to answer at once. What clients do
not see is in the signature, so it comes back. Knows nothing of messages.
"""

from __future__ import annotations

import base64
import binascii
from dataclasses import dataclass, field
from typing import Any, Literal

from mlx_oss.server import options
from mlx_oss.server.fields import Fields

_SIGNED = "mlx-oss:"
_BUDGETS = ((4096, "low"), (16384, "medium"))
_SHOWN: dict[Any, Literal["text", "signature"]] = {None: "text", "summarized": "text", "omitted": "signature"}


@dataclass(frozen=True, slots=True)
class Thinking:
    """How much reasoning is wanted.

    Attributes:
        settings: Arguments of `Settings`.
        shown: What a response has of it; None for no block at all.
    """

    settings: dict[str, Any] = field(default_factory=dict)
    shown: Literal["text", "signature"] | None = None


def thinking(fields: Fields) -> Thinking:
    """Reads `thinking` and `output_config` of a request."""
    wanted, config = fields.fields("thinking"), fields.fields("output_config")
    kind = wanted.one_of("type", ("enabled", "adaptive", "disabled"), "disabled") if wanted is not None else "disabled"
    settings = {"reasoning_effort": "low" if kind == "disabled" else "medium"}
    limit, shown = None, None
    if wanted is not None and kind != "disabled":
        limit = wanted.integer("budget_tokens", least=1)
        if limit is not None:
            settings["reasoning_effort"] = next((effort for most, effort in _BUDGETS if limit < most), "high")
        shown = _SHOWN[wanted.one_of("display", ("summarized", "omitted"), "summarized")]
    if config is not None:
        settings |= options.effort(config, "effort", has_tools=True)
    return Thinking(settings if limit is None else {**settings, "max_reasoning_tokens": limit}, shown)


def signature(text: str) -> str:
    """The signature of a block with this reasoning, which holds it."""
    return _SIGNED + base64.b64encode(text.encode(errors="replace")).decode()


def reasoning_in(block: Fields) -> str:
    """The reasoning in a block: its text, or what its signature holds if that is ours."""
    text, signed = block.get("thinking"), block.get("signature")
    if isinstance(text, str) and text:
        return text
    if not isinstance(signed, str) or not signed.startswith(_SIGNED):
        return ""
    try:
        return base64.b64decode(signed.removeprefix(_SIGNED), validate=True).decode()
    except (binascii.Error, ValueError):
        return ""
