"""An engine whose answer depends on the question alone, in whatever order the questions come."""

from __future__ import annotations

import threading
from collections.abc import Callable, Mapping

from mlx_oss import Request, ScriptedEngine, Stream, load_tokenizer

Answers = Mapping[str, str] | Callable[[Request, str], str | Exception]


class Answering(ScriptedEngine):
    """Answers each question with its text in a mapping, or with what a function makes of the request and the question.

    The question is the last message of the prompt. Without answers, it is repeated.
    """

    def __init__(self, answers: Answers | None = None, *, at_once: int = 4, context: int = 131_072) -> None:
        super().__init__(context=context)
        self.at_once = at_once
        self._told, self._submitting = answers, threading.Lock()

    def submit(self, request: Request) -> Stream:
        question = load_tokenizer().decode(list(request.prompt)).split("<|message|>")[-1].split("<|end|>")[0]
        answer: str | Exception = question
        if self._told is not None:
            answer = self._told(request, question) if callable(self._told) else self._told[question]
        with self._submitting:
            self._answers.clear()  # of a request that was refused
            self.says(answer)
            return super().submit(request)
