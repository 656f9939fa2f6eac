"""Judges an answer by Python code, in the sandbox of the `python` tool. Knows nothing of questions and models.

The answer is untrusted, and the code may run it. Whether the code has come to its end is known by a word that is made
for each run, so what merely ends the interpreter, or prints, is not taken for that. An answer that searches the
interpreter for this word could find it.
"""

from __future__ import annotations

import ast
import os
import secrets
import threading
from contextlib import closing

from mlx_oss.errors import EvaluationError, OptionError
from mlx_oss.json_text import whole_characters
from mlx_oss.tools.sandbox import GUARANTEES, Limits, Sandbox, isolation_here

_TRUE = "_value = ...\nif _value is not None and not _value: raise AssertionError(_what + ' is ' + repr(_value)[:200])"
_ENDINGS = {
    "time": "it took longer than {seconds:g} seconds",
    "memory": "it used more than {memory:g} GB of memory",
    "processes": "it started too many processes",
    "unwatched": "the system did not say how much memory it used",
    "stopped": "it was stopped",
    "died": "it ended the interpreter",
}
_MEMORY, _PROCESSES = 1 << 30, 32
_places = threading.BoundedSemaphore(os.cpu_count() or 1)  # more at once would take each other's time


def program(code: str) -> str:
    """The code of a check, prepared. Raises EvaluationError if it is not Python."""
    try:
        tree = ast.parse(code)
        last = tree.body[-1] if tree.body else None
        if isinstance(last, ast.Expr):
            what = ast.Assign([ast.Name("_what", ast.Store())], ast.Constant(ast.unparse(last.value)[:200]))
            assign, test = ast.parse(_TRUE).body
            assert isinstance(assign, ast.Assign)
            assign.value = last.value
            tree.body[-1:] = [what, assign, test]
        return ast.unparse(ast.fix_missing_locations(tree))
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        where = f" in line {error.lineno}" if isinstance(error, SyntaxError) and error.lineno else ""
        reason = error.msg if isinstance(error, SyntaxError) else str(error) or "it is nested too deeply"
        raise EvaluationError(f"python is not Python code ({reason}{where}): correct it") from None


def check_sandbox() -> None:
    """Raises OptionError if this machine has no sandbox."""
    if (isolation := isolation_here()) not in GUARANTEES:
        raise OptionError(f"{isolation}: Python checks need a sandbox, so take them out or use another machine")


def problem(code: str, answer: str, seconds: float) -> str:
    """Runs a check.

    Args:
        code: What `program` has made of it.
        answer: The answer.
        seconds: How long it may take.

    Returns:
        Why the answer is wrong, in a sentence; empty if it is right.

    Raises:
        ToolError: If no interpreter can be started.
    """
    isolation = isolation_here()
    assert isolation in GUARANTEES, "`check_sandbox` was called before"
    limits = Limits(seconds=seconds, memory_bytes=_MEMORY, processes=_PROCESSES)
    word = secrets.token_hex(16)
    ending = f"__import__('os').write(1, {word.encode()!r})"
    text = whole_characters(answer)
    given = f"answer, code = {text!r}, {_code_of(text)!r}"
    with _places, closing(Sandbox(isolation, limits)) as sandbox:
        sandbox.run(given)  # by itself, because the code may begin with an import from __future__
        output = sandbox.run(f"{code}\n{ending}; None")
    if output.ending != "done":
        return "the check says: " + _ENDINGS[output.ending].format(seconds=seconds, memory=_MEMORY / 1e9)
    if word in output.text:
        return ""
    lines = output.text.split("\n")
    return "the check says: " + next((line for line in reversed(lines) if line.strip()), "it did not come to its end")


def _code_of(answer: str) -> str:
    """The first fenced block of an answer; all of it if there is none."""
    lines, first = answer.split("\n"), None
    for number, line in enumerate(map(str.strip, lines)):
        if first is None and line.startswith("```") and "`" not in line[3:]:
            first = number + 1
        elif first is not None and line == "```":
            return "\n".join(lines[first:number])
    return answer
