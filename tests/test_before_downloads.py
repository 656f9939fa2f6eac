"""What is said of a model, and refused, before the first byte of its weights is downloaded."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path

import pytest

import mlx_oss
from mlx_oss import models
from mlx_oss.backend import host_memory
from mlx_oss.backend.machine import Machine
from mlx_oss.cli import main, model_arguments
from mlx_oss.convert import convert
from mlx_oss.errors import ConversionError, EngineError, OptionError
from mlx_oss.loader import use_here
from mlx_oss.weights.hub import copies, space
from mlx_oss.weights.layouts.checkpoint import as_converted, open_checkpoint

NAME, FINE_TUNE, METAL = "openai/gpt-oss-20b", "somebody/fine-tune", "somebody/metal"


def no_weights(tmp_path: Path) -> bool:
    return not [path for path in (tmp_path / "hub").rglob("?" * 64 + "*") if path.stat().st_size]


@pytest.fixture(autouse=True)
def metal(request, release) -> None:
    """A repository that has OpenAI's Metal file alone."""
    if "hub" in request.fixturenames:
        request.getfixturevalue("hub").repositories[METAL] = release("tiny", "metal").parent


@pytest.fixture
def little_memory(monkeypatch) -> None:
    monkeypatch.setattr(host_memory, "this_machine", lambda: Machine(130_000_000, gpu=False))


@pytest.fixture
def disks(monkeypatch, tmp_path) -> Callable[[int, int | None], None]:
    """disks(free, free_of_ours): bytes that are free; None: our cache is on the same disk as the downloads."""

    def have(free: int, free_of_ours: int | None) -> None:
        ours = tmp_path / "ours"
        ours.mkdir(exist_ok=True)
        there = lambda path: path.is_relative_to(ours) and free_of_ours is not None  # noqa: E731
        monkeypatch.setattr(space, "_disk", lambda path: int(there(path)))
        monkeypatch.setattr(space, "_free", lambda path: free_of_ours if there(path) else free)

    monkeypatch.setattr(space, "_SPARE", 0)
    return have


@pytest.mark.parametrize("name", [NAME, FINE_TUNE, METAL, "mlx-community/gpt-oss-20b-MXFP4"])
@pytest.mark.parametrize(
    "command",
    [["pull"], ["chat", "Hi", "--model"], ["bench"], ["generate", "Hi", "--model"]],
    ids=lambda words: words[0],
)
def test_what_cannot_run_here_is_refused_before_its_weights(hub, little_memory, name, command, tmp_path, capsys):
    assert main([*command, name]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith(f"error: {name} needs at least ") and "but the limit is 130.00 MB (available), " in error
    assert "MB too little: " in error and no_weights(tmp_path)
    assert (f"mlx-oss pull {name} --anyway" in error) == (command == ["pull"])


@pytest.mark.parametrize("name", [NAME, FINE_TUNE])
def test_the_remedy_of_pull_downloads_for_another_machine(hub, little_memory, name, capsys):
    assert main(["pull", name, "--anyway"]) == 0
    captured = capsys.readouterr()
    assert "too little" in captured.err and "is here" in captured.out
    assert copies.find(models.hub_model(name)).is_whole


def test_without_mlx_a_model_can_still_be_downloaded_for_another_machine(hub, monkeypatch, capsys):
    def none() -> None:
        raise EngineError("MLX cannot be loaded: install it")

    monkeypatch.setattr("mlx_oss.backend.mlx_library.load_mlx", none)
    assert main(["pull", NAME]) == 1 and "MLX cannot be loaded" in capsys.readouterr().err
    assert main(["pull", NAME, "--anyway"]) == 0 and "MLX cannot be loaded" in capsys.readouterr().err


def test_a_models_memory_is_asked_for_in_python_too(hub, tmp_path):
    for name in (NAME, FINE_TUNE):
        with pytest.raises(OptionError, match=f"^{name} needs at least .*, but the limit is 130.00 MB .as requested."):
            mlx_oss.load(name, memory="130MB")
    assert no_weights(tmp_path)


def test_a_model_that_is_here_is_not_asked_about_by_pull(hub, little_memory, monkeypatch):
    """Nothing is to be downloaded, so there is nothing to refuse."""
    assert main(["pull", NAME, "--anyway"]) == main(["pull", NAME]) == 0


@pytest.mark.parametrize("name", [NAME, FINE_TUNE, METAL])
def test_a_model_that_is_not_here_is_planned_as_it_will_be_loaded(hub, name, tmp_path, capsys):
    remote = mlx_oss.plan(name, memory="8GB")
    assert str(remote).startswith(f"{name} fits in memory") and no_weights(tmp_path)
    assert main(["plan", name, "--memory", "8GB"]) == 0 and no_weights(tmp_path)
    folder = models.folder_of(name)
    local = mlx_oss.plan(folder, memory="8GB")
    assert str(remote).removeprefix(name) == str(local).removeprefix(str(folder))


@pytest.mark.parametrize("layout", ["bf16", "metal"])
def test_what_a_conversion_will_be_is_known_before_it_is_made(release, tmp_path, layout):
    source = open_checkpoint(release("tiny", layout))
    convert(source.folder, tmp_path / "mlx")
    made, planned = open_checkpoint(tmp_path / "mlx"), as_converted(source)
    assert {name: (each.dtype, each.shape) for name, each in planned.tensors.items()} == {
        name: (each.dtype, each.shape) for name, each in made.tensors.items()
    }
    assert planned.specs == made.specs
    assert "is converted afterwards, because" in use_here(source, memory="8GB")


def sizes(name: str, hub) -> tuple[int, int]:
    """Bytes of the download and of what is converted from it."""
    folder = hub.repositories[name]
    converted = sum(tensor.nbytes for tensor in as_converted(open_checkpoint(folder)).tensors.values())
    return sum(path.stat().st_size for path in folder.iterdir() if path.suffix == ".safetensors"), converted


def test_the_disk_must_have_room_for_the_download_and_its_conversion_together(hub, disks, tmp_path, capsys):
    download, conversion = sizes(FINE_TUNE, hub)
    disks(download + conversion - 1, None)
    assert main(["pull", FINE_TUNE]) == 2
    error = capsys.readouterr().err
    assert len(error.splitlines()) == 1 and no_weights(tmp_path)
    assert f"{download / 1e9:.3g} GB for the download and {conversion / 1e9:.3g} GB for the conversion" in error
    assert f"{(download + conversion) / 1e9:.3g} GB in all" in error and "MLX_OSS_CACHE" in error
    disks(download + conversion, None)
    assert main(["pull", FINE_TUNE]) == 0


def test_each_disk_must_have_room_for_what_it_gets(hub, disks, tmp_path, capsys):
    download, conversion = sizes(FINE_TUNE, hub)
    disks(download, conversion - 1)
    assert main(["pull", FINE_TUNE]) == 2
    error = capsys.readouterr().err
    assert f"GB for its conversion on the disk of {tmp_path / 'ours'}" in error and "set MLX_OSS_CACHE" in error
    disks(download - 1, conversion)
    assert main(["pull", FINE_TUNE]) == 2 and "set HF_HUB_CACHE" in capsys.readouterr().err and no_weights(tmp_path)
    disks(download, conversion)
    assert main(["pull", FINE_TUNE]) == 0


def test_what_runs_in_place_needs_no_room_for_a_conversion(hub, disks):
    disks(sum(path.stat().st_size for path in hub.repositories[NAME].glob("*.*")), 0)
    assert main(["pull", NAME]) == 0


def test_a_download_whose_conversion_has_no_place_is_refused(hub, monkeypatch, tmp_path):
    monkeypatch.setattr(copies, "cache_folder", lambda: None)
    with pytest.raises(ConversionError, match=f"^{FINE_TUNE} cannot be loaded as it is, .* set MLX_OSS_CACHE"):
        mlx_oss.load(FINE_TUNE)
    assert no_weights(tmp_path)


def test_converting_by_name_asks_the_disk_of_the_target_too(hub, disks, tmp_path, capsys):
    download = sum(path.stat().st_size for path in hub.repositories[NAME].glob("*.safetensors"))
    disks(download + 1000, None)
    assert main(["convert", NAME, str(tmp_path / "mlx")]) == 2
    error = capsys.readouterr().err
    assert "GB in all" in error and "choose a target on another disk" in error and no_weights(tmp_path)


@pytest.mark.parametrize(
    ("options", "expected"),
    [(["--set", "lm_hed=q8"], "no module that can be quantised"), (["--adapter", "nowhere"], "nowhere")],
)
def test_a_wrong_option_of_convert_is_told_before_the_download(hub, options, expected, tmp_path, capsys):
    assert main(["convert", NAME, str(tmp_path / "mlx"), *options]) == 2
    assert expected in capsys.readouterr().err and no_weights(tmp_path)


@pytest.mark.parametrize("name", [NAME, FINE_TUNE, METAL])
def test_a_dry_run_downloads_no_weights(hub, name, tmp_path, capsys):
    assert main(["convert", "--dry-run", name, str(tmp_path / "mlx")]) == 0
    assert "would write" in capsys.readouterr().out and no_weights(tmp_path)
    assert main(["convert", "--dry-run", f"{name}-nowhere", str(tmp_path / "mlx")]) == 2
    assert "has no model" in capsys.readouterr().err


def test_in_a_conversation_another_model_may_take_the_memory_of_the_one_before(hub, monkeypatch, tmp_path, capsys):
    """Which will be free by then: what is free beside it does not count."""
    lines, asked = iter(["/model 20b", f"/model {NAME}", "/model"]), []
    real = model_arguments.use_here

    def read() -> str:
        if (line := next(lines, None)) is None:
            raise EOFError
        return line

    def use_here(checkpoint, **options):
        asked.append(options["memory"])
        return real(checkpoint, **options | ({"memory": "130MB"} if len(asked) == 1 else {}))

    monkeypatch.setattr(model_arguments, "use_here", use_here)
    monkeypatch.setattr("mlx_oss.cli.prompt.make_reader", lambda *_, **__: read)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    with monkeypatch.context() as patch:
        patch.setattr(host_memory, "this_machine", lambda: Machine(8_000_000_000, gpu=False))
        assert main(["chat"]) == 0
    assert asked == [8_000_000_000] * 2
    said = "".join(capsys.readouterr())
    assert f"error: {NAME} needs at least" in said and f"the model is {copies.cache_entry(NAME)}" in said


def test_what_is_here_but_cannot_run_here_is_not_converted(hub, tmp_path):
    models.folder_of(FINE_TUNE, as_released=True)
    with pytest.raises(OptionError, match="needs at least"):
        mlx_oss.load(FINE_TUNE, memory="130MB")
    assert not list((tmp_path / "ours").rglob("*.safetensors"))


@pytest.mark.parametrize(
    ("target", "expected"),
    [("full", "already exists: choose another target"), ("no/where", "is not a folder: create it first")],
)
def test_a_target_that_cannot_be_is_told_before_the_download(hub, target, expected, tmp_path, capsys):
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    assert main(["convert", NAME, str(tmp_path / target)]) == 2
    assert expected in capsys.readouterr().err and no_weights(tmp_path)


def test_a_cache_that_cannot_be_made_is_told_before_the_download(hub, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    monkeypatch.setenv("MLX_OSS_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConversionError, match=r"converted cannot be created .*: set MLX_OSS_CACHE"):
        mlx_oss.load(FINE_TUNE)
    assert no_weights(tmp_path)
