"""A chat in the terminal, with two functions the model can call.

    python examples/chat.py [--model FOLDER] [--reasoning low|medium|high]

Try "What is the weather in Lisbon?" or "What is 37 * 48?".
"""

import argparse
import ast
import json
import operator
import sys

import mlx_oss

OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def calculate(expression: str) -> str:
    """The value of an expression of numbers and + - * /."""

    def value(node: ast.expr) -> float:
        match node:
            case ast.Constant(value=int() | float() as number):
                return number
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                return -value(operand)
            case ast.BinOp(left, operation, right) if type(operation) in OPERATORS:
                return OPERATORS[type(operation)](value(left), value(right))
        raise ValueError("only numbers and + - * / are understood")

    return str(value(ast.parse(expression, mode="eval").body))


def weather(location: str) -> str:
    """Made up: a real app would ask a service here."""
    return json.dumps({"location": location, "temperature": 18, "condition": "sunny"})


def schema(argument: str) -> dict:
    return {"type": "object", "properties": {argument: {"type": "string"}}, "required": [argument]}


HANDLERS = {"calculator": calculate, "get_weather": weather}
TOOLS = (
    mlx_oss.ToolDescription("calculator", "Evaluates an arithmetic expression.", schema("expression")),
    mlx_oss.ToolDescription("get_weather", "Gets the current weather of a place.", schema("location")),
)


def run(call: mlx_oss.ToolCall) -> str:
    """The result of a tool call; what goes wrong is told to the model."""
    try:
        return HANDLERS[call.name](**json.loads(call.arguments))
    except (KeyError, TypeError, ValueError, ArithmeticError, SyntaxError) as error:
        return json.dumps({"error": str(error)})


def show(events) -> list[mlx_oss.ToolCall]:
    """Prints a turn as it comes: the answer to stdout, the rest to stderr. Returns the calls that wait for results."""
    calls = []
    for event in events:
        match event:
            case mlx_oss.AnswerDelta(text):
                print(text, end="", flush=True)
            case mlx_oss.ReasoningDelta(text) | mlx_oss.PreambleDelta(text):
                print(text, end="", flush=True, file=sys.stderr)
            case mlx_oss.ToolCall():
                calls.append(event)
                print(f"[{event.name} {event.arguments}]", file=sys.stderr)
            case mlx_oss.Finished(_, usage):
                print(f"\n[{usage.generated_tokens} tokens, {usage.tokens_per_second:.0f} a second]", file=sys.stderr)
    return calls


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="folder of a converted model; default: nano, the bundled demonstration model")
    parser.add_argument("--reasoning", choices=("low", "medium", "high"), default="medium")
    parser.add_argument("--temperature", type=float, default=1.0)
    args = parser.parse_args()
    model, tokenizer = mlx_oss.load(args.model)
    options = mlx_oss.SamplingOptions(temperature=args.temperature)
    session = mlx_oss.ChatSession(
        model, tokenizer, tools=TOOLS, reasoning_effort=args.reasoning, options=options, max_tokens=2000
    )
    while True:
        try:
            question = input("> ")
        except (EOFError, KeyboardInterrupt):
            break
        if not question.strip():
            continue
        calls = show(session.send(question))
        while calls:
            for call in calls:
                session.add_tool_result(call, run(call))
            calls = show(session.resume())


if __name__ == "__main__":
    main()
