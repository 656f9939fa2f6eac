"""What is shown of a download, in a terminal and elsewhere, also when it is stopped."""

from __future__ import annotations

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import pexpect
import pytest

from mlx_oss import models
from mlx_oss.cli import progress
from mlx_oss.models import Progress
from mlx_oss.weights.hub import copies
from tests.hub import sha256

NAME = "openai/gpt-oss-20b"
WEIGHTS = "model-00001-of-00002.safetensors"
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


def test_waiting_for_another_process_is_said_and_does_not_slow_the_rate(monkeypatch, capsys):
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    with progress.shown() as show:
        for now[0], done, waiting in [(0, 0, True), (11, 0, True), (30, 0, True), (31, 44_000_000, False)]:
            show(Progress("downloading", done, 104_000_000, waiting))
        for now[0], done in [(36, 45_000_000), (41, 64_000_000)]:
            show(Progress("downloading", done, 104_000_000))
    waiting = "downloading: waiting for another process, which downloads the same files; 0.00 kB of 104.00 MB are here"
    assert capsys.readouterr().err.splitlines() == [
        waiting,
        waiting,
        "downloading: 64.00 MB of 104.00 MB, 2.00 MB/s, 1 min left",
    ]


HOLD = """
import sys, time
from huggingface_hub.utils import WeakFileLock
with WeakFileLock(sys.argv[1]):
    print("held", flush=True)
    sys.stdin.read()
"""


@pytest.fixture
def another_process(hub, published, tmp_path):
    """A process that holds the lock of a weight file, as one does that downloads it. It ends when its input ends."""
    lock = tmp_path / "hub" / ".locks" / "models--openai--gpt-oss-20b"
    lock.mkdir(parents=True)
    lock /= sha256(published[NAME] / WEIGHTS) + ".lock"
    with subprocess.Popen([sys.executable, "-c", HOLD, lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def test_a_download_that_waits_for_another_process_says_so_and_goes_on_after_it(hub, published, another_process):
    seen, part = [], Path(f"{tmp_blob(published)}.incomplete")

    def watch(now: Progress) -> None:
        seen.append(now)
        if now.waiting and not part.exists():
            part.parent.mkdir(parents=True, exist_ok=True)
            part.write_bytes((published[NAME] / WEIGHTS).read_bytes()[:100_000])
        elif now.waiting and now.done == now.total - weight_of(published) + 100_000:  # it counts what the other has
            another_process.stdin.close()

    folder = models.folder_of(NAME, progress=watch)
    assert not seen[-1].waiting and any(now.waiting for now in seen)
    assert (folder / WEIGHTS).read_bytes() == (published[NAME] / WEIGHTS).read_bytes()


def test_a_file_that_the_other_process_has_brought_meanwhile_is_not_downloaded_again(hub, published, another_process):
    def watch(now: Progress) -> None:
        if now.waiting and another_process.poll() is None:
            blob = tmp_blob(published)
            blob.write_bytes((published[NAME] / WEIGHTS).read_bytes())
            another_process.communicate(b"")

    folder = models.folder_of(NAME, progress=watch)
    assert (folder / WEIGHTS).read_bytes() == (published[NAME] / WEIGHTS).read_bytes()
    assert not [path for path in hub.requests if path.endswith(WEIGHTS)]


def test_the_bar_says_that_it_waits(hub, another_process):
    environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"} | {"TERM": "xterm"}
    child = pexpect.spawn(sys.executable, COMMAND, env=environment, encoding="utf-8", timeout=60, dimensions=(24, 80))
    child.expect("waiting for another process")
    another_process.stdin.close()
    child.expect("is here")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def weight_of(published) -> int:
    return (published[NAME] / WEIGHTS).stat().st_size


def tmp_blob(published):
    return copies.cache_entry(NAME) / "blobs" / sha256(published[NAME] / WEIGHTS)
