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


def listed() -> list[str]:
    """The names that lines of the list of files begin with, one or several."""
    lines = re.findall(r"^  ((?:[\w.]+(?:\.py|/) )+)", README, flags=re.MULTILINE)
    return [name for line in lines for name in line.split()]


def test_every_module_is_listed():
    modules = {path.name for path in (ROOT / "mlx_oss").glob("*.py")} - {"__init__.py", "__main__.py"}
    assert not modules - {*listed(), "errors.py", "version.py"}


@pytest.mark.parametrize("path", listed())
def test_every_listed_file_exists(path):
    assert (ROOT / "mlx_oss" / path).exists()


def test_every_linked_file_exists():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert links
    assert all((ROOT / link).exists() for link in links)
