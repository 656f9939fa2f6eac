"""Tests the steps of `mlx-oss hosts check`: with 127.0.0.1, and with an ssh that stands for other machines."""

from __future__ import annotations

import json
import os
import signal
import socket
import sys
import threading
import time
from pathlib import Path

import pytest

from mlx_oss.cli import main
from mlx_oss.distributed import roll_call
from mlx_oss.doctor.host import Ended
from mlx_oss.hosts import check, reach
from mlx_oss.hosts.check import Check
from mlx_oss.hosts.hostfile import Host, Hostfile

HERE = Host("127.0.0.1", ("127.0.0.1",))
TWO = Hostfile((HERE, HERE))
REMOTE = Hostfile((HERE, Host("mac2.local", ("10.0.0.2",))))
LOOPBACK = [["127.0.0.1", "lo", "loopback"]]


@pytest.fixture
def ssh(tmp_path, monkeypatch):
    """ssh(script) makes a shell script the ssh that is found."""

    def make(script: str) -> None:
        path = tmp_path / "bin" / "ssh"
        path.parent.mkdir(exist_ok=True)
        path.write_text(f"#!/bin/sh\n{script}\n")
        path.chmod(0o755)
        monkeypatch.setenv("PATH", f"{path.parent}:{os.environ['PATH']}")

    return make


def facts(**changed):
    model = {"folder": "/m", "identity": "i", "config.json": "c", "conversion.json": None, "files": {"a": [1, "h"]}}
    versions = {"Python": "3.12.1", "mlx": "0.32", "mlx-oss": "0.1"}
    return {"versions": versions, "addresses": LOOPBACK, "model": model} | changed


def answered(answer) -> Ended:
    return Ended(0, f"noise\r\n{json.dumps({reach.ANSWER: answer})}\r\n", "")


@pytest.fixture
def said(monkeypatch):
    """said(hostfile, facts of each machine) runs the check with machines that say these facts, and no launch."""

    def run(hostfile, *each):
        answers = iter(each)
        monkeypatch.setattr(check, "run_on", lambda *_: answered(next(answers)))
        monkeypatch.setattr(check, "run_on_all", lambda *_: Ended(1, "", "error: no launch"))
        monkeypatch.setattr(Check, "_reached", lambda self, number: check._ok("reach", f"{number} is reached."))
        monkeypatch.setattr(Check, "_each", lambda self, step: [step(n) for n in range(len(hostfile.hosts))])
        return list(Check(hostfile, "nano").steps())

    return run


def problems(findings):
    return [finding.text for finding in findings if finding.level == "problem"]


def test_a_machine_that_refuses_is_named_with_a_remedy(ssh):
    ssh("echo 'mac2.local: Permission denied (publickey).' >&2; exit 255")
    found = list(Check(REMOTE, "nano").steps())
    assert problems(found) == ["mac2.local is not reached by ssh (mac2.local: Permission denied (publickey))."]
    assert "ssh-copy-id mac2.local" in found[1].remedy and found[-1].text.startswith("Left out")


def test_a_machine_that_never_answers_ends_the_check_in_time(ssh, monkeypatch):
    monkeypatch.setattr(check, "PATIENCE", 0.5)
    ssh("sleep 60 & sleep 60")
    started = time.monotonic()
    found = list(Check(REMOTE, "nano").steps())
    assert problems(found) == ["mac2.local has not answered ssh within 0.5 s."]
    assert time.monotonic() - started < 30


def test_ssh_may_not_ask_for_a_password(ssh, tmp_path):
    ssh(f'printf "%s\\n" "$@" > {tmp_path}/arguments; exit 255')
    list(Check(REMOTE, "nano").steps())
    arguments = (tmp_path / "arguments").read_text()
    assert "BatchMode=yes" in arguments and "ConnectTimeout=10" in arguments and "mac2.local" in arguments


def test_a_machine_without_this_python_is_told_to_install_it(ssh):
    ssh('case "$*" in *true) exit 0;; esac; echo "sh: /opt/python: not found" >&2; exit 127')
    (text,) = problems(Check(REMOTE, "nano").steps())
    assert text.startswith("mac2.local cannot run ") and "not found" in text


def test_another_version_is_named(said):
    other = facts(versions={"Python": "3.12.1", "mlx": "0.31", "mlx-oss": "0.1"})
    found = said(REMOTE, facts(), other)
    assert "mac2.local has mlx 0.31, and 127.0.0.1 0.32." in problems(found)
    assert "gather" not in [finding.name for finding in found]


@pytest.mark.parametrize(
    ("changed", "what"),
    [
        ({"config.json": "d"}, "config.json"),
        ({"conversion.json": "m"}, "conversion.json"),
        ({"files": {"a": [2, "h"]}}, "the size of a"),
        ({"files": {"a": [1, "g"]}}, "the header of a"),
        ({"files": {"a": [1, "h"], "b": [1, "h"]}}, "only one has b"),
        ({"identity": "j"}, "its tensors"),
    ],
)
def test_another_file_is_named(said, changed, what):
    found = said(REMOTE, facts(), facts(model=facts()["model"] | changed))
    assert problems(found)[0] == f"nano differs between 127.0.0.1 and mac2.local: {what}."


def test_a_machine_without_the_model_is_told_to_pull_it(said):
    found = said(REMOTE, facts(), facts(model=None))
    assert problems(found)[0] == "mac2.local does not have nano."
    assert "Run `mlx-oss pull nano` there." in [finding.remedy for finding in found]


def test_wifi_and_an_address_of_another_machine_are_problems(said):
    wifi = [["10.0.0.2", "en1", "Wi-Fi"], ["169.254.1.2", "bridge0", "Thunderbolt Bridge"]]
    found = problems(said(REMOTE, facts(), facts(addresses=wifi)))
    assert found[0] == "10.0.0.2 of mac2.local is on Wi-Fi (en1): this is slower than one machine alone."
    found = problems(said(REMOTE, facts(), facts(addresses=wifi[1:])))
    assert found[0].startswith("mac2.local does not have the address 10.0.0.2: it has 169.254.1.2 (Thunderbolt Bridge)")


def test_an_error_of_the_gather_does_not_send_back_to_the_check(monkeypatch):
    error = {"error": "they do not find each other (refused): `mlx-oss hosts check` says why"}
    monkeypatch.setattr(check, "run_on_all", lambda *_: answered(error))
    assert "(they do not find each other (refused))." in Check(TWO, "nano")._gather().text


def test_a_port_that_is_used_is_changed_by_the_option_of_the_check(monkeypatch):
    error = {"error": f"the machines cannot meet at port 22323: {roll_call._OTHER_RUN}"}
    monkeypatch.setattr(check, "run_on_all", lambda *_: answered(error))
    assert "other ports, `mlx-oss hosts check --port 34000`)." in Check(TWO, "nano")._gather().text


def test_machines_that_do_not_exchange_numbers_are_a_problem(said):
    found = said(TWO, facts(), facts())
    assert problems(found) == ["The machines do not exchange numbers (no launch)."]
    assert found[-1].text.startswith("Left out until the machines reach each other")


@pytest.mark.parametrize(
    ("compared", "level", "says"),
    [
        ({"same": True, "furthest": 0.0}, "ok", "bit for bit"),
        ({"same": False, "furthest": 0.01}, "note", "by at most 0.01"),
        ({"same": False, "furthest": 3.0}, "problem", "by at most 3"),
        ({"same": False, "furthest": float("nan")}, "problem", "by at most nan"),
        ({"too small": "no"}, "ok", "does not fit into one"),
        ({"error": "no"}, "note", "not alone (no)"),
    ],
)
def test_the_self_test_says_how_far_the_logits_are(monkeypatch, compared, level, says):
    monkeypatch.setattr(check, "run_on_all", lambda *_: answered({"finite": True}))
    monkeypatch.setattr(check, "run_on", lambda *_: answered(compared))
    finding = Check(TWO, "nano")._self_test()
    assert finding.level == level and says in finding.text


def test_what_runs_too_long_is_killed_with_all_that_it_started(tmp_path):
    started = time.monotonic()
    ended = reach.run(["sh", "-c", f"(sleep 5; touch {tmp_path}/late) & echo out; sleep 60"], 0.5)
    assert ended.status is None and ended.out == "out\n" and time.monotonic() - started < 5
    time.sleep(max(0.0, started + 6 - time.monotonic()))
    assert not (tmp_path / "late").exists()


def test_ctrl_c_does_not_wait_for_the_machines(ssh, tmp_path, monkeypatch):
    ssh("sleep 60")
    path = tmp_path / "hosts.json"
    path.write_text(Hostfile((REMOTE.hosts[1], REMOTE.hosts[1])).text())
    monkeypatch.setattr(check, "PATIENCE", 40.0)
    timer = threading.Timer(1.5, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    started = time.monotonic()
    assert main(["hosts", "check", str(path)]) == 130
    assert time.monotonic() - started < 20


def test_two_processes_of_this_machine_pass_all_steps(tmp_path, capsys):
    path = Path(tmp_path / "hosts.json")
    path.write_text(TWO.text())
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = min(server.getsockname()[1], 64_000)
    assert main(["hosts", "check", str(path), "--port", str(port), "--python", sys.executable]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split(": ")[0] for line in lines if not line.startswith("  ")].count("problem") == 0
    assert lines[-1] == "ok: The logits of nano are bit for bit those of one machine."
