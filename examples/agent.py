"""An agent with six tools that keeps a to-do list in a folder; it asks before it deletes anything.

    python examples/agent.py FOLDER "What do I have to do today?" [MODEL]

nano can call tools like these, but only gpt-oss knows when to.
"""

import datetime
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlx_oss
from mlx_oss.tools import tool_from


def tools_for(folder: Path) -> list[Callable[..., Any] | mlx_oss.tools.Tool]:
    """Six tools that work in one folder."""

    def place(name: str) -> Path:
        if not name.replace("-", "").isalnum():
            raise ValueError("a name has letters, digits and dashes only")
        return folder / f"{name}.txt"

    def list_tasks() -> list[str]:
        """Lists the names of all tasks."""
        return sorted(path.stem for path in folder.glob("*.txt"))

    def read_task(name: str) -> str:
        """Reads a task."""
        return place(name).read_text(encoding="utf-8")

    def write_task(name: str, text: str) -> str:
        """Writes a task, or replaces it."""
        place(name).write_text(text, encoding="utf-8")
        return "written"

    def delete_task(name: str) -> str:
        """Deletes a task that is done."""
        place(name).unlink()
        return "deleted"

    def find_tasks(word: str) -> list[str]:
        """Lists the names of the tasks that contain a word."""
        return [name for name in list_tasks() if word.lower() in read_task(name).lower()]

    def today() -> datetime.date:
        """Tells the date."""
        return datetime.date.today()

    return [list_tasks, read_task, write_task, delete_task, tool_from(find_tasks, timeout=5), today]


def confirm(call: mlx_oss.ToolCall) -> bool | str:
    return call.name != "delete_task" or input(f"Run {call.name} {call.arguments}? [y/n] ") == "y" or "keep it"


def run(session: mlx_oss.ChatSession, question: str) -> None:
    for event in session.send(question):
        match event:
            case mlx_oss.AnswerDelta(text):
                print(text, end="", flush=True)
            case mlx_oss.ToolResult(recipient, text, error):
                print(f"[{recipient.removeprefix('functions.')}: {(error or text)[:70]!r}]")
            case mlx_oss.Finished(reason):
                print("" if reason == "stop" else f"\n[{reason}]")


if __name__ == "__main__":
    try:
        place, question, *model = sys.argv[1:]
        tools = tools_for(Path(place))
        run(mlx_oss.ChatSession(*mlx_oss.load(*model), tools=tools, confirm=confirm, max_rounds=12), question)
    except ValueError:
        sys.exit(__doc__)
    except mlx_oss.MlxOssError as error:
        sys.exit(f"error: {error}")
