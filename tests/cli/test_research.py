"""`mlx-oss research`, with rules in place of a model: what goes where, how it goes on, and its exit statuses."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest

from mlx_oss.cli import main
from mlx_oss.research import Bounds
from mlx_oss.research.trace import NAME
from tests.research.world import QUESTION, TOKENIZER, Answering, Researcher, write_pages


@pytest.fixture
def pages(tmp_path, monkeypatch) -> str:
    monkeypatch.chdir(tmp_path)
    write_pages(tmp_path / "pages", 20)
    use(monkeypatch, Researcher())
    return "browser=pages"


def use(monkeypatch, rule) -> None:
    def load(args):
        return Answering(rule), TOKENIZER

    monkeypatch.setattr("mlx_oss.cli.model_arguments.load", load)


def test_the_report_goes_to_stdout_and_what_happens_to_stderr(pages, capsys):
    assert main(["research", *QUESTION.split(), "--tool", pages, "--model", "20b"]) == 0
    out, err = capsys.readouterr()
    folder = Path("research-what-is-known-of-the-lakes-torvan-belmir")
    assert out == (folder / "report.md").read_text() and "Lake Torvan covers" in out
    lines = err.splitlines()
    assert lines[0] == f"question: {QUESTION}" and lines[1].startswith("plan: What is known of Lake Torvan?; ")
    assert lines[2] == "round 1: What is known of Lake Torvan?"
    assert lines[3] == "round 1: searches: Lake Torvan" and lines[4] == "round 1: open id 0"
    assert lines[5].startswith("round 1: reads Lake Torvan (page000.md), lines 2 to ")
    assert lines[6].startswith("round 1: note: Lake Torvan covers")
    assert lines[-2] == "the report is written" and lines[-1].endswith("9 claims with citations, none of them wrong")
    assert "still open: nothing" in lines


def test_with_json_each_line_is_an_object_and_the_last_has_the_report(pages, capsys):
    assert main(["research", QUESTION, "--tool", pages, "--model", "20b", "--json", "-o", "out"]) == 0
    out, err = capsys.readouterr()
    *trace, last = map(json.loads, out.splitlines())
    assert err == "" and last["event"] == "done" and last["flagged"] == [] and last["claims"] == 9
    assert trace == [json.loads(line) for line in Path("out", NAME).read_text().splitlines()]
    assert main(["research", "--replay", "out", "--json"]) == 0
    assert capsys.readouterr().out == out


def test_a_wrong_citation_is_counted(pages, capsys, monkeypatch):
    use(monkeypatch, Researcher(lambda lines: [lines[0].replace("covers", "covers 7 or"), *lines[1:]]))
    assert main(["research", QUESTION, "--tool", pages, "--model", "20b", "-o", "out"]) == 0
    out, err = capsys.readouterr()
    assert "**[⚠ 7 is not in the cited lines]**" in out and "1 marked as not supported" in err
    main(["research", "--replay", "out", "--json"])
    (flagged,) = json.loads(capsys.readouterr().out.splitlines()[-1])["flagged"]
    assert flagged["problems"] == ["7 is not in the cited lines"]


def test_ctrl_c_says_how_to_go_on_and_the_folder_is_enough_for_that(pages, capsys, monkeypatch):
    rules = Researcher()

    def rule(prompt: str) -> str:
        if "Answer this part of it: What is known of Lake Belmira" in prompt:
            raise KeyboardInterrupt
        return rules(prompt)

    use(monkeypatch, rule)
    options = ["--tool", pages, "--model", "20b", "--rounds", "9"]
    assert main(["research", QUESTION, *options, "-o", "the lakes"]) == 130
    told = re.search("interrupted: mlx-oss (.*) goes on", capsys.readouterr().err)
    assert told is not None and shlex.split(told[1]) == ["research", "--resume", "the lakes", "--model", "20b"]
    Path("the lakes").rename("out")
    use(monkeypatch, rules)
    monkeypatch.chdir("pages")  # it knows where its pages are
    assert main(["research", "--resume", "../out", "--model", "20b", "--minutes", "5"]) == 0
    monkeypatch.chdir("..")
    resumed = capsys.readouterr()
    assert "Torvan covers" in resumed.out and "searches: Lake Torvan" not in resumed.err
    assert main(["research", QUESTION, *options, "-o", "whole"]) == 0
    assert capsys.readouterr().out == resumed.out


def test_when_a_bound_is_reached_the_exit_status_says_so(pages, capsys):
    assert main(["research", QUESTION, "--tool", pages, "--model", "20b", "--rounds", "1"]) == 3
    out, err = capsys.readouterr()
    assert "The research was ended early: the bound of 1 round" in out and "ended early: the bound of 1 round" in err


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--tool", "browser=pages"], "there is no question: mlx-oss research"),
        (["What?"], "say where the pages come from: --tool browser=FOLDER"),
        (["What?", "--tool", "python"], "a research cannot use the tool 'python'"),
        (["What?", "--tool", "browser=none"], "none is not a folder"),
        (["What?", "--tool", "browser=pages"], "nano, the demonstration model, cannot browse: give a gpt-oss"),
        (["What?", "--tool", "browser=pages", "--model", "nano"], "nano, the demonstration model, cannot browse"),
        (["What?", "--tool", "browser=pages", "--model", "20b", "--rounds", "0"], "rounds is 0"),
        (["What?", "--tool", "browser=pages", "--model", "20b", "--minutes", "-1"], "seconds is -60"),
        (["What?", "--tool", "browser=pages", "--model", "20b", "--at-once", "0"], "--at-once is 0: give 1 to 16"),
        (["What?", "--tool", "browser=pages", "--model", "20b", "-o", "pages/page000.md"], "cannot be written"),
        (["--resume", "none"], "none/trace.jsonl cannot be read"),
        (["--resume", "a", "-o", "b"], "--resume and --output both name a folder"),
        (["--replay", "none"], "none/trace.jsonl cannot be read"),
        (["What?", "--replay", "none"], "--replay takes a folder only"),
    ],
)
def test_a_mistake_is_told_in_one_line(pages, capsys, arguments, told):
    assert main(["research", *arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and told in err and err.startswith("error: ") and len(err.splitlines()) == 1


def test_the_help_names_the_usual_bounds(capsys):
    with pytest.raises(SystemExit):
        main(["research", "--help"])
    text = " ".join(capsys.readouterr().out.split())
    bounds = Bounds()
    for name in ("rounds", "questions", "calls", "tokens"):
        assert f"(default {getattr(bounds, name):,})" in text.partition(f"--{name} N")[2].partition("--")[0]
    assert f"(default {bounds.seconds // 60})" in text.partition("--minutes N")[2]


def test_what_pages_contain_sends_no_commands_to_the_terminal(pages, capsys, monkeypatch):
    for path in Path("pages").iterdir():
        path.write_text(path.read_text().replace("Lake Torvan covers", "\x1b]0;x\x07\u202eLake Torvan covers"))
    assert main(["research", QUESTION, "--tool", pages, "--model", "20b"]) == 0
    out, err = capsys.readouterr()
    assert "\x1b" not in out + err and "\x07" not in out + err and "\u202e" not in err
