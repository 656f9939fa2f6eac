"""Tests of the Python tool: its results, the state it keeps, and that harmful code is contained.

Each machine tests the isolation it has and, on Linux, also the limits that apply without isolation. Nothing here would
do harm if it were not contained: the bombs stop by themselves.
"""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from mlx_oss.errors import OptionError, ToolError
from mlx_oss.harmony import PYTHON
from mlx_oss.tools import Limits, PythonTool, python, sandbox
from mlx_oss.tools.sandbox import process, trial

HERE = sandbox.isolation_here()
ISOLATED = HERE in sandbox.GUARANTEES
AVAILABLE = [HERE] * ISOLATED + ["limits"] * (sys.platform == "linux")
linux = pytest.mark.skipif(sys.platform != "linux", reason="macOS reports only resident memory")
needs_isolation = pytest.mark.skipif(not ISOLATED, reason=f"no isolation: {HERE}")
LIMITS = Limits(seconds=30, memory_bytes=1 << 30, processes=40, file_bytes=32 << 20)


@pytest.fixture(params=AVAILABLE)
def tool(request):
    tool = PythonTool(isolation=request.param, limits=LIMITS)
    yield tool
    tool.close()


@pytest.fixture(params=["cgroup", "watched"] if sys.platform == "linux" else [""])
def memory(request, monkeypatch):
    """What holds the memory. Where no cgroup may be made, both are the same."""
    monkeypatch.setattr(process, "_CGROUPS", request.param == "cgroup")


@pytest.fixture
def isolated():
    tool = PythonTool(limits=LIMITS)
    yield tool
    tool.close()


def stopped(tool: PythonTool, code: str) -> str:
    """Runs code that has to be stopped, and returns the error message. Checks that the tool still works afterwards."""
    with pytest.raises(ToolError) as caught:
        tool.call("", code)
    assert "\n" not in str(caught.value)
    tool.limits = LIMITS
    assert tool.call("", "6 * 7") == "42"
    return str(caught.value)


def test_output_and_the_last_value_are_returned(tool):
    assert tool.call("", "print(37 * 48)") == "1776"
    assert tool.call("", "x = 5\nprint('a')\nx + 1") == "a\n6"
    assert tool.call("", "import sys; print('err', file=sys.stderr)") == "err"
    assert tool.call("", "None") == "(no output: print what you want to see)"
    assert tool.call("", "'Größe 😀'") == "'Größe 😀'"
    assert tool.call("", "import subprocess; subprocess.run(['echo', 'from a child']).returncode") == "from a child\n0"


def test_what_was_defined_stays(tool):
    tool.call("", "import math\ndef area(r):\n    return math.pi * r\nn = 2")
    assert tool.call("", "round(area(n), 2), _ if '_' in dir() else 0") == "(6.28, 0)"
    assert tool.call("", "open('note.txt', 'w').write('kept')") == "4"
    assert tool.call("", "open('note.txt').read()") == "'kept'"
    tool.call("", "import pathlib; pathlib.Path('own.py').write_text('a = 7')")
    assert tool.call("", "import own; own.a") == "7"


def test_a_stateless_tool_keeps_nothing(tool):
    stateless = PythonTool(stateful=False, isolation=tool.isolation)
    assert stateless.call("", "n = 2; print(n)") == "2"
    assert "NameError" in stateless.call("", "n")
    assert stateless._sandbox is None


def test_a_traceback_begins_at_the_codes_own_line(tool):
    assert tool.call("", "def f():\n    1 / 0\nf()") == (
        "Traceback (most recent call last):\n"
        '  File "<call 1>", line 3, in <module>\n    f()\n'
        '  File "<call 1>", line 2, in f\n    1 / 0\n'
        + ("    ~~^~~\n" if sys.version_info >= (3, 11) else "")
        + "ZeroDivisionError: division by zero"
    )
    assert "SystemExit" in tool.call("", "import sys; sys.exit(3)")
    assert "EOFError" in tool.call("", "input()")
    assert "RecursionError" in tool.call("", "def f(): f()\nf()")
    assert tool.call("", "1 + 1") == "2"


def test_a_syntax_error_shows_the_code_and_nothing_of_ours(tool):
    for code, lines in {
        "1 +": ["1 +", "SyntaxError: invalid syntax"],
        "x = 1\nif x:\nprint(x)": [
            "print(x)",
            "IndentationError: expected an indented block after 'if' statement on line 2",
        ],
        "return 5": ["return 5", "SyntaxError: 'return' outside function"],
        "print('a": ["print('a", "SyntaxError: unterminated string literal"],
    }.items():
        text = tool.call("", code)
        assert text.startswith('  File "<call ') and text.count("File") == 1 and "ast.py" not in text
        assert all(line in text for line in lines) and "IPython" not in text
    nested = tool.call("", "def f():\n    eval('1 +')\nf()")
    assert nested.startswith("Traceback") and "in f" in nested and "interpreter" not in nested


@pytest.mark.parametrize(
    "code",
    [
        "!ls",
        "x = 1\n!pip install numpy",
        "%matplotlib inline",
        "if True:\n    !ls",
        "%%time\n1",
        "files = !ls",
        "a, b = %timeit 1",
        "print?",
        "?print",
        "os.path??",
    ],
)
def test_commands_of_ipython_are_answered_with_a_sentence(tool, code):
    text = tool.call("", code)
    assert "SyntaxError" in text and "this is plain Python: for a shell command use subprocess.run" in text


def test_await_works_outside_of_functions(tool):
    assert tool.call("", "import asyncio\nawait asyncio.sleep(0)\nx = await asyncio.sleep(0, 5)\nx + 1") == "6"
    assert tool.call("", "await asyncio.sleep(0, 'last')") == "'last'"
    assert tool.call("", "asyncio.run(asyncio.sleep(0, 3))") == "3"
    kept = "queue = asyncio.Queue()\nawait queue.put(7)\ntask = asyncio.create_task(queue.get())\nNone"
    assert tool.call("", kept).startswith("(no output")
    assert tool.call("", "await task") == "7"
    assert tool.call("", "async def f():\n    1 / 0\nawait f()").splitlines()[:2] == [
        "Traceback (most recent call last):",
        '  File "<call 6>", line 3, in <module>',
    ]
    assert (
        "asyncio" not in tool.call("", "await f()") and tool.call("", "async with asyncio.timeout(5): print(1)") == "1"
    )


PLOTTING = """
import os
os.makedirs("matplotlib"), open("matplotlib/__init__.py", "w").close()
open("matplotlib/pyplot.py", "w").write('''
class Figure:
    def savefig(self, path, **_): open(path, "w").write("a picture")
figures = {1: Figure(), 2: Figure()}
def get_fignums(): return list(figures)
def figure(number): return figures[number]
def close(which): figures.clear()
def show(): raise RuntimeError("no screen")
''')
"""


def test_showing_plots_saves_them(tool):
    tool.call("", PLOTTING)
    tool.call("", "os.chdir('matplotlib')\nimport sys; sys.path.insert(0, '..')")
    text = tool.call("", "import matplotlib.pyplot as plt\nplt.show()")
    assert [line.rsplit("/", 1)[-1] for line in text.splitlines()] == ["plot-1.png", "plot-2.png"]
    assert tool.call("", "from matplotlib.pyplot import figures, Figure, show\nfigures[1] = Figure()\nshow(block=True)")
    assert {f"plot-{number}.png" for number in (1, 2, 3)} <= set(tool.files())
    assert tool.files()["plot-3.png"] == b"a picture" and tool.call("", "show()").startswith("(no output")


def test_real_plots_are_pictures(tool):
    pytest.importorskip("matplotlib")
    text = tool.call("", "import matplotlib.pyplot as plt\nplt.plot([1, 2]), plt.title('é')\nplt.show()")
    assert text.endswith("plot-1.png") and tool.files()["plot-1.png"].startswith(b"\x89PNG")


def test_what_models_call_mnt_data_is_the_working_directory(tool):
    assert tool.call("", "open('/mnt/data/a.txt', 'w').write('x'); open('a.txt').read()") == "'x'"
    assert tool.call("", "'/mnt/database'") == "'/mnt/database'"


def test_code_wrapped_in_json_or_markdown_is_understood(tool):
    for code in (
        '{"code": "print(3)"}',
        '  {"code": "x = 3\nprint(x)"}\n',  # a line break as it is
        '{"code": "print(3)", "language": "python"}',
        '{"script": "print(3)"}',
        "```python\nprint(3)\n```",
        "```\nprint(3)```\n",
    ):
        assert tool.call("", code) == "3"
    for code in ('{"a": 1}', '{"input": 1}', '{"script": "x", "other": "y"}'):
        assert tool.call("", code) == repr(eval(code))
    assert tool.call("", "'```'") == "'```'"


def test_the_model_reads_the_description_it_was_trained_with():
    assert PythonTool(isolation="limits").namespace is PYTHON
    assert PythonTool(isolation="limits", stateful=False).namespace.name == "python"


def test_an_endless_loop_is_stopped(tool):
    tool.limits = Limits(seconds=0.5)
    assert stopped(tool, "print('before')\nwhile True: pass") == (
        "the code was stopped after 0.5 seconds; variables are lost, the next call begins anew"
    )


def test_output_before_the_stop_is_reported(tool):
    tool.limits = Limits(seconds=1)
    with pytest.raises(ToolError) as caught:
        tool.call("", "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\nprint('before')\nsignal.pause()")
    assert caught.value.output == "before\n"


@pytest.mark.skipif(
    sys.platform != "linux", reason="macOS cannot limit the address space; memory is only watched there"
)
def test_ten_gigabytes_are_refused(tool):
    assert "MemoryError" in tool.call("", "x = bytearray(10 << 30)")
    assert tool.call("", "1 + 1") == "2"


def test_many_processes_may_not_use_more_memory_together(tool, memory):
    tool.limits = Limits(seconds=60, memory_bytes=200 << 20, processes=40)
    hungry = """
import os, time
for _ in range(4):
    if os.fork() == 0:
        x = bytearray(80 << 20)
        for at in range(0, len(x), 4096):
            x[at] = 1
        time.sleep(60)
        os._exit(0)
time.sleep(60)
"""
    assert "more than 0.2 GB of memory" in stopped(tool, hungry)


MAPPED = """
import mmap, os, time
places = [open(f"{folder}/big", "w+b") for folder in ("/tmp", "/dev/shm", "/mnt/data")] if NAMESPACES else []
for file in places or [open("/dev/zero", "r+b") for _ in range(3)]:
    if places:
        file.truncate(80 << 20)
    if os.fork() == 0:
        x = mmap.mmap(file.fileno(), 80 << 20)
        for at in range(0, len(x), 4096):
            x[at] = 1
        time.sleep(60)
        os._exit(0)
time.sleep(60)
"""


@linux
def test_shared_memory_counts(tool, memory):
    """Mapped files on file systems in memory; without namespaces, shared mappings of /dev/zero."""
    tool.limits = Limits(seconds=15, memory_bytes=200 << 20, processes=40, file_bytes=96 << 20)
    mapped = MAPPED.replace("NAMESPACES", str(tool.isolation == "namespaces"))
    assert "more than 0.2 GB of memory" in stopped(tool, mapped)


@linux
def test_pages_that_processes_share_are_counted_once(tool, memory):
    tool.limits = Limits(seconds=60, memory_bytes=200 << 20, processes=40)
    sharing = """
import os, time
x = bytearray(80 << 20)
for at in range(0, len(x), 4096):
    x[at] = 1
children = []
for _ in range(4):
    children.append(os.fork())
    if children[-1] == 0:
        time.sleep(0.5)
        os._exit(0)
print([os.waitpid(child, 0)[1] for child in children])
"""
    assert tool.call("", sharing) == "[0, 0, 0, 0]"


CALLS = """
import ctypes, mmap, os
libc = ctypes.CDLL(None, use_errno=True)
clone = {"x86_64": 56}.get(os.uname().machine, 220)
def failed(result):
    if result == 0 and os.getpid() != PID:
        os._exit(0)
    return result, os.strerror(ctypes.get_errno())
PID = os.getpid()
"""


@linux
@pytest.mark.parametrize(
    "code",
    [
        "os.memfd_create('memory')",
        "mmap.mmap(-1, 4096)",
        "failed(libc.shmget(0, 4096, 0o1600))",
        "failed(libc.syscall(447, 0))",  # memfd_secret
        "failed(libc.unshare(0x10000000))",  # CLONE_NEWUSER: file systems in memory could be mounted there
        "failed(libc.syscall(clone, 0x10000000 | 17, 0, 0, 0, 0))",
    ],
)
def test_memory_that_is_attributed_to_no_process_is_refused(tool, code):
    output = tool.call("", CALLS + code)
    assert "Operation not permitted" in output or ("447" in code and "Function not implemented" in output)


@linux
def test_common_uses_of_memory_processes_and_threads_work(tool):
    usual = """
import mmap, multiprocessing, subprocess, threading
from multiprocessing.shared_memory import SharedMemory
private = mmap.mmap(-1, 4096, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
shared = SharedMemory(create=True, size=4096)
numbers = multiprocessing.get_context("fork").Array("i", 3)
process = multiprocessing.get_context("fork").Process(target=lambda: numbers.__setitem__(0, 7))
thread = threading.Thread(target=lambda: shared.buf.__setitem__(0, 5))
for one in (process, thread):
    one.start()
    one.join()
print(private[0], shared.buf[0], numbers[0], subprocess.run(["true"]).returncode)
shared.close()
shared.unlink()
"""
    assert tool.call("", usual) == "0 5 7 0"


USES = {
    "numpy with threads": """
import threading
import numpy as np
matrix, found = np.random.default_rng(1).normal(size=(200, 200)), []
threads = [threading.Thread(target=lambda: found.append(np.linalg.inv(matrix) @ matrix)) for _ in range(4)]
[thread.start() for thread in threads], [thread.join() for thread in threads]
print(all(np.allclose(each, np.eye(200)) for each in found) and np.linalg.svd(matrix)[1].shape == (200,))""",
    "a pool of processes": """
import multiprocessing
def square(x): return x * x
with multiprocessing.get_context("fork").Pool(3) as pool:
    print(pool.map(square, range(5)) == [0, 1, 4, 9, 16])""",
    "a new interpreter": """
import subprocess, sys
print(subprocess.run([sys.executable, "-c", "print(6)"], capture_output=True, text=True).stdout == "6\\n")""",
    "asyncio with a process and a server": """
import asyncio
async def use():
    process = await asyncio.create_subprocess_exec("echo", "x", stdout=-1)
    server = await asyncio.start_unix_server(lambda reader, writer: writer.write(b"y"), "socket")
    reader, writer = await asyncio.open_unix_connection("socket")
    return (await process.communicate())[0] + await reader.read(1)
print(asyncio.run(use()) == b"x\\ny")""",
    "sqlite": """
import sqlite3
base = sqlite3.connect("base.db")
base.execute("pragma journal_mode=wal")
base.execute("create table t(a)")
base.execute("insert into t values (7)")
base.commit()
print(base.execute("select a from t").fetchall() == [(7,)])""",
    "files": """
import os, shutil, tempfile
with tempfile.TemporaryDirectory() as folder:
    open(f"{folder}/a", "w").write("x")
    shutil.copy2(f"{folder}/a", f"{folder}/b"), shutil.copytree(folder, "copy")
    shutil.make_archive("all", "gztar", folder)
    os.mkfifo(f"{folder}/fifo"), os.symlink("a", f"{folder}/link"), os.link(f"{folder}/a", f"{folder}/hard")
print(open("copy/b").read() == "x" and not os.path.exists(folder))""",
    "signals, timers and random numbers": """
import random, signal, time, uuid, secrets, threading
got = threading.Event()
signal.signal(signal.SIGALRM, lambda *_: got.set())
signal.setitimer(signal.ITIMER_REAL, 0.01)
print(got.wait(20) and uuid.uuid4() != uuid.uuid4() and len(secrets.token_bytes(8)) == 8)""",
    "executors": """
from concurrent.futures import ThreadPoolExecutor, ProcessPoolExecutor
import multiprocessing
with ThreadPoolExecutor(3) as threads, ProcessPoolExecutor(2, multiprocessing.get_context("fork")) as processes:
    print([*threads.map(abs, [-1, -2]), *processes.map(abs, [-3, -4])] == [1, 2, 3, 4])""",
    "matplotlib": """
try:
    import matplotlib.pyplot as plt
except ImportError:
    print(True)
else:
    plt.plot([1, 2]), plt.savefig("plot.png")
    print(open("plot.png", "rb").read(4) == b"\\x89PNG")""",
}


@linux
@pytest.mark.parametrize("use", USES)
def test_what_people_do_with_python_works(tool, use):
    assert tool.call("", USES[use]).splitlines()[-1] == "True"


BOMB = """
import os, sys, time
made = 0
try:
    while made < 2000:
        if os.fork() == 0:
            time.sleep(5)
            os._exit(0)
        made += 1
except OSError:
    print("no more")
"""


def test_a_fork_bomb_is_stopped(tool, memory):
    try:
        assert tool.call("", BOMB) == "no more"  # the system refused further processes
    except ToolError as error:
        assert "more than 40 processes" in str(error)
    assert tool.call("", "6 * 7") == "42"


def test_a_hundred_megabytes_of_output_are_shortened(tool):
    text = tool.call("", "print('<' + 'x' * 100_000_000 + '>')")
    assert len(text) < 21_000 and text.startswith("<x") and text.endswith("x>")
    assert "[... 99,980,003 bytes left out ...]" in text


@pytest.mark.parametrize("code", ["import os; os._exit(3)", "import ctypes; ctypes.string_at(0)"])
def test_an_interpreter_that_exits_is_restarted(tool, code):
    assert "the interpreter was ended by the code" in stopped(tool, code)


def test_files_are_limited_in_size(tool):
    output = tool.call("", "with open('big', 'wb') as file:\n    for _ in range(100): file.write(bytes(1 << 20))")
    assert "OSError" in output
    assert tool.call("", "1 + 1") == "2"


def test_cancel_stops_a_call_at_once_and_the_next_call_works(tool):
    tool.call("", "1")
    threading.Timer(0.2, tool.cancel).start()
    assert stopped(tool, "import time; time.sleep(600)").startswith("the code was stopped;")


def test_cancel_works_while_the_interpreter_is_starting(tool, monkeypatch):
    original = process.Sandbox

    def cancelled_meanwhile(*args):
        tool.cancel()
        return original(*args)

    with monkeypatch.context() as patched:
        patched.setattr(python, "Sandbox", cancelled_meanwhile)
        with pytest.raises(ToolError, match="the code was stopped"):
            tool.call("", "import time; time.sleep(600)")
    assert tool.call("", "6 * 7") == "42"


def alive(folder: Path) -> bool:
    """Whether a process keeps touching the file in this folder."""
    before = (folder / "beat").stat().st_mtime_ns
    time.sleep(0.3)
    return (folder / "beat").stat().st_mtime_ns != before


BEATING = """
import os, sys, time
if os.fork() == 0:
    os.setsid()
    while True:
        open({path!r}, "w").close()
        time.sleep(0.02)
while not os.path.exists({path!r}): time.sleep(0.01)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="macOS cannot follow a process that leaves its group")
def test_closing_the_tool_kills_children_too(tmp_path):
    tool = PythonTool(isolation="limits", limits=LIMITS)
    tool.call("", BEATING.format(path=str(tmp_path / "beat")))
    assert alive(tmp_path)
    tool.close()
    assert not alive(tmp_path)


@linux
def test_many_requests_to_stop_leave_nothing_behind(tmp_path):
    tool = PythonTool(isolation="limits", limits=LIMITS)
    tool.call("", BEATING.format(path=str(tmp_path / "beat")))
    assert tool._sandbox is not None
    for _ in range(2000):
        tool._sandbox._process.terminate()
    tool.close()
    assert not alive(tmp_path)


@pytest.mark.skipif(sys.platform != "linux", reason="macOS cannot follow a process that leaves its group")
@pytest.mark.parametrize("held", [False, True], ids=["", "another process keeps its pipes open"])
def test_everything_ends_when_the_program_is_killed(tmp_path, held):
    program = f"""
import os, signal, time
from mlx_oss.tools import PythonTool
tool = PythonTool(isolation="limits")
tool.call("", {BEATING.format(path=str(tmp_path / "beat"))!r})
if {held} and os.fork() == 0:
    time.sleep(20)
    os._exit(0)
os.kill(os.getpid(), signal.SIGKILL)
"""
    subprocess.run([sys.executable, "-c", program], check=False, timeout=120)
    deadline = time.monotonic() + 15
    while alive(tmp_path):
        assert time.monotonic() < deadline


@needs_isolation
def test_in_namespaces_no_process_survives_its_call(isolated):
    if isolated.isolation != "namespaces":
        pytest.skip("only namespaces promise this")
    isolated.call("", "import subprocess; p = subprocess.Popen(['sleep', '60'])")
    assert isolated.call("", "import os; len([name for name in os.listdir('/proc') if name.isdigit()])") == "2"


@needs_isolation
def test_nothing_outside_can_be_written_or_read(isolated, tmp_path):
    secret = tmp_path / "secret"
    secret.write_text("secret")
    home = Path.home() / ".mlx-oss-sandbox-test"
    for place in (tmp_path / "new", home, secret):
        output = isolated.call("", f"open({str(place)!r}, 'w').write('x')")
        assert "Error" in output
    assert not (tmp_path / "new").exists() and not home.exists() and secret.read_text() == "secret"
    if isolated.isolation == "namespaces":
        assert "FileNotFoundError" in isolated.call("", f"open({str(secret)!r}).read()")
        assert isolated.call("", "import os; os.path.exists('/etc/passwd'), os.getcwd()") == "(False, '/mnt/data')"


@needs_isolation
def test_no_connection_leaves_it(isolated):
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port = server.getsockname()[1]
        output = isolated.call("", f"import socket; socket.create_connection(('127.0.0.1', {port}), 5)")
        assert "OSError" in output or "PermissionError" in output
        with pytest.raises(TimeoutError):
            server.accept()


@needs_isolation
def test_the_code_has_no_privileges(isolated):
    if isolated.isolation == "namespaces":
        output = isolated.call("", "print(*[line for line in open('/proc/self/status') if line.startswith('CapEff')])")
        assert output.split()[-1].strip("0") == ""
    assert int(isolated.call("", "import os; os.getuid()")) != 0 or os.name != "posix"


def test_the_working_directory_is_deleted(tool):
    where = tool.call("", "open('left.txt', 'w').close(); import os; os.getcwd()").strip("'")
    assert tool._sandbox is not None
    folder = Path(tool._sandbox._folder)
    assert folder.is_dir()
    tool.close()
    assert not folder.exists() and not Path(where, "left.txt").exists()


def test_a_machine_without_isolation_refuses_unless_limits_are_requested(monkeypatch):
    monkeypatch.setattr(python, "isolation_here", lambda: "no isolation 'namespaces' here: unshare is not permitted")
    with pytest.raises(OptionError, match="unshare is not permitted: without isolation"):
        PythonTool()
    assert "The code can use the network" in PythonTool(isolation="limits").guarantees


def test_an_isolation_that_does_not_work_is_reported(monkeypatch):
    if sys.platform != "linux":
        pytest.skip("namespaces exist only on Linux")
    original = process._config

    def config(*args):
        return original(*args) | {"visible": ["/does/not/exist"], "namespaces": True}

    monkeypatch.setattr(process, "_config", config)
    with pytest.raises(ToolError, match="no isolation 'namespaces' here: "):
        sandbox.Sandbox("namespaces", LIMITS)


@linux
def test_the_guarantees_say_what_holds_the_memory(monkeypatch):
    monkeypatch.setattr(process, "_memory_here", process._memory_here.__wrapped__)
    for groups in (True, False):
        monkeypatch.setattr(process, "_CGROUPS", groups)
        tool = PythonTool(isolation="limits", limits=LIMITS)
        tool.call("", "1")
        assert tool._sandbox is not None
        held = tool._sandbox.memory == "cgroup"
        assert ("A cgroup holds the memory" in tool.guarantees) == held
        assert ("not held but watched" in tool.guarantees) == (not held)
        tool.close()


@needs_isolation
def test_the_promises_are_tried_from_inside():
    assert {promise.name: promise.holds for promise in trial.try_promises(HERE)} == dict.fromkeys(
        ["network", "files", "writing", "memory"] + ["keyring"] * (sys.platform == "linux"), True
    )


@linux
def test_promises_that_do_not_hold_are_noticed():
    held = {promise.name for promise in trial.try_promises("limits") if promise.holds}
    assert not held & {"network", "files", "writing"}


@pytest.mark.parametrize("isolation", sandbox.GUARANTEES)
def test_every_isolation_is_described(isolation):
    assert len(sandbox.GUARANTEES[isolation]) > 100


def test_the_profile_for_macos_names_the_folders():
    text = process.profile("/private/work", ["/opt/python"])
    assert '(subpath "/opt/python")' in text and '(allow file-write* (subpath "/private/work")' in text
    assert text.count("(") == text.count(")")


def test_the_security_notes_say_what_is_promised_in_the_words_of_the_code():
    notes = " ".join((Path(__file__).parents[2] / ".github/SECURITY.md").read_text(encoding="utf-8").split())
    marks = ["On Linux: ", "On macOS: ", 'With `isolation="limits"`: ', "A cgroup holds the memory"]
    for isolation, begin, end in zip(sandbox.GUARANTEES, marks[:-1], marks[1:], strict=True):
        words = " ".join(sandbox.GUARANTEES[isolation].split())
        sentences = re.split(r"(?<=\.) ", notes.partition(begin)[2].partition(end)[0].strip())
        assert len(sentences) > 1
        for sentence in sentences:
            assert sentence in words, sentence
