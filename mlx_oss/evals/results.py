"""The file of an evaluation's results: a line for each answer, added as soon as it is judged.

The first line says what was asked of which model, and how. So an evaluation that was ended, or killed, goes on where it
stopped, and is refused if anything is different. Knows nothing of how questions are asked and what a report looks like.
"""

from __future__ import annotations

import datetime
import json
from collections.abc import Iterator, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from mlx_oss import json_text
from mlx_oss.errors import EvaluationError, quoted
from mlx_oss.evals.attempts import Attempt, EvalOptions
from mlx_oss.evals.questions import Task
from mlx_oss.json_lines import GrowingFile, read_lines
from mlx_oss.version import __version__

MOST_ATTEMPTS = 20_000_000  # a byte is kept for each
_LONGEST = 64 << 20  # bytes of a line: all that a model can say in many turns
_FORM = 1
_BEGINNINGS = (b'{"mlx_oss_eval": ', b'{"number": ')
_OPEN, _WRONG, _RIGHT = 0, 1, 2
_REMEDY = "give it as it was, or another place with --output"


class Results:
    """The results so far, in a file that is continued if it is there. Only one process can have it open.

    Args:
        path: The file.
        task: What is asked.
        model: Name of the model.
        options: How it is asked.

    Attributes:
        options: As given, with the date on which the evaluation began.
        done: How many answers are in the file.
        context: Tokens that a conversation may have. None: that is not known before the model is loaded.

    Raises:
        EvaluationError: If the file cannot be written, has other things in it, belongs to another evaluation, or is
            used by another process.
    """

    def __init__(self, path: str | Path, task: Task, model: str, options: EvalOptions) -> None:
        self._path, self._task, self._model, self.options = path, task, model, options
        if task.count * options.samples > MOST_ATTEMPTS:
            raise EvaluationError(
                f"{task.name} has {task.count:,} questions, with {options.samples} samples more than "
                f"{MOST_ATTEMPTS:,} answers: split it into several files"
            )
        self._states = bytearray(task.count * options.samples)
        self.done = 0
        self.context: int | None = None
        self._fingerprint: str | None = None
        self._file = GrowingFile(path, EvaluationError)
        try:
            for number, line in self._file.lines(*_BEGINNINGS, longest=_LONGEST):
                fields = self._fields(line, number)
                if self._fingerprint is None:
                    self._take_head(fields)
                else:
                    self._take(fields, number)
        except BaseException:
            self.close()
            raise

    def _fields(self, line: bytes, number: int) -> Mapping[str, Any]:
        try:
            fields = json_text.loads(line.decode())
            if isinstance(fields, dict) and ("number" if number > 1 else "mlx_oss_eval") in fields:
                return fields
        except (ValueError, RecursionError):
            pass
        raise EvaluationError(f"{self._path}, line {number} is no result of an evaluation: give another file")

    def _head(self) -> dict[str, Any]:
        """What has to be the same for the evaluation to be the same one."""
        options = asdict(replace(self.options, current_date=None))
        sampling = {name: value for name, value in options.pop("sampling").items() if "logprobs" not in name}
        return {
            "task": self._task.digest,
            "model": self._model,
            **{name: value for name, value in options.items() if name != "current_date"},
            **sampling,
            "seed": self.options.sampling.seed or 0,
        }

    def _take_head(self, found: Mapping[str, Any]) -> None:
        if found.get("mlx_oss_eval") != _FORM or not isinstance(found.get("options"), dict):
            raise EvaluationError(f"{self._path} was written by another version of mlx-oss: give another file")
        head = json.loads(json.dumps(self._head(), default=str))
        for name, value in head.items():
            before = found["options"].get(name)
            if before == value:
                continue
            if name == "task":
                raise EvaluationError(
                    f"{self._path} has answers to other questions than {self._task.name} has now: {_REMEDY}"
                )
            raise EvaluationError(
                f"{self._path} was begun with {name} {quoted(before)}, not {quoted(value)}: {_REMEDY}"
            )
        date, asked = found.get("date"), self.options.current_date
        if asked is not None and asked != date:
            raise EvaluationError(
                f"{self._path} was begun with the date {quoted(date)}, not {quoted(asked)}: {_REMEDY}"
            )
        context, fingerprint = found.get("context"), found.get("fingerprint")
        if type(context) is not int or not isinstance(fingerprint, str) or not isinstance(date, str):
            raise EvaluationError(f"{self._path}, line 1 is no result of an evaluation: give another file")
        self.options = replace(self.options, current_date=date)
        self.context, self._fingerprint = context, fingerprint

    def _take(self, fields: Mapping[str, Any], number: int) -> None:
        try:
            place, right = self._place(fields["number"] - 1, fields["sample"]), fields["right"]
            if not _is_result(fields) or self._states[place] != _OPEN:
                raise LookupError
        except (LookupError, TypeError):
            raise EvaluationError(
                f"{self._path}, line {number} is no result of this evaluation, or a second one: take it out"
            ) from None
        self._states[place] = _RIGHT if right else _WRONG
        self.done += 1

    def _place(self, number: int, sample: int) -> int:
        if not (0 <= number < self._task.count and 0 <= sample < self.options.samples):
            raise LookupError
        return number * self.options.samples + sample

    @property
    def total(self) -> int:
        """How many answers there will be."""
        return len(self._states)

    def begin(self, fingerprint: str, context: int) -> None:
        """Says which model answers from now on; before the first `write`.

        Args:
            fingerprint: Identifies what it computes.
            context: Tokens that a conversation can have with it.

        Raises:
            EvaluationError: If another one has answered before, or longer conversations were possible.
        """
        if self._fingerprint is None:
            date = self.options.current_date or datetime.date.today().isoformat()
            self.options, self.context = replace(self.options, current_date=date), context
            self._file.write(
                {
                    "mlx_oss_eval": _FORM,
                    "version": __version__,
                    "questions": self._task.count,
                    "date": date,
                    "context": context,
                    "fingerprint": fingerprint,
                    "options": json.loads(json.dumps(self._head(), default=str)),
                }
            )
            self._fingerprint = fingerprint
        elif self._fingerprint != fingerprint:
            raise EvaluationError(
                f"{self._path} was begun with a model that computes something else, although it is called "
                f"{self._model} too: give that one, or another place with --output"
            )
        elif self.context is not None and context < self.context:
            raise EvaluationError(
                f"{self._path} was begun with a context of {self.context:,} tokens, and here {context:,} fit: give "
                f"--context {self.context} and more --memory, or another place with --output"
            )

    def is_open(self, number: int, sample: int) -> bool:
        """Whether there is no result yet.

        Args:
            number: The place of the question, from 0 on.
            sample: The number of the attempt, from 0 on.
        """
        return self._states[self._place(number, sample)] == _OPEN

    def right(self, number: int) -> int:
        """How many answers to a question are right so far.

        Args:
            number: The place of the question, from 0 on.
        """
        samples = self.options.samples
        return self._states.count(_RIGHT, number * samples, (number + 1) * samples)

    def write(self, attempt: Attempt) -> None:
        """Adds a result; it is in the file when this returns. Raises EvaluationError if it cannot be written."""
        turns = [
            {
                "answer": reply.text,
                **({"preamble": reply.preamble} if reply.preamble else {}),
                "reasoning": reply.reasoning,
                **(
                    {"calls": [{"name": call.name, "arguments": call.arguments} for call in reply.tool_calls]}
                    if reply.tool_calls
                    else {}
                ),
                "finish_reason": reply.finish_reason,
            }
            for reply in attempt.replies
        ]
        usage = attempt.usage
        self._file.write(
            {
                "number": attempt.number + 1,
                "sample": attempt.sample,
                "id": attempt.question.id,
                "kind": attempt.question.kind,
                "right": not attempt.problem,
                "problem": attempt.problem,
                "turns": turns,
                "prompt_tokens": usage.prompt_tokens,
                "generated_tokens": usage.generated_tokens,
                "seconds": round(attempt.seconds, 3),
            }
        )
        self._states[self._place(attempt.number, attempt.sample)] = _WRONG if attempt.problem else _RIGHT
        self.done += 1

    def each(self) -> Iterator[Mapping[str, Any]]:
        """Reads the results from the file, in the order in which they were written."""
        for number, line in read_lines(self._path, EvaluationError, "do not change it meanwhile", _LONGEST):
            if number > 1:
                yield self._fields(line, number)

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()


def _is_result(fields: Mapping[str, Any]) -> bool:
    """Whether there is what a report needs."""
    turns = fields.get("turns")
    return (
        type(fields.get("right")) is bool
        and all(type(fields.get(name)) is int for name in ("prompt_tokens", "generated_tokens"))
        and isinstance(fields.get("seconds"), int | float)
        and all(isinstance(fields.get(name), str) for name in ("id", "problem"))
        and isinstance(turns, list)
        and all(isinstance(turn, Mapping) and isinstance(turn.get("answer"), str) for turn in turns)
    )
