"""Tests `mlx-oss chat` in a real pseudo-terminal, with nano: typing, interrupts, resizing."""

from __future__ import annotations

import os
import re
import shutil
import signal
import stat
import sys
import termios
import time
from collections.abc import Callable, Iterator

import pexpect
import pytest

from mlx_oss.tools.sandbox import GUARANTEES, isolation_here

PROMPT = r"> ?\x08?(\x1b\[2C)?\x1b\[\?7h"
TIMEOUT = 240  # seconds; long, because a test machine may be busy
LONG = "Tell me a story."  # nano's answer has 38 tokens, which is much for it


@pytest.fixture
def terminal(tmp_path) -> Iterator[Callable[..., pexpect.spawn]]:
    """terminal(*arguments, shell=..., setsid=..., TERM=...) starts the command in a terminal of 24 rows, 80 columns."""
    started: list[pexpect.spawn] = []

    def start(*arguments: str, shell: bool = False, setsid: bool = False, **variables: str) -> pexpect.spawn:
        environment = {name: value for name, value in os.environ.items() if name != "NO_COLOR"}
        environment |= {
            "TERM": "xterm-256color",
            "PROMPT_TOOLKIT_NO_CPR": "1",
            "XDG_STATE_HOME": str(tmp_path / "state"),
        }
        command = [sys.executable, "-m", "mlx_oss", "chat", "--temperature", "0", *arguments]
        if setsid:
            command = ["setsid", "-w", *command]
        if shell:
            command = ["/bin/sh", "-c", f"exec {' '.join(command)}"]
        child = pexpect.spawn(
            *(command[0], command[1:]),
            env=environment | variables,
            dimensions=(24, 80),
            encoding="utf-8",
            codec_errors="replace",
            timeout=TIMEOUT,
        )
        started.append(child)
        return child

    yield start
    for child in started:
        child.close(force=True)


def without_escapes(text: str) -> str:
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", text)


def ask(child: pexpect.spawn, text: str) -> str:
    """Asks a question. Returns the output before the status line, without escape sequences."""
    child.send(text + "\r")
    child.expect(r"\[[^\[\]\n]* tokens/s[^\n]*GB\]")
    return without_escapes(child.before)


def leave(child: pexpect.spawn) -> None:
    child.expect(PROMPT)
    child.sendeof()
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def test_an_answer_streams_and_commands_work(terminal, tmp_path):
    child = terminal()
    child.expect(PROMPT)
    shown = ask(child, "What is the capital of France?")
    assert "Paris" in shown.splitlines()[-1] or "Paris" in shown
    child.expect(PROMPT)
    child.send("/undo\r")
    child.expect("removed: What is the capital of France")
    child.expect(PROMPT)
    child.send("/exit\r")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    history = tmp_path / "state" / "mlx-oss" / "history"
    assert "capital of France" in history.read_text()
    assert stat.S_IMODE(history.stat().st_mode) == 0o600


def test_ctrl_c_stops_the_answer_and_not_the_program(terminal):
    child = terminal()
    child.expect(PROMPT)
    child.send(LONG + "\r")
    child.expect("user")  # its reasoning begins
    child.kill(signal.SIGINT)
    child.expect(r"\[stopped\]")
    child.expect(PROMPT)
    assert "Paris" in ask(child, "What is the capital of France?")
    leave(child)


def test_a_conversation_is_saved_and_goes_on_in_another_process(terminal, tmp_path):
    child = terminal()
    child.expect(PROMPT)
    ask(child, "My name is Anna.")
    child.expect(PROMPT)
    child.send(f"/save {tmp_path / 'chat'}\r")
    child.expect("saved to")
    leave(child)
    child = terminal()
    child.expect(PROMPT)
    child.send(f"/load {tmp_path / 'chat'}\r")
    child.expect("turns: 1")
    child.expect(PROMPT)
    child.send("/stats\r")
    child.expect("answers 1, ")
    leave(child)


def test_the_last_conversation_goes_on_in_another_process(terminal, tmp_path):
    child = terminal()
    child.expect(PROMPT)
    ask(child, "My name is Anna.")
    child.expect(PROMPT)
    child.send("exit\r")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0
    (file,) = (tmp_path / "state" / "mlx-oss" / "conversations").iterdir()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    child = terminal("-c")
    child.expect(r"turns: 1\]")
    child.expect(PROMPT)
    assert "Anna" in ask(child, "What is my name?").splitlines()[-1]
    child.expect(PROMPT)
    child.send("/sessions\r")
    child.expect("2 questions, open: My name is Anna")
    leave(child)


def test_a_window_that_changes_while_the_model_writes_loses_nothing(terminal):
    child = terminal()
    child.expect(PROMPT)
    child.send("What is the capital of France?\r")
    child.expect("user")
    child.setwinsize(10, 40)
    child.kill(signal.SIGWINCH)
    child.expect("tokens/s")
    assert "Paris" in without_escapes(child.before)
    leave(child)


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_without_colours_an_answer_has_no_escape_sequences(terminal, variables):
    child = terminal("What is the capital of France?", **variables)
    child.expect(pexpect.EOF)
    assert "Paris" in child.before and "\x1b" not in child.before


@pytest.mark.parametrize("variables", [{"NO_COLOR": "1"}, {"TERM": "dumb"}])
def test_without_colours_a_conversation_has_no_escape_sequences(terminal, variables):
    child = terminal(**variables)
    child.expect("> ")
    child.send("What is the capital of France?\r")
    child.expect("tokens/s")
    shown = child.before
    child.expect("> ")
    child.sendeof()
    child.expect(pexpect.EOF)
    assert "Paris" in shown and "\x1b" not in shown + child.before


LINES = {  # what a terminal sends between the lines of a question
    "Esc and Enter": "What is the capital\x1b\rof France?",
    "Ctrl-J": "What is the capital\nof France?",
    "pasted": "\x1b[200~What is the capital\rof France?\x1b[201~",
    "pasted, newlines": "\x1b[200~What is the capital\nof France?\n\x1b[201~",
}


@pytest.mark.parametrize("keys", LINES.values(), ids=LINES)
def test_several_lines_are_one_question(terminal, keys):
    child = terminal("--json")
    child.expect(PROMPT)
    child.send(keys + "\r")
    child.expect('"type": "finished"')
    child.expect(PROMPT)
    child.send("/stats\r")
    child.expect("answers 1, ")
    leave(child)


def test_enter_sends_what_is_typed_before_the_first_prompt(terminal):
    """Until then, the terminal makes a newline of Enter, as Ctrl-J sends it."""
    child = terminal()
    child.send("/stats\r/undo\r")
    child.expect("answers 0, ")
    child.expect("nothing to undo")
    leave(child)


def test_the_history_comes_back(terminal):
    child = terminal()
    child.expect(PROMPT)
    child.send("/stats\r")
    child.expect("answers 0, ")
    leave(child)
    child = terminal()
    child.expect(PROMPT)
    for _ in range(TIMEOUT):  # the history is read while the prompt is shown
        child.send("\x1b[A")
        if child.expect(["/stats", pexpect.TIMEOUT], timeout=1) == 0:
            break
    child.send("\r")
    child.expect("answers 0, ")
    leave(child)


def test_what_is_typed_during_an_answer_is_asked_next_and_shown_in_its_place(terminal):
    child = terminal()
    child.expect(PROMPT)
    child.send("What is the capital of France?\r")
    child.expect("user")  # its reasoning begins
    child.send("/stats\r")
    child.expect("GB\\]")
    assert "Paris" in without_escapes(child.before) and "stats" not in without_escapes(child.before)
    child.expect("answers 1, ")
    leave(child)


@pytest.mark.parametrize("during", ["> ", "user"], ids=["prompt", "answer"])
def test_a_terminal_is_left_as_it_was_found_when_the_program_is_told_to_end(terminal, during):
    child = terminal()
    before = termios.tcgetattr(child.child_fd)
    child.expect(PROMPT)
    if during != "> ":
        child.send(LONG + "\r")
        child.expect(during)
    deadline = time.monotonic() + 20
    while termios.tcgetattr(child.child_fd) == before:  # the prompt may appear before the terminal is changed
        assert time.monotonic() < deadline
        time.sleep(0.02)
    child.kill(signal.SIGTERM)
    child.expect(pexpect.EOF)
    assert termios.tcgetattr(child.child_fd)[:4] == before[:4]
    child.close()
    assert child.exitstatus == 128 + signal.SIGTERM


def test_a_redirected_conversation_writes_the_answers_alone(terminal, tmp_path):
    answers = tmp_path / "answers.txt"
    child = terminal(">", str(answers), shell=True)
    child.expect(PROMPT)
    ask(child, "What is the capital of France?")
    leave(child)
    assert "Paris" in answers.read_text() and answers.read_text().count("\n") == 1


def test_a_very_long_question_is_refused_and_the_program_goes_on(terminal):
    child = terminal()
    child.expect(PROMPT)
    child.send(f"\x1b[200~{'word ' * 20_000}\x1b[201~\r")  # how terminals send pasted text
    child.expect("error: 20,0.. tokens leave no room")
    assert "Paris" in ask(child, "What is the capital of France?")
    leave(child)


def test_ctrl_c_while_the_prompt_is_read_stops_that_and_not_the_program(terminal):
    child = terminal()
    child.expect(PROMPT)
    child.send(f"\x1b[200~{'word ' * 3_500}\x1b[201~\r")
    child.expect("reading [0-9,]+ of 3,")
    child.sendintr()
    child.expect(r"\[stopped\]")
    child.expect("no tokens")
    child.send("/undo\r")
    child.expect("removed")
    assert "Paris" in ask(child, "What is the capital of France?")
    leave(child)


def test_code_runs_when_the_user_says_so_and_ctrl_c_says_no(terminal):
    """Keys typed before the question do not answer it."""
    python = "python" if isolation_here() in GUARANTEES else "python=limits"
    child = terminal("--tool", python)
    child.expect(PROMPT)
    child.send("What is 37 * 48?\r")
    child.expect("run python\\? yes, no, always: ")
    assert "print(37*48)" in without_escapes(child.before)
    child.send("y\r")
    child.expect("1776")
    child.expect(PROMPT)
    child.send("What is 12 * 13?\r")
    child.expect("run python\\? yes, no, always: ")
    child.sendintr()
    child.expect(PROMPT)
    child.send("What is 11 * 13?\r")
    child.expect("run python\\? yes, no, always: ")
    child.send("a\r")
    child.expect("143")
    child.expect(PROMPT)
    child.send("What is 15 * 17?\r")
    child.expect("255")
    child.expect(PROMPT)
    child.sendeof()
    child.expect(pexpect.EOF)


def test_ctrl_c_at_the_question_whether_code_may_run_stops_a_single_answer(terminal):
    python = "python" if isolation_here() in GUARANTEES else "python=limits"
    child = terminal("--tool", python, '"What is 37 * 48?"', shell=True)
    child.expect("run python\\? yes, no, always: ")
    child.sendintr()
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 130


@pytest.mark.skipif(shutil.which("setsid") is None, reason="the system has no setsid")
def test_a_terminal_that_is_not_the_controlling_one_will_do(terminal):
    """As under `setsid` or `su -c`."""
    child = terminal(setsid=True)
    child.expect(PROMPT)
    assert "Paris" in ask(child, "What is the capital of France?")
    leave(child)


def test_bytes_that_are_no_text_are_told_and_the_conversation_goes_on(terminal):
    child = terminal(NO_COLOR="1")
    child.expect("> ")
    child.sendline("What is the capital of France?")
    child.expect("Paris")
    child.expect("> ")
    os.write(child.child_fd, b"caf\xe9\n")
    child.expect("error: the question is not UTF-8")
    child.expect("> ")
    child.sendline("And of Italy?")
    child.expect("Rome")
    child.expect("> ")
    child.sendeof()
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


STUBBORN = '''
import time
from mlx_oss.generation import compute_thread

def never() -> None:
    while True:
        try:
            time.sleep(3600)
        except BaseException:
            pass

def get_weather(location: str) -> str:
    """Gets the current weather of a place."""
    print("it began", flush=True)
    WORK
'''


@pytest.mark.parametrize(
    ("work", "question", "during"),
    [
        ("never()", "What is the weather in Lisbon?", "it began"),  # a tool that cannot be stopped
        ("compute_thread.run(never)", "What is the weather in Lisbon?", "it began"),  # MLX that computes for ever
        ("return 'sun'", LONG, "user"),  # an answer
        ("return 'sun'\nnever()", None, "-->"),  # while tools and the model are loaded
    ],
    ids=["tool", "MLX", "answer", "loading"],
)
def test_ctrl_d_leaves_whatever_is_going_on(terminal, tmp_path, work, question, during):
    within, _, at_import = work.partition("\n")
    announced = f'print("-->", flush=True)\n{at_import}\n' if at_import else ""
    (tmp_path / "weather.py").write_text(STUBBORN.replace("WORK", within) + announced)
    child = terminal("--tool", str(tmp_path / "weather.py"), "--yes")
    before = termios.tcgetattr(child.child_fd)
    if question is not None:
        child.expect(PROMPT)
        child.send(question + "\r")
    child.expect(during)
    child.send("\x04")
    child.expect(pexpect.EOF)
    assert termios.tcgetattr(child.child_fd) == before
    child.close()
    assert child.exitstatus == 0 and "Traceback" not in child.before


def test_ctrl_d_leaves_at_the_question_whether_code_may_run(terminal):
    child = terminal("--tool", "python" if isolation_here() in GUARANTEES else "python=limits")
    child.expect(PROMPT)
    child.send("What is 37 * 48?\r")
    child.expect("run python\\? yes, no, always: ")
    child.send("\x04")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0 and "Traceback" not in child.before


@pytest.mark.parametrize(
    "moment", ["before the program runs", "with the question", "with a question before the prompt"]
)
def test_ctrl_d_leaves_when_it_comes_before_the_terminal_is_ready_for_it(terminal, tmp_path, moment):
    (tmp_path / "weather.py").write_text(STUBBORN.replace("WORK", "never()"))
    child = terminal("--tool", str(tmp_path / "weather.py"), "--yes")
    if moment == "with the question":
        child.expect(PROMPT)
    child.send("\x04" if moment == "before the program runs" else "What is the weather in Lisbon?\r\x04")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0 and "Traceback" not in child.before and "it began" not in child.before


def test_ctrl_d_leaves_where_lines_are_read_without_escape_sequences(terminal):
    child = terminal(TERM="dumb")
    child.expect("\r\n> ")
    child.send("\x04")
    child.expect(pexpect.EOF)
    child.close()
    assert child.exitstatus == 0


def history(tmp_path) -> str:
    path = tmp_path / "state" / "mlx-oss" / "history"
    return path.read_text() if path.exists() else ""


@pytest.mark.parametrize(
    ("arguments", "variables", "kept"),
    [([], {}, True), (["--no-history"], {}, False), ([], {"MLX_OSS_HISTORY": "0"}, False)],
)
def test_the_history_is_kept_for_the_user_alone_unless_it_is_switched_off(
    terminal, tmp_path, arguments, variables, kept
):
    folder = tmp_path / "state" / "mlx-oss"
    if kept:
        folder.mkdir(parents=True)
        (folder / "history").write_text("")
        (folder / "history").chmod(0o644)
    child = terminal(*arguments, **variables)
    child.expect(PROMPT)
    child.send("/stats\r")
    child.expect("answers 0, ")
    leave(child)
    assert ("/stats" in history(tmp_path)) is kept
    if kept:
        assert stat.S_IMODE((folder / "history").stat().st_mode) == 0o600


@pytest.mark.parametrize("make", [os.mkfifo, lambda path: path.symlink_to("/dev/zero"), lambda path: path.mkdir()])
def test_a_history_that_is_no_file_is_left_alone(terminal, tmp_path, make):
    path = tmp_path / "state" / "mlx-oss" / "history"
    path.parent.mkdir(parents=True)
    make(path)
    child = terminal()
    child.expect(PROMPT)
    child.send("/stats\r")
    child.expect("answers 0, ")
    leave(child)
