"""A chat in the terminal, with two functions the model can call.

    python examples/chat.py [--model FOLDER] [--reasoning low|medium|high]

Try "What is the weather in Lisbon?" or "What is 37 * 48?".
"""

import argparse
import ast
import operator
import sys

import mlx_oss

OPERATORS = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul, ast.Div: operator.truediv}


def calculator(expression: str) -> str:
    """Evaluates an arithmetic expression."""

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


def get_weather(location: str) -> dict:
    """Gets the current weather of a place."""
    return {"location": location, "temperature": 18, "condition": "sunny"}  # made up: a real app would call a service


def show(events) -> None:
    """Prints the events of a turn as they come: the answer to stdout, everything else to stderr."""
    for event in events:
        match event:
            case mlx_oss.AnswerDelta(text):
                print(text, end="", flush=True)
            case mlx_oss.ReasoningDelta(text) | mlx_oss.PreambleDelta(text):
                print(text, end="", flush=True, file=sys.stderr)
            case mlx_oss.ToolCall():
                print(f"[{event.name} {event.arguments}]", file=sys.stderr)
            case mlx_oss.Finished(_, usage):
                print(f"\n[{usage.generated_tokens} tokens, {usage.tokens_per_second:.0f} a second]", file=sys.stderr)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--model", help="name or folder of a model; default: nano, the bundled demonstration model")
    parser.add_argument("--reasoning", choices=("low", "medium", "high"), default="medium")
    parser.add_argument("--temperature", type=float, default=1.0)
    args = parser.parse_args()
    try:
        model, tokenizer = mlx_oss.load(args.model)
        options = mlx_oss.SamplingOptions(temperature=args.temperature)
    except mlx_oss.MlxOssError as error:
        sys.exit(f"error: {error}")
    session = mlx_oss.ChatSession(
        model,
        tokenizer,
        tools=[calculator, get_weather],
        reasoning_effort=args.reasoning,
        options=options,
        max_tokens=2000,
    )
    while True:
        try:
            if question := input("> ").strip():
                show(session.send(question))
        except mlx_oss.MlxOssError as error:
            print(f"error: {error}", file=sys.stderr)
        except (EOFError, KeyboardInterrupt):
            break


if __name__ == "__main__":
    main()
