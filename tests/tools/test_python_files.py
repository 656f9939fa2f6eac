"""Tests of files that go into the Python tool and come out of it, with every isolation that this machine has."""

from __future__ import annotations

import os
import sys

import pytest

from mlx_oss.cli.python_tool import FolderPythonTool
from mlx_oss.errors import OptionError, ToolError
from mlx_oss.tools import Limits, PythonTool, python_folder, sandbox
from mlx_oss.tools.python_files import harmless_name
from mlx_oss.tools.python_folder import SharedFolder
from mlx_oss.tools.sandbox import written
from mlx_oss.tools.sandbox.written import WorkFolder

HERE = sandbox.isolation_here()
AVAILABLE = [HERE] * (HERE in sandbox.GUARANTEES) + ["limits"] * (sys.platform == "linux")
LIMITS = Limits(seconds=30, memory_bytes=1 << 30, processes=40, file_bytes=32 << 20)


@pytest.fixture(params=AVAILABLE)
def isolation(request):
    return request.param


@pytest.fixture
def make(isolation):
    """Makes tools that are closed at the end."""
    tools = []

    def make_tool(**options) -> PythonTool:
        tools.append(PythonTool(**{"isolation": isolation, "limits": LIMITS} | options))
        return tools[-1]

    yield make_tool
    for tool in tools:
        tool.close()


@pytest.fixture
def share(isolation, tmp_path):
    """Makes tools that share a folder."""
    folder, tools = tmp_path / "shared", []
    folder.mkdir()

    def make_tool() -> FolderPythonTool:
        tools.append(FolderPythonTool(folder, isolation=isolation, limits=LIMITS))
        return tools[-1]

    yield make_tool, folder
    for tool in tools:
        tool.close()


# --- Going in


def test_the_code_reads_copies_of_given_files(make, tmp_path):
    (tmp_path / "sales.csv").write_text("a,b\n1,2\n")
    for files in ([tmp_path / "sales.csv"], {"sales.csv": str(tmp_path / "sales.csv")}, {"sales.csv": b"a,b\n1,2\n"}):
        tool = make(files=files)
        assert tool.call("", "open('sales.csv').read() + open('/mnt/data/sales.csv').read()") == repr("a,b\n1,2\n" * 2)
        assert tool.call("", "import os; os.stat('sales.csv').st_mode & 0o222, os.listdir()") == "(0, ['sales.csv'])"
        assert tool.files() == {}
        tool.call("", "os.unlink('sales.csv'); open('sales.csv', 'w').write('mine')")
        assert tool.files() == {"sales.csv": b"mine"}
        assert (tmp_path / "sales.csv").read_text() == "a,b\n1,2\n"


def test_a_file_that_changes_is_copied_again_and_a_new_interpreter_gets_all(make, tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("one")
    tool = make(files={"a.txt": path, "b": b"same"})
    assert tool.call("", "open('a.txt').read()") == "'one'"
    path.write_text("second")
    assert tool.call("", "open('a.txt').read(), open('b').read()") == "('second', 'same')"
    with pytest.raises(ToolError):
        tool.call("", "import os; os._exit(1)")
    assert tool.call("", "open('a.txt').read(), open('b').read()") == "('second', 'same')"
    path.unlink()
    with pytest.raises(ToolError, match=r"a\.txt cannot be read any more: No such file"):
        tool.call("", "1")


def test_large_files_and_names_of_all_kinds_arrive(make):
    big = os.urandom(4_000_000)
    names = ["big", "é x.txt", "w", "r", "=a", "-rf", "new\nline"]
    tool = make(files=dict.fromkeys(names, big))
    code = f"import hashlib; [hashlib.md5(open(name, 'rb').read()).hexdigest() for name in {names!r}]"
    assert len(set(eval(tool.call("", code)))) == 1
    assert tool.call("", "import os; sorted(os.listdir())") == repr(sorted(names))


def test_a_file_is_sent_without_copying_what_is_left_of_it_at_each_step(isolation):
    class Uncopied(bytes):
        def __getitem__(self, key):
            raise AssertionError("copied")

    box = sandbox.Sandbox(isolation, LIMITS)
    try:
        output = box.run("import os; os.path.getsize('big')", {"big": Uncopied(4_000_000)})
    finally:
        box.close()
    assert output.text == "4000000\n"


@pytest.mark.parametrize(
    ("files", "sentence"),
    [
        (["/does/not/exist"], "No such file"),
        (["/dev/zero"], "a device"),
        (["/tmp"], "a folder"),
        ("/etc/hosts", "is one path: give a list"),
        ({"a/b": b""}, "is no name of a file"),
        ({"..": b""}, "is no name of a file"),
        ({"x" * 256: b""}, "is no name of a file"),
        ({"\ud800": b""}, "is no name of a file"),
        ({5: b""}, "is no name of a file"),
        (None, "files=None: give a list of paths, or a mapping"),
        (5, "files=5: give a list of paths, or a mapping"),
        ([5], "5 is no path: give"),
        ([b"/etc/hosts"], "is no path: give"),
        ({"a": 5}, "5 is no path: give"),
        ({"a": None}, "None is no path: give"),
        (["/etc/hosts", "/../etc/hosts"], "two are called 'hosts'"),
        ({"big": b"x" * 1001}, "too many or too large"),
        ({str(number): b"" for number in range(201)}, "too many or too large"),
    ],
)
def test_files_that_cannot_go_in_are_refused_at_once(files, sentence):
    with pytest.raises(OptionError, match=sentence):
        PythonTool(isolation="limits", limits=Limits(file_bytes=1000), files=files)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_a_named_pipe_is_refused_and_never_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    with pytest.raises(OptionError, match="a named pipe"):
        PythonTool(isolation="limits", files=[tmp_path / "pipe"])


def test_a_file_that_does_not_fit_any_more_is_a_sentence(make, tmp_path):
    (tmp_path / "grows").write_bytes(b"1")
    tool = make(files=[tmp_path / "grows"])
    tool.call("", "1")
    with (tmp_path / "grows").open("wb") as file:
        file.truncate(1 << 40)
    with pytest.raises(ToolError, match="cannot be read any more: it has more than"):
        tool.call("", "1")


# --- Coming out


def test_what_the_code_has_written_is_handed_out(make):
    tool = make()
    tool.call(
        "", "import os; os.makedirs('out/deep'); open('out/deep/a.txt', 'w').write('a'); open('b', 'w').write('b')"
    )
    assert tool.files() == {"out/deep/a.txt": b"a", "b": b"b"}
    assert tool.new_files() == tool.files() and tool.new_files() == {}
    tool.call("", "open('/mnt/data/b', 'a').write('c')")
    assert tool.new_files() == {"b": b"bc"} and len(tool.files()) == 2
    tool.call("", "open('b', 'w').write('b')")
    assert tool.new_files() == {"b": b"b"}
    tool = make(files={"a": b"given"})
    for text in ("changed", "given"):  # back to what it was is a change, too
        tool.call("", f"import os; os.unlink('a'); open('a', 'w').write({text!r})")
        assert tool.new_files() == {"a": text.encode()}


def test_files_of_calls_that_were_stopped_and_of_stateless_calls_are_handed_out(make):
    tool = make(limits=Limits(seconds=2))
    with pytest.raises(ToolError, match="after 2 seconds"):
        tool.call("", "open('a', 'w').write('x')\nwhile True: pass")
    with pytest.raises(ToolError, match="ended by the code"):
        tool.call("", "import os; open('b', 'w').write('y'); os._exit(1)")
    assert tool.files() == {"a": b"x", "b": b"y"}
    stateless = make(stateful=False)
    stateless.call("", "open('c', 'w').write('z')")
    assert stateless.files() == {"c": b"z"}


HOSTILE = r"""
import os
open("good.txt", "w").write("good")
os.symlink("/etc/passwd", "link"), os.symlink("/etc", "folder"), os.symlink(".", "loop")
os.mkfifo("pipe"), os.mkdir("socket")
import socket; socket.socket(socket.AF_UNIX).bind("socket/s")
open("one", "w").write("1"), os.link("one", "two")
open("sparse", "wb").truncate(30 << 20), open("sparse2", "wb").truncate(30 << 20)
os.makedirs("d/" * 60), open("d/" * 60 + "x", "w").write("deep")
open(b"\xff\xfe\x1b]0;x\x07\n.txt", "w").write("odd")
open("\u202egnp.exe", "w").write("bidi"), open(".hidden", "w"), os.mkdir("__pycache__"), open("__pycache__/x", "w")
open("closed", "w").write("c"), os.chmod("closed", 0)
"""


def test_links_pipes_and_names_that_mean_harm_hand_out_nothing_else(make):
    tool = make()
    text = tool.call("", HOSTILE)
    found = tool.files()
    assert found.pop("good.txt") == b"good" and found.pop("_gnp.exe") == b"bidi"
    assert len(found.pop("sparse", b"") or found.pop("sparse2")) == 30 << 20
    found.pop("closed", None)  # root can read it
    assert set(found.values()) == {b"odd"} and all(name.isprintable() for name in found)
    assert "not handed to the user" in text and "one" in text and "two" in text


@pytest.mark.skipif(sys.platform != "linux", reason="slow on a disk")
def test_thousands_of_files_and_more_bytes_than_fit_are_bounded(make, monkeypatch):
    tool = make()
    for n in range(6):
        tool.call("", f"for n in range(250): open(f'{n} {{n}}', 'w').close()")
    assert 200 <= len(tool.files()) <= 1000
    monkeypatch.setattr(written, "_MOST_ENTRIES", 100)
    tool.call("", "for n in range(2000): open(str(n), 'w').close()")
    tool.new_files()
    tool.call("", "for n in range(2000): open(str(n), 'w').write('x')")
    assert 0 < len(tool.new_files()) <= 100
    tool = make()
    for n in range(4):
        tool.call("", f"open('big{n}', 'wb').write(bytes(12 << 20))")
    assert sum(map(len, tool.files().values())) <= LIMITS.file_bytes and "big3" in tool.files()


@pytest.mark.parametrize("what", ["a folder", "a file", "a folder above"])
def test_a_folder_that_changes_while_it_is_read_leads_nowhere_else(tmp_path, monkeypatch, what):
    """Without isolation, and on a Mac, other processes of the code run on."""
    private, work = tmp_path / "private", tmp_path / "work"
    (private / "inner").mkdir(parents=True)
    (private / "f").write_text("secret")
    (private / "inner" / "f").write_text("secret")
    (work / "x" / "inner").mkdir(parents=True)
    (work / "x" / "inner" / "f").write_text("own")
    (work / "f").write_text("own")
    stat, swapped = os.stat, []

    def swap_after_looking(path, **options):
        status = stat(path, **options)
        if path == {"a folder": "x", "a file": "f", "a folder above": "inner"}[what] and not swapped:
            swapped.append(True)
            name = "f" if what == "a file" else "x"
            (work / name).rename(tmp_path / "old")
            (work / name).symlink_to(private / "f" if what == "a file" else private)
        return status

    folder = WorkFolder()
    folder.open(os.open(work, os.O_RDONLY))
    monkeypatch.setattr(os, "stat", swap_after_looking)
    found, _ = folder.new_files({}, 1 << 20)
    monkeypatch.undo()
    folder.close()
    assert swapped and b"secret" not in found.values()


@pytest.mark.parametrize(
    ("path", "name"),
    [
        ("plot.png", "plot.png"),
        ("out/plot 1.png", "out/plot 1.png"),
        ("größe 分析.csv", "größe 分析.csv"),
        ("/etc/passwd", "etc/passwd"),
        ("../../x", "_/_/x"),
        ("-rf", "_rf"),
        ("~/x", "_/x"),
        (".bashrc", "_bashrc"),
        ("a\x1b[2Jb\n\udcff\u202e\u200b.txt", "a_[2Jb____.txt"),
        ('CON:a*?"<>|\\', "CON_a_______"),
        ("x" * 500 + ".png", "x" * 116 + ".png"),
        ("", "_"),
        (" . ", "_"),
    ],
)
def test_names_are_made_harmless(path, name):
    assert harmless_name(path) == name
    assert harmless_name(name) == name


def test_similar_names_stay_apart():
    taken = {"a_.txt", "a.png"}
    assert harmless_name("a?.txt", taken) == "a_-1.txt" and harmless_name("a.PNG", taken) == "a-1.PNG"


# --- A shared folder


def test_files_of_a_shared_folder_go_in_and_what_is_written_comes_out(share):
    make, folder = share
    (folder / "data.csv").write_text("a\n")
    (folder / ".hidden").write_text("h")
    (folder / "inner").mkdir()
    (folder / "link").symlink_to("/etc/passwd")
    os.mkfifo(folder / "pipe")
    tool = make()
    assert tool.call("", "import os; os.listdir()") == "['data.csv']"
    text = tool.call("", "open('new.txt', 'w').write('n'); os.mkdir('p'); open('p/x', 'w').write('x')")
    assert (folder / "new.txt").read_text() == "n" and (folder / "p" / "x").read_text() == "x"
    assert f"[saved as {folder / 'new.txt'}]" in text
    (folder / "data.csv").chmod(0o640)
    tool.call("", "open('data.csv', 'a').write('b\\n')")
    assert (folder / "data.csv").read_text() == "a\nb\n" and (folder / "data.csv").stat().st_mode & 0o777 == 0o640
    (folder / "later.txt").write_text("later")
    (folder / "data.csv").write_text("of the user")
    assert tool.call("", "open('later.txt').read(), open('data.csv').read()") == "('later', 'of the user')"
    tool.call("", "open('new.txt', 'w').write('again')")
    assert (folder / "new.txt").read_text() == "again"
    assert sorted(os.listdir(folder)) == [".hidden", "data.csv", "inner", "later.txt", "link", "new.txt", "p", "pipe"]


def test_a_file_that_is_read_only_is_never_replaced(share):
    make, folder = share
    (folder / "data.csv").write_text("of the user")
    (folder / "data.csv").chmod(0o444)
    text = make().call("", "open('data.csv', 'a').write(', and of the code')")
    assert (folder / "data.csv").read_text() == "of the user"
    assert (folder / "data-1.csv").read_text() == "of the user, and of the code"
    assert "not as data.csv, which is read-only or not the file that the code had" in text


def test_a_file_that_the_code_did_not_get_is_never_replaced(share):
    make, folder = share
    (folder / "data.csv").write_text("a\n")
    tool = make()
    tool.call("", "1")
    private = folder.parent / "private"
    private.mkdir()
    (folder / "taken.txt").symlink_to(private / "secret")
    (folder / "plots").symlink_to(private)
    (folder / "pipe").mkdir()
    code = """
import os
for name in ("taken.txt", "pipe", "data.csv"): open(name, "w").write("of the code")
os.mkdir("plots"); open("plots/a.png", "w").write("p")
"""
    (folder / "data.csv").write_text("of the user")
    tool._source.read = lambda anew: {}  # the user's change comes while the code runs
    text = tool.call("", code)
    assert (folder / "data.csv").read_text() == "of the user" and os.listdir(private) == []
    assert (folder / "data-1.csv").read_text() == (folder / "taken-1.txt").read_text() == "of the code"
    assert (folder / "pipe-1").read_text() == "of the code" and "[cannot be saved: plots/a.png]" in text
    assert "data-1.csv, not as data.csv, which is read-only or not the file that the code had" in text


def test_a_change_in_the_moment_of_replacing_is_kept(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("old")
    shared = SharedFolder(tmp_path, 1 << 20)
    assert shared.read(anew=True) == {"a.txt": b"old"}
    exchange, done = python_folder.AnchoredPath.exchange, []

    def meanwhile(part, target):
        if not done:
            (tmp_path / "a.txt").write_text("of the user")
            done.append(True)
        return exchange(part, target)

    monkeypatch.setattr(python_folder.AnchoredPath, "exchange", meanwhile)
    assert shared.save("a.txt", b"of the code") == "a-1.txt"
    assert (tmp_path / "a.txt").read_text() == "of the user" and (tmp_path / "a-1.txt").read_text() == "of the code"
    assert sorted(os.listdir(tmp_path)) == ["a-1.txt", "a.txt"]


def test_where_files_cannot_be_exchanged_none_is_replaced(tmp_path, monkeypatch):
    (tmp_path / "a.txt").write_text("old")
    shared = SharedFolder(tmp_path, 1 << 20)
    shared.read(anew=True)
    monkeypatch.setattr(python_folder.AnchoredPath, "exchange", lambda *_: False)
    assert shared.save("a.txt", b"new") == "a-1.txt" and (tmp_path / "a.txt").read_text() == "old"


def test_a_write_that_fails_leaves_nothing_behind(tmp_path, monkeypatch):
    shared = SharedFolder(tmp_path, 1 << 20)

    def half(path, content, mode):
        (tmp_path / path._name).write_bytes(content[:1])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(python_folder.AnchoredPath, "write", half)
    assert shared.save("a.txt", b"new") == "" and os.listdir(tmp_path) == []


def test_files_of_a_shared_folder_that_are_too_large_stay_outside_and_are_named(share):
    make, folder = share
    with (folder / "big").open("wb") as file:
        file.truncate(1 << 40)
    (folder / "small").write_text("s")
    text = make().call("", "import os; os.listdir()")
    assert text.splitlines() == ["['small']", "[too large, or one of too many, to be passed to the code: big]"]


def test_without_a_folder_the_result_says_how_files_are_kept(isolation):
    tool = FolderPythonTool(None, isolation=isolation, limits=LIMITS)
    assert "[not kept: a; --tool python=FOLDER" in tool.call("", "open('a', 'w').write('x')")
    tool.close()
