"""The examples run as they stand, on nano."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

EXAMPLES = Path(__file__).parents[1] / "examples"


def run(name: str, *arguments: str, stdin: str = "") -> subprocess.CompletedProcess[str]:
    command = [sys.executable, str(EXAMPLES / name), *arguments]
    return subprocess.run(command, input=stdin, capture_output=True, text=True, timeout=300)


def test_the_app_with_a_thread_and_a_queue_answers_line_by_line():
    done = run("app.py", stdin="What is the capital of France?\n\nHello!\n")
    assert done.returncode == 0 and done.stderr == ""
    assert "Paris" in done.stdout and done.stdout.count("[stop, ") == 2
    assert len((EXAMPLES / "app.py").read_text().splitlines()) < 80


def test_the_async_app_answers_several_questions_at_once():
    done = run("async_app.py")
    assert done.returncode == 0 and done.stderr == ""
    assert "Paris" in done.stdout and len(done.stdout.splitlines()) == 6


@pytest.mark.parametrize("name", ["app.py", "async_app.py", "structured.py", "tools.py"])
def test_a_folder_that_is_no_model_is_one_line(name, tmp_path):
    done = run(name, str(tmp_path), stdin="Hello\n")
    assert done.returncode == 1 and done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1


@pytest.mark.parametrize(("name", "arguments"), [("chat.py", ()), ("generate.py", ("Hello",))])
def test_a_model_option_that_is_no_model_is_one_line(name, arguments, tmp_path):
    done = run(name, *arguments, "--model", str(tmp_path))
    assert done.returncode == 1 and done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1


def test_the_chat_calls_its_tools():
    done = run("chat.py", "--temperature", "0", stdin="What is the weather in Lisbon?\n")
    assert done.returncode == 0 and "[get_weather" in done.stderr and "18" in done.stdout


def test_generate_answers_its_question():
    done = run("generate.py", "What is the capital of France?")
    assert done.returncode == 0 and done.stdout.strip()


def test_tools_are_called_and_their_results_told():
    done = run("tools.py")
    assert done.returncode == 0 and "sunny, 18" in done.stdout
    assert "[functions.get_weather gave " in done.stderr
    assert "1776" in done.stdout or "no isolation" in done.stderr


def test_research_says_in_one_line_that_nano_cannot_browse(tmp_path):
    (tmp_path / "note.md").write_text("# Note\n")
    done = run("research.py", str(tmp_path), "What is the capital of France?")
    assert done.returncode == 1 and done.stdout == ""
    assert done.stderr == "nano cannot browse: give the name or folder of a gpt-oss, such as 20b\n"
    done = run("research.py", str(tmp_path / "none"), "What?")
    assert done.returncode == 1 and "is not a folder" in done.stderr
    done = run("research.py", str(tmp_path), "What?", str(tmp_path))
    assert done.returncode == 1 and done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1


def test_structured_answers_have_the_form_asked_for_and_thinking_ends_where_it_should():
    done = run("structured.py")
    assert done.returncode == 0 and done.stderr == ""
    as_json, text, bounded = done.stdout.splitlines()
    assert as_json.split()[1] in ("Berlin", "London", "Paris", "Rome") and as_json.split()[2] in ("True", "False")
    assert text == "text: 8 legs"
    assert bounded == "The user asks for [stopped thinking: limit] The capital of France is Paris."
