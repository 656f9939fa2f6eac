"""Tests the commands for several machines: `mlx-oss hosts check` and `mlx-oss plan --hosts`."""

from __future__ import annotations

import json

import pytest

from mlx_oss.cli import main
from mlx_oss.weights.layouts.checkpoint import released


@pytest.fixture
def hosts(tmp_path):
    """hosts(memory, ...) writes a hostfile with a machine for each."""

    def write(*memories):
        listed = [
            {"ssh": f"mac{number}.local", "ips": [f"10.0.0.{number}"], **({"memory": memory} if memory else {})}
            for number, memory in enumerate(memories)
        ]
        path = tmp_path / "hosts.json"
        path.write_text(json.dumps(listed))
        return str(path)

    return write


@pytest.fixture
def released_120b(monkeypatch):
    """120b without its files."""
    monkeypatch.setattr("mlx_oss.models.checkpoint_of", lambda name: released("gpt-oss-120b"))


def test_each_machine_takes_its_part(hosts, capsys, released_120b):
    assert main(["plan", "120b", "--hosts", hosts("48GB", "48GB"), "--json"]) == 0
    two = json.loads(capsys.readouterr().out)
    assert main(["plan", "120b", "--hosts", hosts(*4 * ["48GB"]), "--json"]) == 0
    four = json.loads(capsys.readouterr().out)
    halves, quarters = ([each["weight_bytes"] for each in made["machines"]] for made in (two, four))
    assert len(set(halves)) == len(set(quarters)) == 1 and 1.9 < halves[0] / quarters[0] < 2.1
    assert two["fits"] and two["step"]["gathers"] == four["step"]["gathers"] == 4 * 36 + 3
    assert two["step"]["read_bytes"] > 1.9 * four["step"]["read_bytes"]
    assert two["step"]["gathered_bytes"] < four["step"]["gathered_bytes"]
    assert "not measured on Macs" in two["assumptions"]


def test_the_smaller_machine_limits_the_context(hosts, capsys, released_120b):
    arguments = ["plan", "120b", "--hosts", hosts("48GB", "48GB")]
    assert main([*arguments, "--json"]) == 0
    made = json.loads(capsys.readouterr().out)["machines"][0]
    little = made["whole_bytes"] - made["kv_bytes"] // 4
    assert main([*arguments, "--memory", f"36GB,{little}"]) == 0
    out = capsys.readouterr().out
    assert f"mac1.local limits the context: the others have room for {made['context']:,} tokens." in out


def test_too_small_machines_are_told_how_many_of_them_would_do(hosts, capsys, released_120b):
    assert main(["plan", "120b", "--hosts", hosts("32GB", "24GB")]) == 1
    out = capsys.readouterr().out
    assert out.count("120b does not fit: the part of mac") == 2
    assert "It would fit into 8 machines like the smallest one" in out


def test_a_model_that_does_not_fit_names_the_machine(hosts, capsys):
    assert main(["plan", "nano", "--hosts", hosts("16GB", "16GB"), "--memory", "16GB,130MB"]) == 1
    out = capsys.readouterr().out
    assert "nano does not fit: the part of mac1.local needs " in out and "its limit is 130.00 MB" in out


def test_a_machine_of_unknown_memory_counts_as_this_one_and_that_is_told(hosts, capsys):
    assert main(["plan", "nano", "--hosts", hosts("16GB", 0)]) == 0
    assert "mac1.local counts as this machine: add" in " ".join(capsys.readouterr().out.split())
    assert main(["plan", "nano", "--hosts", hosts("16GB", 0), "--memory", "16GB,16GB"]) == 0
    assert "counts as" not in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (["--memory", "1GB,2GB,3GB"], "--memory has 3 sizes, and the hostfile 2 machines"),
        (["--memory", "1GB,much"], "'much' is not a size of memory"),
        (["--macs"], "--macs shows the released models"),
    ],
)
def test_wrong_options_are_told(hosts, capsys, arguments, says):
    assert main(["plan", *arguments, "--hosts", hosts(0, 0)]) == 2
    assert says in capsys.readouterr().err


def test_a_number_of_machines_that_cannot_divide_the_model_is_told_which_can(hosts, capsys):
    assert main(["plan", "nano", "--hosts", hosts(0, 0, 0)]) == 2
    error = capsys.readouterr().err
    assert "cannot be divided between 3 machines: use 2" in error


@pytest.mark.parametrize("command", [["hosts", "check"], ["plan", "nano", "--hosts"]])
def test_a_bad_hostfile_is_one_line(command, tmp_path, capsys):
    path = tmp_path / "hosts.json"
    path.write_text("[]")
    assert main([*command, str(path)]) == 2
    assert capsys.readouterr().err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "says"),
    [(["--port", "80"], "--port is 80"), (["--model", "no such model"], "no such model"), ([], "Left out")],
)
def test_wrong_use_asks_no_machine(hosts, capsys, monkeypatch, arguments, says):
    from mlx_oss.doctor.host import Ended
    from mlx_oss.hosts import check

    monkeypatch.setattr(check, "run_on", lambda *_: Ended(255, "", "no route"))
    status = main(["hosts", "check", hosts(0, 0), *arguments])
    said = capsys.readouterr()
    assert status == (2 if arguments else 1) and says in said.out + said.err


def test_json_has_all_findings(hosts, capsys, monkeypatch):
    from mlx_oss.doctor.host import Ended
    from mlx_oss.hosts import check

    monkeypatch.setattr(check, "run_on", lambda *_: Ended(255, "", "no route"))
    assert main(["hosts", "check", hosts(0, 0), "--json"]) == 1
    made = json.loads(capsys.readouterr().out)
    assert not made["ok"] and [each["level"] for each in made["findings"]] == ["problem", "problem", "note"]
