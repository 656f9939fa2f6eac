"""The package as a whole: its public names, what importing it costs, and which module may know which."""

from __future__ import annotations

import ast
import importlib
import inspect
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import mlx_oss
import mlx_oss.convert
from mlx_oss import errors

ROOT = Path(mlx_oss.__file__).parent
CONVERTER = Path(mlx_oss.convert.__file__).parent

# A module imports those of the lines above its own and of its own sub-package, and no others.
ORDER = """
    version errors action
    config
    backend
    tokenizer weights model
    harmony memory offload
    events convert
    constrain tools nano
    loader generation
    chat bench
    cli
    __main__
"""
RANK = {name: rank for rank, line in enumerate(ORDER.split("\n")) for name in line.split()}
KNOW_MLX = set(
    """
    backend.cores backend.cpu_attention backend.cpu_linear backend.device backend.host_memory
    model.attention model.kv_cache model.linear model.swiglu model.transformer
    weights.arrays weights.reading offload.embedding offload.experts offload.install
    nano convert.affine loader generation.generate generation.sampling chat.session_file bench.kernels bench.worker
    """.split()
)


def sources() -> dict[str, ast.Module]:
    """Every module of the package by its dotted name below mlx_oss, parsed."""
    paths = {
        path.relative_to(ROOT): path for path in ROOT.rglob("*.py") if "convert" not in path.relative_to(ROOT).parts
    }
    paths |= {Path("convert") / path.relative_to(CONVERTER): path for path in CONVERTER.rglob("*.py")}
    trees = {".".join(name.with_suffix("").parts): ast.parse(path.read_text()) for name, path in paths.items()}
    return {name.removesuffix("__init__").removesuffix("."): tree for name, tree in trees.items()}


SOURCES = sources()
assert {"", "chat.session", "harmony.parse", "convert.run", "cli"} <= set(SOURCES)


def imported(name: str) -> Iterator[str]:
    """Dotted names that a module imports, wherever in it."""
    for node in ast.walk(SOURCES[name]):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, f"{name} has a relative import"
            within = node.module == "mlx_oss"
            yield from (f"mlx_oss.{alias.name}" if within else str(node.module) for alias in node.names)


def loaded_by(statement: str) -> set[str]:
    """Which of the heavy packages a new process has loaded after a statement."""
    program = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    return {"mlx", "numpy", "tiktoken", "safetensors", "rich", "prompt_toolkit"} & set(out.split())


def test_all_public_names_can_be_imported():
    for name in mlx_oss.__all__:
        assert getattr(mlx_oss, name) is not None
    assert dir(mlx_oss) == mlx_oss.__all__


def test_public_names_are_the_same_for_type_checkers_and_at_run_time():
    (block,) = (node for node in SOURCES[""].body if isinstance(node, ast.If))
    for_checkers = {alias.name: f"{node.module}" for node in block.body for alias in node.names}
    assert {*for_checkers, "__version__"} == set(mlx_oss.__all__)
    for name, home in for_checkers.items():
        assert getattr(importlib.import_module(home), name) is getattr(mlx_oss, name)


def test_a_name_that_is_not_public_is_no_attribute():
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        mlx_oss.Nothing  # noqa: B018


def test_every_public_class_and_function_has_a_docstring():
    for name in mlx_oss.__all__:
        thing = getattr(mlx_oss, name)
        if inspect.isclass(thing) or inspect.isfunction(thing):
            assert thing.__doc__ and not thing.__doc__.startswith(f"{name}("), name


@pytest.mark.parametrize("name", ["mlx_oss", "mlx_oss.config", "mlx_oss.errors", "mlx_oss.harmony", "mlx_oss.cli"])
def test_importing_it_loads_nothing_heavy(name):
    assert loaded_by(f"import {name}") == set()


def test_reading_and_rendering_harmony_needs_no_mlx():
    statement = "from mlx_oss.harmony import Message, render_message\nrender_message(Message('user', 'Hi'))"
    assert loaded_by(statement) == {"tiktoken"}


def test_importing_the_converter_needs_no_mlx():
    assert loaded_by("import mlx_oss.convert") <= {"numpy"}


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_imports_point_down(name):
    package = name.partition(".")[0]
    if package in ("", "data"):  # the lazy public names; the bundled files
        return
    assert package in RANK, f"{name} has no place in ORDER"
    for other in imported(name):
        if other == "mlx_oss":
            assert package == "cli", f"{name} imports all of mlx_oss"
        elif other.startswith("mlx_oss."):
            below = other.split(".")[1]
            assert below == package or RANK[below] < RANK[package], f"{name} imports {other}"


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_mlx_is_known_only_where_arrays_are_computed(name):
    if any(other.split(".")[0] == "mlx" for other in imported(name)):
        assert name in KNOW_MLX


def test_only_the_command_line_and_the_nano_model_convert():
    users = {name.partition(".")[0] for name in SOURCES if any(i.startswith("mlx_oss.convert") for i in imported(name))}
    assert users - {"convert"} <= {"cli", "nano"}


@pytest.mark.parametrize("name", sorted(SOURCES))
def test_every_module_says_what_it_is_and_prints_nothing(name):
    assert ast.get_docstring(SOURCES[name])
    calls = [node.func for node in ast.walk(SOURCES[name]) if isinstance(node, ast.Call)]
    assert "print" not in [call.id for call in calls if isinstance(call, ast.Name)]


def test_every_error_is_an_mlx_oss_error_and_stands_in_the_drawn_tree():
    classes = [value for value in vars(errors).values() if inspect.isclass(value)]
    assert len(classes) > 5
    for error in classes:
        assert issubclass(error, mlx_oss.MlxOssError) and error.__name__ in str(errors.__doc__)
