"""How answers are judged: each kind of check says yes and no, and what cannot be used is refused."""

from __future__ import annotations

import time
from typing import Any

import numpy as np
import pytest

from mlx_oss import EvaluationError, ToolCall
from mlx_oss.evals import Checks, ExpectedCall, python_check
from mlx_oss.evals.checks import last_number
from mlx_oss.tools.sandbox import GUARANTEES, isolation_here

SCHEMA = {"type": "object", "properties": {"age": {"type": "integer", "minimum": 0}}, "required": ["age"]}


@pytest.mark.parametrize(
    ("check", "right", "wrong", "problem"),
    [
        ({"answer": ["Paris"]}, [" Paris\n"], ["paris", "It is Paris", ""], "it is not 'Paris'"),
        ({"answer": ["a", "b"]}, ["a", "b"], ["c"], "it is not 'a' or 'b'"),
        ({"number": [4]}, ["4", "so 2 + 2 = 4.", "$4.00", "4.0e0"], ["5", "4, no 5"], "the number is '5', not 4"),
        ({"number": [4]}, [], ["four", "", "-4"], ""),
        ({"number": [-1234.5]}, ["it is -1,234.5", "\N{MINUS SIGN}1234.50"], ["1,234.5", "3-1234.5"], ""),
        ({"number": [0.3], "tolerance": 0.01}, [".31", "0.29"], ["0.32", "1e999999999"], ""),
        ({"number": [1, 2]}, ["1", "2"], ["3"], "the number is '3', not 1 or 2"),
        ({"number": [1234567]}, ["1\u202f234\u202f567", r"$1{,}234{,}567$", r"1\,234\,567"], ["1 234 567"], "'567'"),
        ({"number": [-5]}, ["\N{NON-BREAKING HYPHEN}5"], ["3\N{NON-BREAKING HYPHEN}5"], "the number is '5', not -5"),
        ({"number": [1]}, [], ["1e" + "9" * 30, "-1e-" + "9" * 30], "the number is 'NaN', not 1"),
        ({"number": [np.float64(1.5)]}, ["1.5"], ["2"], "the number is '2'"),
        ({"regex": ["(?i)^yes\\b"]}, ["Yes, of course"], ["oh yes", "yesterday"], "does not match"),
        ({"regex": ["a", "b"]}, ["xay", "b"], ["c"], "'a' or 'b' does not match"),
        ({"contains": ["Paris", "France"]}, ["paris is in FRANCE"], ["Paris"], "'France' is not in it"),
        ({"contains": [("rook", "castle")]}, ["a castle"], ["a tower"], "'rook' or 'castle' is not in it"),
        ({"schema": SCHEMA}, ['{"age": 3}', '```json\n{"age": 3}\n```'], ['{"age": -1}', "[]"], "minimum"),
        ({"schema": SCHEMA}, [], ["{", '{"age": NaN}', '{"age": 1} indeed'], "it is not JSON"),
        ({"answer": ["a1"], "number": [1]}, ["a1"], ["a2", "1"], "it is not 'a1'"),
    ],
)
def test_an_answer_is_right_or_wrong_and_the_problem_is_told(check, right, wrong, problem):
    checks = Checks(**check)
    assert [checks.problem(text) for text in right] == [""] * len(right)
    problems = [checks.problem(text) for text in wrong]
    assert all(problems) and problem in problems[0]


def test_the_last_number_is_found_in_any_text_in_little_time():
    assert last_number("x" * 10) is None
    assert str(last_number("1,234,567.8")) == "1234567.8" and str(last_number("1,2,3")) == "3"
    started = time.monotonic()
    for text in ("1," * 500_000, "9" * 1_000_000, "-" * 1_000_000, "1e" * 500_000):
        last_number(text)
    assert time.monotonic() - started < 30


def test_calls_are_compared_by_name_order_and_value():
    paris = ToolCall("functions.weather", '{"city": "Paris", "unit": "c"}')
    rome = ToolCall("functions.weather", '{"city": "Rome"}')
    expected = ExpectedCall("weather", {"unit": "c", "city": "Paris"})
    assert Checks(calls=[expected]).problem("", [paris]) == ""
    assert Checks(calls=[ExpectedCall()]).problem("", [rome]) == ""
    assert Checks(calls=[]).problem("yes", [rome]) == "1 calls were made, not 0"
    assert "was called with" in Checks(calls=[expected]).problem("", [rome])
    assert Checks(calls=[ExpectedCall("news")]).problem("", [rome]) == "'weather' was called, not 'news'"
    assert "calls were made" in Checks(calls=[expected]).problem("", [paris, rome])
    assert Checks(calls=[expected]).problem("", [ToolCall("functions.weather", "{")]) != ""


@pytest.mark.parametrize(
    ("written", "is_right"),
    [("1", True), ("1.0", True), ("true", False), ("[1]", False), ('{"b": 1}', False), ("null", False)],
)
def test_true_is_not_one_in_the_arguments_of_a_call(written, is_right):
    checks = Checks(calls=[ExpectedCall("f", {"a": {"deep": [1]}})])
    call = ToolCall("functions.f", f'{{"a": {{"deep": [{written}]}}}}')
    assert (checks.problem("", [call]) == "") == is_right


@pytest.mark.parametrize(
    ("check", "reason"),
    [
        ({"regex": ["a(?=b)"]}, "regex is 'a(?=b)', which cannot be used"),
        ({"regex": ["("]}, "unclosed group"),
        ({"schema": {"type": "thing"}}, "schema is no JSON schema that can be checked"),
        ({"schema": {"properties": {"a": {"pattern": "(?=x)"}}}}, "the pattern '(?=x)'"),
        ({"schema": {"$ref": "#/$defs/none"}}, "leads nowhere"),
        ({"schema": {"$ref": "http://example.com/schema"}}, "leads nowhere"),
        ({"python": "if"}, "python is not Python code (invalid syntax in line 1): correct it"),
        ({"python": "\0"}, "python is not Python code"),
    ],
)
def test_what_cannot_be_checked_is_refused_when_it_is_given(check: dict[str, Any], reason):
    with pytest.raises(EvaluationError) as raised:
        Checks(**check)
    assert reason in str(raised.value)


needs_sandbox = pytest.mark.skipif(isolation_here() not in GUARANTEES, reason="this machine has no sandbox")


@needs_sandbox
@pytest.mark.parametrize(
    ("code", "right", "wrong", "problem"),
    [
        ("answer.isdigit()", "12", "x", "AssertionError: answer.isdigit() is False"),
        ("assert len(answer) < 4, 'too long'", "12", "12345", "AssertionError: too long"),
        ("print(answer)", "1", None, ""),
        ("exec(code)\nassert f() == 1", "def f(): return 1", "```\ndef f(): return 2\n```", "AssertionError"),
        ("exec(code)\nf() == 1", "So:\n```python\ndef f():\n    return 1\n```\n```sh\nls\n```", "```", "SyntaxError"),
        ("from __future__ import annotations\nanswer == 'a'", "a", "b", "AssertionError: answer == 'a' is False"),
        ("exec(answer)\nassert double(4) == 8", "def double(x): return 2 * x", "double = int", "AssertionError"),
        ("exec(answer)\nFalse", None, "raise SystemExit(0)", "SystemExit: 0"),
        ("exec(answer)\nFalse", None, "import os; os._exit(0)", "it ended the interpreter"),
        ("exec(answer)\nFalse", None, "print('all is well')", "AssertionError: False is False"),
        ("exec(answer)\nassert False", None, "__builtins__ = {}; raise KeyError(3)", "KeyError: 3"),
    ],
)
def test_python_code_judges_in_the_sandbox(code, right, wrong, problem):
    checks = Checks(python=code)
    if right is not None:
        assert checks.problem(right) == ""
    if wrong is not None:
        assert problem in checks.problem(wrong)


@needs_sandbox
def test_python_code_is_stopped_after_its_time_and_sees_no_file(tmp_path):
    (tmp_path / "secret").write_text("42")
    assert (
        Checks(python="while True: pass", seconds=0.5).problem("") == "the check says: it took longer than 0.5 seconds"
    )
    assert "FileNotFoundError" in Checks(python=f"open({str(tmp_path / 'secret')!r})").problem("")


@needs_sandbox
def test_an_answer_of_any_characters_reaches_the_check_as_it_is():
    text = "'\"\\\n\0\t{}\N{SNOWMAN}" * 1000
    assert Checks(python=f"answer == {text!r}").problem(text) == ""
    assert Checks(python="'?' in answer").problem("\ud800") == ""


def test_code_that_python_has_no_words_for_is_refused_in_a_sentence(monkeypatch):
    def parse(code: str) -> None:
        raise MemoryError

    monkeypatch.setattr(python_check.ast, "parse", parse)
    with pytest.raises(EvaluationError, match=r"is not Python code \(it is nested too deeply\): correct it"):
        python_check.program("-" * 100_000 + "1")


def test_code_is_prepared_without_being_run():
    assert "raise AssertionError" in python_check.program("1 / 0")
    assert python_check.program("") == ""
