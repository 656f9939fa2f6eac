"""The folders of this user with files of mlx-oss: a cache, state such as the chat history, and the user's defaults.

`platformdirs` knows where each system keeps them: on Linux in the folders of the XDG Base Directory Specification, on
macOS below ~/Library. Knows nothing of what the files are. Creates nothing.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

from mlx_oss.files import expanded

_NAME = "mlx-oss"


def cache_folder() -> Path | None:
    """The folder for files that can be created again: MLX_OSS_CACHE if set, else the user's cache folder for mlx-oss.

    In MLX_OSS_CACHE, `~` is the home folder. A relative XDG_CACHE_HOME is ignored, as the specification requires.

    Returns:
        The folder, which may not exist yet. None if MLX_OSS_CACHE is not set and the user has no home folder.
    """
    if chosen := os.environ.get("MLX_OSS_CACHE"):
        return expanded(chosen)
    from platformdirs import user_cache_path

    return _absolute(user_cache_path)


def config_folder() -> Path | None:
    """The folder for files that the user writes: the user's config folder for mlx-oss.

    A relative XDG_CONFIG_HOME is ignored, as the specification requires.

    Returns:
        The folder, which may not exist yet. None if the user has no home folder.
    """
    from platformdirs import user_config_path

    return _absolute(user_config_path)


def state_folder() -> Path | None:
    """The folder for files to be kept between runs, such as the chat history: the user's state folder for mlx-oss.

    A relative XDG_STATE_HOME is ignored, as the specification requires.

    Returns:
        The folder, which may not exist yet. None if the user has no home folder.
    """
    from platformdirs import user_state_path

    return _absolute(user_state_path)


def _absolute(find: Callable[[str], Path]) -> Path | None:
    """The folder that a function of platformdirs finds. None if there is no home folder."""
    try:
        folder = find(_NAME)
    except RuntimeError:
        return None
    return folder if folder.is_absolute() else None  # some versions return a relative path if there is no home folder
