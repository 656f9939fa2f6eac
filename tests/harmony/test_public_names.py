"""Tests what importing the package loads, and its public names."""

import subprocess
import sys

from mlx_oss import harmony


def test_import_needs_neither_mlx_nor_the_vocabulary():
    code = "import sys, mlx_oss.harmony; print({'mlx', 'mlx.core', 'tiktoken', 'numpy'} & set(sys.modules) or 'light')"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "light\n"


def test_every_public_name_is_there_once():
    assert len(set(harmony.__all__)) == len(harmony.__all__)
    assert all(hasattr(harmony, name) for name in harmony.__all__)
