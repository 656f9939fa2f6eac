"""Fixtures for the tests of evaluations: files of questions, and runs on scripted answers."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from mlx_oss import load_tokenizer
from mlx_oss.evals import EvalOptions, Evaluation, evaluate
from tests.evals.answering import Answering


@pytest.fixture
def task(tmp_path) -> Callable[..., Path]:
    """task(question, ...): a file with these questions, as dictionaries or as lines."""

    def write(*questions: Any, name: str = "task.jsonl") -> Path:
        path = tmp_path / name
        lines = [each if isinstance(each, str) else json.dumps(each) for each in questions]
        path.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8", errors="surrogatepass")
        return path

    return write


@pytest.fixture
def asked() -> Callable[..., Evaluation]:
    """asked(questions, answers, **options): what comes of it if the model answers each question so."""

    def ask(questions: Any, answers: Any = None, output: Path | None = None, **options: Any) -> Evaluation:
        return evaluate(
            questions,
            Answering(answers),
            load_tokenizer(),
            options=EvalOptions(**options),
            output=output,
            name="nobody",
        )

    return ask
