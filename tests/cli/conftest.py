"""What is typed in a conversation, for tests without a terminal."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from mlx_oss.cli.conversation import converse
from mlx_oss.cli.printers import PlainPrinter
from tests.cli.fake_session import FakeSession


@pytest.fixture
def typed(monkeypatch) -> list[Any]:
    """The lines that the user types. An exception stands for Ctrl-C or Ctrl-D."""
    lines: list[Any] = []

    def read() -> str:
        line = lines.pop(0) if lines else EOFError()
        if isinstance(line, str):
            return line
        raise line

    monkeypatch.setattr("mlx_oss.cli.prompt.make_reader", lambda commands, **_: read)
    return lines


@pytest.fixture
def say(typed, capsys) -> Callable[..., str]:
    """say(session, line, ...) returns what a conversation with these typed lines prints to stderr."""

    def conversation(session: FakeSession, *lines: str) -> str:
        typed[:] = lines
        converse(session, PlainPrinter())
        return capsys.readouterr().err

    return conversation
