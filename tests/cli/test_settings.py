"""The user's own defaults: what comes first, and that a wrong file is one line."""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import pytest

from mlx_oss.cli import chat, kept, main, settings


@pytest.fixture(autouse=True)
def file(tmp_path, monkeypatch) -> Path:
    """The file with the defaults, in a home folder that has nothing else."""
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.delenv("XDG_CONFIG_HOME", raising=False)
    monkeypatch.delenv(settings.VARIABLE, raising=False)
    path = settings.path()
    assert path is not None and path.is_relative_to(tmp_path)
    path.parent.mkdir(parents=True)
    return path


def parsed(*arguments: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    chat.add_arguments(parser)
    return parser.parse_args(arguments)


def test_without_a_file_the_defaults_are_those_of_the_command(file, capsys):
    assert settings.model() is None and parsed().reasoning == "medium"
    assert main(["config"]) == 0
    out = capsys.readouterr().out
    assert f"{file} (does not exist)" in out and "model: nano" in out
    assert f"conversations are kept in {kept.folder()}" in out


def test_the_command_line_comes_before_the_environment_and_that_before_the_file(file, monkeypatch, capsys):
    file.write_text('model = "from-file"\n[chat]\nreasoning = "high"\ntemperature = 1\nhide-reasoning = true\n')
    options = parsed("--reasoning", "low")
    assert (options.reasoning, options.temperature, options.hide_reasoning) == ("low", 1.0, True)
    assert parsed().reasoning == "high" and settings.model() == "from-file"
    assert main(["chat", "Hi"]) == 2 and "from-file does not exist" in capsys.readouterr().err
    monkeypatch.setenv(settings.VARIABLE, "from-variable")
    assert main(["chat", "Hi"]) == 2 and "from-variable does not exist" in capsys.readouterr().err
    assert main(["chat", "Hi", "--model", "named"]) == 2 and "named does not exist" in capsys.readouterr().err
    assert main(["config", "--json"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["model"] == "from-variable" and shown["chat"]["reasoning"] == "high"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        ("model = 3", "model is 3"),
        ("modle = 'x'", "'modle' is unknown"),
        ("chat = 1", "write a table"),
        ("[chat]\nreasoning = 'much'", "chat] reasoning is 'much', expected 'none' or 'low'"),
        ("[chat]\ntemperature = 'warm'", "temperature is 'warm', expected a number"),
        ("[chat]\nmax_tokens = 1.5", "max_tokens is 1.5, expected a whole number"),
        ("[chat]\nmax_tokens = true", "max_tokens is True, expected a whole number"),
        ("[chat]\nhide_reasoning = 1", "expected true or false"),
        ("[chat]\nyes = true", "has no option 'yes'"),
        ("[chat]\ntools = ['python']", "has no option 'tools'"),
        ("model = ", "is not TOML"),
        ("\x00", "is not TOML"),
        ("[a]\n" + "x = [" * 100_000, "is not TOML"),
        ("#" * (1 << 20) + "\n", "it has more than"),
    ],
)
@pytest.mark.parametrize("command", [["chat", "Hi"], ["config"]])
def test_a_wrong_file_is_one_line_that_names_it(file, command, content, expected, capsys):
    file.write_text(content)
    assert main(command) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and len(err.splitlines()) == 1 and str(file) in err and expected in err


def test_a_named_pipe_is_no_file_with_defaults(file, capsys):
    import os

    os.mkfifo(file)
    assert main(["config"]) == 2 and "named pipe" in capsys.readouterr().err
