"""Runs an evaluation: asks the questions that have no result yet, writes the results, and adds them up.

Knows nothing of terminals and of where models come from.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from pathlib import Path
from typing import Any

from mlx_oss.errors import EvaluationError
from mlx_oss.evals.attempts import Attempt, EvalOptions, attempts
from mlx_oss.evals.python_check import check_sandbox
from mlx_oss.evals.questions import Question, Task
from mlx_oss.evals.report import Evaluation, evaluation_of
from mlx_oss.evals.results import Results
from mlx_oss.files import expanded
from mlx_oss.generation.engine import Engine
from mlx_oss.tokenizer import Tokenizer

Questions = str | Path | Iterable[Question | Mapping[str, Any]]


def evaluate(
    questions: Questions,
    model: Engine,
    tokenizer: Tokenizer,
    *,
    options: EvalOptions | None = None,
    output: str | Path | None = None,
    name: str = "the model",
    at_once: int | None = None,
    progress: Callable[[Attempt], object] | None = None,
) -> Evaluation:
    """Asks questions, judges the answers, and says how many are right.

    Args:
        questions: The path of a file with a question in each line; or questions, as `Question`s or as dictionaries like
            those lines.
        model: The engine, as `mlx_oss.load` returns it.
        tokenizer: The tokenizer.
        options: How they are asked. None: once each, with the defaults of the models.
        output: A folder for the results and the report, or a file for the results (`.jsonl`). If results are there, the
            evaluation goes on after them. None: they are not kept.
        name: What the model is called in the results.
        at_once: How many questions are asked at the same time. None: as many as the engine computes together.
        progress: Called with each attempt when it is done.

    Returns:
        What came of it.

    Raises:
        EvaluationError: If a question is not as it should be, or the results are of another evaluation.
        OptionError: If an option is invalid, or there is no sandbox for a Python check.
        MlxOssError: If the model cannot be run.
    """
    with closing(Run(Task(questions), options or EvalOptions(), output, name)) as run:
        for attempt in run.attempts(model, tokenizer, at_once):
            if progress is not None:
                progress(attempt)
        evaluation = run.evaluation()
        run.write_report(evaluation)
        return evaluation


class Run:
    """An evaluation that is being run. Close it at the end.

    Args:
        task: What is asked.
        options: How it is asked.
        output: As for `evaluate`.
        name: Name of the model.

    Attributes:
        results: The results so far.
        report: The file that `write_report` writes; None if nothing is kept.
    """

    def __init__(self, task: Task, options: EvalOptions, output: str | Path | None, name: str) -> None:
        if task.runs_code:
            check_sandbox()
        self._task, self._name = task, name
        self._failures: dict[tuple[int, int], str] = {}
        self._folder = tempfile.TemporaryDirectory(prefix="mlx-oss-") if output is None else None
        self.report: Path | None = None
        if output is None:
            assert self._folder is not None
            path = Path(self._folder.name) / "results.jsonl"
        else:
            path, self.report = places(output)
        try:
            self.results = Results(path, task, name, options)
        except BaseException:
            self._remove()
            raise

    def attempts(
        self, model: Engine, tokenizer: Tokenizer, at_once: int | None = None
    ) -> Generator[Attempt, None, None]:
        """Asks the questions that have no result yet, and yields the attempts when their results are written.

        Args:
            model: The engine.
            tokenizer: The tokenizer.
            at_once: How many are asked at the same time.
        """
        results = self.results
        results.begin(model.fingerprint, model.context)
        wanted = self._open()
        with closing(
            attempts(wanted, model, tokenizer, results.options, at_once=at_once, context=results.context)
        ) as done:
            for attempt in done:
                if attempt.failure:
                    self._failures[attempt.number, attempt.sample] = attempt.failure
                else:
                    results.write(attempt)
                yield attempt

    def _open(self) -> Iterator[tuple[int, int, Question]]:
        for number, question in enumerate(self._task):
            for sample in range(self.results.options.samples):
                if self.results.is_open(number, sample):
                    yield number, sample, question

    def evaluation(self) -> Evaluation:
        """Adds the results up."""
        return evaluation_of(self._task, self._name, self.results, self._failures)

    def write_report(self, evaluation: Evaluation) -> None:
        """Writes the report, if anything is kept. Raises EvaluationError if it cannot be written."""
        if self.report is None:
            return
        part = self.report.with_name(f".{self.report.name}.part")
        try:
            part.write_text(evaluation.markdown(), encoding="utf-8", errors="replace")
            os.replace(part, self.report)  # one that is there stays whole until then
        except OSError as error:
            with suppress(OSError):
                part.unlink()
            raise EvaluationError(
                f"{self.report} cannot be written ({error.strerror}): all answers are kept, so free some space, or "
                "whatever else is in the way, and give the same command again"
            ) from None

    def close(self) -> None:
        """Lets go of the files."""
        self.results.close()
        self._remove()

    def _remove(self) -> None:
        if self._folder is not None:
            self._folder.cleanup()


def places(output: str | Path) -> tuple[Path, Path]:
    """Where the results and the report are. Makes the folder. Raises EvaluationError if it cannot be made."""
    path = expanded(output)
    if path.suffix == ".jsonl":
        return path, path.with_suffix(".md")
    try:
        path.mkdir(exist_ok=True)
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise EvaluationError(
            f"{output} cannot be made ({reason}): give a folder, or a file that ends with .jsonl"
        ) from None
    return path / "results.jsonl", path / "report.md"
