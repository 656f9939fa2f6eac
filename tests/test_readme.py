"""The README's promises: its Python runs as it stands, its files exist."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mlx_oss.tools.sandbox import GUARANTEES, isolation_here

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text(encoding="utf-8")


def python_blocks() -> list[str]:
    return re.findall(r"```python\n(.*?)```", README, flags=re.DOTALL)


def test_every_snippet_runs_after_the_ones_before(capsys):
    """On nano; one namespace, as a reader who types them in has."""
    names: dict[str, object] = {}
    blocks = python_blocks()
    assert len(blocks) >= 3
    for block in blocks:
        if isolation_here() not in GUARANTEES:
            block = block.replace("PythonTool()", 'PythonTool(isolation="limits")')
        exec(compile(block, "README.md", "exec"), names)
    out = capsys.readouterr().out
    assert "Paris" in out and "1776" in out and "sunny, 18" in out


@pytest.mark.parametrize("path", re.findall(r"^  ([\w.]+(?:\.py|/)) ", README, flags=re.MULTILINE))
def test_every_listed_file_exists(path):
    assert (ROOT / "mlx_oss" / path).exists()


def test_every_linked_file_exists():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert links
    assert all((ROOT / link).exists() for link in links)
