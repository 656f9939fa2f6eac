"""Questions of an evaluation, and how they stand in a file: one in each line, as JSON.

    {"prompt": "What is 6 * 7?", "number": 42}
    {"id": "paris", "kind": "facts", "prompt": "The capital of France?", "contains": "Paris", "system": "Be brief."}
    {"messages": [{"role": "user", "content": "Hello"}], "regex": ["(?i)hello", "(?i)hi"]}
    {"turns": [{"prompt": "I am Ann."}, {"prompt": "Who am I?", "contains": "Ann"}]}
    {"prompt": "Weather in Oslo?", "tools": [{"name": "weather", "parameters": {...}, "results": ["4 degrees"]}],
     "calls": [{"name": "weather", "arguments": {"city": "Oslo"}}], "contains": "4"}

Knows nothing of how they are asked.
"""

from __future__ import annotations

import datetime
import hashlib
import math
from array import array
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from mlx_oss.arguments import did_you_mean
from mlx_oss.chat.history import EFFORTS, Effort, preamble
from mlx_oss.chat.message_reader import from_items
from mlx_oss.errors import EvaluationError, HarmonyError, OptionError, quoted
from mlx_oss.evals.checks import LONGEST_TIME, Checks, ExpectedCall
from mlx_oss.harmony import Message, ToolDescription, render_conversation, render_message
from mlx_oss.harmony.schemas import with_simplified_schemas
from mlx_oss.json_lines import decoded, read_lines
from mlx_oss.tools.toolset import AnyTool, Toolset

PYTHON = "python"  # in `tools`: the sandbox
MOST_QUESTIONS = 1_000_000  # what is known of each is kept in memory
_LONGEST_NAME = 200  # characters of an id or a kind


@dataclass(frozen=True)
class GivenTool:
    """A function that the model may call, whose results are given. It is not run.

    Attributes:
        description: What the model is told of it.
        results: What each of its calls returns: in the first turn the first of them, and so on, then from the
            beginning. Without any, a call ends the turn.
    """

    description: ToolDescription
    results: Sequence[str] = ()


@dataclass(frozen=True)
class QuestionTurn:
    """A message of the user, and how the answer is judged.

    Attributes:
        prompt: The message. None: the messages before it end with what is to be answered.
        checks: How the answer is judged. The turns after a wrong answer are not asked.
    """

    prompt: str | None
    checks: Checks = field(default_factory=Checks)


@dataclass(frozen=True)
class Question:
    """A question, or a conversation of several.

    Attributes:
        turns: What is asked, one after the other.
        id: Its name. Seeds are made from it.
        kind: What it is about; results are counted by kind.
        messages: What was said before.
        instructions: Instructions for the model, in the place of those of the evaluation.
        tools: What the model may call: tools of a session, those with given results, and "python" for a sandbox of its
            own.
        reasoning_effort: In the place of that of the evaluation.
        current_date: In the place of that of the evaluation.
        seed: In the place of one that is made from the id; sample k of the question gets `seed + k`.
    """

    turns: Sequence[QuestionTurn]
    id: str = ""
    kind: str = ""
    messages: Sequence[Message] = ()
    instructions: str = ""
    tools: Sequence[AnyTool | GivenTool | str] = ()
    reasoning_effort: Effort | None = None
    current_date: str | None = None
    seed: int | None = None

    @property
    def runs_code(self) -> bool:
        """Whether a sandbox is needed for it."""
        return PYTHON in self.tools or any(turn.checks.python is not None for turn in self.turns)


class Task:
    """Questions that can be read as often as they are needed.

    Args:
        questions: Questions, objects as in the lines of a file, or the path of a file.

    Attributes:
        name: What it is called in a report.
        count: How many questions there are.
        kinds: The kinds of questions, in the order in which they come.
        kind_of: For each question the place of its kind.
        digest: Identifies what is asked.
        runs_code: Whether a sandbox is needed.

    Raises:
        EvaluationError: If the file cannot be read, a question is not as it should be, or there are none.
    """

    def __init__(self, questions: str | Path | Iterable[Question | Mapping[str, Any]]) -> None:
        self._source = questions if isinstance(questions, str | Path) else list(questions)
        self.name = Path(self._source).name if isinstance(self._source, str | Path) else "questions"
        self._told = str(self._source) if isinstance(self._source, str | Path) else "the list of questions"
        self.count, self.runs_code = 0, False
        self.kinds: list[str] = []
        self.kind_of = array("I")
        self._identities = array("Q")
        places: dict[str, int] = {}
        digest = hashlib.sha256()
        for question in self._read():
            self.count += 1
            self.runs_code |= question.runs_code
            if question.kind not in places:
                places[question.kind] = len(places)
                self.kinds.append(question.kind)
            self.kind_of.append(places[question.kind])
            identity = _identity(question)
            self._identities.append(int.from_bytes(identity[:8], "big"))
            digest.update(identity)
        self.digest = digest.hexdigest()
        if not self.count:
            raise EvaluationError(f"{self.name} has no questions: give a file with a question in each line")

    def __iter__(self) -> Iterator[Question]:
        """Yields the questions. Raises EvaluationError if the file was changed."""
        count = 0
        for count, question in enumerate(self._read(), 1):
            if count > self.count or int.from_bytes(_identity(question)[:8], "big") != self._identities[count - 1]:
                count = -1
                break
            yield question
        if count != self.count:
            raise EvaluationError(f"{self._told} was changed while it was read: give the same command again")

    def _read(self) -> Iterator[Question]:
        lines: dict[str, int] = {}
        for number, question, where in self._numbered():
            if question.id in lines:
                raise EvaluationError(
                    f"{where} has the id {quoted(question.id)} of number {lines[question.id]}: give each question one "
                    "of its own, or none"
                )
            lines[question.id] = number
            if len(lines) > MOST_QUESTIONS:
                raise EvaluationError(f"{self.name} has more than {MOST_QUESTIONS:,} questions: split it")
            yield question

    def _numbered(self) -> Iterator[tuple[int, Question, str]]:
        if isinstance(self._source, str | Path):
            path = self._source
            for number, line in read_lines(path, EvaluationError, "give a file with a question in each line"):
                where = f"{path}, line {number}"
                yield number, _question(decoded(line, where, EvaluationError), where, str(number)), where
            return
        for number, each in enumerate(self._source, 1):
            where = f"question {number}"
            if not isinstance(each, Question):
                each = _question(each, where, str(number))
            elif not each.id:
                each = Question(**{**each.__dict__, "id": str(number)})
            yield number, each, where


def _identity(question: Question) -> bytes:
    """Identifies what is asked. Of tools that are functions of the program, only the names."""
    told = [
        (tool.description, tuple(tool.results)) if isinstance(tool, GivenTool) else getattr(tool, "name", str(tool))
        for tool in question.tools
    ]
    others = {name: value for name, value in question.__dict__.items() if name != "tools"}
    return hashlib.sha256(f"{others!r} {told!r}".encode(errors="replace")).digest()


_CHECKS = ("answer", "number", "tolerance", "regex", "contains", "schema", "python", "seconds", "calls")
_QUESTION = ("id", "kind", "prompt", "messages", "turns", "system", "tools", "reasoning", "date", "seed", "metadata")
_TOOL = ("name", "description", "parameters", "results")
_JUDGES = tuple(key for key in _CHECKS if key not in ("tolerance", "seconds"))


def _question(fields: Any, where: str, number: str) -> Question:
    """A question from JSON. Raises EvaluationError for what it should not be; the message begins with `where`."""
    try:
        return _read_question(_Fields(fields, where, (*_QUESTION, *_CHECKS)), number)
    except (EvaluationError, HarmonyError, OptionError) as error:
        text = str(error)
        raise EvaluationError(text if text.startswith(where) else f"{where}: {text}") from None


class _Fields:
    """An object of JSON, and where it is."""

    def __init__(self, fields: Any, where: str, known: Sequence[str]) -> None:
        if not isinstance(fields, Mapping):
            raise EvaluationError(
                f'{where} is {quoted(fields)}: give an object, such as {{"prompt": "6 * 7?", "number": 42}}'
            )
        self.fields, self.where = fields, where
        for key in fields:
            if key not in known:
                guess = did_you_mean(key, known) or f"the keys are {', '.join(known)}"
                raise EvaluationError(f"{where} has the key {quoted(key)}, which means nothing here: {guess}")

    def wrong(self, key: str, expected: str) -> EvaluationError:
        return EvaluationError(f"{self.where}: {key} is {quoted(self.fields.get(key))}, expected {expected}")

    def text(self, key: str, default: str = "", longest: int | None = None) -> str:
        value = self.fields.get(key, default)
        if not isinstance(value, str) or (longest is not None and len(value) > longest):
            raise self.wrong(key, "a text" if longest is None else f"a text of at most {longest} characters")
        return value

    def several(self, key: str, kinds: type | tuple[type, ...], expected: str) -> list[Any]:
        """One value, or a list of them."""
        if key not in self.fields:
            return []
        value = self.fields[key]
        values = value if isinstance(value, list) else [value]
        if not values or not all(isinstance(each, kinds) and not isinstance(each, bool) for each in values):
            raise self.wrong(key, f"{expected}, or a list of them")
        return values

    def number(self, key: str, default: float, least: float, most: float) -> float:
        value = self.fields.get(key, default)
        if isinstance(value, bool) or not isinstance(value, int | float) or not least <= value <= most:
            raise self.wrong(key, f"a number from {least:g} to {most:g}")
        return value

    def each(self, key: str, known: Sequence[str], *, texts: bool = False) -> list[Any]:
        """The objects of a list; with `texts`, texts may stand among them."""
        values = self.fields.get(key, [])
        if not isinstance(values, list):
            raise self.wrong(key, "a list")
        return [
            value if texts and isinstance(value, str) else _Fields(value, f"{self.where}: {key}[{number}]", known)
            for number, value in enumerate(values)
        ]


def _read_question(fields: _Fields, number: str) -> Question:
    given = fields.fields
    instructions, messages = from_items(given.get("messages", []))
    system = fields.text("system")
    if system and instructions:
        raise EvaluationError(f"{fields.where} has instructions twice, in system and in messages: leave out one")
    for message in messages:
        render_message(message)
    turns = _turns(fields, messages)
    if not any(turn.checks.judges for turn in turns):
        raise EvaluationError(
            f"{fields.where} has nothing to judge the answer by: give one of {', '.join(_JUDGES[:-1])} or {_JUDGES[-1]}"
        )
    effort, date, seed = given.get("reasoning"), given.get("date"), given.get("seed")
    if effort is not None and effort not in EFFORTS:
        raise fields.wrong("reasoning", f"one of {', '.join(EFFORTS)}")
    if date is not None:
        try:
            datetime.date.fromisoformat(date)
        except (TypeError, ValueError):
            raise fields.wrong("date", "a date such as 2026-11-30") from None
    if seed is not None and (type(seed) is not int or not 0 <= seed < 2**64):
        raise fields.wrong("seed", "a whole number from 0 to 2^64 - 1")
    tools = tuple(map(_tool, fields.each("tools", _TOOL, texts=True)))
    if tools:  # whatever cannot be told to the model is found here
        described = Toolset([tool.description for tool in tools if isinstance(tool, GivenTool)]).functions
        render_conversation(map(with_simplified_schemas, preamble("", "low", described, (), None)))
    return Question(
        turns,
        fields.text("id", longest=_LONGEST_NAME) or number,
        fields.text("kind", longest=_LONGEST_NAME),
        tuple(messages),
        system or instructions,
        tools,
        effort,
        date,
        seed,
    )


def _turns(fields: _Fields, messages: Sequence[Message]) -> tuple[QuestionTurn, ...]:
    given = fields.fields
    if "turns" in given:
        if outside := [key for key in ("prompt", *_CHECKS) if key in given]:
            raise EvaluationError(f"{fields.where} has turns and {outside[0]}: put {outside[0]} into a turn")
        turns = fields.each("turns", ("prompt", *_CHECKS))
        if not turns:
            raise fields.wrong("turns", 'a list of objects such as {"prompt": "Hello", "contains": "Hi"}')
        return tuple(QuestionTurn(_prompt(turn), _checks(turn)) for turn in turns)
    if "prompt" in given:
        return (QuestionTurn(_prompt(fields), _checks(fields)),)
    if not messages:
        raise EvaluationError(f"{fields.where} asks nothing: give prompt, messages or turns")
    if messages[-1].role not in ("user", "tool"):
        raise EvaluationError(f"{fields.where}: messages end with an answer: end them with the user, or give a prompt")
    return (QuestionTurn(None, _checks(fields)),)


def _prompt(fields: _Fields) -> str:
    prompt = fields.text("prompt")
    if not prompt:
        raise fields.wrong("prompt", "a text")
    return prompt


def _checks(fields: _Fields) -> Checks:
    given = fields.fields
    schema, python = given.get("schema"), given.get("python")
    if schema is not None and not isinstance(schema, Mapping):
        raise fields.wrong("schema", "a JSON schema, as an object")
    if python is not None and not (isinstance(python, str) and python.strip()):
        raise fields.wrong("python", "Python code, as a text")
    for key, other in (("tolerance", "number"), ("seconds", "python")):
        if key in given and other not in given:
            raise EvaluationError(f"{fields.where} has {key} without {other}: give {other}, or leave it out")
    contains = fields.several("contains", (str, list), "a text")
    choices = [each if isinstance(each, list) else [each] for each in contains]
    if not all(each and all(isinstance(text, str) and text for text in each) for each in choices):
        raise fields.wrong("contains", "a text, or a list of texts, or of lists of texts of which one will do")
    number = fields.several("number", (int, float), "a number")
    if any(isinstance(each, float) and not math.isfinite(each) for each in number):
        raise fields.wrong("number", "finite numbers, as JSON has them")
    try:
        return Checks(
            answer=tuple(fields.several("answer", str, "a text")),
            number=tuple(number),
            tolerance=fields.number("tolerance", 0, 0, 1e300),
            regex=tuple(fields.several("regex", str, "a regular expression")),
            contains=tuple(each if isinstance(each, str) else tuple(each) for each in contains),
            schema=schema,
            python=python,
            seconds=fields.number("seconds", 10.0, 0.1, LONGEST_TIME),
            calls=None if "calls" not in given else tuple(map(_call, fields.each("calls", ("name", "arguments")))),
        )
    except EvaluationError as error:
        raise EvaluationError(f"{fields.where}: {error}" if fields.where not in str(error) else str(error)) from None


def _call(fields: _Fields) -> ExpectedCall:
    name, arguments = fields.text("name"), fields.fields.get("arguments")
    if arguments is not None and not isinstance(arguments, Mapping):
        raise fields.wrong("arguments", "an object")
    return ExpectedCall(name or None, arguments)


def _tool(fields: _Fields | str) -> GivenTool | str:
    if isinstance(fields, str):
        if fields != PYTHON:
            raise EvaluationError(f'tools has {quoted(fields)}: give "python", or an object that describes a function')
        return fields
    parameters = fields.fields.get("parameters")
    if parameters is not None and not isinstance(parameters, Mapping):
        raise fields.wrong("parameters", "a JSON schema, as an object")
    if not fields.text("name"):
        raise fields.wrong("name", "the name of a function")
    description = ToolDescription(fields.text("name"), fields.text("description"), parameters)
    return GivenTool(description, tuple(fields.several("results", str, "a text")))
