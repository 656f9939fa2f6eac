"""Messages of the program on a terminal break between words."""

from __future__ import annotations

import os
import sys

import pytest

from mlx_oss.terminal import report, say, width_of, wrapped


@pytest.mark.parametrize(
    ("text", "width", "expected"),
    [
        ("one two three", 7, "one two\nthree"),
        ("one two three", 13, "one two three"),
        ("one two three", None, "one two three"),
        ("  one two three", 8, "  one\n  two\n  three"),
        ("a /very/long/path b", 8, "a\n/very/long/path\nb"),
        ("/very/long/path", 8, "/very/long/path"),
        ("one\n\ntwo three", 5, "one\n\ntwo\nthree"),
        ("漢字 漢字 漢字", 9, "漢字 漢字\n漢字"),
        ("a   b", 40, "a   b"),
        ("", 5, ""),
    ],
)
def test_lines_break_between_words(text, width, expected):
    assert wrapped(text, width) == expected


def test_only_a_terminal_has_a_width(monkeypatch, capsys):
    assert width_of(sys.stderr) is None
    say("word " * 100)
    report("word " * 100)
    out, err = capsys.readouterr()
    assert out.count("\n") == 1 == err.count("\n")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    monkeypatch.setattr(sys.stderr, "fileno", lambda: 2, raising=False)
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((0, 0)))
    assert width_of(sys.stderr) is None
    monkeypatch.setattr(os, "get_terminal_size", lambda _: os.terminal_size((20, 5)))
    say("word " * 10)
    assert max(map(len, capsys.readouterr().err.splitlines())) <= 20
