"""A copy of a model folder that a test can damage."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest


@pytest.fixture
def copied(routed, tmp_path) -> Path:
    """A copy of the folder with 32 experts, which a test can damage."""
    return Path(shutil.copytree(routed("32 experts"), tmp_path / "model"))
