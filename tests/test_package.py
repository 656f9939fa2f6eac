"""The package as a whole: its public names, what importing it costs, and which module may know which."""

from __future__ import annotations

import ast
import enum
import importlib
import inspect
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, is_typeddict

import docstring_parser
import pytest

import mlx_oss
import mlx_oss.convert
import mlx_oss.distributed
import mlx_oss.evals
import mlx_oss.harmony
import mlx_oss.research
import mlx_oss.tools
from mlx_oss import errors

ROOT = Path(mlx_oss.__file__).parent
CONVERTER = Path(mlx_oss.convert.__file__).parent

# A module imports those of the lines above its own and of its own sub-package, and no others.
ORDER = """
    version errors shield python_process
    action costs files json_text system_files terminal
    config_checks folders arguments formulas json_lines
    quantization
    config
    shards backend
    tokenizer
    tokenizer_files tokenizer_json weights model
    harmony memory offload
    distributed
    events convert generation
    constrain tools nano
    models
    loader
    chat bench doctor
    evals research hosts
    server
    cli
    __main__
"""
RANK = {name: rank for rank, line in enumerate(ORDER.split("\n")) for name in line.split()}
KNOW_MLX = set(
    """
    backend.device backend.host_memory backend.mlx_library backend.native backend.packed backend.wired
    model.attention model.fingerprint model.kv_cache model.linear model.sharding model.swiglu
    model.transformer distributed.follower distributed.launched distributed.leader distributed.measures
    weights.arrays weights.reading offload.embedding offload.experts offload.install
    nano convert.affine loader generation.generate generation.local generation.prompt_cache generation.sampling
    generation.rows generation.sampling_mlx generation.sampling_numpy generation.token_picker
    bench.engines bench.kernels doctor.kernels doctor.worker evals.comparison hosts.worker
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
            alone = name.startswith("tools.sandbox.jail.")  # a package that also runs without the others
            assert not node.level or (alone and node.level == 1), f"{name} has a relative import"
            within = node.module == "mlx_oss"
            yield from (f"mlx_oss.{alias.name}" if within else str(node.module) for alias in node.names)


def loaded_by(statement: str) -> set[str]:
    """Which of the heavy packages a new process has loaded after a statement."""
    program = f"{statement}\nimport sys\nprint(*{{name.partition('.')[0] for name in sys.modules}})"
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    heavy = {"mlx", "numpy", "tiktoken", "safetensors", "rich", "prompt_toolkit"}
    return (heavy | {"pydantic", "docstring_parser", "platformdirs"}) & set(out.split())


def test_all_public_names_can_be_imported():
    for name in mlx_oss.__all__:
        assert getattr(mlx_oss, name) is not None
    modules = ["convert", "distributed", "errors", "evals", "harmony", "research", "tools"]
    assert dir(mlx_oss) == sorted([*mlx_oss.__all__, *modules])


def test_public_names_are_the_same_for_type_checkers_and_at_run_time():
    (block,) = (node for node in SOURCES[""].body if isinstance(node, ast.If) and "TYPE" in ast.unparse(node.test))
    eager = [
        node for node in SOURCES[""].body if isinstance(node, ast.ImportFrom) and f"{node.module}".startswith("mlx")
    ]
    imports = [node for node in (*eager, *block.body) if isinstance(node, ast.ImportFrom) and node.module != "mlx_oss"]
    for_checkers = {alias.name: f"{node.module}" for node in imports for alias in node.names}
    assert set(for_checkers) == set(mlx_oss.__all__)
    for name, home in for_checkers.items():
        assert getattr(importlib.import_module(home), name) is getattr(mlx_oss, name)


def test_an_old_python_is_told_which_one_it_is_and_what_to_do():
    """The file is read before it is run, so all of it has to be correct for Pythons from 3.8 on."""
    ast.parse((ROOT / "__init__.py").read_text(), feature_version=(3, 8))
    program = "import sys; sys.version_info, sys.version = (3, 9, 6, 'final', 0), '3.9.6 (default)'; import mlx_oss"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    last = done.stderr.splitlines()[-1]
    assert done.returncode == 1 and last.startswith("ImportError: mlx-oss needs Python 3.11 or later, but ")
    assert f"{sys.executable} is Python 3.9.6: install a newer one" in last
    oldest = re.search(r'requires-python = ">=3\.(\d+)"', (ROOT.parent / "pyproject.toml").read_text())
    assert oldest and f"Python 3.{oldest[1]} or later" in last


def test_a_name_that_is_not_public_is_no_attribute():
    with pytest.raises(AttributeError, match="no attribute 'Nothing'"):
        mlx_oss.Nothing  # noqa: B018


def public_callables() -> Iterator[tuple[str, Any]]:
    """Functions, classes and methods that users call, of the top level and of the public modules."""
    modules = (mlx_oss, mlx_oss.convert, mlx_oss.distributed, mlx_oss.evals, mlx_oss.harmony)
    modules += (mlx_oss.research, mlx_oss.tools)
    for module in modules:
        for name in module.__all__:
            thing = getattr(module, name)
            if inspect.isfunction(thing) or (inspect.isclass(thing) and not issubclass(thing, Exception)):
                yield name, thing
            if inspect.isclass(thing):
                for method, function in vars(thing).items():
                    function = getattr(function, "__func__", function)
                    if inspect.isfunction(function) and method[0] != "_" and thing.__module__.startswith("mlx_oss"):
                        yield f"{name}.{method}", function


PUBLIC = dict(public_callables())


@pytest.mark.parametrize("name", PUBLIC)
def test_a_docstring_describes_every_parameter_and_no_other(name):
    """In Google's style, which editors and our own reader of docstrings understand."""
    thing = PUBLIC[name]
    assert thing.__doc__ and not thing.__doc__.startswith(f"{name}("), name
    parsed = docstring_parser.parse(thing.__doc__, docstring_parser.DocstringStyle.GOOGLE)
    assert parsed.short_description
    described = {entry.arg_name.strip("*") for entry in parsed.params}
    if inspect.isclass(thing) and (issubclass(thing, enum.Enum) or getattr(thing, "_is_protocol", False)):
        return  # its members are attributes, or it is never made
    if is_typeddict(thing):
        assert described == set(thing.__annotations__)
        return
    parameters = set(inspect.signature(thing).parameters) - {"self", "cls"}
    if inspect.isclass(thing):  # attributes, too: fields, properties, and what is set on self
        attributes = {*dir(thing), *getattr(thing, "__annotations__", {})}
        attributes |= set(re.findall(r"self\.(\w+)", inspect.getsource(thing)))
        assert described <= parameters | attributes
    else:
        assert described <= parameters
    if len(parameters) > 1:
        assert parameters <= described


@pytest.mark.parametrize(
    "name", ["mlx_oss", "mlx_oss.config", "mlx_oss.errors", "mlx_oss.evals", "mlx_oss.harmony", "mlx_oss.cli"]
)
def test_importing_it_loads_nothing_heavy(name):
    assert loaded_by(f"import {name}") == set()


def test_reading_and_rendering_harmony_needs_no_mlx():
    statement = "from mlx_oss.harmony import Message, render_message\nrender_message(Message('user', 'Hi'))"
    assert loaded_by(statement) == {"tiktoken"}


def test_the_public_modules_are_attributes_and_need_no_mlx():
    statement = (
        "import mlx_oss; mlx_oss.harmony.Message, mlx_oss.tools.Tool, mlx_oss.errors.ToolError, mlx_oss.convert.convert"
        "; mlx_oss.research.Research"
    )
    assert not {"mlx", "pydantic", "docstring_parser"} & loaded_by(statement)


def test_importing_the_converter_needs_no_mlx():
    assert loaded_by("import mlx_oss.convert") <= {"numpy"}


def test_imports_point_down():
    for name in SOURCES:
        package = name.partition(".")[0]
        if package in ("", "data"):  # the lazy public names; the bundled files
            continue
        assert package in RANK, f"{name} has no place in ORDER"
        for other in imported(name):
            if other == "mlx_oss":
                assert package == "cli", f"{name} imports all of mlx_oss"
            elif other.startswith("mlx_oss."):
                below = other.split(".")[1]
                assert below == package or RANK[below] < RANK[package], f"{name} imports {other}"


def test_mlx_is_known_only_where_arrays_are_computed():
    known = {name for name in SOURCES if any(other.split(".")[0] == "mlx" for other in imported(name))}
    assert known <= KNOW_MLX


def test_only_the_command_line_and_what_turns_names_into_folders_convert():
    users = {name.partition(".")[0] for name in SOURCES if any(i.startswith("mlx_oss.convert") for i in imported(name))}
    assert users - {"", "convert"} <= {"cli", "models", "nano"}


def test_every_module_says_what_it_is_and_prints_nothing():
    for name, tree in SOURCES.items():
        assert ast.get_docstring(tree), name
        calls = [node.func for node in ast.walk(tree) if isinstance(node, ast.Call)]
        assert "print" not in [call.id for call in calls if isinstance(call, ast.Name)], name


def test_every_error_is_an_mlx_oss_error_and_stands_in_the_drawn_tree():
    classes = [value for value in vars(errors).values() if inspect.isclass(value)]
    assert len(classes) > 5 and {error.__name__ for error in classes} == set(errors.__all__)
    for error in classes:
        assert issubclass(error, mlx_oss.MlxOssError) and error.__name__ in str(errors.__doc__)
        assert getattr(mlx_oss, error.__name__) is error
