"""Runs the dialogues of held_out.txt (or of another file) with nano and counts those it answers correctly.

They are questions for `mlx_oss.evals.evaluate`. Their notation is shorter than the lines that `mlx-oss eval` reads, and
the sums that nano sends to its tools are computed here. The dialogues were written separately from the phrasings that
nano is trained on.
"""

from __future__ import annotations

import argparse
import ast
import json
import operator
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import mlx_oss
from mlx_oss import SamplingOptions, ToolDescription
from mlx_oss.evals import Checks, EvalOptions, ExpectedCall, GivenTool, Question, QuestionTurn, evaluate
from mlx_oss.harmony import PYTHON
from mlx_oss.tools import Tool
from mlx_oss.tools.base import SystemTool

HELD_OUT = Path(__file__).with_name("held_out.txt")
DATE = "2026-11-23"
KINDS = {  # kind of function -> (description, JSON types of its arguments)
    "weather": ("Get the weather of a place.", ("string", "unit")),
    "calc": ("Evaluates an expression.", ("string",)),
    "time": ("Tells the local time of a city.", ("string",)),
    "msg": ("Sends a message to a person.", ("string", "string")),
    "timer": ("Sets a timer, in minutes.", ("integer",)),
}
UNIT = {"type": "string", "enum": ["celsius", "fahrenheit"]}
RESULTS = {  # kind -> (result, texts that the answer must then contain), in rotation over the turns of a dialogue
    "weather": [
        ('{"temperature": 17, "condition": "light rain"}', ("17", "light rain")),
        ("sunny, 24 degrees", ("24", "sunny")),
        ('{"condition": "cloudy", "temperature": -3, "unit": "celsius"}', ("-3", "cloudy")),
    ],
    "time": [('{"time": "14:35"}', ("14:35",)), ("08:07", ("08:07",))],
    "msg": [('{"status": "sent"}', ("sent",)), ("ok", ("sent",))],
    "timer": [('{"ok": true}', ("timer",)), ("done", ("timer",))],
}  # fmt: skip
SIGNS: dict[type, Callable[[float, float], float]] = {
    ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv,
}  # fmt: skip


@dataclass(frozen=True)
class Case:
    """A dialogue with its expected answers.

    Attributes:
        intent: What the dialogue tests. Results are counted by intent.
        scene: Tools and date, in the notation that is explained at the top of held_out.txt.
        turns: What the user says, and what the answer must contain ("" accepts any answer).
    """

    intent: str
    scene: str
    turns: tuple[tuple[str, str], ...]


def read_cases(text: str) -> list[Case]:
    """Parses a file of dialogues. Empty lines and lines that start with # are skipped."""
    cases = []
    for line in text.splitlines():
        if line.strip() and not line.startswith("#"):
            intent, scene, *turns = (part.strip() for part in line.split("|"))
            pairs = (turn.partition("->") for turn in turns)
            cases.append(Case(intent, scene, tuple((user.strip(), wanted.strip()) for user, _, wanted in pairs)))
    return cases


def functions(scene: str) -> dict[str, tuple[str, ToolDescription]]:
    """The functions that a scene offers: name -> (kind, description)."""
    offered = {}
    for kind, signature in re.findall(r"(\w+)\(([^)]*)\)", scene):
        name, *arguments = signature.split(",")
        text, types = KINDS[kind]
        properties = {
            key: UNIT if type_ == "unit" else {"type": type_} for key, type_ in zip(arguments, types, strict=False)
        }
        required = [key for key in arguments if properties[key] is not UNIT]
        schema = {"type": "object", "properties": properties, "required": required}
        offered[name] = kind, ToolDescription(name, text, schema)
    return offered


def compute(expression: str) -> str:
    """Evaluates a sum that the model wrote; returns its value, or an error text.

    Supports only numbers, + - * /, `round` and `print`.
    """

    def value(node: ast.AST) -> float:
        match node:
            case ast.Expression(body) | ast.Expr(body):
                return value(body)
            case ast.Constant(int() | float() as number):
                return number
            case ast.UnaryOp(ast.USub(), operand):
                return -value(operand)
            case ast.BinOp(left, sign, right) if type(sign) in SIGNS:
                return SIGNS[type(sign)](value(left), value(right))
            case ast.Call(ast.Name("print"), [inner]):
                return value(inner)
            case ast.Call(ast.Name("round"), [inner, ast.Constant(int() as digits)]):
                return round(value(inner), digits)
        raise ValueError("not a sum")

    try:
        return str(value(ast.parse(expression, mode="eval")))
    except (SyntaxError, ValueError, ZeroDivisionError) as error:
        return f"error: {error}"


class Sums(SystemTool):
    """Stands for the python tool: it computes sums."""

    namespace = PYTHON

    def call(self, function: str, text: str) -> str:
        return compute(text)


def calculator(description: ToolDescription) -> Tool:
    """A function that computes the sum in its only argument, whatever the model calls that."""

    def calculate(**arguments: object) -> dict[str, str]:
        (expression,) = arguments.values()
        return {"result": compute(str(expression))}

    return Tool(description, calculate, prepare=dict)


def question(case: Case, number: int) -> Question:
    """Dialogue `number` of the file. The number selects the effort and is the seed."""
    tools: list[Tool | SystemTool | GivenTool] = [Sums()] if "python" in case.scene else []
    kinds = []
    for kind, description in functions(case.scene).values():
        kinds.append((kind, description))
        results = [result for result, _ in RESULTS.get(kind, ())]
        tools.append(GivenTool(description, results) if results else calculator(description))
    date = re.search(r"date=(\S+)", case.scene)
    return Question(
        tuple(QuestionTurn(user, checks(wanted, kinds, turn)) for turn, (user, wanted) in enumerate(case.turns)),
        id=f"{number} {case.turns[0][0]}",
        kind=case.intent,
        tools=tools,
        reasoning_effort=("low", "medium", "high")[number % 3],
        current_date=date[1] if date else DATE,
        seed=number,
    )


def checks(wanted: str, kinds: list[tuple[str, ToolDescription]], turn: int) -> Checks:
    """How a turn is judged, in the notation that is explained at the top of held_out.txt."""
    contains: list[tuple[str, ...]] = []
    calls: list[ExpectedCall] = []
    for part in filter(None, map(str.strip, wanted.split(" & "))):
        if part.startswith("call"):
            expected = part.removeprefix("call").strip()
            calls.append(ExpectedCall(arguments=json.loads(expected) if expected else None))
        elif part != "nocall":
            contains.append(tuple(map(str.strip, part.split(" / "))))
    if calls and len(kinds) == 1 and kinds[0][0] in RESULTS:  # the answer must tell the result
        results = RESULTS[kinds[0][0]]
        contains += [(text,) for text in results[turn % len(results)][1]]
    return Checks(contains=contains, calls=calls) if wanted else Checks()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="MLX folder (default: the bundled nano)")
    parser.add_argument(
        "--dialogues", type=Path, default=HELD_OUT, help="file of dialogues: held_out.txt (default) or fresh.txt"
    )
    parser.add_argument("--temperature", type=float, default=0.0, help="sampling temperature (default: 0, greedy)")
    parser.add_argument("--every", type=int, default=1, help="run only every n-th dialogue")
    parser.add_argument("--first", type=int, default=0, help="number of the first dialogue to run, counted from 0")
    parser.add_argument("--output", type=Path, help="folder for the results, which are continued if they are there")
    arguments = parser.parse_args()
    model, tokenizer = mlx_oss.load(arguments.model)
    cases = list(enumerate(read_cases(arguments.dialogues.read_text(encoding="utf-8"))))
    options = EvalOptions(sampling=SamplingOptions(temperature=arguments.temperature), max_tokens=200, max_rounds=2)
    questions = [question(case, number) for number, case in cases[arguments.first :: arguments.every]]
    found = evaluate(
        questions, model, tokenizer, options=options, output=arguments.output, name=arguments.model or "nano"
    )
    print(found.markdown())


if __name__ == "__main__":
    main()
