"""Tests `--tool`: the tools of the session, refused arguments, and the question before code runs."""

from __future__ import annotations

import io
import json
import re
import sys

import pytest

from mlx_oss import ToolCall, ToolResult
from mlx_oss.cli import main, tool_arguments
from mlx_oss.cli.live_markdown import LiveMarkdown
from mlx_oss.cli.printers import PlainPrinter
from mlx_oss.cli.remarks import remark
from mlx_oss.tools import BrowserTool, PythonTool, Tool, patch_tool, python
from mlx_oss.tools.sandbox import GUARANTEES, isolation_here

MINE = '''
"""Functions of mine."""
from json import dumps
from beside import NAME
from mlx_oss.tools import tool_from

def get_weather(location: str) -> dict:
    """Gets the current weather of a place."""
    return {"temperature": 18, "condition": "sunny", "by": NAME}

def _private():
    """Not for the model."""

def undocumented(): ...

renamed = tool_from(_private, name="renamed")
'''


@pytest.fixture
def mine(tmp_path):
    (tmp_path / "beside.py").write_text("NAME = 'me'")
    (tmp_path / "mytools.py").write_text(MINE)
    path = list(sys.path)
    yield tmp_path / "mytools.py"
    sys.path[:] = path
    for name in ("mlx_oss_tool_mytools", "beside"):
        sys.modules.pop(name, None)


def test_a_file_gives_its_public_functions_and_tools(mine):
    function, tool = tool_arguments.functions_of(mine)
    assert function("Oslo")["by"] == "me" and isinstance(tool, Tool) and tool.name == "renamed"


def test_a_file_that_is_called_like_a_module_replaces_none(tmp_path, monkeypatch):
    monkeypatch.setattr(sys, "path", list(sys.path))
    (tmp_path / "time.py").write_text('def now() -> str:\n    "Tells the time."\n    return "noon"\n')
    (now,) = tool_arguments.functions_of(tmp_path / "time.py")
    import time

    assert now() == "noon" and sys.modules["time"] is time and time.perf_counter() > 0


def test_tools_are_made_of_what_is_named(mine, tmp_path):
    (tmp_path / "note.md").write_text("x")
    (browser,) = tool_arguments.made(f"browser={tmp_path}")
    assert isinstance(browser, BrowserTool)
    (patch,) = tool_arguments.made(f"patch={tmp_path}")
    assert patch.name == "apply_patch"
    (python,) = tool_arguments.made("python=limits")
    assert isinstance(python, PythonTool) and python.stateful and python.isolation == "limits"
    (web,) = tool_arguments.made("browser=https://host/search?q={query}")
    assert isinstance(web, BrowserTool)


def test_python_with_a_folder_reads_and_writes_there(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("data", "limits"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "in.txt").write_text("7")
    for spec, folder in {"limits,data": "data", "stateless,limits,data": "data", "limits,./limits": "limits"}.items():
        (python,) = tool_arguments.made(f"python={spec}")
        assert python.isolation == "limits" and python.stateful == ("stateless" not in spec)
        text = python.call("", "open('out.txt', 'w').write(open('in.txt').read() + '!')")
        assert f"[saved as {tmp_path / folder / 'out.txt'}]" in text
        assert (tmp_path / folder / "out.txt").read_text() == "7!"
        (tmp_path / folder / "out.txt").unlink()
        python.close()


@pytest.mark.parametrize("known", [True, False])
def test_a_turn_with_a_shared_folder_prints_what_was_saved(known, tmp_path, monkeypatch, capsys):
    """nano writes no files, so what it wants to run is replaced."""
    monkeypatch.setattr(python, "code_of", lambda _: "open('out.txt', 'w').write('x'); print(1776)")
    tool = f"python=limits,{tmp_path}" if known else "python=limits"
    assert main(["generate", "--temperature", "0", "--yes", "--tool", tool, "What is 37 * 48?"]) == 0
    out, err = capsys.readouterr()
    assert "1776" in out
    assert (f"saved as {tmp_path}/out.txt" if known else "not kept: out.txt; --tool python=FOLDER") in out + err


@pytest.mark.parametrize(
    ("tool", "sentence"),
    [
        ("nothing", "'nothing' is not a tool"),
        ("python=fast", "fast is not a folder: create it"),
        ("python=limits,fast", "fast is not a folder: create it"),
        ("python=", "is not a tool"),
        ("browser", "is not a tool"),
        ("browser=/does/not/exist", "is not a folder"),
        ("browser=https://host/search", "is not a search endpoint"),
        ("patch=/does/not/exist", "is not a folder"),
        ("none.py", "cannot be read"),
        ("broken.py", "cannot be loaded (SyntaxError"),
        ("exit.py", "cannot be loaded (SystemExit: 3)"),
        ("empty.py", "no public function"),
        ("twice.py", "two tools are called 'f'"),
        ("positional.py", "no name to call it by"),
    ],
)
@pytest.mark.parametrize("command", ["chat", "generate"])
def test_what_is_no_tool_is_refused_in_a_line(command, tool, sentence, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "broken.py").write_text("def f(:")
    (tmp_path / "exit.py").write_text("import sys\nsys.exit(3)")
    (tmp_path / "empty.py").write_text("x = 1")
    (tmp_path / "twice.py").write_text("from mlx_oss.tools import tool_from\ndef f():\n    'F.'\ng = tool_from(f)")
    (tmp_path / "positional.py").write_text("def f(a, /):\n    'F.'")
    assert main([command, "--yes", "--tool", tool, "Hi"]) == 2
    out, err = capsys.readouterr()
    assert out == "" and sentence in err and err.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize("spec", ["python=limits", "patch=."])
@pytest.mark.parametrize("command", ["chat", "generate"])
def test_without_a_terminal_nobody_can_be_asked(command, spec, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert main([command, "--tool", spec, "Hi"]) == 2
    assert "no terminal: give --yes" in capsys.readouterr().err


def test_raw_text_takes_no_tools(capsys):
    assert main(["generate", "--raw", "--yes", "--tool", "python=limits", "Hi"]) == 2
    assert "--raw" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("typed", "verdicts"),
    [
        ("y\nno\n", [True, False]),
        ("yes\nmaybe\n\nN\n", [True, False]),
        ("always\n", [True, True, True]),
        ("", [False]),
    ],
)
def test_the_user_is_asked_before_code_runs(typed, verdicts, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO(typed))
    ask = tool_arguments.Confirmation([PythonTool(isolation="limits")])
    assert [ask(ToolCall("python", "1\n+ 1\x1b[2J")) for _ in verdicts] == verdicts
    err = capsys.readouterr().err
    assert "run python? yes, no, always: " in err and "\x1b" not in err


def test_the_users_own_functions_and_the_browser_are_not_asked_for(tmp_path, mine, monkeypatch):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    (tmp_path / "note.md").write_text("x")
    ask = tool_arguments.Confirmation([*tool_arguments.functions_of(mine), BrowserTool(tmp_path), patch_tool(tmp_path)])
    assert all(ask(ToolCall(name, "{}")) for name in ("functions.get_weather", "renamed", "browser.open"))
    assert not ask(ToolCall("functions.apply_patch", "{}"))


PATCH = "*** Begin Patch\n*** Add File: a\n" + "+x\n" * 20 + "+last \u202e\r line\n*** End Patch"


@pytest.mark.parametrize(
    ("name", "arguments", "shown"),
    [
        ("python", "x = 1\n" * 20 + "print('last')", "x = 1\n" * 20 + "print('last')\n"),
        ("python", json.dumps({"code": "x = 1\n" * 20 + "print('last')"}), "x = 1\n" * 20 + "print('last')\n"),
        ("python", "x = 1; " * 80 + "print('last')", "x = 1; " * 80 + "print('last')\n"),
        ("python", "y = 1 # note\rprint('ran')", "y = 1 # note\u240dprint('ran')\n"),
        ("python", "y = 1 # note\r\nprint('ran')", "y = 1 # note\nprint('ran')\n"),
        ("python", "a = '\u202e\u2066\u200b\u2028'", "a = '\ufffd\ufffd\ufffd\ufffd'\n"),
        ("functions.apply_patch", json.dumps({"input": PATCH}), PATCH.replace("\u202e\r", "\ufffd\u240d") + "\n"),
        ("functions.apply_patch", '{"patch": 3}', '{"patch": 3}\n'),
    ],
)
def test_all_that_will_run_is_shown_before_the_question(name, arguments, shown, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\n"))
    assert not tool_arguments.Confirmation([PythonTool(isolation="limits"), patch_tool(tmp_path)])(
        ToolCall(name, arguments)
    )
    assert capsys.readouterr().err.startswith(shown + "run ")


OWN = """
from dataclasses import replace
from mlx_oss.tools import PythonTool, Tool, patch_tool
code = PythonTool(isolation="limits")
patch = patch_tool(".")
other = Tool(replace(patch.description, name="edit.files"), patch.handler)
"""


def test_code_and_patches_of_a_users_own_file_are_asked_for_too(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    (tmp_path / "own.py").write_text(OWN)
    monkeypatch.setattr(sys, "path", [*sys.path])
    ask = tool_arguments.Confirmation(tool_arguments.functions_of(tmp_path / "own.py"))
    calls = [ToolCall(name, "1") for name in ("python", "functions.python", "functions.apply_patch", "edit.files")]
    assert [ask(call) for call in calls] == [False] * 4
    assert main(["chat", "--tool", str(tmp_path / "own.py"), "Hi"]) == 2
    assert "no terminal: give --yes" in capsys.readouterr().err


def test_calls_and_results_are_folded_unless_wanted_whole():
    call = ToolCall("python", "\n".join(f"print({number})" for number in range(20)))
    assert remark(call).endswith("print(5) ... (189 characters)]") and remark(call, whole=True).count("print") == 20
    assert remark(ToolResult("python", "x" * 500)).endswith("x ... (500 characters)]")
    assert remark(ToolCall("python", "print(1)\n")) == "[calls python: print(1)\n]"


def test_nano_calls_a_file_of_functions_from_the_command_line(mine, capsys):
    assert main(["chat", "--temperature", "0", "--tool", str(mine), "What is the weather in Lisbon?"]) == 0
    out, err = capsys.readouterr()
    assert "sunny" in out and "18" in out and "[calls functions.get_weather: " in err


def test_generate_shows_the_call_and_what_the_tool_answers(capsys):
    python = "python" if isolation_here() in GUARANTEES else "python=limits"
    assert main(["generate", "--temperature", "0", "--yes", "--tool", python, "What is 37 * 48?"]) == 0
    out = capsys.readouterr().out
    assert "to=python code<|message|>print(37*48)<|call|><|start|>python to=assistant<|channel|>analysis" in out
    assert "<|message|>1776<|end|><|start|>assistant" in out and out.endswith("1776.<|return|>\n")


def test_a_loaded_conversation_gets_the_tools_again(mine, tmp_path, monkeypatch, capsys):
    from mlx_oss.cli.conversation import converse
    from mlx_oss.cli.printers import JsonPrinter
    from tests.cli.fake_session import FakeSession

    options_for_tools = {"tools": tool_arguments.functions_of(mine), "confirm": None}
    load_options = []

    class Loadable:
        @staticmethod
        def load(path: str, model: object, tokenizer: object, **options: object) -> FakeSession:
            load_options.append(options)
            return FakeSession()

    monkeypatch.setattr("mlx_oss.chat.session.ChatSession", Loadable)
    monkeypatch.chdir(tmp_path)
    (tmp_path / "chat").touch()
    monkeypatch.setenv("NO_COLOR", "1")  # so that `input` reads the lines
    monkeypatch.setattr(sys, "stdin", io.StringIO("/load chat\n/tools whole\n"))
    converse(FakeSession(), JsonPrinter(), options_for_tools)
    assert load_options == [options_for_tools]


def test_each_event_of_a_turn_with_tools_is_a_line_of_json(mine, capsys):
    arguments = ["chat", "--json", "--temperature", "0", "--tool", str(mine), "What is the weather in Lisbon?"]
    assert main(arguments) == 0
    kinds = [json.loads(line)["type"] for line in capsys.readouterr().out.splitlines()]
    assert kinds.index("tool_call") < kinds.index("tool_result") < kinds.index("answer_delta") < kinds.index("finished")


@pytest.mark.parametrize("kind", [PlainPrinter, LiveMarkdown])
def test_a_call_that_the_user_is_asked_about_is_printed_once(kind, monkeypatch, capsys):
    monkeypatch.setattr(sys, "stdin", io.StringIO("n\nalways\n"))
    ask, printer = tool_arguments.Confirmation([PythonTool(isolation="limits")]), kind()
    printer.is_reviewed = ask.asks
    for verdict in (False, True):
        call = ToolCall("python", "print(37*48)")
        printer(call)
        assert ask(call) is verdict
        error = None if verdict else "the user refused this call"
        printer(ToolResult("python", "1776" if verdict else f"Error: {error}", error))
        printer.end_turn()
    out, err = capsys.readouterr()
    shown = re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", out + err)
    assert shown.count("37*48") == 2 and shown.count("[calls python]\n") == 2
    assert shown.count("[python was not run]") == 1 and "[python returns: 1776]" in shown
    printer(ToolCall("python", "print(1)"))  # always approved, so it is shown as a remark
    printer.end_turn()
    assert "[calls python: print(1)]" in "".join(capsys.readouterr())


def test_what_the_user_refuses_is_the_error_that_the_printers_know():
    from mlx_oss.tools.toolset import Toolset

    invocation = Toolset([PythonTool(isolation="limits")], lambda call: False).invoke(ToolCall("python", "1"))
    invocation.perform()
    assert remark(invocation.result) == "[python was not run]"
