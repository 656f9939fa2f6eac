"""Tests the `mlx-oss` command: what it writes to stdout and stderr, and its exit status."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import mlx_oss
from mlx_oss import SamplingOptions, ScriptedEngine
from mlx_oss.cli import COMMANDS, main
from mlx_oss.convert import convert
from mlx_oss.harmony import Message, SystemContent, render_conversation
from tests.synthetic import TINY, write_checkpoint

BIG_VOCABULARY = TINY | {"num_hidden_layers": 2, "vocab_size": 201088, "hidden_size": 32, "intermediate_size": 64}


@pytest.fixture(scope="module")
def random_folder(tmp_path_factory) -> Path:
    """A converted model with random weights and the real vocabulary. It answers with random text."""
    base = tmp_path_factory.mktemp("cli")
    convert(write_checkpoint(base / "release", BIG_VOCABULARY), base / "model")
    return base / "model"


@pytest.fixture(autouse=True)
def restored_warnings(monkeypatch) -> None:
    """Restores `warnings.showwarning`, which `main` replaces, for the other tests."""
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)


@pytest.fixture(autouse=True, scope="module")
def default_interrupts() -> Iterator[None]:
    """Restores the default handler of SIGINT, which a shell ignores in processes that it runs in the background."""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    signal.signal(signal.SIGINT, before)


def command(*arguments: object, **more: Any) -> subprocess.Popen[bytes]:
    pipes = {"stdin": subprocess.DEVNULL, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE}
    return subprocess.Popen([sys.executable, "-m", "mlx_oss", *map(str, arguments)], **pipes | more)


def run(*arguments: object, stdin: bytes = b"", **more: Any) -> tuple[int, str, str]:
    """Runs the command in a process of its own. Returns exit status, stdout and stderr."""
    with command(*arguments, stdin=subprocess.PIPE, **more) as process:
        out, err = process.communicate(stdin, timeout=300)
    return process.returncode, out.decode(), err.decode()


def error_of(arguments: list[object], capsys: pytest.CaptureFixture[str]) -> str:
    """Runs the command in this process, with exit status 2. Returns the one line that it writes to stderr."""
    assert main([str(argument) for argument in arguments]) == 2
    out, err = capsys.readouterr()
    assert out == "" and err.startswith("error: ") and err.endswith("\n") and err.count("\n") == 1
    return err.removeprefix("error: ").rstrip()


def test_a_question_is_answered_on_stdout_and_nothing_else_is(random_folder):
    model, tokenizer = mlx_oss.load(random_folder)
    options = SamplingOptions(temperature=0.8, top_k=50, seed=5)
    session = mlx_oss.ChatSession(model, tokenizer, options=options, max_tokens=5, reasoning_effort="none")
    reply = session.ask("What is it?")
    assert reply.text
    sampling = "--reasoning none --max-tokens 5 --temperature 0.8 --top-k 50 --seed 5"
    more = ("--model", random_folder, *sampling.split())
    cut_off = "[cut off at --max-tokens]\n"
    assert run("chat", "What is", "it?", *more) == (3, reply.text + "\n", cut_off)
    assert run("chat", *more, stdin=b" What is it?\n") == (3, reply.text + "\n", cut_off)


def test_ctrl_c_while_the_model_writes_stops_it_and_exits_with_130(random_folder):
    with command("chat", "Hi", "--model", random_folder, "--seed", 1, "--reasoning", "none") as process:
        first = process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (130, b"[stopped]\n")
    assert first and out.endswith(b"\n")


def test_ctrl_c_exits_with_130_and_no_traceback_in_generate_too(random_folder):
    with command("generate", "Hi", "--model", random_folder, "--seed", 1) as process:
        process.stdout.read(1)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=300)
    assert (process.returncode, err) == (130, b"")


def test_a_reader_that_leaves_ends_the_command_quietly(random_folder):
    with command("generate", "Hi", "--model", random_folder, "--seed", 1) as process:
        process.stdout.read(1)
        process.stdout.close()
        assert process.wait(timeout=300) == 1
        assert process.stderr.read() == b""


def test_a_warning_is_one_line_on_stderr(random_folder, tmp_path):
    for path in random_folder.iterdir():
        (tmp_path / path.name).symlink_to(path)
    raw = json.loads((random_folder / "config.json").read_text()) | {"zebra": 1}
    (tmp_path / "config.json").unlink()
    (tmp_path / "config.json").write_text(json.dumps(raw))
    code, out, err = run("chat", "Hi", "--model", tmp_path, "--max-tokens", 2, "--reasoning", "none", "--seed", 1)
    assert code == 3 and out and err.startswith("warning: ") and "zebra" in err.splitlines()[0]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "absent"], "absent does not exist"),
        (["--temperature", "-1"], "temperature is -1.0"),
        (["--temperature", "nan"], "temperature is nan"),
        (["--top-p", "0"], "--top-p is 0"),
        (["--top-k", "-3"], "--top-k is -3"),
        (["--min-p", "2"], "--min-p is 2.0"),
        (["--repetition-penalty", "0"], "--repetition-penalty is 0"),
        (["--seed", "-1"], "seed is -1"),
    ],
)
@pytest.mark.parametrize("name", ["chat", "generate"])
def test_a_wrong_argument_is_one_line_and_exit_status_2(name, arguments, message, capsys):
    """The arguments are checked before the model is loaded: the folder does not exist."""
    all_arguments = arguments if "--model" in arguments else [*arguments, "--model", "absent"]
    assert message in error_of([name, "Hi", *all_arguments], capsys)


def test_folders_that_are_no_models_are_one_line_and_exit_status_2(release, tmp_path, capsys):
    path = release("tiny", "bf16")
    assert f"`mlx-oss convert {path} DST`" in error_of(["chat", "Hi", "--model", path], capsys)
    assert "no *.safetensors" in error_of(["chat", "Hi", "--model", tmp_path], capsys)
    assert f"is a file of a model: give its folder, {path}" in error_of(
        ["chat", "Hi", "--model", path / "config.json"], capsys
    )


@pytest.mark.parametrize("name", ["chat", "generate"])
def test_a_wrong_number_of_tokens_is_refused(name, random_folder, capsys):
    assert "--max-tokens is 0, expected at least 1" in error_of(
        [name, "Hi", "--model", random_folder, "--max-tokens", 0], capsys
    )


@pytest.mark.parametrize("stdin", [b"", b" \n\t\n"])
def test_an_empty_question_is_refused(stdin):
    code, out, err = run("chat", "--model", "absent", stdin=stdin)
    assert (code, out) == (2, "") and err.startswith("error: there is no question") and err.count("\n") == 1


def test_a_question_that_is_no_text_is_refused():
    code, out, err = run(
        "chat", "--model", "absent", stdin=b"\xff\xfe", env=os.environ | {"PYTHONIOENCODING": "utf-8:strict"}
    )
    assert (code, out) == (2, "") and err.startswith("error: stdin is not text in UTF-8") and err.count("\n") == 1


def test_stdin_that_is_closed_is_an_empty_question(monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", None)
    assert "there is no question" in error_of(["chat", "--model", "absent"], capsys)


@pytest.mark.parametrize("arguments", [[], ["sing"], ["chat", "--loud"], ["chat", "--max-tokens", "x"]])
def test_wrong_use_is_one_line_and_exit_status_2(arguments, capsys):
    assert error_of(arguments, capsys)


def test_help_lists_the_commands_and_loads_nothing_heavy():
    """Importing MLX would make the help slow. Only the help of the converter needs NumPy."""
    program = """
import sys
from mlx_oss.cli import COMMANDS, main
heavy = {"mlx", "numpy", "tiktoken", "safetensors", "rich", "prompt_toolkit"}
for arguments in ([], *([name] for name in sorted(COMMANDS, key="convert".__eq__))):
    try:
        main([*arguments, "--help"])
    except SystemExit as end:
        assert end.code == 0
    loaded = heavy & {name.partition(".")[0] for name in sys.modules}
    assert loaded <= ({"numpy"} if arguments == ["convert"] else set()), (arguments, loaded)
"""
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
    for name, (_, summary) in COMMANDS.items():
        assert name in out and summary in " ".join(out.split())


@pytest.mark.parametrize("command", ["convert", "bench"])
def test_on_a_mac_the_help_of_long_work_says_how_to_keep_it_awake(command, monkeypatch, capsys):
    for platform in ("darwin", "linux"):
        monkeypatch.setattr(sys, "platform", platform)
        with pytest.raises(SystemExit):
            main([command, "--help"])
        shown = " ".join(capsys.readouterr().out.split())
        assert (f"`caffeinate -i mlx-oss {command} " in shown) == (platform == "darwin")


def test_version_is_the_packages(capsys):
    with pytest.raises(SystemExit) as caught:
        main(["--version"])
    assert caught.value.code == 0 and capsys.readouterr().out == f"mlx-oss {mlx_oss.__version__}\n"


@pytest.mark.parametrize("raw", [False, True])
def test_generate_as_json_tells_each_token(random_folder, raw, capsys):
    arguments = ["generate", "<|start|>Hi", "--model", str(random_folder), "--max-tokens", "6", "--seed", "3", "--json"]
    assert main(arguments + ["--raw"] * raw) == (0 if raw else 3)
    entries = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    model, tokenizer = mlx_oss.load(random_folder)
    prompt = tokenizer.encode_with_specials("<|start|>Hi")
    if not raw:
        system = Message("system", SystemContent(reasoning_effort="medium"))
        prompt = render_conversation([system, Message("user", "<|start|>Hi")], next_role="assistant")
    steps = list(mlx_oss.generate_step(model, prompt, SamplingOptions(seed=3), max_tokens=6))
    assert [line["id"] for line in entries] == [step.token for step in steps]
    assert [line["logprob"] for line in entries] == pytest.approx([step.logprob for step in steps], abs=1e-4)
    assert [line["finish"] for line in entries] == [None] * 5 + ["length"]
    assert tokenizer.decode(line["id"] for line in entries).startswith("".join(line["text"] for line in entries))


def test_generate_shows_the_text_of_every_token(random_folder, capsys):
    arguments = ["generate", "Hi", "--model", str(random_folder), "--max-tokens", "6", "--seed", "3"]
    assert main([*arguments, "--json"]) == 3
    entries = [json.loads(line)["id"] for line in capsys.readouterr().out.splitlines()]
    assert main(arguments) == 3
    shown = capsys.readouterr()
    assert shown.err == "[cut off at --max-tokens]\n"
    assert shown.out == mlx_oss.load_tokenizer().decode(entries) + "\n"


def test_a_terminal_gets_no_control_characters_that_a_model_writes_and_a_file_does(monkeypatch, capsys):
    written = mlx_oss.load_tokenizer().encode("a\x1b]0;title\x07b\n")
    engine, tokenizer = ScriptedEngine(*2 * [written]), mlx_oss.load_tokenizer()
    monkeypatch.setattr("mlx_oss.cli.model_arguments.load", lambda args: (engine, tokenizer))
    arguments = ["generate", "Hi", "--max-tokens", str(len(written))]
    assert main(arguments) == 3 and capsys.readouterr().out == "a\x1b]0;title\x07b\n\n"
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(arguments) == 3 and capsys.readouterr().out == "a\ufffd]0;title\ufffdb\n\n"


def test_generate_without_a_prompt_is_refused(random_folder, capsys):
    assert "at least one" in error_of(["generate", "", "--raw", "--model", random_folder], capsys)
