"""A model with tools: a function of the program's own, and Python in a sandbox.

    python examples/tools.py [FOLDER] [QUESTION ...]

FOLDER is a model. Without it nano answers, which can use a weather function and Python.
"""

import sys
from pathlib import Path
from typing import Literal

import mlx_oss
from mlx_oss.tools import PythonTool

QUESTIONS = ("What is the weather in Lisbon?", "What is 37 * 48?")


def get_weather(location: str, unit: Literal["celsius", "fahrenheit"] = "celsius") -> dict:
    """Gets the current weather of a place.

    Args:
        location: the name of a city
        unit: of the temperature
    """
    return {
        "temperature": 18 if unit == "celsius" else 64,
        "unit": unit,
        "condition": "sunny",
    }  # made up: a real app would call a service


def agree(call: mlx_oss.ToolCall) -> bool | str:
    """Called before each tool call. True runs it; False, or a text with the reason, refuses it."""
    print(f"[{call.name} {call.arguments}]", file=sys.stderr)
    return True


def main() -> None:
    arguments = sys.argv[1:]
    folder = arguments.pop(0) if arguments and Path(arguments[0]).is_dir() else None
    try:
        model, tokenizer = mlx_oss.load(folder)
    except mlx_oss.MlxOssError as error:
        sys.exit(f"error: {error}")
    try:
        tools = [get_weather, PythonTool()]
    except mlx_oss.MlxOssError as error:  # this machine has no sandbox
        print(error, file=sys.stderr)
        tools = [get_weather]
    options = mlx_oss.SamplingOptions(temperature=0) if folder is None else None
    session = mlx_oss.ChatSession(model, tokenizer, tools=tools, confirm=agree, options=options)
    for question in arguments or QUESTIONS:
        print(f"> {question}")
        for event in session.send(question):
            match event:
                case mlx_oss.ToolResult(name, _, error) if error:
                    print(f"[{name} failed: {error}]", file=sys.stderr)
                case mlx_oss.ToolResult(name, text):
                    print(f"[{name} gave {text}]", file=sys.stderr)
                case mlx_oss.AnswerDelta(text):
                    print(text, end="", flush=True)
        print()


if __name__ == "__main__":
    main()
