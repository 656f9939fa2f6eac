"""Questions are asked as they are meant, several at once, and each answer is judged."""

from __future__ import annotations

import threading
from itertools import pairwise
from typing import Any

import pytest

from mlx_oss import DeviceError, OptionError, Request, SamplingOptions, ToolError, load_tokenizer
from mlx_oss.evals import Checks, EvalOptions, Question, QuestionTurn, evaluate
from mlx_oss.tools.sandbox import GUARANTEES, isolation_here
from tests.evals.answering import Answering

CALL = '<|channel|>commentary to=functions.weather <|constrain|>json<|message|>{"city": "Oslo"}<|call|>'
WEATHER = {"name": "weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}


def prompt_of(request: Request) -> str:
    return load_tokenizer().decode(list(request.prompt))


def test_right_and_wrong_answers_are_counted_by_kind(asked):
    questions = [
        {"prompt": "a", "answer": "1", "kind": "x"},
        {"prompt": "b", "answer": "1", "kind": "y"},
        {"prompt": "c", "answer": "3", "kind": "x"},
    ]
    found = asked(questions, {"a": "1", "b": "2", "c": "3"})
    assert (found.score.right, found.score.questions, found.wrong, found.unknown) == (2, 3, 1, 0)
    assert {kind: (one.right, one.questions) for kind, one in found.kinds.items()} == {"x": (2, 2), "y": (0, 1)}
    (failure,) = found.failures
    assert (failure.id, failure.number, failure.problem, failure.answer) == ("2", 1, "it is not '1'", "2")


def test_each_sample_of_each_question_has_a_seed_of_its_own_that_no_other_question_changes(asked):
    def seeds(*ids: str, **options: Any) -> dict[tuple[str, int], int]:
        found: dict[tuple[str, int], int] = {}
        count = dict.fromkeys(ids, 0)
        lock = threading.Lock()

        def answer(request: Request, question: str) -> str:
            seed = request.options.seed
            assert seed is not None
            with lock:
                found[question, count[question]] = seed
                count[question] += 1
            return question

        asked([{"id": each, "prompt": each, "answer": "x"} for each in ids], answer, **options)
        return found

    alone, among = seeds("b", samples=3), seeds("a", "b", "c", samples=3)
    of_b = {seed for (name, _), seed in among.items() if name == "b"}
    assert set(alone.values()) == of_b and len(set(among.values())) == 9
    other = seeds("b", samples=3, sampling=SamplingOptions(seed=1))
    assert not set(other.values()) & of_b
    assert set(seeds("b", samples=2).values()) < of_b


def test_a_seed_in_the_question_counts_up(asked):
    found = set()

    def answer(request: Request, question: str) -> str:
        found.add(request.options.seed)
        return "a"

    asked([{"prompt": "a", "answer": "a", "seed": 2**64 - 1}], answer, samples=3)
    assert found == {2**64 - 1, 0, 1}


def test_options_and_instructions_are_those_of_the_question_or_else_of_the_evaluation(asked):
    prompts = {}

    def answer(request: Request, question: str) -> str:
        prompts[question] = prompt_of(request)
        return question

    options = {"instructions": "Be kind.", "reasoning_effort": "high", "current_date": "2026-05-01"}
    plain, own = {"prompt": "a", "answer": "a"}, {"prompt": "b", "answer": "b"}
    own |= {"system": "Be brief.", "reasoning": "low", "date": "2026-06-02"}
    assert asked([plain, own], answer, **options).score.right == 2
    for word in ("Be kind.", "Reasoning: high", "2026-05-01"):
        assert word in prompts["a"] and word not in prompts["b"]
    for word in ("Be brief.", "Reasoning: low", "2026-06-02"):
        assert word in prompts["b"] and word not in prompts["a"]


def test_turns_follow_each_other_until_one_is_wrong(asked):
    prompts = []

    def answer(request: Request, question: str) -> str:
        prompts.append(prompt_of(request))
        return question.upper()

    turns = [{"prompt": "a", "answer": "A"}, {"prompt": "b"}, {"prompt": "c", "answer": "x"}, {"prompt": "d"}]
    found = asked([{"turns": turns}], answer)
    assert len(prompts) == 3 and all(
        later.count("<|end|>") > before.count("<|end|>") for before, later in pairwise(prompts)
    )
    assert "<|start|>assistant<|channel|>final<|message|>A<|end|><|start|>user<|message|>b" in prompts[1]
    assert found.failures[0].problem == "turn 3: it is not 'x'"


def test_messages_are_read_and_continued(asked):
    said = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello"},
        {"role": "user", "content": "a"},
    ]
    found = asked(
        [{"messages": said, "answer": "a"}], lambda request, _: "a" if "Hello<|end|>" in prompt_of(request) else ""
    )
    assert found.score.right == 1


def test_a_tool_with_given_results_is_not_run_and_its_call_is_judged(asked):
    def answer(request: Request, question: str) -> str:
        return CALL if "?" in question else f"It has {question}."

    calls, results = [{"name": "weather", "arguments": {"city": "Oslo"}}], ["4 degrees", "9 degrees"]
    turns = [{"prompt": f"{n}?", "contains": results[n % 2], "calls": calls} for n in range(3)]
    question = {"turns": turns, "tools": [WEATHER | {"results": results}]}
    assert asked([question], answer).score.right == 1
    turns[1]["calls"] = []
    assert asked([question], answer).failures[0].problem == "turn 2: 1 calls were made, not 0"


def test_a_tool_without_results_ends_the_turn_with_its_call(asked):
    question = {"prompt": "Oslo?", "tools": [WEATHER], "calls": [{"arguments": {"city": "Oslo"}}]}
    assert asked([question], lambda *_: CALL).score.right == 1


def test_a_function_of_the_program_is_run(asked):
    def weather(city: str) -> str:
        """Tells the weather."""
        return f"4 degrees in {city}"

    question = Question([QuestionTurn("Oslo?", Checks(contains=["4 degrees in Oslo"]))], tools=[weather])
    assert asked([question], lambda _, question: CALL if "?" in question else question).score.right == 1


@pytest.mark.parametrize(
    ("answer", "options", "problem"),
    [
        ("a" * 30, {"max_tokens": 3}, "it was cut off by max_tokens or the context"),
        ("", {}, "it is not 'a'"),
    ],
)
def test_an_answer_that_is_no_whole_one_is_wrong(asked, answer, options, problem):
    found = asked([{"prompt": "q", "answer": "a"}], lambda *_: answer, **options)
    assert found.failures[0].problem == problem and found.score.right == 0


def test_a_question_that_cannot_be_asked_is_wrong_and_the_others_go_on(tmp_path):
    questions = [{"prompt": "word " * 500, "answer": "x"}, {"prompt": "a", "answer": "a"}]
    found = evaluate(questions, Answering(context=200), load_tokenizer())
    assert (found.score.right, found.wrong, found.unknown) == (1, 1, 0)
    assert found.failures[0].problem.startswith("it cannot be asked: ") and found.failures[0].answer == ""


def test_what_the_device_failed_at_counts_as_wrong_is_told_and_is_asked_again(asked, tmp_path):
    def answer(request: Request, question: str) -> str | Exception:
        return DeviceError("no memory is left") if question == "b" else question

    questions = [{"prompt": each, "answer": each} for each in "abc"]
    found = asked(questions, answer, tmp_path / "out")
    assert (found.score.right, found.wrong, found.unknown) == (2, 0, 1)
    assert "**1 answers are missing** and count as wrong: no memory is left" in found.markdown()
    found = asked(questions, {"b": "b"}, tmp_path / "out")
    assert (found.score.right, found.unknown) == (3, 0)


def test_a_device_that_fails_again_and_again_ends_the_evaluation(asked):
    with pytest.raises(DeviceError, match="gone"):
        asked([{"prompt": str(n), "answer": "a"} for n in range(99)], lambda *_: DeviceError("gone"))


def test_a_sandbox_that_cannot_be_started_any_more_makes_no_answer_wrong(asked, monkeypatch):
    def fail(*_: object) -> None:
        raise ToolError("no processes are left")

    monkeypatch.setattr("mlx_oss.evals.python_check.problem", fail)
    monkeypatch.setattr("mlx_oss.evals.evaluation.check_sandbox", lambda: None)
    found = asked([{"prompt": "a", "python": "True"}])
    assert (found.wrong, found.unknown, found.first_unknown) == (0, 1, "no processes are left")


def test_without_a_sandbox_code_is_refused_before_anything_is_asked(asked, monkeypatch):
    monkeypatch.setattr("mlx_oss.evals.python_check.isolation_here", lambda: "there is no isolation here")
    with pytest.raises(OptionError, match="there is no isolation here: Python checks need a sandbox, so take them out"):
        asked([{"prompt": "a", "python": "True"}], {})


@pytest.mark.skipif(isolation_here() not in GUARANTEES, reason="this machine has no sandbox")
def test_each_attempt_has_a_python_tool_of_its_own_that_ends_with_it(asked):
    code = "<|channel|>analysis to=python code<|message|>print('x' in globals()); x = 1<|call|>"
    question = {"prompt": "Is it there?", "tools": ["python"], "contains": "False"}
    found = asked([question], lambda _, question: code if "?" in question else question, samples=2)
    assert found.score.right == 2


def test_as_many_are_asked_at_the_same_time_as_is_said():
    """Each question waits in a tool until three are there."""
    running, most, lock = [0], [0], threading.Lock()
    three = threading.Barrier(3)

    def weather(city: str) -> str:
        """Waits."""
        with lock:
            running[0] += 1
            most[0] = max(most[0], running[0])
        three.wait(60)
        with lock:
            running[0] -= 1
        return "done"

    checks = Checks(contains=["done"])
    questions = [Question([QuestionTurn(f"{number}?", checks)], tools=[weather]) for number in range(12)]
    engine, seen = Answering(lambda _, question: CALL if "?" in question else question, at_once=7), list[int]()
    found = evaluate(
        questions, engine, load_tokenizer(), at_once=3, progress=lambda attempt: seen.append(attempt.number)
    )
    assert found.score.right == 12 and sorted(seen) == list(range(12)) and most == [3]


def test_questions_are_read_as_they_are_needed():
    from mlx_oss.evals.attempts import attempts

    taken = []

    def endless() -> Any:
        for number in range(10**9):
            taken.append(number)
            yield number, 0, Question([QuestionTurn("a", Checks(answer=["a"]))], str(number))

    running = attempts(endless(), Answering(), load_tokenizer(), EvalOptions())
    for _ in range(20):
        next(running)
    running.close()
    assert len(taken) < 60


@pytest.mark.parametrize("samples", [0, -1, 2.5, True, 10**9])
def test_a_wrong_number_of_samples_is_refused(samples):
    with pytest.raises(OptionError, match="samples is"):
        EvalOptions(samples=samples)


def test_samples_that_would_all_be_the_same_are_refused():
    with pytest.raises(OptionError, match="3 samples at temperature 0 are 3 times the same"):
        EvalOptions(samples=3, sampling=SamplingOptions(temperature=0))
