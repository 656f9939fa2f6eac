"""Tests `mlx-oss chat` with a response format and limits of reasoning, on nano."""

from __future__ import annotations

import json

import pytest

from mlx_oss.chat import history
from mlx_oss.cli import answer_arguments, main

GREEDY = ["--temperature", "0"]


def chat(*arguments: str) -> int:
    return main(["chat", *GREEDY, *arguments])


def test_an_answer_follows_the_schema_in_a_file(tmp_path, capsys):
    schema = {"type": "object", "properties": {"sure": {"type": "boolean"}}, "required": ["sure"]}
    path = tmp_path / "schema.json"
    path.write_text(json.dumps(schema))
    assert chat("--response-format", str(path), "--reasoning", "none", "What is the capital of France?") == 0
    assert set(json.loads(capsys.readouterr().out)) == {"sure"}


def test_the_limit_of_reasoning_is_told(capsys):
    assert chat("--max-reasoning-tokens", "3", "What is the capital of France?") == 0
    out, err = capsys.readouterr()
    assert out == "The capital of France is Paris.\n"
    assert err.endswith("The user asks\n[the reasoning reached its limit]\n")


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read (No such file or directory)"),
        (b"{", "is not JSON"),
        (b"\xff", "is not JSON"),
        (b"[]", "is not a JSON schema"),
        (b'{"not": {}}', "response_format cannot be enforced"),
    ],
)
def test_a_file_without_a_schema_is_one_line_and_exit_status_2(content, message, tmp_path, capsys):
    path = tmp_path / "schema.json"
    if content is not None:
        path.write_bytes(content)
    assert chat("--response-format", str(path), "Hi") == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("error: ") and message in error


def test_a_limit_below_nothing_is_refused(capsys):
    assert chat("--max-reasoning-tokens", "-1", "Hi") == 2
    assert "--max-reasoning-tokens is -1, expected a whole number of at least 0\n" in capsys.readouterr().err


def test_the_command_line_knows_the_efforts_of_a_session():
    assert answer_arguments.EFFORTS == history.EFFORTS
