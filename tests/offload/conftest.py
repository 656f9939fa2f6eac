"""A folder whose experts stay on disk, to be damaged."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def copied(routed, tmp_path) -> Path:
    """A folder of its own, to be damaged."""
    return Path(shutil.copytree(routed("32 experts"), tmp_path / "model"))
