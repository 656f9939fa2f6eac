"""In a process that was forked from one that has computed, MLX would wait for ever: there the engine raises at once."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

pytestmark = pytest.mark.skipif(not hasattr(os, "fork"), reason="needs fork")

PROGRAM = """
import os, sys, signal
import mlx_oss
signal.alarm(60)

def child(function):
    "What the function prints in a child that ends like a program."
    pid = os.fork()
    if pid == 0:
        signal.alarm(20)
        try:
            print(function(), flush=True)
        except mlx_oss.EngineError as error:
            print("EngineError:", error, flush=True)
        sys.exit(0)
    assert os.waitpid(pid, 0)[1] == 0

tokenizer = mlx_oss.load_tokenizer()
"""
LOADED = """
model, _ = mlx_oss.load()
session = mlx_oss.ChatSession(model, tokenizer, max_tokens=3)
"""


def run(program: str) -> list[str]:
    command = [sys.executable, "-W", "ignore::DeprecationWarning", "-c", PROGRAM + program]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr
    return done.stdout.splitlines()


USES = [
    "session.ask('Hi')",
    "next(session.send('Hi'))",
    "mlx_oss.load()",
    "model.submit(mlx_oss.Request([1, 2]))",
    "model(__import__('mlx.core').core.array([[1, 2]]))",
    "session.save(sys.argv[0] + '/none')",
    "session.fork()",
    "next(mlx_oss.generate_step(model, [1, 2]))",
]


@pytest.mark.parametrize("before", ["", "session.ask('Hi')"])
def test_a_child_of_a_process_that_has_computed_gets_a_clear_error_at_once(before):
    children = "\n".join(f"child(lambda: {use})" for use in USES)
    printed = run(f"{LOADED}\n{before}\n{children}")
    assert len(printed) == len(USES)
    assert all(line.startswith("EngineError: this process was forked") and "spawn" in line for line in printed)


def test_a_child_that_was_forked_in_the_middle_of_a_turn_gets_the_error_too():
    """Several times, as the fork comes while the next token is being computed, and frees its arrays."""
    begin = "session = mlx_oss.ChatSession(model, tokenizer, max_tokens=8)\n    events = session.send('Hi')"
    fork = "next(events)\n    child(lambda: next(events))\n    list(events)"
    printed = run(f"{LOADED}\nfor _ in range(3):\n    {begin}\n    {fork}")
    assert len(printed) == 3 and all(line.startswith("EngineError: this process was forked") for line in printed)


def test_a_child_gets_the_error_for_a_stream_that_began_before_while_others_are_computed():
    """The child has no thread that computes, although there was work for it at the moment of the fork."""
    begin = "stream = lambda: model.submit(mlx_oss.Request([1, 2], max_tokens=4000))\nown, other = stream(), stream()"
    read = "import threading\nreader = threading.Thread(target=lambda: list(other))\nnext(own)\nreader.start()"
    forks = "next(own)\nfor _ in range(3): child(lambda: next(own))\nother.cancel()\nreader.join()"
    printed = run(f"{LOADED}\n{begin}\n{read}\n{forks}")
    assert len(printed) == 3 and all(line.startswith("EngineError: this process was forked") for line in printed)


def test_the_parent_computes_on_after_a_fork():
    assert run(f"{LOADED}\nchild(lambda: 1)\nprint(session.ask('Hi').usage.generated_tokens)") == ["1", "3"]


def test_a_child_of_a_process_that_has_not_computed_loads_and_computes():
    load = "mlx_oss.ChatSession(*mlx_oss.load(), max_tokens=3).ask('Hi').usage.generated_tokens"
    assert run(f"import mlx.core\nmlx_oss.SamplingOptions, mlx_oss.generate_step\nchild(lambda: {load})") == ["3"]


def test_a_child_may_use_a_scripted_engine():
    scripted = "mlx_oss.ChatSession(mlx_oss.ScriptedEngine('Hi.'), tokenizer).ask('Hi').text"
    assert run(f"{LOADED}\nsession.ask('Hi')\nchild(lambda: {scripted})") == ["Hi."]
