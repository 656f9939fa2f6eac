"""Files of questions: what a line may say, and that each mistake gets one sentence with its place and a remedy."""

from __future__ import annotations

from typing import Any

import pytest

from mlx_oss import EvaluationError, ToolDescription
from mlx_oss.evals import Checks, ExpectedCall, GivenTool, Question, QuestionTurn, questions
from mlx_oss.evals.questions import Task

WEATHER = {"name": "weather", "description": "Tells it.", "parameters": {"type": "object", "properties": {}}}


def test_a_line_becomes_a_question(task):
    path = task(
        {"prompt": "6 * 7?", "number": 42},
        {"id": "w", "kind": "tools", "prompt": "Oslo?", "tools": [WEATHER | {"results": "4"}, "python"],
         "system": "Be brief.", "calls": [{"name": "weather"}], "reasoning": "low", "date": "2026-01-02", "seed": 5,
         "metadata": {"by": "me"}},
        {"turns": [{"prompt": "I am Ann."}, {"prompt": "Who am I?", "contains": ["Ann", ["a", "b"]]}]},
    )  # fmt: skip
    first, second, third = Task(path)
    assert first == Question((QuestionTurn("6 * 7?", Checks(number=(42,))),), "1")
    assert second == Question(
        (QuestionTurn("Oslo?", Checks(calls=(ExpectedCall("weather"),))),),
        "w",
        "tools",
        (),
        "Be brief.",
        (GivenTool(ToolDescription("weather", "Tells it.", WEATHER["parameters"]), ("4",)), "python"),
        "low",
        "2026-01-02",
        5,
    )
    assert [turn.prompt for turn in third.turns] == ["I am Ann.", "Who am I?"]
    assert third.turns[1].checks == Checks(contains=("Ann", ("a", "b"))) and not third.turns[0].checks.judges


def test_messages_come_before_the_prompt_or_end_with_what_is_asked(task):
    said = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    asked, more = Task(task({"messages": said, "answer": "Hi"}, {"messages": said[:1], "prompt": "Hi", "answer": "Hi"}))
    assert asked.instructions == more.instructions == "Be brief."
    assert asked.turns[0].prompt is None and asked.messages[0].content == "Hi" and more.turns[0].prompt == "Hi"


def test_a_task_knows_its_kinds_and_whether_it_runs_code(task):
    of_x = [{"prompt": each, "answer": each, "kind": "x"} for each in "ac"]
    one = Task(task(of_x[0], {"prompt": "b", "answer": "b"}, of_x[1]))
    assert (one.name, one.count, one.kinds, list(one.kind_of)) == ("task.jsonl", 3, ["x", ""], [0, 1, 0])
    assert not one.runs_code
    assert Task(task({"prompt": "a", "python": "True"})).runs_code
    assert Task([{"prompt": "a", "answer": "b", "tools": ["python"]}]).runs_code


def test_what_is_asked_is_identified_by_its_meaning_not_its_spelling(task):
    fields = {"prompt": "a", "answer": "a"}
    first = Task(task(fields)).digest
    assert Task(task('{"answer":\t"a", "prompt": "a"}\n\n', name="other.jsonl")).digest == first
    assert Task([fields]).digest == first == Task([Question((QuestionTurn("a", Checks(answer=("a",))),))]).digest
    for change in ({"prompt": "b"}, {"answer": "b"}, {"system": "c"}, {"kind": "k"}, {"reasoning": "low"}):
        assert Task([fields | change]).digest != first
    assert Task([fields, {**fields, "id": "x"}]).digest != first


def test_a_file_that_is_changed_while_it_is_read_is_noticed(task):
    path = task({"prompt": "a", "answer": "a"}, {"prompt": "b", "answer": "b"})
    one = Task(path)
    for lines in (({"prompt": "a", "answer": "a"},), [{"prompt": each, "answer": each} for each in "ac"],
                  [{"prompt": each, "answer": each} for each in "abc"]):  # fmt: skip
        task(*lines)
        with pytest.raises(
            EvaluationError, match=r"task.jsonl was changed while it was read: give the same command again"
        ):
            list(one)


GOOD = {"prompt": "a", "answer": "a"}


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("{", "line 2 is not JSON"),
        ("[]", "line 2 is []: give an object"),
        ("\udcff", "line 2 is not text in UTF-8: save the file as UTF-8"),
        ({}, "line 2 asks nothing: give prompt, messages or turns"),
        ({"prompt": "a"}, "line 2 has nothing to judge the answer by: give one of answer, number, regex"),
        ({"prompt": "", "answer": "a"}, "line 2: prompt is '', expected a text"),
        ({"prompt": 3, "answer": "a"}, "line 2: prompt is 3, expected a text"),
        (GOOD | {"regexp": "a"}, "line 2 has the key 'regexp', which means nothing here: did you mean regex?"),
        (GOOD | {"id": 3}, "line 2: id is 3, expected a text of at most 200 characters"),
        (GOOD | {"id": "1"}, "line 2 has the id '1' of number 1: give each question one of its own, or none"),
        (GOOD | {"answer": 3}, "line 2: answer is 3, expected a text, or a list of them"),
        (GOOD | {"answer": []}, "line 2: answer is [], expected"),
        (GOOD | {"number": "4"}, "line 2: number is '4', expected a number, or a list of them"),
        (GOOD | {"number": True}, "line 2: number is True"),
        (GOOD | {"tolerance": 1}, "line 2 has tolerance without number: give number, or leave it out"),
        (GOOD | {"number": 1, "tolerance": -1}, "line 2: tolerance is -1, expected a number from 0"),
        (GOOD | {"python": "1", "seconds": 9999}, "line 2: seconds is 9999, expected a number from 0.1 to 600"),
        (GOOD | {"python": "if"}, "line 2: python is not Python code"),
        (GOOD | {"regex": "("}, "line 2: regex is '(', which cannot be used"),
        (GOOD | {"schema": "x"}, "line 2: schema is 'x', expected a JSON schema, as an object"),
        (GOOD | {"schema": {"type": 3}}, "line 2: schema is no JSON schema that can be checked"),
        (GOOD | {"contains": [3]}, "line 2: contains is [3], expected a text"),
        (GOOD | {"contains": [[3]]}, "line 2: contains is [[3]], expected a text"),
        (GOOD | {"contains": [[]]}, "line 2: contains is [[]], expected a text"),
        ('{"prompt": "a", "number": [1, NaN]}', "line 2: number is [1, nan], expected finite numbers"),
        (GOOD | {"python": " "}, "line 2: python is ' ', expected Python code, as a text"),
        (GOOD | {"tools": [WEATHER | {"result": "4"}]}, "line 2: tools[0] has the key 'result', which means nothing"),
        (GOOD | {"calls": 3}, "line 2: calls is 3, expected a list"),
        (GOOD | {"calls": [{"arguments": 3}]}, "line 2: calls[0]: arguments is 3, expected an object"),
        (GOOD | {"tools": ["java"]}, "line 2: tools has 'java': give \"python\", or an object"),
        (GOOD | {"tools": [{}]}, "line 2: tools[0]: name is None, expected the name of a function"),
        (GOOD | {"tools": [WEATHER, WEATHER]}, "line 2: two tools are called 'weather': give each its own name"),
        (GOOD | {"tools": [{"name": "a b"}]}, "line 2: "),
        (GOOD | {"reasoning": "much"}, "line 2: reasoning is 'much', expected one of none, low, medium, high"),
        (GOOD | {"date": "tomorrow"}, "line 2: date is 'tomorrow', expected a date such as 2026-11-30"),
        (GOOD | {"seed": -1}, "line 2: seed is -1, expected a whole number"),
        (GOOD | {"turns": []}, "line 2 has turns and prompt: put prompt into a turn"),
        ({"turns": []}, "line 2: turns is [], expected a list of objects such as"),
        ({"turns": [{"prompt": "a"}]}, "line 2 has nothing to judge the answer by"),
        ({"turns": [{"prompt": "a", "regex": "("}]}, "line 2: turns[0]: regex is '('"),
        ({"messages": 3, "answer": "a"}, "line 2: messages is 3, expected a list of messages"),
        ({"messages": [{"role": "king"}], "answer": "a"}, "line 2: messages[0] has the role 'king'"),
        ({"messages": [{"role": "assistant", "content": "a"}], "answer": "a"}, "line 2: messages end with an answer"),
        (
            {"messages": [{"role": "system", "content": "a"}], "system": "b", **GOOD},
            "line 2 has instructions twice, in system and in messages: leave out one",
        ),
    ],
)
def test_a_mistake_in_a_line_is_told_with_its_place_and_a_remedy(task, line: Any, reason):
    if line == "\udcff":
        path = task(GOOD, "x")
        path.write_bytes(path.read_bytes().replace(b"x", b"\xff"))
    else:
        path = task(GOOD, line)
    with pytest.raises(EvaluationError) as raised:
        Task(path)
    told = str(raised.value)
    assert told.startswith(f"{path}, line 2") and reason in told and "\n" not in told and told.count(str(path)) == 1


@pytest.mark.parametrize(
    ("questions_", "reason"),
    [
        (
            "none.jsonl",
            "none.jsonl cannot be read (No such file or directory): give a file with a question in each line",
        ),
        ("/dev/zero", "/dev/zero cannot be read (it is a device, not a file)"),
        ("a\0", "cannot be read"),
        ([], "questions has no questions"),
        ([{}], "question 1 asks nothing"),
    ],
)
def test_questions_that_are_none_are_refused(questions_, reason):
    with pytest.raises(EvaluationError) as raised:
        Task(questions_)
    assert reason in str(raised.value)


def test_a_file_with_too_many_questions_is_refused(task, monkeypatch):
    monkeypatch.setattr(questions, "MOST_QUESTIONS", 2)
    with pytest.raises(EvaluationError, match="has more than 2 questions: split it"):
        Task(task(*[GOOD] * 3))
