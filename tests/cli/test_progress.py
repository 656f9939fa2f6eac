"""What is shown of a download, in a terminal and elsewhere, also when it is stopped."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time

import pexpect
import pytest

from mlx_oss.cli import progress
from mlx_oss.models import Progress

NAME = "openai/gpt-oss-20b"
COMMAND = ["-m", "mlx_oss", "pull", NAME]
SAID = "interrupted: what is there is kept, and the same command continues from there"


@pytest.mark.parametrize(("number", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_a_stopped_download_leaves_the_terminal_as_it_was(hub, number, status):
    hub.pace = 0.2
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | {"TERM": "xterm"}
    child = pexpect.spawn(sys.executable, COMMAND, env=environment, encoding="utf-8", timeout=60)
    child.expect(re.escape("\x1b[?25l"))
    child.expect("downloading .*MB|downloading .*bytes|downloading .*kB")
    child.kill(number)
    child.expect(re.escape("\x1b[?25h"))
    child.expect(SAID)
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == status


def test_without_a_terminal_sigterm_says_how_to_go_on(hub):
    hub.pace = 0.2
    process = subprocess.Popen([sys.executable, *COMMAND], stderr=subprocess.PIPE, text=True)
    while not any(path.endswith(".safetensors") for path in hub.requests):
        time.sleep(0.02)
    time.sleep(1)
    process.terminate()
    _, err = process.communicate(timeout=30)
    assert process.returncode == 143 and SAID in err


def test_lines_have_units_that_fit_the_model(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.shown() as show:
        for now[0], done in [(0, 0), (5, 1), (11, 22_000_000), (12, 23_000_000), (22, 99_000_000)]:
            show(Progress("downloading", done, 104_627_808))
    assert capsys.readouterr().err.splitlines() == [
        "downloading: 22.00 MB of 104.63 MB, 2.00 MB/s, 1 min left",
        "downloading: 99.00 MB of 104.63 MB, 4.50 MB/s, 1 min left",
    ]
