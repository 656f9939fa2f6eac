"""Tests `mlx-oss render` and `mlx-oss parse`: what the model reads, and what it wrote."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from mlx_oss.cli import colours, main
from mlx_oss.harmony import Message, message_to_dict, render_conversation

CONVERSATION = [
    Message("user", "Hi <|end|>"),
    Message("assistant", "They greet.", channel="analysis"),
    Message("assistant", "Hello \N{GRINNING FACE}", channel="final"),
]


@pytest.fixture
def file(tmp_path):
    path = tmp_path / "conversation.json"
    path.write_text(json.dumps([message_to_dict(message) for message in CONVERSATION]))
    return str(path)


def test_render_prints_the_text_with_its_control_tokens(file, capsys):
    assert main(["render", file]) == 0
    assert capsys.readouterr().out == (
        "<|start|>user<|message|>Hi <|end|><|end|>\n"
        "<|start|>assistant<|channel|>analysis<|message|>They greet.<|end|>\n"
        "<|start|>assistant<|channel|>final<|message|>Hello \N{GRINNING FACE}<|end|>\n"
    )


def test_render_tokens_are_those_of_the_library(file, capsys):
    assert main(["render", file, "--tokens"]) == 0
    assert json.loads(capsys.readouterr().out) == render_conversation(CONVERSATION)


def test_render_next_turn_leaves_out_finished_reasoning_and_opens_the_answer(file, capsys):
    assert main(["render", file, "--next-turn"]) == 0
    out = capsys.readouterr().out
    assert "They greet." not in out
    assert out.endswith("<|start|>assistant\n")


def test_parse_reads_back_what_render_wrote(file, tmp_path, capsys):
    ids = tmp_path / "ids.json"
    ids.write_text(json.dumps(render_conversation(CONVERSATION)))
    assert main(["parse", str(ids), "--json"]) == 0
    keys = ("role", "content", "channel")
    parsed = [{key: message.get(key) for key in keys} for message in json.loads(capsys.readouterr().out)]
    expected = [{key: message_to_dict(message).get(key) for key in keys} for message in CONVERSATION]
    assert parsed == expected


@pytest.mark.parametrize("options", [["--tokens"], [], ["--tokens", "--next-turn"], ["--next-turn"]])
def test_parse_reads_what_render_prints_without_further_options(tmp_path, options, capsys):
    """Also strictly: nothing has to be repaired."""
    said = "Hi\n" if "--tokens" not in options else "Hi <|end|>"  # in a text, that would be the end
    messages = [Message("user", said), *CONVERSATION[1:]]
    (tmp_path / "file").write_text(json.dumps(list(map(message_to_dict, messages))))
    assert main(["render", str(tmp_path / "file"), *options]) == 0
    (tmp_path / "printed").write_text(capsys.readouterr().out)
    as_text = [] if "--tokens" in options else ["--text"]
    assert main(["parse", str(tmp_path / "printed"), "--strict", *as_text]) == 0
    shown = capsys.readouterr().out
    assert shown.startswith(f"user, ended by end\n{said}\n\n") and "repaired" not in shown
    assert ("They greet." in shown) is ("--next-turn" not in options) is not shown.endswith("assistant, is next\n")


def test_parse_still_reads_what_a_model_wrote(tmp_path, capsys):
    (tmp_path / "written").write_text("<|channel|>final<|message|>Yes\n<|return|>")
    for role in ([], ["--role", "auto"], ["--role", "assistant"]):
        assert main(["parse", str(tmp_path / "written"), "--text", "--strict", *role]) == 0
        assert capsys.readouterr().out == "assistant, channel final, ended by return\nYes\n\n\n"


def test_parse_shows_repairs_of_broken_text(tmp_path, capsys):
    stream = tmp_path / "stream.txt"
    stream.write_text("<|channel|>commentary? to= functions.x json<|message|>{}")
    assert main(["parse", str(stream), "--text"]) == 0
    out = capsys.readouterr().out
    assert "channel commentary, to functions.x" in out
    assert out.count("repaired: ") == 2


@pytest.mark.parametrize(
    ("command", "content", "expected_text"),
    [
        ("render", "{", "is not JSON"),
        ("render", '{"a": 1}', "is not a conversation"),
        ("render", '[{"role": "robot", "content": ""}]', "message 0"),
        ("render", '[{"role": "tool", "content": ""}]', "input: a tool message has no name"),
        ("render", "[" * 100_000, "is not JSON"),
        ("render", b"\xff", "is not text in UTF-8"),
        ("parse", b"\xff\0", "is not text in UTF-8"),
        ("parse", "", "is not JSON"),
        ("parse", "hello", "--text"),
        ("parse", '["a"]', "not a list of ids"),
    ],
)
def test_bad_input_is_one_line_and_status_2(command, content, expected_text, tmp_path, capsys):
    path = tmp_path / "input"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    assert main([command, str(path)]) == 2
    captured = capsys.readouterr()
    assert captured.out == ""
    assert captured.err.startswith("error: ") and captured.err.count("\n") == 1
    assert expected_text in captured.err


@pytest.mark.parametrize("stdin", [b"\xff", None])
@pytest.mark.parametrize("command", [["render", "-"], ["parse", "-"]])
def test_stdin_that_is_no_text_or_closed_is_one_line_and_status_2(command, stdin, monkeypatch, capsys):
    monkeypatch.setattr("sys.stdin", stdin and io.TextIOWrapper(io.BytesIO(stdin), errors="surrogateescape"))
    assert main(command) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: stdin ") and err.count("\n") == 1


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="the system has no /dev/full")
@pytest.mark.parametrize("more", [[], ["--tokens"]])
def test_output_that_cannot_be_written_is_one_line(file, more):
    with open("/dev/full", "w") as full:
        done = subprocess.run([sys.executable, "-m", "mlx_oss", "render", file, *more], stdout=full, stderr=-1)
    assert (done.returncode, done.stderr.count(b"\n")) == (1, 1)


def test_text_for_a_pipe_is_exact_and_for_a_terminal_safe(tmp_path, monkeypatch, capsys):
    path = tmp_path / "conversation.json"
    path.write_text(json.dumps([{"role": "user", "content": "\x1b[31m\x07red\r\t"}]))
    assert main(["render", str(path)]) == 0
    assert "\x1b[31m\x07red\r\t" in capsys.readouterr().out
    monkeypatch.setattr(colours, "_console", lambda: Console(force_terminal=True, soft_wrap=True))
    assert main(["render", str(path)]) == 0
    shown = capsys.readouterr().out
    assert "\x1b[31m" not in shown and "\x07" not in shown and "[31m\ufffdred" in shown


def test_json_for_a_terminal_is_safe_too(tmp_path, monkeypatch, capsys):
    stream = tmp_path / "stream.txt"
    stream.write_text("<|channel|>final<|message|>\x9b31mü", encoding="utf-8")
    for terminal in (False, True):
        monkeypatch.setattr(sys.stdout, "isatty", lambda terminal=terminal: terminal)
        assert main(["parse", str(stream), "--text", "--json"]) == 0
        shown = capsys.readouterr().out
        assert json.loads(shown)[0]["content"][0]["text"] == "\x9b31mü" and ("\x9b" in shown) != terminal


def test_no_colour_codes_where_output_is_no_terminal(file, capsys):
    main(["render", file])
    assert "\x1b" not in capsys.readouterr().out
