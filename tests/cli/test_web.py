"""`mlx-oss chat --web` serves the page on this machine, and opens it in the browser."""

from __future__ import annotations

import os
import signal
import subprocess
import sys

import pytest

from mlx_oss.cli import main
from tests.engines import wait_until
from tests.server.echo import asked


def test_it_opens_the_page_with_the_options_of_chat_and_ends_with_ctrl_c(tmp_path):
    opened, browser = tmp_path / "opened", tmp_path / "browser"
    browser.write_text(f"#!/bin/sh\necho $1 > {opened}.part; mv {opened}.part {opened}\n")
    browser.chmod(0o755)
    command = [sys.executable, "-m", "mlx_oss", "chat", "--web", "--reasoning", "low", "--system", "Be brief."]
    process = subprocess.Popen(
        command,
        env=os.environ | {"BROWSER": f"{browser} %s"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        wait_until(opened.exists)
        url = opened.read_text().strip().rstrip("/")
        assert asked(url, "/")[1].startswith("<!doctype html>")
        status, state = asked(url, "/page/state")
        assert (status, state["effort"], state["instructions"]) == (200, "low", "Be brief.")
        assert "demonstration" in state["notes"]["nano"]
        process.send_signal(signal.SIGINT)
        out, _ = process.communicate(timeout=60)
        assert process.returncode == 0 and url in out
    finally:
        process.kill()
        process.communicate()


@pytest.mark.parametrize(
    ("arguments", "word"),
    [(["Hello"], "a question"), (["--json"], "--json"), (["-c"], "--continue"), (["--file", "x"], "--file")],
)
def test_what_belongs_to_the_terminal_is_refused(capsys, arguments, word):
    assert main(["chat", "--web", *arguments]) == 2
    assert f"{word} is of no use with --web" in "".join(capsys.readouterr())
