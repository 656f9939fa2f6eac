"""The one seam to what only a Mac has: a GPU, and a limit to how much memory may be wired for it."""

from __future__ import annotations

import mlx.core as mx


def on_gpu() -> bool:
    return mx.default_device() == mx.Device(mx.gpu)


def keep_resident() -> int | None:
    """Lets the model's weights stay wired up to what the system recommends, so that they are not paged out between
    tokens.

    Returns the limit in bytes, or None without Metal (or before macOS 15, which has no such limit).
    """
    if not mx.metal.is_available():
        return None
    limit = int(mx.device_info()["max_recommended_working_set_size"])
    try:
        mx.set_wired_limit(limit)
    except (RuntimeError, ValueError):
        return None
    return limit
