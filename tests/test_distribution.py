"""What is published: a wheel and an sdist that are complete and run in an environment of their own."""

from __future__ import annotations

import importlib.util
import os
import platform
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

import mlx_oss

ROOT = Path(__file__).parents[1]
LIBRARY = "mlx_oss/backend/native/_native.abi3.so"
BUILD = "import sys, setuptools.build_meta as backend; backend.build_wheel(sys.argv[-1])"
X86 = platform.machine() == "x86_64"
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))

pytestmark = pytest.mark.skipif(not importlib.util.find_spec("build"), reason="needs build (extra `dev`)")


def checkout_files() -> Iterator[str]:
    """What an installation has to bring, by path in the wheel."""
    for folder, name in ((ROOT / "mlx_oss", "mlx_oss"), (ROOT / "convert", "mlx_oss/convert")):
        for path in folder.rglob("[!.]*"):
            is_code = path.suffix in (".py", ".html", ".css", ".js") or path.name == "py.typed"
            if is_code or "data" in path.relative_to(folder).parts:
                relative = path.relative_to(folder)
                if path.is_file() and "__pycache__" not in relative.parts and "convert" not in relative.parts[:1]:
                    yield f"{name}/{relative.as_posix()}"


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the sdist and the wheel made from it, built without a network."""
    out = tmp_path_factory.mktemp("dist")
    environment = dict(os.environ)
    if shutil.which("cc"):  # it is the files that matter here, and a library that is optimised less is soon compiled
        compiler = tmp_path_factory.mktemp("compiler") / "cc"
        compiler.write_text('#!/bin/sh\nexec cc "$@" -O1\n')
        compiler.chmod(0o755)
        environment["CC"] = str(compiler)
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(out), str(ROOT)]
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    return out


@pytest.fixture(scope="module")
def environment(built: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The commands of a new environment that holds the wheel, with the dependencies that are installed here."""
    folder = tmp_path_factory.mktemp("environment")
    venv.create(folder, with_pip=False, symlinks=True)
    here = sysconfig.get_path("purelib")
    there = next((folder / "lib").glob("python*/site-packages"))
    (there / "dependencies.pth").write_text(here + "\n")
    (wheel,) = built.glob("*.whl")
    install = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--no-deps"]
    subprocess.run([*install, "--no-index", "--force-reinstall", str(wheel)], check=True, capture_output=True)
    return folder / "bin"


def test_the_wheel_brings_every_module_and_file_and_nothing_else(built):
    (wheel,) = built.glob("*.whl")
    names = {name for name in zipfile.ZipFile(wheel).namelist() if ".dist-info/" not in name}
    assert names - {LIBRARY} == set(checkout_files())


@pytest.mark.skipif(not (sys.platform == "linux" and shutil.which("cc")), reason="the library is built elsewhere")
def test_a_wheel_for_linux_brings_the_native_library_for_every_python(built):
    (wheel,) = built.glob("*.whl")
    assert "-cp311-abi3-linux" in wheel.name and LIBRARY in zipfile.ZipFile(wheel).namelist()


@pytest.mark.parametrize("why", ["there is no compiler", "the compiler fails", "it is a Mac", "Python has no lock"])
def test_the_package_is_installed_without_the_native_library_where(why, tmp_path):
    program, environment = BUILD, dict(os.environ)
    if why == "it is a Mac":
        program = "import platform; platform.system = lambda: 'Darwin'; " + program
    elif why == "Python has no lock":
        program = "import sysconfig; sysconfig.get_config_vars()['Py_GIL_DISABLED'] = 1; " + program
    else:
        compiler = tmp_path / "cc"
        if why == "the compiler fails":
            compiler.write_text("#!/bin/sh\nexit 1\n")
            compiler.chmod(0o755)
        environment |= {"CC": str(compiler), "LDSHARED": str(compiler)}
    source = tmp_path / "source"
    ignored = shutil.ignore_patterns("*.so", "build", "*.egg-info", ".*", "__pycache__", "tests", "examples")
    shutil.copytree(ROOT, source, ignore=ignored, symlinks=True)
    command = [sys.executable, "-c", program, str(tmp_path / "dist")]
    done = subprocess.run(command, cwd=source, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout + done.stderr
    (wheel,) = (tmp_path / "dist").glob("*.whl")
    assert LIBRARY not in zipfile.ZipFile(wheel).namelist()
    tag = ("_x86_64" if X86 else "") if "compiler" in why else "py3-none-any"
    assert wheel.name.endswith(f"{tag}.whl")


def test_the_library_is_described_as_every_setuptools_reads_it():
    (extension,) = PROJECT["tool"]["setuptools"]["ext-modules"]
    lists = [value for value in extension.values() if isinstance(value, list)]
    assert lists and all(isinstance(entry, str) for entries in lists for entry in entries)


def test_the_wheel_brings_the_licence_of_the_vocabulary_too(built):
    (wheel,) = built.glob("*.whl")
    archive = zipfile.ZipFile(wheel)
    licences = {Path(name).name: archive.read(name).decode() for name in archive.namelist() if "/licenses/" in name}
    assert set(licences) == {"LICENSE", "o200k_base.LICENSE"}
    assert "Apache License" in licences["LICENSE"] and "Copyright (c) 2022 OpenAI" in licences["o200k_base.LICENSE"]


def test_the_sdist_brings_the_converter_as_files(built):
    (sdist,) = built.glob("*.tar.gz")
    with tarfile.open(sdist) as archive:
        names = {member.name.partition("/")[2] for member in archive if member.isfile()}
    assert set(checkout_files()) <= names


def test_the_installed_command_answers_with_the_installed_package(environment, tmp_path):
    program = "import mlx_oss, mlx_oss.convert; print(mlx_oss.__file__); print(mlx_oss.convert.convert.__module__)"
    python = [str(environment / "python"), "-I", "-c", program]
    where, converter = subprocess.run(python, cwd=tmp_path, capture_output=True, text=True, check=True).stdout.split()
    assert Path(where).is_relative_to(environment.parent) and converter == "mlx_oss.convert.run"
    told = subprocess.run([environment / "mlx-oss", "--version"], cwd=tmp_path, capture_output=True, text=True)
    assert told.stdout == f"mlx-oss {mlx_oss.__version__}\n"
    asked = [environment / "mlx-oss", "chat", "--temperature", "0", "What is the capital of France?"]
    answer = subprocess.run(asked, cwd=tmp_path, capture_output=True, text=True)
    assert answer.returncode == 0 and "Paris" in answer.stdout


def test_what_is_promised_for_a_python_version_is_tested_by_ci():
    promised = {entry.rpartition(" ")[2] for entry in PROJECT["project"]["classifiers"] if ":: 3." in entry}
    ci = (ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8")
    assert promised and all(f'python: "{version}"' in ci for version in promised)


def package_index() -> dict[str, object]:
    names: dict[str, object] = {"__name__": "package_index"}
    exec(compile((ROOT / ".github/package_index.py").read_text(encoding="utf-8"), "package_index.py", "exec"), names)
    return names


def test_on_a_package_index_every_link_is_absolute_and_leads_to_a_file():
    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    made = package_index()["absolute_links"](readme, "https://host/us/it", "v1")
    links = [part.partition(")")[0] for part in made.split("](")[1:]]
    assert links and all(link.startswith(("https://", "#")) for link in links)
    ours = [
        link.removeprefix("https://host/us/it/blob/v1/") for link in links if link.startswith("https://host/us/it/")
    ]
    assert ours and all((ROOT / link.partition("#")[0]).exists() for link in ours)


def test_on_a_package_index_the_project_has_its_addresses():
    made = package_index()["with_urls"]((ROOT / "pyproject.toml").read_text(encoding="utf-8"), "https://host/us/it")
    assert tomllib.loads(made)["project"]["urls"]["Repository"] == "https://host/us/it"
