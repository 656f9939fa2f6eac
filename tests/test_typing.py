"""The package's types as programs meet them: an editable installation is found, and a strict program checks clean."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from tests.test_example_programs import EXAMPLES, NAMES, notebook_cells

pytest.importorskip("mypy")
pytest.importorskip("textual", reason="Textual is not installed (extra `dev`)")

PROGRAM = '''
from collections.abc import Iterator

import mlx_oss
from mlx_oss import ChatSession, SamplingOptions, SessionError
from mlx_oss.convert import ConvertOptions, Report, convert
from mlx_oss.harmony import Message, render_conversation
from mlx_oss.tools import PythonTool, tool_from


def weather(city: str, days: int = 1) -> dict[str, str]:
    """The weather forecast."""
    return {"city": city}


def words(session: ChatSession, question: str) -> Iterator[str]:
    for event in session.send(question):
        match event:
            case mlx_oss.AnswerDelta(text):
                yield text
            case mlx_oss.Finished(reason, usage):
                yield f"{reason}, {usage.tokens_per_second:.1f} tokens/s"


def main() -> int:
    model, tokenizer = mlx_oss.load(memory="8GB", context=4096)
    options = SamplingOptions(temperature=0.5, seed=1)
    session = ChatSession(model, tokenizer, tools=[weather, tool_from(weather)], options=options)
    try:
        reply = session.ask("Hello")
    except (SessionError, mlx_oss.errors.ContextError) as error:
        print(error)
        return 1
    text: str = reply.text
    texts: list[str] = [each.text for each in mlx_oss.ask_many(session, ["Hello", [Message("user", "Hi")]])]
    with mlx_oss.ask_many(session, texts, on_error="return") as replies:
        texts += [each.text for each in replies if isinstance(each, mlx_oss.Reply)]
    report: Report = convert("here", "there", ConvertOptions(profile="q8"))
    ids: list[int] = render_conversation([Message("user", "Hi")])
    plan: mlx_oss.Plan = mlx_oss.plan("there")
    engine: mlx_oss.Engine = model if model.plan.slots is None else mlx_oss.ScriptedEngine("Hello", "And now.")
    cache: mlx_oss.PromptCache = engine.make_prompt_cache()
    steps: list[int] = [step.token for step in engine.submit(mlx_oss.Request(ids, options, max_tokens=3, cache=cache))]
    print(steps, text, report.nbytes, ids, plan.peak_bytes, PythonTool().guarantees, list(words(session, "And now?")))
    return 0
'''


def check(folder: Path) -> subprocess.CompletedProcess[str]:
    """mypy --strict on the programs of a folder of their own, which find the package only where it is installed."""
    environment = {name: value for name, value in os.environ.items() if name not in ("MYPYPATH", "PYTHONPATH")}
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--cache-dir",
        "cache",
        *(each.name for each in folder.glob("*.py")),
    ]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True)


def test_strictly_typed_programs_and_the_examples_check_clean_and_a_wrong_one_does_not(tmp_path):
    for name in NAMES:
        shutil.copy(EXAMPLES / f"{name}.py", tmp_path)
    cells = textwrap.indent("\n".join(notebook_cells()), "    ")  # which may await
    (tmp_path / "notebook.py").write_text(f"async def cells() -> None:\n{cells}\n")
    (tmp_path / "program.py").write_text(PROGRAM)
    found = check(tmp_path)
    assert found.returncode == 0, found.stdout + found.stderr
    (tmp_path / "program.py").write_text(PROGRAM.replace("text: str = reply.text", "text: int = reply.text"))
    wrong = check(tmp_path)
    assert "Incompatible types in assignment" in wrong.stdout and wrong.returncode == 1
