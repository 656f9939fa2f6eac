"""The library prints nothing; what it does is logged, without what is said."""

from __future__ import annotations

import logging
import subprocess
import sys

from mlx_oss import ChatSession, ScriptedEngine, load_tokenizer
from tests.chat.scripted import CALL, HELLO, THINK

PROGRAM = """
import logging, sys
if sys.argv[1] != "nothing":
    logging.basicConfig(level=sys.argv[1], format="%(levelname)s %(name)s %(message)s")
import mlx_oss
model, tokenizer = mlx_oss.load(memory="210MB")
assert model.plan.slots is not None  # experts stay on disk, which is a warning
mlx_oss.ChatSession(model, tokenizer, max_tokens=3).ask("Hi")
"""


def run(level: str) -> tuple[str, str]:
    done = subprocess.run([sys.executable, "-c", PROGRAM, level], capture_output=True, text=True, check=True)
    return done.stdout, done.stderr


def test_a_program_without_logging_gets_nothing_printed():
    assert run("nothing") == ("", "")


def test_the_levels_say_more_and_more():
    logged = {level: run(level)[1].splitlines() for level in ("WARNING", "DEBUG")}
    assert [line.split()[0] for line in logged["WARNING"]] == ["WARNING"]
    ours = [line for line in logged["DEBUG"] if " mlx_oss" in line]
    assert [line.split()[0] for line in ours] == ["WARNING", "DEBUG", "INFO"]
    assert "mlx_oss.chat round:" in ours[1] and "mlx_oss.chat turn: length, 3 tokens generated" in ours[2]


def test_what_is_said_is_not_logged(caplog):
    def weather(city: str) -> str:
        """Gets the weather."""
        return "a secret"

    session = ChatSession(ScriptedEngine(THINK + CALL, HELLO), load_tokenizer(), tools=[weather])
    with caplog.at_level(logging.DEBUG, "mlx_oss"):
        session.ask("Where is the treasure?")
    text = caplog.text
    assert "tool weather: done after" in text and "8 characters" in text
    assert not any(word in text for word in ("treasure", "secret", "Oslo", "Hello", "greets"))
