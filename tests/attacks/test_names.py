"""Names and values of checkpoints, files and arguments reach the terminal as characters only, whatever prints them."""

from __future__ import annotations

import ast
import contextlib
import json
import logging
import shutil
import sys
import unicodedata
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import mlx_oss
from mlx_oss import ScriptedEngine, events
from mlx_oss.cli import main, model_arguments
from mlx_oss.cli.remarks import remark
from mlx_oss.convert.command import main as convert_main
from mlx_oss.terminal import one_line, report, say
from mlx_oss.weights.safetensors import INDEX
from tests.chat.scripted import TOKENIZER

EVIL = {
    "window title": "\x1b]0;owned\x07",
    "clear screen": "\x1b[2J",
    "clipboard": "\x1b]52;c;cm0gLXJm\x1b\\",
    "one byte CSI": "\x9b2J",
    "one byte OSC": "\x9d0;owned\x9c",
    "bell": "\x07",
    "carriage return": "\rfine",
    "backspace": "abc\b\b\bfine",
    "delete": "\x7f",
    "device status": "\x1b[6n",
    "new line": "\nerror: fine",
    "line separator": "\u2028fine",
    "right to left": "\u202etxt.exe",
    "isolate": "\u2066gpj\u2069",
    "zero width": "config\u200b\u200d\ufeff",
    "tag": "\U000e0041",
}
# Four at a time: more would be so long that messages shorten them.
TOGETHER = ["".join(list(EVIL.values())[start : start + 4]) for start in range(0, len(EVIL), 4)]


def assert_harmless(text: str, lines: int | None = None) -> None:
    wrong = {character for character in text if character not in "\n\t" and unicodedata.category(character)[0] == "C"}
    assert not {character for character in wrong if unicodedata.category(character) not in ("Co", "Cn")}, ascii(text)
    assert not set("\u2028\u2029") & set(text), ascii(text)
    assert "\nerror: fine" not in text


@pytest.fixture(autouse=True)
def restored(monkeypatch) -> None:
    monkeypatch.setattr(warnings, "showwarning", warnings.showwarning)
    monkeypatch.setattr(sys, "excepthook", sys.excepthook)


@pytest.fixture
def shown(capsys) -> Callable[..., str]:
    """shown(*arguments): everything that the command prints; it has to print something, and not a traceback."""

    def run(*arguments: object, main: Callable[..., int] = main) -> str:
        with warnings.catch_warnings():
            warnings.simplefilter("always")
            with contextlib.suppress(SystemExit):
                main([str(argument) for argument in arguments])
        out, err = capsys.readouterr()
        assert out + err and "Traceback" not in err
        assert_harmless(out + err)
        return out + err

    return run


@pytest.fixture
def copy(folder, tmp_path) -> Callable[..., Path]:
    """copy(name): a copy of a model's folder."""

    def get(name: str = "model") -> Path:
        return Path(shutil.copytree(folder("tiny"), tmp_path / name))

    return get


def changed(path: Path, change: Callable[[dict], object]) -> None:
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))


def with_header(path: Path, change: Callable[[dict], object]) -> None:
    whole = path.read_bytes()
    end = 8 + int.from_bytes(whole[:8], "little")
    header = json.loads(whole[8:end])
    change(header)
    new = json.dumps(header).encode()
    path.write_bytes(len(new).to_bytes(8, "little") + new + whole[end:])


def attacks(model: Path, evil: str, work: Path) -> Iterator[tuple[object, ...]]:
    """Puts the text somewhere into the model's folder, and yields the arguments of a command that meets it there."""
    config, (shard, *_), index = model / "config.json", sorted(model.glob("*.safetensors")), model / INDEX
    kept = {path: path.read_bytes() for path in (config, shard, index)}

    def whole_again() -> None:
        for path, content in kept.items():
            path.write_bytes(content)

    (model / "conversion.json").unlink()
    changed(config, lambda c: c.update({evil: 1}))
    yield "plan", model
    yield "verify", model, "--source", model
    whole_again()
    for key in ("model_type", "hidden_size", "layer_types", "rope_scaling", "quantization_config"):
        changed(config, lambda c, key=key: c.update({key: {"quant_method": evil, evil: evil}}))
        yield "plan", model
        changed(config, lambda c, key=key: c.update({key: evil}))
        yield "convert", model, work / "out"
        whole_again()
    changed(config, lambda c: c["quantization"].update({evil: 1}))
    yield "plan", model
    whole_again()
    with_header(shard, lambda h: h.update({evil: h.pop(sorted(set(h) - {"__metadata__"})[0])}))
    yield "plan", model
    yield "verify", model
    index.unlink()
    yield "plan", model
    yield "verify", model
    whole_again()
    with_header(shard, lambda h: h.update({evil: {"dtype": "F32", "shape": [1], "data_offsets": [9, 9]}}))
    yield "plan", model
    whole_again()
    changed(index, lambda i: i["weight_map"].update({evil: evil + "x.safetensors"}))
    yield "plan", model
    whole_again()
    conversation = work / "conversation.json"
    for message in (
        {"role": evil, "content": "x"},
        {"role": "user", "content": "x", evil: 1},
        {"role": "user", evil: 1},
    ):
        conversation.write_text(json.dumps([message]))
        yield "render", conversation
    for command in (["render"], ["parse"], ["plan"], ["verify"], ["bench"], ["chat", "hi", "--response-format"]):
        yield *command, work / f"missing {evil}"
    yield "convert", model, work / f"missing{evil}" / "x"
    yield "convert", work / f"missing {evil}", work / "x"
    yield "plan", model, "--memory", evil
    yield "plan", model, f"--{evil}"
    yield "convert", model, work / "out", "--set", evil
    yield "convert", model, work / "out", "--set", f"{evil}=q8"
    yield (evil,)


@pytest.mark.parametrize("evil", TOGETHER, ids=ascii)
def test_what_a_file_says_is_shown_as_characters(copy, shown, tmp_path, evil):
    count = 0
    for arguments in attacks(copy(), evil, tmp_path):
        shown(*arguments)
        count += 1
    assert count > 25


@pytest.mark.parametrize("evil", TOGETHER, ids=ascii)
def test_what_a_folder_is_called_is_shown_as_characters(copy, shown, tmp_path, evil):
    model = copy(f"model {evil}")
    assert "fits in memory" in shown("plan", model, "--memory", "8GB")
    assert "fits in memory" not in shown("plan", model, "--memory", "8GB", "--json")
    target = tmp_path / f"target {evil}"
    for main_, arguments in ((main, ("convert", model, target)), (convert_main, (model, tmp_path / f"2 {evil}"))):
        assert "written" in shown(*arguments, main=main_)
        assert "already exists" in shown(*arguments, main=main_)
    assert "verified" in shown("verify", target)
    (target / "LICENSE").write_text("other")
    shown("verify", target)
    shard = sorted(target.glob("*.safetensors"))[0]
    shard.write_bytes(shard.read_bytes()[:-1] + b"\xff")
    assert "does not match" in shown("verify", target)


@pytest.mark.parametrize("kind", EVIL)
def test_what_is_typed_is_shown_as_characters_also_by_the_converter_alone(shown, capsys, monkeypatch, kind):
    evil = EVIL[kind]
    for arguments in ([f"--{evil}"], ["a", "b", evil], ["a", "b", f"--profile={evil}"], ["a", "b", "--set", evil]):
        monkeypatch.setattr(sys, "argv", ["convert", *arguments])
        shown(*arguments, main=convert_main)
    assert sys.excepthook is not sys.__excepthook__


@pytest.mark.parametrize("kind", EVIL)
def test_what_a_tool_is_called_is_one_line_of_characters(kind):
    name = f"functions.x{EVIL[kind]}"
    for event in (events.ToolCall(name, "{}"), events.ToolResult(name, "text")):
        assert_harmless(remark(event))
        assert "\n" not in remark(event)


def test_json_of_generate_has_escapes_on_a_terminal(capsys, monkeypatch):
    said = "a\u202eb\x9b2J"
    monkeypatch.setattr(model_arguments, "load", lambda args: (ScriptedEngine(said), TOKENIZER))
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    assert main(["generate", "hi", "--json"]) == 0
    out = capsys.readouterr().out
    assert out.isascii() and "\\u202e" in out


def test_json_for_a_terminal_has_escapes(shown, copy, monkeypatch):
    out = shown("plan", copy(f"model {EVIL['one byte CSI']} {EVIL['right to left']}"), "--json")
    assert "\\u009b" in out and "\\u202e" in out and out.isascii()


def test_what_is_logged_or_ends_the_program_is_shown_as_characters(shown, capsys, tmp_path):
    evil = "".join(EVIL.values())
    shown("render", tmp_path / "missing")  # installs the handlers
    logging.getLogger("mlx_oss").warning("%s needs more memory", evil)
    assert_harmless(capsys.readouterr().err)
    try:
        raise RuntimeError(evil)
    except RuntimeError:
        sys.excepthook(*sys.exc_info())  # type: ignore[arg-type]
    err = capsys.readouterr().err
    assert err.startswith("Traceback") and "RuntimeError" in err
    assert not set(err) & set("\x1b\x9b\u202e\u200b\r")


def test_notices_of_a_chat_are_shown_as_characters(capsys, monkeypatch):
    from mlx_oss.cli.live_markdown import LiveMarkdown
    from mlx_oss.cli.printers import JsonPrinter, PlainPrinter

    for printer in (PlainPrinter(), JsonPrinter(), LiveMarkdown()):
        printer.notice("x\x1b]0;owned\x07\x9b2J\r")
        out, err = capsys.readouterr()
        assert_harmless(out + err)


def test_a_message_is_one_line_and_a_report_may_have_several(capsys):
    assert one_line("a\nb") == "a\N{SYMBOL FOR NEWLINE}b"
    say("a\nb\x1b")
    report("c\td")
    assert capsys.readouterr() == ("c\td\n", "a\nb\N{REPLACEMENT CHARACTER}\n")


# What writes to stdout and stderr itself: constants, numbers, answers (which a printer makes harmless), and escapes of
# the program that contain nothing else.
WRITERS = {
    "mlx_oss/terminal.py",
    "mlx_oss/cli/printers.py",
    "mlx_oss/cli/colours.py",
    "mlx_oss/cli/generate.py",
    "mlx_oss/cli/parse.py",
    "mlx_oss/cli/render.py",
    "mlx_oss/cli/plan.py",
    "mlx_oss/cli/bench.py",
    "mlx_oss/cli/compare.py",  # JSON
    "mlx_oss/cli/config.py",  # JSON
    "mlx_oss/cli/models.py",  # JSON
    "mlx_oss/cli/research.py",  # a report that was made harmless, and JSON
    "mlx_oss/cli/statuses.py",  # JSON
    "mlx_oss/cli/doctor.py",
    "mlx_oss/cli/interrupts.py",  # a line break
    "mlx_oss/cli/prompt.py",
    "mlx_oss/cli/model_arguments.py",
    "mlx_oss/cli/tool_arguments.py",
    "mlx_oss/bench/worker.py",
    "mlx_oss/doctor/worker.py",
    "mlx_oss/tools/sandbox/interpreter.py",
    "mlx_oss/tools/browser/reader_process.py",  # a pipe
    "mlx_oss/tools/mcp/guard.py",  # a pipe
    "mlx_oss/hosts/worker.py",  # a pipe
    "convert/command.py",
}


def test_no_other_module_writes_to_the_terminal():
    root = Path(mlx_oss.__file__).parent.parent
    found = set()
    for path in [*(root / "mlx_oss").rglob("*.py"), *(root / "convert").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Attribute) and ast.unparse(node) in ("sys.stdout.write", "sys.stderr.write"):
                found.add(str(path.relative_to(root)).replace("mlx_oss/convert/", "convert/"))
    assert found <= WRITERS
