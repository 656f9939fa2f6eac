"""A machine that is gone, late or fails ends all of them, at every moment, and each of them says which one and why."""

from __future__ import annotations

import signal
import time

import pytest

from mlx_oss.cli import main
from tests.distributed.machines import ended, start

ENDLESS = """
import mlx_oss, sys
from mlx_oss import distributed
try:
    model, tokenizer = mlx_oss.load(None, group=distributed.group(), dtype="float32", context=2000)
    while True:
        session = mlx_oss.ChatSession(model, tokenizer, max_tokens=50)
        session.ask("What can you do?")
        print("said", flush=True)
except mlx_oss.MlxOssError as error:
    sys.exit(f"error: {error}")
"""


@pytest.mark.parametrize("victim", [0, 1])
def test_all_machines_end_when_one_of_them_is_killed(victim):
    machines = start(2, "-c", ENDLESS)
    assert machines[0].stdout is not None and machines[0].stdout.readline() == "said\n"
    machines[victim].send_signal(signal.SIGKILL)
    killed = time.monotonic()
    found = ended(machines, timeout=60)
    assert time.monotonic() - killed < 30  # a hang, not a figure: it takes about three seconds
    status, _, err = found[1 - victim]
    assert status == 1 and f"machine {victim} (" in err


UNTIL = """
import mlx_oss, os, sys
from mlx_oss import distributed
model, tokenizer = mlx_oss.load(None, group=distributed.group(), dtype="float32", context=2000)
is_last = False
while not is_last:
    is_last = os.path.exists(sys.argv[1])
    mlx_oss.ChatSession(model, tokenizer, max_tokens=5).ask("Hi")
    print("said", flush=True)
"""


def test_the_others_outlive_the_ssh_that_ctrl_c_has_ended_as_long_as_the_first_one_computes(tmp_path):
    machines = start(2, "-c", UNTIL, tmp_path / "enough")
    assert machines[0].stdout is not None and machines[0].stdout.readline() == "said\n"
    machines[1].send_signal(signal.SIGHUP)
    (tmp_path / "enough").touch()
    assert [status for status, _, _ in ended(machines, timeout=60)] == [0, 0]


# What the last machine does differently, and what all others say of it.
DIFFERENT = {
    "ends before MLX joins them": ("init = lambda **_: os._exit(9)", "has ended"),
    "ends while MLX joins them": ("init = lambda **_: (time.sleep(0.5), os._exit(9))", "has ended"),
    "does not join": ("init = lambda **_: time.sleep(60)", "has not joined MLX's group within 2 s"),
    "fails to join": ("def init(**_): raise RuntimeError('no route')", "has stopped: the machines do not find each"),
    "has no model": ("path = '/nowhere'", "has stopped: /nowhere does not exist"),
    "ends while it loads": ("loader.check_size = lambda *_: os._exit(9)", "has ended"),
}
PROGRAM = """
import os, sys, time
import mlx_oss
from mlx_oss.distributed import launched
launched._JOINING = float(sys.argv[3])
launched.meet()
import mlx.core as mx
from mlx_oss import loader
init, path = mx.distributed.init, None
if os.environ["MLX_RANK"] == sys.argv[1]:
    exec(sys.argv[2])
mx.distributed.init = init
try: mlx_oss.load(path, group=launched.group(), dtype="float32", context=2000)
except mlx_oss.MlxOssError as error: sys.exit(f"error: {error}")
"""


@pytest.mark.parametrize(
    ("size", "what"),
    [
        (3, "ends while MLX joins them"),
        (3, "has no model"),
        (2, "does not join"),
        (2, "ends while it loads"),
        pytest.param(3, "ends before MLX joins them", marks=pytest.mark.long),
        pytest.param(3, "fails to join", marks=pytest.mark.long),
    ],
)
def test_all_say_which_machine_it_was_also_before_the_model_is_loaded(size, what):
    change, says = DIFFERENT[what]
    started = time.monotonic()
    joining = 2 if what == "does not join" else 30  # seconds
    found = ended(start(size, "-c", PROGRAM, size - 1, change, joining), timeout=60)
    assert time.monotonic() - started < 45  # a hang, not a figure
    for status, _, err in found[:-1]:
        assert status == 1 and f"error: machine {size - 1} (" in err and says in err, err
        assert err.count("error: ") == 1


def test_a_command_that_fails_at_the_first_machine_says_so_at_the_others():
    for status, _, err in ended(start(2, "-m", "mlx_oss", "generate", "Hi", "--temperature", "-1")):
        assert status in (1, 2) and "temperature is -1" in err


def test_a_program_without_a_list_of_machines_is_told_how_to_start(monkeypatch, capsys):
    for name in ("MLX_HOSTFILE", "MLX_IBV_DEVICES"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("MLX_RANK", "1")
    assert main(["chat", "Hi"]) == 1
    assert "start mlx-oss by `mlx.launch --backend ring`" in capsys.readouterr().err
