"""`mlx-oss eval`: what it prints, what it keeps, and that it goes on where it was ended."""

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

from mlx_oss import DeviceError, load_tokenizer
from mlx_oss.cli import main, model_arguments
from tests.evals.answering import Answering
from tests.evals.test_results import lines, report


@pytest.fixture(autouse=True)
def restored_warnings(monkeypatch) -> None:
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)


@pytest.fixture
def answers(monkeypatch):
    """answers(...): the model says this; without answers, loading it is an error."""

    def give(told: Any = None, **options: Any) -> None:
        def load(args: object) -> Any:
            assert told is not None, "the model was loaded for nothing"
            return Answering(told, **options), load_tokenizer()

        monkeypatch.setattr(model_arguments, "load", load)

    give()
    return give


def task(path: Path, *questions: Any) -> Path:
    path.write_text("".join(json.dumps(each) + "\n" for each in questions))
    return path


def run(*arguments: object) -> int:
    return main([*map(str, arguments)])


QUESTIONS = [{"prompt": "a", "answer": "1", "kind": "x"}, {"prompt": "b", "answer": "2", "kind": "y"}]


def test_the_score_is_printed_and_nothing_is_kept(tmp_path, answers, capsys):
    answers({"a": "1", "b": "1"})
    assert run("eval", task(tmp_path / "t.jsonl", *QUESTIONS), "--seed", 3, "--reasoning", "low") == 0
    told = capsys.readouterr().out
    assert told.startswith("# t.jsonl: nano\n\n**pass@1: 50.0% (9.5% to 90.5%)**, 1 of 2 answers to 2 questions\n")
    assert "- Asked with reasoning low, temperature 1, top_p 1, seed 3, date 20" in told
    assert "| x | 1 | 1 of 1 | 100.0% (20.7% to 100.0%) |\n| y | 1 | 0 of 1 | 0.0% (0.0% to 79.3%) |" in told
    assert "- **2**, it is not '2': 1\n" in told
    assert [path.name for path in tmp_path.iterdir()] == ["t.jsonl"]


def test_results_and_the_report_are_kept_and_need_no_model_again(tmp_path, answers, capsys):
    answers({"a": "1", "b": "1"})
    arguments = ("eval", task(tmp_path / "t.jsonl", *QUESTIONS), "-o", tmp_path / "out")
    assert run(*arguments) == 0
    first = capsys.readouterr().out
    assert first.endswith(f"The whole report is in {tmp_path / 'out' / 'report.md'}\n")
    assert (tmp_path / "out" / "report.md").read_text() in first
    answers()
    assert run(*arguments) == 0 and capsys.readouterr().out == first


def test_the_score_is_printed_even_if_the_report_cannot_be_written(tmp_path, answers, capsys):
    answers({"a": "1", "b": "1"})
    (tmp_path / "out" / "report.md").mkdir(parents=True)
    assert run("eval", task(tmp_path / "t.jsonl", *QUESTIONS), "-o", tmp_path / "out") == 2
    told = capsys.readouterr()
    assert "**pass@1: 50.0%" in told.out and "report.md cannot be written (Is a directory): all answers" in told.err


def test_help_and_results_agree_on_the_default_seed(tmp_path, answers, capsys):
    with pytest.raises(SystemExit):
        run("eval", "--help")
    assert "gives the same answer (default: 0)" in " ".join(capsys.readouterr().out.split())
    answers({"a": "1", "b": "1"})
    run("eval", task(tmp_path / "t.jsonl", *QUESTIONS))
    assert ", seed 0," in capsys.readouterr().out


def test_a_long_list_of_failures_is_shortened_in_the_terminal_only(tmp_path, answers, capsys):
    answers(lambda *_: "no")
    questions = [{"prompt": str(number), "answer": "yes"} for number in range(300)]
    assert run("eval", task(tmp_path / "t.jsonl", *questions), "-o", tmp_path / "out") == 0
    told = capsys.readouterr().out
    assert (
        told.count("it is not 'yes'") == 10
        and "- **10**," in told
        and "- and 290 others, which are in the results" in told
    )
    whole = (tmp_path / "out" / "report.md").read_text()
    assert whole.count("it is not 'yes'") == 200 and "- and 100 others, which are in the results" in whole


def test_what_the_model_says_can_harm_neither_the_terminal_nor_the_report(tmp_path, answers, capsys):
    evil = "\x1b]0;mine\x07<img src=http://e.example/x>![a](http://e.example) `code` | ok |\n# Title\u202e\r\x9b2J"
    answers(lambda *_: evil)
    asked = {"prompt": "a", "answer": "x", "kind": "k|\x1b[2J", "id": "<b>"}
    assert run("eval", task(tmp_path / "t.jsonl", asked, QUESTIONS[0]), "-o", tmp_path / "out") == 0
    told, whole = capsys.readouterr().out, (tmp_path / "out" / "report.md").read_text()
    for text in (told, whole):
        assert not any(character in text for character in "\x1b\x07\x9b\r\u202e")
        assert "<img" not in text and "<b>" not in text and "![a](" not in text and "\n# Title" not in text
        assert "\\`code\\` \\| ok \\|" in text and "| k\\|\N{REPLACEMENT CHARACTER}[2J".replace("[", "\\[") in text


def test_what_could_not_be_computed_is_told_and_makes_the_exit_status_1(tmp_path, answers, capsys):
    answers(lambda _, question: DeviceError("no memory") if question == "b" else "1")
    arguments = ("eval", task(tmp_path / "t.jsonl", *QUESTIONS), "-o", tmp_path / "out")
    assert run(*arguments) == 1
    told = capsys.readouterr()
    assert "error: 1 answers are missing: the same command asks them again" in told.err and "no memory" in told.out
    answers({"b": "2"})
    assert run(*arguments) == 0 and "**pass@1: 100.0%" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "reason"),
    [
        (("none.jsonl",), "none.jsonl cannot be read (No such file or directory): give a file with a question in each"),
        (("bad.jsonl",), "bad.jsonl, line 1 has the key 'promt', which means nothing here: did you mean prompt?"),
        (("t.jsonl", "--at-once", "0"), "--at-once is 0: give 1 to 256"),
        (("t.jsonl", "--samples", "0"), "samples is 0: give 1 to 10,000"),
        (("t.jsonl", "--samples", "2", "--temperature", "0"), "2 samples at temperature 0 are 2 times the same"),
        (("t.jsonl", "--temperature", "-1"), "temperature is -1.0"),
        (("t.jsonl", "--date", "today"), "--date is 'today': give a date such as 2026-11-30"),
        (("t.jsonl", "-o", "none/out"), "none/out cannot be made (No such file or directory): give a folder"),
        (("t.jsonl", "-o", "t.jsonl"), "t.jsonl, line 1 is no result of an evaluation: give another file"),
        (("t.jsonl", "--reasoning", "much"), "--reasoning is 'much'"),
        ((), "TASK.jsonl is missing"),
    ],
)
def test_mistakes_get_one_line_before_the_model_is_loaded(tmp_path, answers, capsys, monkeypatch, arguments, reason):
    monkeypatch.chdir(tmp_path)
    before = task(Path("t.jsonl"), *QUESTIONS).read_bytes()
    task(Path("bad.jsonl"), {"promt": "a", "answer": "b"})
    assert run("eval", *arguments) == 2
    told = capsys.readouterr().err
    assert told.startswith("error: ") and told.count("\n") == 1 and reason in told
    assert Path("t.jsonl").read_bytes() == before


def test_the_command_is_found_by_its_neighbours_names(capsys):
    assert run("evaluate", "t.jsonl") == 2 and "did you mean eval?" in capsys.readouterr().err


def test_help_loads_neither_mlx_nor_the_vocabulary():
    program = "import sys; from mlx_oss.cli import main\ntry: main(['eval', '--help'])\nexcept SystemExit: pass\n"
    program += "print({'mlx', 'tiktoken', 'numpy', 'inspect_ai'} & {name.partition('.')[0] for name in sys.modules})"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "set()" and "TASK.jsonl" in done.stdout


def begun(arguments: list[str], out: Path) -> subprocess.Popen[str]:
    """The command on nano, when it has written two results."""
    restore = (  # a shell ignores SIGINT in processes that it runs in the background, and its children inherit that
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.argv[1], sys.argv[1:])"
    )
    pipes = {"stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    process = subprocess.Popen([sys.executable, "-c", restore, *arguments], text=True, **pipes)  # type: ignore[call-overload]
    for _ in range(6000):
        if out.exists() and out.read_bytes().count(b"\n") >= 3:
            return process  # type: ignore[no-any-return]
        time.sleep(0.01)
    process.kill()
    raise AssertionError(process.communicate())


@pytest.fixture(scope="module")
def asked(tmp_path_factory) -> Path:
    """The file of a task for nano, with conversations and single questions."""
    people = ("Ann", "Ben", "Cy", "Dora")
    turns = [[{"prompt": f"You may call me {name}."}, {"prompt": "and my name?", "contains": name}] for name in people]
    countries = {"France": "Paris", "Italy": "Rome", "Spain": "Madrid", "Japan": "Tokyo", "Peru": "Lima"}
    facts = [{"prompt": f"What is the capital of {one}?", "contains": capital} for one, capital in countries.items()]
    return task(tmp_path_factory.mktemp("asked") / "t.jsonl", *({"turns": each} for each in turns), *facts)


def evaluation(path: Path, out: Path, at_once: int) -> list[str]:
    """The command for it, sampled."""
    options = ["--samples", "3", "--seed", "7", "--date", "2026-01-02", "--at-once", str(at_once)]
    return [sys.executable, "-m", "mlx_oss", "eval", str(path), "-o", str(out), *options]


@pytest.fixture(scope="module")
def whole(asked, tmp_path_factory) -> Path:
    """What it wrote when it ran through, with other neighbours for each answer."""
    out = tmp_path_factory.mktemp("whole") / "out"
    subprocess.run(evaluation(asked, out, 5), capture_output=True, check=True)
    return out


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT, signal.SIGTERM])
def test_a_process_that_was_ended_goes_on_to_the_result_of_one_that_ran_through(asked, whole, tmp_path, number):
    ended = tmp_path / "ended"
    with begun(evaluation(asked, ended, 3), ended / "results.jsonl") as process:
        os.kill(process.pid, number)
        _, err = process.communicate(timeout=60)
    assert process.returncode == {signal.SIGINT: 130, signal.SIGTERM: 143}.get(number, -number)
    if number != signal.SIGKILL:
        assert "of 27 answers are judged, and the same command goes on with the others" in err and "Trace" not in err
    subprocess.run(evaluation(asked, ended, 3), capture_output=True, check=True)
    assert lines(ended / "results.jsonl") == lines(whole / "results.jsonl")
    assert report(ended / "report.md") == report(whole / "report.md")
