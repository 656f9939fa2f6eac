"""Tests `mlx-oss completion`: what words may become, and that shells ask for it."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_oss.cli import COMMANDS, main
from mlx_oss.cli.completion import candidates


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        (["c"], ["chat", "compare", "config", "completion", "convert"]),
        (["--v"], ["--version"]),
        (["chat", "--temp"], ["--temperature"]),
        (["chat", "hello", "-s"], ["-s"]),
        (["chat", "--reasoning", ""], ["none", "low", "medium", "high"]),
        (["chat", "--dtype", "b"], ["bfloat16"]),
        (["chat", "-m", "2"], ["20b"]),
        (["chat", "--model", "openai/gpt-oss-1"], ["openai/gpt-oss-120b"]),
        (["chat", "--json", "x"], []),
        (["chat", "-f", ""], []),
        (["plan", "20b", "--m"], ["--memory", "--macs"]),
        (["plan", "n"], ["nano"]),
        (["completion", ""], ["bash", "zsh", "fish"]),
        (["completion", "--c"], []),
        (["sing", ""], []),
    ],
)
def test_what_a_word_may_become(words, expected):
    assert candidates(words) == expected


def test_every_command_completes_its_options(capsys):
    for command in COMMANDS:
        assert "--help" in candidates([command, "-"])
    assert main(["completion", "--complete", "chat", "--no-h"]) == 0
    assert capsys.readouterr().out == "--no-history\n"
    assert main(["completion", "--complete"]) == 0 and "chat\n" in capsys.readouterr().out


def test_without_a_shell_or_with_another_one_the_shells_are_named(capsys):
    assert main(["completion"]) == 2 and "name a shell: bash, zsh or fish" in capsys.readouterr().err
    assert main(["completion", "zhs"]) == 2 and "did you mean zsh?" in capsys.readouterr().err


ASKING = {
    "bash": 'COMP_WORDS=(mlx-oss chat --no-h); COMP_CWORD=2; _mlx_oss; echo "<${COMPREPLY[@]}>"',
    "zsh": 'words=(mlx-oss chat --no-h); CURRENT=3; compadd() { echo "<${(P)2}>" }; _mlx_oss',
    "fish": "complete -C 'mlx-oss chat --no-h' | string replace -r '^(.*)$' '<$1>'",
}


@pytest.mark.parametrize("shell", ASKING)
def test_a_shell_completes_with_it(shell, tmp_path, capsys):
    program = shutil.which(shell)
    if program is None:
        pytest.skip(f"{shell} is not installed")
    (tmp_path / "mlx-oss").write_text(f'#!/bin/sh\nexec "{sys.executable}" -m mlx_oss "$@"\n')
    (tmp_path / "mlx-oss").chmod(0o755)
    assert main(["completion", shell]) == 0
    script = capsys.readouterr().out
    before = "compdef() { :; }\n" if shell == "zsh" else ""
    path = {"PATH": f"{tmp_path}:/usr/bin:/bin", "HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2])}
    options = {"bash": ["--norc"], "zsh": ["-f"], "fish": ["--no-config"]}[shell]
    done = subprocess.run(
        [program, *options, "-c", f"{before}{script}\n{ASKING[shell]}"], capture_output=True, text=True, env=path
    )
    assert done.stdout.strip() == "<--no-history>", done.stderr
