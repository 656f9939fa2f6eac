"""`mlx-oss batch`: what is answered stays answered, whatever happens to the process."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path
from typing import Any

import pytest
from openai.types.chat import ChatCompletion

from mlx_oss import DeviceError, ScriptedEngine, load_tokenizer
from mlx_oss.cli import batch, main, model_arguments


@pytest.fixture(autouse=True)
def restored_warnings(monkeypatch) -> None:
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)


@pytest.fixture
def answers(monkeypatch):
    """answers(...): the model says this; without answers, loading it is an error."""

    def give(*texts: Any) -> None:
        def load(args: object) -> Any:
            assert texts, "the model was loaded for nothing"
            return ScriptedEngine(*texts), load_tokenizer()

        monkeypatch.setattr(model_arguments, "load", load)

    give()
    return give


def requests(path: Path, *names: str, **body: Any) -> Path:
    messages = [{"role": "user", "content": "What is the capital of France?"}]
    with open(path, "w") as file:
        for name in names:
            asked = {"messages": messages, "temperature": 0} | body
            fields = {"custom_id": name, "method": "POST", "url": "/v1/chat/completions", "body": asked}
            file.write(json.dumps(fields) + "\n")
    return path


def names(path: Path) -> list[str]:
    return [json.loads(line)["custom_id"] for line in path.read_text().splitlines()]


def run(*arguments: object) -> int:
    return main([*map(str, arguments)])


def test_a_file_of_requests_becomes_a_file_of_responses(tmp_path, answers, capsys):
    answers("A", "B")
    source, out = requests(tmp_path / "in.jsonl", "a", "b"), tmp_path / "out.jsonl"
    assert run("batch", source, out) == 0
    assert sorted(names(out)) == ["a", "b"]
    for line in out.read_text().splitlines():
        completion = ChatCompletion.model_validate(json.loads(line)["response"]["body"], strict=True)
        assert completion.model == "nano" and completion.choices[0].message.content in ("A", "B")
    assert capsys.readouterr().out.startswith(f"{out}: 2 of 2 requests answered; ")


def test_what_is_answered_is_not_asked_again_and_needs_no_model(tmp_path, answers, capsys):
    answers("A")
    source, out = requests(tmp_path / "in.jsonl", "a"), tmp_path / "out.jsonl"
    assert run("batch", source, out) == 0
    answers()
    before = out.read_bytes()
    assert run("batch", source, out) == 0 and out.read_bytes() == before
    answers("B")
    requests(tmp_path / "in.jsonl", "a", "b")
    assert run("batch", source, out) == 0 and names(out) == ["a", "b"] and out.read_bytes().startswith(before)


def test_an_error_in_a_line_is_counted_and_told_by_the_exit_status(tmp_path, answers, capsys):
    answers("A")
    source, out = requests(tmp_path / "in.jsonl", "a", n=2), tmp_path / "out.jsonl"
    for _ in range(2):
        assert run("batch", source, out) == 1
        assert "1 of 1 requests answered, 1 of them with an error in its line; " in capsys.readouterr().out


def test_what_the_device_failed_at_is_asked_again_the_next_time(tmp_path, answers, capsys):
    answers("A", DeviceError("the memory is used up"), "C")
    source, out = requests(tmp_path / "in.jsonl", "a", "b", "c"), tmp_path / "out.jsonl"
    assert run("batch", source, out) == 1 and names(out) == ["a", "c"]
    told = capsys.readouterr()
    assert "2 of 3 requests answered;" in told.out
    assert (
        "error: 1 of the requests failed, the first with: the memory is used up\nthe same command asks them" in told.err
    )
    answers("B")
    assert run("batch", source, out) == 0 and names(out) == ["a", "c", "b"]


def test_a_file_of_requests_that_changes_meanwhile_is_noticed(tmp_path, answers, capsys, monkeypatch):
    answers("A")
    source, out = requests(tmp_path / "in.jsonl", "a", "b"), tmp_path / "out.jsonl"
    load = model_arguments.load

    def change(args: Any) -> Any:
        requests(source, "a", "c")
        return load(args)

    monkeypatch.setattr(model_arguments, "load", change)
    assert run("batch", source, out) == 2
    assert f"error: {source} was changed while it was read: give the same command again" in capsys.readouterr().err


def test_bad_files_get_one_line_and_a_remedy(tmp_path, answers, capsys):
    source = requests(tmp_path / "in.jsonl", "a")
    (tmp_path / "link.jsonl").symlink_to(source)
    (tmp_path / "empty.jsonl").touch()
    twice, notes = requests(tmp_path / "twice.jsonl", "a", "\x1b[2Jb", "\x1b[2Jb"), tmp_path / "notes.txt"
    notes.write_text("my notes")
    for arguments, reason in (
        ((source, source), "is the file of the requests itself: give another for the responses"),
        ((source, tmp_path / "link.jsonl"), "is the file of the requests itself"),
        ((tmp_path / "none.jsonl", tmp_path / "out"), "cannot be read (No such file or directory): give a file"),
        ((tmp_path / "empty.jsonl", tmp_path / "out"), "has no requests: give a file with a request in each line"),
        ((source, tmp_path / "none" / "out"), "cannot be written (its folder is not there): make the folder first"),
        ((source, tmp_path), "cannot be written (it is a folder, not a file): give a file"),
        ((source, notes), "line 1 is no response of this command: give another file for the responses"),
        ((twice, tmp_path / "out"), "line 3 has the custom_id '\\x1b[2Jb' of line 2: give each request one of its own"),
        ((source, tmp_path / "out", "--at-once", 0), "--at-once is 0: give 1 to 256"),
        ((source, tmp_path / "out", "--at-once", 9999), "--at-once is 9999: give 1 to 256"),
        ((source, tmp_path / "out", "--model", "gpt-9"), "gpt-9 does not exist"),
    ):
        assert run("batch", *arguments) == 2
        told = capsys.readouterr().err
        assert told.startswith("error: ") and told.count("\n") == 1 and reason in told and "\x1b" not in told
    assert notes.read_text() == "my notes" and names(source) == ["a"]


def test_the_responses_name_a_folder_by_its_last_part_only(tmp_path, monkeypatch):
    (tmp_path / "mine").mkdir()
    monkeypatch.chdir(tmp_path)
    assert batch.label("mine") == batch.label(f"{tmp_path}/mine/") == "mine"
    assert batch.label("20b") == "openai/gpt-oss-20b" and batch.label("nano") == "nano"


def begun(source: Path, out: Path) -> subprocess.Popen[str]:
    """The command on nano, when it has written two responses."""
    arguments = [sys.executable, "-m", "mlx_oss", "batch", str(source), str(out), "--at-once", "3"]
    # A shell ignores SIGINT in processes that it runs in the background, and its children inherit that.
    restore = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", restore, *arguments], text=True, **pipes)  # type: ignore[call-overload]
    for _ in range(6000):
        if out.exists() and out.read_bytes().count(b"\n") >= 2:
            return process  # type: ignore[no-any-return]
        time.sleep(0.01)
    process.kill()
    raise AssertionError(process.communicate())


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_process_that_was_ended_goes_on_where_it_stopped(tmp_path, number):
    many = [f"request {count}" for count in range(24)]
    source, out = requests(tmp_path / "in.jsonl", *many), tmp_path / "out.jsonl"
    with begun(source, out) as process:
        os.kill(process.pid, number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}.get(number, -number)
    kept = out.read_bytes()
    kept = kept[: kept.rfind(b"\n") + 1]
    if number != signal.SIGKILL:
        assert out.read_bytes() == kept and "Traceback" not in err
        count = kept.count(b"\n")
        assert f"interrupted: {count} of 24 requests are answered, and the same command goes on" in err
    done = subprocess.run([sys.executable, "-m", "mlx_oss", "batch", str(source), str(out)], capture_output=True)
    assert done.returncode == 0 and out.read_bytes().startswith(kept) and sorted(names(out)) == sorted(many)
    texts = {
        json.loads(line)["response"]["body"]["choices"][0]["message"]["content"]
        for line in out.read_text().splitlines()
    }
    assert texts == {"The capital of France is Paris."}
