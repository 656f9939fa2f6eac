"""The user's folders: what the environment can change, and that a missing home folder raises nothing."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from mlx_oss.folders import cache_folder, config_folder, state_folder

BOTH = pytest.mark.parametrize(
    ("folder", "variable"),
    [(cache_folder, "XDG_CACHE_HOME"), (state_folder, "XDG_STATE_HOME"), (config_folder, "XDG_CONFIG_HOME")],
)


@pytest.fixture(autouse=True)
def home(tmp_path, monkeypatch) -> Path:
    """An empty home folder, and no variable that names another place."""
    for name in ("MLX_OSS_CACHE", "XDG_CACHE_HOME", "XDG_STATE_HOME", "XDG_CONFIG_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    return tmp_path


@BOTH
def test_a_folder_is_below_the_home_folder_and_is_not_created(folder: Callable[[], Path | None], variable, home):
    path = folder()
    assert path is not None and path.name == "mlx-oss" and path.is_relative_to(home)
    assert list(home.iterdir()) == []


@BOTH
def test_an_absolute_xdg_variable_moves_the_folder(folder: Callable[[], Path | None], variable, home, monkeypatch):
    monkeypatch.setenv(variable, str(home / "elsewhere"))
    assert folder() == home / "elsewhere" / "mlx-oss"


@BOTH
@pytest.mark.parametrize("value", ["", "relative", "./relative"])
def test_an_empty_or_relative_xdg_variable_is_ignored(folder: Callable[[], Path | None], variable, value, monkeypatch):
    usual = folder()
    monkeypatch.setenv(variable, value)
    assert folder() == usual


def test_mlx_oss_cache_is_the_cache_folder_itself(home, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(home / "elsewhere"))
    monkeypatch.setenv("MLX_OSS_CACHE", str(home / "chosen"))
    assert cache_folder() == home / "chosen"


@BOTH
def test_without_a_home_folder_there_is_none(folder: Callable[[], Path | None], variable, monkeypatch):
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    assert folder() is None
