"""Tests the exit statuses of the `mlx-oss` command, and errors as JSON."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlx_oss import errors
from mlx_oss.cli import main, statuses
from tests.synthetic import TINY, write_checkpoint

ROOT = Path(__file__).parents[2]


@pytest.mark.parametrize(
    ("kind", "status"),
    [
        (errors.EngineError, 1),
        (errors.DeviceError, 1),
        (errors.NumericalError, 1),
        (errors.OptionError, 2),
        (errors.BenchmarkError, 2),
        (errors.DownloadError, 2),
        (errors.ConversionError, 2),
        (errors.HarmonyError, 2),
        (errors.ContextError, 2),
        (errors.WrongFolderError, 2),
        (errors.CheckpointError, 4),
        (errors.ConfigError, 4),
        (errors.TokenizerError, 4),
        (errors.SessionError, 4),
    ],
)
def test_each_error_has_its_status_and_is_a_line_or_one_json_object(kind, status, monkeypatch, capsys):
    def fail(*_: object) -> None:
        raise kind("x is wrong:\n give y")

    monkeypatch.setattr("mlx_oss.cli.rm.run", fail)
    assert main(["rm", "x"]) == status
    assert capsys.readouterr() == ("", "error: x is wrong:\N{SYMBOL FOR NEWLINE} give y\n")
    monkeypatch.setattr("mlx_oss.cli.models.run", fail)
    assert main(["models", "--json"]) == status
    out, err = capsys.readouterr()
    told = {"type": "error", "kind": kind.__name__, "message": "x is wrong:\n give y", "status": status}
    assert json.loads(out) == told and out.count("\n") == 1 and err == ""


def test_every_error_of_the_library_has_a_status():
    for name in errors.__all__:
        assert statuses.status_of(getattr(errors, name)("x")) in (1, 2, 4)


def test_a_folder_that_is_not_there_is_wrong_use_and_one_that_is_damaged_is_4(tmp_path, capsys):
    folder = write_checkpoint(tmp_path / "model", TINY)
    assert main(["plan", str(tmp_path / "absent")]) == 2
    assert main(["plan", str(folder)]) == 0
    weights = next(folder.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-100])
    for command in (["plan"], ["verify"], ["chat", "Hi", "--model"]):
        assert main([*command, str(folder)]) == 4
    (folder / "config.json").write_text("{")
    assert main(["plan", str(folder)]) == 4
    assert capsys.readouterr().err.count("error: ") == 5


def test_a_bug_is_shown_with_its_traceback_and_is_status_1(monkeypatch, capsys):
    def fail(*_: object) -> None:
        raise KeyError("\x1b[2J")

    monkeypatch.setattr("mlx_oss.cli.models.run", fail)
    assert main(["models"]) == 1
    err = capsys.readouterr().err
    assert "Traceback" in err and "\x1b" not in err
    assert err.splitlines()[-1].startswith("error: this is a bug in mlx-oss: please report it")
    assert main(["models", "--json"]) == 1
    assert json.loads(capsys.readouterr().out)["kind"] == "KeyError"


def test_json_in_a_question_is_not_the_option(capsys):
    assert main(["chat", "--temperature", "-1", "--", "--json"]) == 2
    assert capsys.readouterr().out == ""


def test_the_help_and_the_guide_explain_every_status(capsys):
    with pytest.raises(SystemExit):
        main(["--help"])
    shown = " ".join(capsys.readouterr().out.split())
    guide = (ROOT / "examples" / "README.md").read_text(encoding="utf-8")
    for status in (0, 1, 2, 3, 4, 130):
        assert f" {status} " in shown and f"| {status} |" in guide.replace("130, 143", "130")
