"""Runs the dialogues of held_out.txt (or of another file) with nano and counts those it answers correctly.

Uses only the public API of mlx_oss. The dialogues were written separately from the phrasings that nano is trained on.
"""

from __future__ import annotations

import argparse
import ast
import json
import operator
import re
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

import mlx_oss
from mlx_oss import AnswerDelta, ChatSession, Event, SamplingOptions, ToolCall, ToolDescription
from mlx_oss.harmony import PYTHON

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


def run_tool(call: ToolCall, offered: dict[str, tuple[str, ToolDescription]], turn: int) -> tuple[str, tuple[str, ...]]:
    """The result of a call, and the texts that the answer must contain after it ("?" marks a bad call)."""
    if call.recipient == "python":
        return compute(call.arguments), ()
    if call.name not in offered:
        return "error: no such function", ("?",)
    kind, _ = offered[call.name]
    if kind == "calc":
        try:
            (expression,) = json.loads(call.arguments).values()
        except ValueError:
            return "error: bad arguments", ("?",)
        return json.dumps({"result": compute(str(expression))}), ()
    return RESULTS[kind][turn % len(RESULTS[kind])]


def converse(
    session: ChatSession, text: str, offered: dict[str, tuple[str, ToolDescription]], turn: int
) -> tuple[str, list[ToolCall], list[str]]:
    """Runs one turn with its tool loop, at most three generations.

    Returns:
        The answer, the calls, and the texts that the answer must contain because of the results of the calls.
    """
    answer, calls, required = "", [], []
    events: Iterable[Event] = session.send(text)
    for _ in range(3):
        called: list[ToolCall] = []
        for event in events:
            if isinstance(event, ToolCall):
                called.append(event)
            elif isinstance(event, AnswerDelta):
                answer += event.text
        if not called:
            break
        for call in called:
            result, texts = run_tool(call, offered, turn)
            session.add_tool_result(call, result)
            required += texts
        calls += called
        events = session.resume()
    return answer, calls, required


def satisfied(wanted: str, answer: str, calls: list[ToolCall], required: list[str]) -> bool:
    """True if the answer and the calls are as `wanted` says (notation: see the top of held_out.txt)."""
    for part in filter(None, map(str.strip, wanted.split(" & "))):
        if part.startswith("call"):
            expected = part.removeprefix("call").strip()
            if len(calls) != 1 or (expected and not _same_json(calls[0].arguments, expected)):
                return False
        elif part == "nocall":
            if calls:
                return False
        elif not any(choice.strip().lower() in answer.lower() for choice in part.split(" / ")):
            return False
    return all(text in answer for text in required) and (bool(calls) == ("call" in wanted.replace("nocall", "")))


def _same_json(text: str, expected: str) -> bool:
    try:
        return json.loads(text) == json.loads(expected)
    except ValueError:
        return False


def judge(session: ChatSession, case: Case) -> str | None:
    """Runs a dialogue; returns None if every turn is right, otherwise a description of the first wrong turn."""
    offered = functions(case.scene)
    for turn, (user, wanted) in enumerate(case.turns):
        answer, calls, required = converse(session, user, offered, turn)
        if wanted and not satisfied(wanted, answer, calls, required):
            called = [(call.recipient, call.arguments) for call in calls]
            return f"{user!r}: wanted {wanted!r}, got {answer!r} with calls {called}"
    return None


def open_session(
    model: mlx_oss.Transformer, tokenizer: mlx_oss.Tokenizer, case: Case, number: int, temperature: float
) -> ChatSession:
    """A session for dialogue `number` of the file. The number selects the effort and is the seed."""
    date = re.search(r"date=(\S+)", case.scene)
    return ChatSession(
        model,
        tokenizer,
        tools=[description for _, description in functions(case.scene).values()],
        system_tools=[PYTHON] if "python" in case.scene else (),
        reasoning_effort=("low", "medium", "high")[number % 3],
        options=SamplingOptions(temperature=temperature, seed=number),
        max_tokens=200,
        current_date=date[1] if date else DATE,
    )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", help="MLX folder (default: the bundled nano)")
    parser.add_argument(
        "--dialogues", type=Path, default=HELD_OUT, help="file of dialogues: held_out.txt (default) or fresh.txt"
    )
    parser.add_argument("--temperature", type=float, default=0.0, help="sampling temperature (default: 0, greedy)")
    parser.add_argument("--every", type=int, default=1, help="run only every n-th dialogue")
    parser.add_argument("--first", type=int, default=0, help="number of the first dialogue to run, counted from 0")
    arguments = parser.parse_args()
    model, tokenizer = mlx_oss.load(arguments.model)
    counts: dict[str, list[int]] = defaultdict(lambda: [0, 0])
    cases = list(enumerate(read_cases(arguments.dialogues.read_text(encoding="utf-8"))))
    for number, case in cases[arguments.first :: arguments.every]:
        wrong = judge(open_session(model, tokenizer, case, number, arguments.temperature), case)
        counts[case.intent][0] += wrong is None
        counts[case.intent][1] += 1
        if wrong:
            print(f"{case.intent}: {wrong}", flush=True)
    for intent, (right, all_) in counts.items():
        print(f"{intent:12} {right:3} of {all_}")
    right, all_ = (sum(column) for column in zip(*counts.values(), strict=True))
    print(f"all          {right:3} of {all_}: {right / all_:.1%}")


if __name__ == "__main__":
    main()
