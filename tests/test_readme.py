"""What the documents promise: their Python runs as it stands, and the files and names they mention exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from mlx_oss.tools.sandbox import GUARANTEES, isolation_here
from tests.test_package import ORDER

ROOT = Path(__file__).parents[1]
DOCUMENTS = sorted(
    path.relative_to(ROOT).as_posix()
    for folder in (".", "convert", "examples", "mlx_oss", "tests")
    for path in (ROOT / folder).glob("*.md" if folder == "." else "**/*.md")
    if "mlx_oss/convert" not in path.as_posix()  # a link to convert/
)
TREE = "mlx_oss/README.md"


def text_of(document: str) -> str:
    return (ROOT / document).read_text(encoding="utf-8")


def python_blocks(document: str) -> list[str]:
    return re.findall(r"```python\n(.*?)```", text_of(document), flags=re.DOTALL)


@pytest.mark.parametrize("document", [*DOCUMENTS, ".github/CONTRIBUTING.md"])
def test_commands_can_be_pasted_into_the_shell_of_macos(document):
    """Unlike other shells, zsh passes `# comment` that is typed on to the command, and ends the command at a `;`."""
    blocks = re.findall(r"```sh\n(.*?)```", text_of(document), flags=re.DOTALL)
    assert not [line for block in blocks for line in block.splitlines() if re.search(r"(^|\s)#", line)]


def test_the_documents_are_all_there():
    assert {"README.md", "examples/README.md", TREE, "tests/BENCHMARKS.md"} <= set(DOCUMENTS)
    assert len(text_of("README.md").splitlines()) <= 150


@pytest.mark.parametrize(
    ("document", "least", "printed"),
    [("README.md", 1, ["Paris"]), ("examples/README.md", 10, ["Paris", "1776", "sunny, 18"])],
)
def test_every_snippet_runs_after_the_ones_before(document, least, printed, capsys):
    """On nano; one namespace for each document, which is what a reader gets who types the snippets in."""
    names: dict[str, object] = {}
    blocks = python_blocks(document)
    assert len(blocks) >= least
    for block in blocks:
        if isolation_here() not in GUARANTEES:
            block = block.replace("PythonTool()", 'PythonTool(isolation="limits")')
        exec(compile(block, document, "exec"), names)
    out = capsys.readouterr().out
    assert all(text in out for text in printed)


def listed() -> list[str]:
    """The names that lines of the tree begin with, one or several."""
    lines = re.findall(r"^  ((?:[\w.]+(?:\.py|/) )+)", text_of(TREE), flags=re.MULTILINE)
    return [name for line in lines for name in line.split()]


def test_every_module_and_package_is_listed():
    modules = {path.name for path in (ROOT / "mlx_oss").glob("*.py")}
    packages = {f"{path.parent.name}/" for path in (ROOT / "mlx_oss").glob("*/__init__.py")}
    assert modules | packages == set(listed())


@pytest.mark.parametrize("path", listed())
def test_every_listed_file_exists(path):
    assert (ROOT / "mlx_oss" / path).exists()


def test_the_order_of_imports_is_the_one_that_is_tested():
    assert [line.strip() for line in ORDER.strip().splitlines()] == next(
        block.splitlines() for block in re.findall(r"```\n(.*?)```", text_of(TREE), flags=re.DOTALL) if "cli\n" in block
    )


def defined(file: Path) -> set[str]:
    """The top-level names of a module, and `Class.name` for what its classes define."""
    names: set[str] = set()
    functions = ast.FunctionDef | ast.AsyncFunctionDef
    for node in ast.parse(file.read_text(encoding="utf-8")).body:
        if isinstance(node, ast.ClassDef | functions):
            names.add(node.name)
        if isinstance(node, ast.ClassDef):
            names |= {f"{node.name}.{inner.name}" for inner in node.body if isinstance(inner, functions)}
        if isinstance(node, ast.Assign):
            names |= {target.id for target in node.targets if isinstance(target, ast.Name)}
    return names


@pytest.mark.parametrize("mention", sorted(set(re.findall(r"`([\w/]+\.py:[\w.]+)`", text_of(TREE)))))
def test_every_function_of_the_walks_exists(mention):
    file, _, name = mention.partition(":")
    assert name in defined(ROOT / "mlx_oss" / file)


def test_the_walks_name_functions():
    assert len(re.findall(r"`[\w/]+\.py:[\w.]+`", text_of(TREE))) > 50


def anchors(document: Path) -> set[str]:
    """The anchors that GitHub gives the headings of a document."""
    headings = re.findall(r"^#+ (.*)$", document.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("document", DOCUMENTS)
def test_every_linked_file_and_section_exists(document):
    for file, anchor in re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", text_of(document)):
        target = (ROOT / document).parent / file if file else ROOT / document
        assert target.exists(), file
        assert not anchor or anchor in anchors(target), f"{file}#{anchor}"


def test_the_readme_links_to_the_other_documents():
    links = re.findall(r"\]\((?!https?:)([^)#]+)\)", text_of("README.md"))
    assert {"examples/README.md", TREE, "tests/BENCHMARKS.md"} <= set(links)


def test_every_benchmark_is_listed():
    benchmarks = {f"tests.{path.stem}" for path in (ROOT / "tests").glob("bench_*.py")}
    assert all(f"`python -m {name}" in text_of("tests/BENCHMARKS.md") for name in benchmarks)
