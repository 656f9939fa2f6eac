"""Results stay, whatever happens to the process, and an evaluation that goes on ends as one that ran through."""

from __future__ import annotations

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlx_oss import EvaluationError, Request, SamplingOptions, load_tokenizer
from mlx_oss.evals import EvalOptions, Evaluation, evaluate
from mlx_oss.evals.evaluation import Run
from mlx_oss.evals.questions import Task
from mlx_oss.evals.results import Results
from tests.evals.answering import Answering

QUESTIONS = [{"prompt": each, "answer": each, "kind": "vowel" if each in "aeiou" else "other"} for each in "abcdefgh"]


def draws(request: Request, question: str) -> str:
    """What a model would say: it depends on the question and the seed."""
    draw = random.Random(request.options.seed)
    return question if draw.random() < 0.7 else draw.choice("xyz") * draw.randint(1, 50)


def lines(path: Path) -> list[dict[str, Any]]:
    """The results, without what differs each time."""
    first, *others = [json.loads(line) for line in path.read_text().splitlines()]
    others = [{key: value for key, value in line.items() if key != "seconds"} for line in others]
    return [first, *sorted(others, key=lambda line: (line["number"], line["sample"]))]


def report(path: Path) -> list[str]:
    return [line for line in path.read_text().splitlines() if not line.startswith("- Time: ")]


def test_each_answer_is_a_line_that_says_all_of_it(asked, tmp_path):
    said = "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant<|channel|>final<|message|>A<|return|>"
    question = {"id": "one", "kind": "k", "prompt": "a", "answer": "a"}
    asked([question], lambda *_: said, tmp_path / "out", current_date="2026-01-02")
    head, line = lines(tmp_path / "out" / "results.jsonl")
    assert (head["mlx_oss_eval"], head["questions"], head["date"], head["fingerprint"]) == (
        1,
        1,
        "2026-01-02",
        "scripted",
    )
    assert (head["options"]["temperature"], head["options"]["model"], head["options"]["seed"]) == (1.0, "nobody", 0)
    assert line["turns"] == [{"answer": "A", "reasoning": "Hm.", "finish_reason": "stop"}]
    assert (line["number"], line["sample"], line["id"], line["kind"], line["right"]) == (1, 0, "one", "k", False)
    assert line["problem"] == "it is not 'a'" and line["prompt_tokens"] > 50 and line["generated_tokens"] == 13


def test_what_has_a_result_is_not_asked_again(asked, tmp_path):
    first = asked(QUESTIONS, draws, tmp_path / "out", samples=2)
    before = (tmp_path / "out" / "results.jsonl").read_bytes()
    again = asked(QUESTIONS, {}, tmp_path / "out", samples=2)
    assert again == first and (tmp_path / "out" / "results.jsonl").read_bytes() == before


def test_a_file_may_be_named_instead_of_a_folder(asked, tmp_path):
    asked(QUESTIONS, draws, tmp_path / "r.jsonl")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["r.jsonl", "r.md"]


def test_nothing_is_kept_without_a_place(asked, tmp_path, monkeypatch):
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    monkeypatch.setattr("tempfile.tempdir", None)
    assert asked(QUESTIONS, draws).score.questions == 8
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("seed", range(12))
def test_an_evaluation_that_was_cut_anywhere_ends_as_one_that_ran_through(asked, tmp_path, seed):
    """The file ends after any byte, as a killed process or a crashed system leaves it."""
    draw = random.Random(seed)
    whole = asked(QUESTIONS, draws, tmp_path / "whole", samples=3, current_date="2026-01-02")
    asked(QUESTIONS, draws, tmp_path / "cut", samples=3, current_date="2026-01-02")
    path = tmp_path / "cut" / "results.jsonl"
    kept = draw.randrange(path.stat().st_size)
    os.truncate(path, kept)
    (tmp_path / "cut" / "report.md").unlink()
    # The first line may be gone, too: then it begins again, on the same day.
    again = asked(QUESTIONS, draws, tmp_path / "cut", samples=3, current_date="2026-01-02")
    assert lines(path) == lines(tmp_path / "whole" / "results.jsonl")
    assert report(tmp_path / "cut" / "report.md") == report(tmp_path / "whole" / "report.md")
    assert again.score == whole.score and again.failures == whole.failures


PROGRAM = """
import json, os, sys, threading
from mlx_oss import load_tokenizer
from mlx_oss.evals import EvalOptions, evaluate
from tests.evals.answering import Answering
from tests.evals.test_results import QUESTIONS, draws
done = []
def kill(attempt):
    done.append(attempt)
    if len(done) == int(sys.argv[2]):
        os.kill(os.getpid(), 9)
options = EvalOptions(samples=3, current_date="2026-01-02")
place = {"output": sys.argv[1], "name": "nobody", "progress": kill}
evaluate(QUESTIONS, Answering(draws), load_tokenizer(), options=options, **place)
"""


def test_an_evaluation_that_was_killed_again_and_again_ends_as_one_that_ran_through(asked, tmp_path):
    whole = asked(QUESTIONS, draws, tmp_path / "whole", samples=3, current_date="2026-01-02")
    statuses = [
        subprocess.run([sys.executable, "-c", PROGRAM, str(tmp_path / "killed"), "9"], timeout=120).returncode
        for _ in range(3)
    ]
    assert statuses == [-9, -9, 0]
    assert lines(tmp_path / "killed" / "results.jsonl") == lines(tmp_path / "whole" / "results.jsonl")
    assert report(tmp_path / "killed" / "report.md") == report(tmp_path / "whole" / "report.md")
    assert whole.score.right + whole.wrong == 24


def test_an_evaluation_that_goes_on_another_day_keeps_its_date(asked, tmp_path):
    prompts = []

    def answer(request: Request, question: str) -> str:
        prompts.append(load_tokenizer().decode(list(request.prompt)))
        return question

    asked(QUESTIONS, answer, tmp_path / "out")
    path = tmp_path / "out" / "results.jsonl"
    head, *others = path.read_text().splitlines(keepends=True)
    path.write_text("".join([json.dumps(json.loads(head) | {"date": "2025-12-24"}) + "\n", *others[:-1]]))
    prompts.clear()
    asked(QUESTIONS, answer, tmp_path / "out")
    assert len(prompts) == 1 and "Current date: 2025-12-24" in prompts[0]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (
            {"questions": QUESTIONS[1:]},
            "has answers to other questions than questions has now: give it as it was, or another",
        ),
        ({"samples": 2}, "was begun with samples 1, not 2"),
        ({"reasoning_effort": "low"}, "was begun with reasoning_effort 'medium', not 'low'"),
        ({"sampling": SamplingOptions(temperature=0.5)}, "was begun with temperature 1.0, not 0.5"),
        ({"sampling": SamplingOptions(seed=3)}, "was begun with seed 0, not 3"),
        ({"max_tokens": 5}, "was begun with max_tokens None, not 5"),
        ({"instructions": "Be kind."}, "was begun with instructions '', not 'Be kind.'"),
        ({"response_format": {"type": "object"}}, "was begun with response_format None"),
        ({"current_date": "2020-01-01"}, "was begun with the date"),
    ],
)
def test_another_evaluation_is_refused_before_anything_is_asked(asked, tmp_path, change, reason):
    asked(QUESTIONS, draws, tmp_path / "out")
    before = (tmp_path / "out" / "results.jsonl").read_bytes()
    with pytest.raises(EvaluationError) as raised:
        asked(change.pop("questions", QUESTIONS), {}, tmp_path / "out", **change)
    assert reason in str(raised.value) and "another place with --output" in str(raised.value)
    assert (tmp_path / "out" / "results.jsonl").read_bytes() == before


def test_another_model_is_refused(tmp_path):
    class Other(Answering):
        fingerprint = "other"

    def run(engine: Answering, name: str) -> Evaluation:
        return evaluate(QUESTIONS, engine, load_tokenizer(), output=tmp_path / "out", name=name)

    run(Answering(draws), "a")
    path = tmp_path / "out" / "results.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(EvaluationError, match="was begun with model 'a', not 'b'"):
        run(Answering(draws), "b")
    with pytest.raises(EvaluationError, match="a model that computes something else, although it is called a too"):
        run(Other(draws), "a")
    with pytest.raises(EvaluationError, match=r"a context of 131,072 tokens, and here 500 fit: give --context 131072"):
        run(Answering(draws, context=500), "a")
    assert run(Answering(draws, context=200_000), "a").score.questions == 8


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("my notes", "line 1 is no result of an evaluation: give another file"),
        ('{"number": 1}', "line 1 is no result of an evaluation"),
        ('{"mlx_oss_eval": 99, "options": {}}\n', "was written by another version of mlx-oss"),
        ('{"mlx_oss_eval": 1}\n', "was written by another version of mlx-oss"),
        ("[]\n", "line 1 is no result"),
    ],
)
def test_a_file_with_other_things_stays_as_it_is(tmp_path, content, reason):
    path = tmp_path / "r.jsonl"
    path.write_text(content)
    with pytest.raises(EvaluationError) as raised:
        Results(path, Task(QUESTIONS), "nobody", EvalOptions())
    assert reason in str(raised.value) and path.read_text() == content


@pytest.mark.parametrize("change", [{"number": 99}, {"number": 0}, {"sample": 1}, {"number": "1"}, {}])
def test_a_line_that_is_no_result_of_this_evaluation_is_refused(asked, tmp_path, change):
    asked(QUESTIONS, draws, tmp_path / "out")
    path = tmp_path / "out" / "results.jsonl"
    with open(path, "a") as file:
        file.write(json.dumps(json.loads(path.read_text().splitlines()[1]) | change) + "\n")
    with pytest.raises(EvaluationError, match="line 10 is no result of this evaluation, or a second one: take it out"):
        asked(QUESTIONS, {}, tmp_path / "out")


@pytest.mark.parametrize(
    "change", [{"right": 1}, {"turns": None}, {"turns": [{}]}, {"prompt_tokens": "1"}, {"seconds": None}, {"id": 1}]
)
def test_a_line_that_lacks_something_is_refused_before_anything_is_asked(asked, tmp_path, change):
    asked(QUESTIONS, draws, tmp_path / "out")
    path = tmp_path / "out" / "results.jsonl"
    first, second, *others = path.read_text().splitlines(keepends=True)
    path.write_text("".join([first, json.dumps(json.loads(second) | change) + "\n", *others]))
    with pytest.raises(EvaluationError, match="line 2 is no result of this evaluation, or a second one: take it out"):
        asked(QUESTIONS, {}, tmp_path / "out")


def test_a_report_that_cannot_be_written_leaves_the_one_before_and_all_answers(asked, tmp_path, monkeypatch):
    first, before = asked(QUESTIONS, draws, tmp_path / "out"), (tmp_path / "out" / "report.md").read_text()

    def full(self: Path, *_: object, **__: object) -> None:
        self.touch()
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(Path, "write_text", full)
        with pytest.raises(EvaluationError, match=r"report.md cannot be written .*: all answers are kept, so free"):
            asked(QUESTIONS, {}, tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["report.md", "results.jsonl"]
    assert (tmp_path / "out" / "report.md").read_text() == before and asked(QUESTIONS, {}, tmp_path / "out") == first


def test_only_one_process_has_the_results(asked, tmp_path):
    run = Run(Task(QUESTIONS), EvalOptions(), tmp_path / "out", "nobody")
    with pytest.raises(EvaluationError, match="is used by another process: wait until it has ended"):
        asked(QUESTIONS, {}, tmp_path / "out")
    run.close()
    assert asked(QUESTIONS, draws, tmp_path / "out").score.questions == 8


@pytest.mark.parametrize("place", ["none/out", "file/out", "file", "a\0b", "none/r.jsonl"])
def test_a_place_where_nothing_can_be_written_is_refused(asked, tmp_path, place):
    (tmp_path / "file").touch()
    with pytest.raises(EvaluationError, match=r"cannot be (made|written) \(.*\): (give|make)"):
        asked(QUESTIONS, {}, f"{tmp_path}/{place}")


def test_a_full_disk_leaves_whole_lines_and_the_same_command_goes_on(asked, tmp_path, monkeypatch):
    from mlx_oss.json_lines import GrowingFile

    write: Callable[[GrowingFile, bytes], None] = GrowingFile._write
    count = [0]

    def fail(self: GrowingFile, data: bytes) -> None:
        count[0] += 1
        if count[0] == 4:
            write(self, data[:20])
            raise OSError(28, "No space left on device")
        write(self, data)

    monkeypatch.setattr(GrowingFile, "_write", fail)
    with pytest.raises(EvaluationError, match=r"No space left on device.*: free some space, and give the same command"):
        asked(QUESTIONS, draws, tmp_path / "out")
    path = tmp_path / "out" / "results.jsonl"
    assert path.read_bytes().count(b"\n") == 3 and path.read_bytes().endswith(b"\n")
    assert asked(QUESTIONS, draws, tmp_path / "out") == asked(QUESTIONS, {}, tmp_path / "out")


def test_many_results_take_a_byte_each():
    with pytest.raises(EvaluationError, match="with 10000 samples more than 20,000,000 answers: split it"):
        Results(
            "never", Task([{"prompt": str(n), "answer": "a"} for n in range(2001)]), "n", EvalOptions(samples=10_000)
        )
