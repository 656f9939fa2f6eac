"""Tells the results of an evaluation in Markdown. Whatever a model wrote is plain text there, and shortened.

Knows nothing of models and of how questions are asked.
"""

from __future__ import annotations

import re
from bisect import insort
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from mlx_oss.errors import shortened
from mlx_oss.evals.questions import Task
from mlx_oss.evals.results import Results
from mlx_oss.evals.statistics import Score, score
from mlx_oss.terminal import one_line

MOST_FAILURES = 200  # that are kept; all are in the results
_LONGEST = 300  # characters of an answer in a report
_MOST_KINDS = 200
_MARKUP = re.compile(r"([\\`*\[\]|])")


@dataclass(frozen=True)
class Failure:
    """A wrong answer.

    Attributes:
        number: The place of the question, from 0 on.
        sample: The number of the attempt, from 0 on.
        id: The id of the question.
        problem: Why it is wrong.
        answer: The beginning of the answer.
    """

    number: int
    sample: int
    id: str
    problem: str
    answer: str


@dataclass(frozen=True)
class Evaluation:
    """What came of an evaluation.

    Attributes:
        task: The name of the task.
        model: The name of the model.
        score: How many answers are right.
        kinds: The score of each kind of question, in the order in which they come.
        failures: The first wrong answers, in the order of the questions.
        wrong: How many answers are wrong.
        unknown: How many answers there are not, because the device or the sandbox failed. They count as wrong.
        first_unknown: What it failed with.
        prompt_tokens: What the model has read, over all turns.
        generated_tokens: What it has written.
        seconds: How long the answers took, added up. Several are written at the same time.
        about: How it was asked, as in the results.
    """

    task: str
    model: str
    score: Score
    kinds: Mapping[str, Score]
    failures: tuple[Failure, ...]
    wrong: int
    unknown: int
    first_unknown: str
    prompt_tokens: int
    generated_tokens: int
    seconds: float
    about: str

    def markdown(self, failures: int = MOST_FAILURES) -> str:
        """The report.

        Args:
            failures: How many wrong answers it lists.
        """
        return "\n".join(_lines(self, failures)) + "\n"


def evaluation_of(task: Task, model: str, results: Results, failures: Mapping[tuple[int, int], str]) -> Evaluation:
    """Adds the results up.

    Args:
        task: What was asked.
        model: Name of the model.
        results: The results.
        failures: Attempts without a result, and what they failed with.
    """
    first: list[tuple[int, int, Failure]] = []
    wrong = prompt = generated = 0
    seconds = 0.0
    for line in results.each():
        prompt, generated = prompt + int(line["prompt_tokens"]), generated + int(line["generated_tokens"])
        seconds += float(line["seconds"])
        if line["right"]:
            continue
        wrong += 1
        key = (int(line["number"]) - 1, int(line["sample"]))
        if len(first) < MOST_FAILURES or key < first[-1][:2]:
            answer = str(line["turns"][-1]["answer"]) if line["turns"] else ""
            failure = Failure(*key, str(line["id"]), shortened(str(line["problem"])), shortened(answer, _LONGEST))
            insort(first, (*key, failure), key=lambda each: each[:2])
            del first[MOST_FAILURES:]
    samples = results.options.samples
    rights: list[list[int]] = [[] for _ in task.kinds]
    for number, kind in enumerate(task.kind_of):
        rights[kind].append(results.right(number))
    return Evaluation(
        task.name,
        model,
        score((right for each in rights for right in each), samples),
        {name: score(each, samples) for name, each in zip(task.kinds, rights, strict=True)},
        tuple(failure for *_, failure in first),
        wrong,
        results.total - results.done,
        next(iter(failures.values()), ""),
        prompt,
        generated,
        seconds,
        _about(results),
    )


def _about(results: Results) -> str:
    options, sampling = results.options, results.options.sampling
    parts = [
        f"reasoning {options.reasoning_effort}",
        f"temperature {sampling.temperature:g}",
        f"top_p {sampling.top_p:g}",
        *(f"{name} {value:g}" for name in ("top_k", "min_p") if (value := getattr(sampling, name))),
        f"seed {sampling.seed or 0}",
        f"date {options.current_date}",
        *(f"{name} {value}" for name in ("max_tokens", "max_reasoning_tokens") if (value := getattr(options, name))),
    ]
    return ", ".join(parts)


def _lines(evaluation: Evaluation, most: int) -> Iterator[str]:
    found = evaluation.score
    yield f"# {plain(evaluation.task)}: {plain(evaluation.model)}\n"
    times = "" if found.samples == 1 else f", each asked {found.samples} times"
    answers = found.questions * found.samples
    counts = f"{found.right:,} of {answers:,} answers to {found.questions:,} questions"
    yield f"**pass@1: {_share(found)}**, {counts}{times}\n"
    yield (
        "The interval is the 95 % confidence interval by Wilson, with the effective number of answers: several to one "
        "question count for less.\n"
    )
    yield f"- Asked with {plain(evaluation.about)}"
    written = evaluation.generated_tokens
    yield f"- Tokens: {evaluation.prompt_tokens:,} read, {written:,} written, {written / answers:,.0f} for each answer"
    yield f"- Time: {evaluation.seconds / answers:.2f} s for each answer, written beside others"
    if evaluation.unknown:
        yield (
            f"- **{evaluation.unknown:,} answers are missing** and count as wrong: "
            f"{plain(evaluation.first_unknown or 'they were not asked')}. The same command asks them again."
        )
    if len(evaluation.kinds) > 1:
        yield "\n## By kind\n\n| kind | questions | right | pass@1 |\n|---|---|---|---|"
        for name, one in list(evaluation.kinds.items())[:_MOST_KINDS]:
            label = plain(name) or "(none)"
            yield f"| {label} | {one.questions:,} | {one.right:,} of {one.questions * one.samples:,} | {_share(one)} |"
        if len(evaluation.kinds) > _MOST_KINDS:
            yield f"\nand {len(evaluation.kinds) - _MOST_KINDS:,} other kinds"
    if evaluation.wrong:
        yield "\n## Wrong answers\n"
        shown = evaluation.failures[:most]
        for failure in shown:
            sample = f", sample {failure.sample}" if found.samples > 1 else ""
            said = f": {plain(failure.answer)}" if failure.answer else ""
            yield f"- **{plain(failure.id)}**{sample}, {plain(failure.problem)}{said}"
        if evaluation.wrong > len(shown):
            yield f"- and {evaluation.wrong - len(shown):,} others, which are in the results"


def _share(one: Score) -> str:
    return f"{one.pass_at_1:.1%} ({one.low:.1%} to {one.high:.1%})"


def plain(text: str) -> str:
    """A text as one line of Markdown that shows it, and nothing else."""
    line = one_line(text).replace("&", "&amp;").replace("<", "&lt;")
    return _MARKUP.sub(r"\\\1", line)
