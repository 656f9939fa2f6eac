"""Tests of the sandbox on macOS that run anywhere: what its profile allows, and the tool around it.

`decide` evaluates the part of the profile language that the profile uses. The tool runs with a sandbox-exec that keeps
the profile and runs the command, and a ps that reads /proc, so nothing is isolated here: the bombs stop by themselves.
What sandbox-exec and the kernel make of the profile can be seen only on a Mac.
"""

from __future__ import annotations

import multiprocessing.synchronize
import os
import re
import resource
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from unicodedata import normalize
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_oss.errors import OptionError, ToolError
from mlx_oss.tools import Limits, PythonTool, python, sandbox
from mlx_oss.tools.sandbox import process, seatbelt
from mlx_oss.tools.sandbox.jail import config as jail
from mlx_oss.tools.sandbox.jail.ps import UsageByPs

TOKEN = re.compile(r'\s*([()]|#"[^"]*"|"(?:[^"\\]|\\["\\])*"|[^\s()"]+)')
WORK = "/private/var/folders/ab/cd/T/mlx-oss-1"
READS = ("file-read-data", "file-read-metadata", "file-read-xattr")

# --- The oracle


def parse(text: str) -> list:
    """The expressions of a profile: lists of symbols, strings (bytes, as the kernel compares them), and patterns."""
    stack: list[list] = [[]]
    at = 0
    while text[at:].strip():
        found = TOKEN.match(text, at)
        assert found, f"not in the profile language: {text[at : at + 40]!r}"
        at, token = found.end(), found[1]
        if token == "(":
            stack.append([])
        elif token == ")":
            stack[-2].append(stack.pop())
        elif token.startswith("#"):
            stack[-1].append(re.compile(token[2:-1].encode()))
        elif token.startswith('"'):
            stack[-1].append(re.sub(r"\\(.)", r"\1", token[1:-1], flags=re.DOTALL).encode())
        else:
            stack[-1].append(token)
    assert len(stack) == 1
    return stack[0]


def matches(filters: list, subject: bytes) -> bool:
    tests = {
        "subpath": lambda value: subject == value or subject.startswith(value + b"/"),
        "literal": lambda value: subject == value,
        "regex": lambda value: bool(value.search(subject)),
        "global-name": lambda value: subject == value,
        "ipc-posix-name": lambda value: subject == value,
        "ipc-posix-name-prefix": lambda value: subject.startswith(value),
        "target": lambda value: subject == value.encode(),
    }
    return not filters or any(tests[kind](value) for kind, value in filters)


def decide(profile: str, operation: str, subject: str = "") -> bool:
    """Whether the profile allows an operation on a path or name.

    The last rule that matches decides. Whether rules that name the operation exactly come before all others, as on a
    Mac, or only the order counts, must make no difference.
    """
    version, *rules = parse(profile)
    assert version == ["version", "1"]
    ranked = []
    for number, (action, *rest) in enumerate(rules):
        filters = [item for item in rest if isinstance(item, list)]
        for name in rest[: len(rest) - len(filters)]:
            covers = name in ("default", operation) or (name.endswith("*") and operation.startswith(name[:-1]))
            if covers and matches(filters, subject.encode()):
                ranked.append((0 if name == "default" else len(name) + 100 * (name == operation), number, action))
    by_name, by_order = max(ranked)[2], max(ranked, key=lambda rule: rule[1])[2]
    assert by_name == by_order, f"{operation} {subject}: depends on how rules are ranked"
    return by_name == "allow"


def profile_for(home: str, pythons: list[str], work: str = WORK, executable: str | None = None) -> str:
    with mock.patch.dict(os.environ, HOME=home):
        return seatbelt.profile(work, pythons, executable or f"{pythons[0]}/bin/python")


def readable(profile: str, path: str) -> bool:
    """Whether a file can be read; if not, then its metadata cannot be read either."""
    allowed = {decide(profile, operation, path) for operation in READS}
    assert len(allowed) == 1
    return allowed.pop()


def test_the_oracle_knows_the_rules_of_the_language():
    text = '(version 1) (deny default) (allow file-read*) (deny file-read* (subpath "/a")) (allow file-read* (literal'
    text += r' "/a/\"\\b") (subpath "/a/c")) (allow mach-lookup (global-name "x")) (deny file-read* (regex #"^/d\.$"))'
    for path, allowed in {"/a": 0, "/a/x": 0, "/ab": 1, '/a/"\\b': 1, "/a/c/d": 1, "/d.": 0, "/dx": 1}.items():
        assert decide(text, "file-read-data", path) == allowed
    assert decide(text, "mach-lookup", "x") and not decide(text, "mach-lookup", "y") and not decide(text, "signal")
    with pytest.raises(AssertionError, match="not in the profile language"):
        parse('(a "\\u00e9")')
    with pytest.raises(AssertionError, match="depends on how rules are ranked"):
        decide(
            '(version 1) (deny file-read-data (subpath "/a")) (allow file-read* (subpath "/a"))', "file-read-data", "/a"
        )


# --- The profile


@pytest.mark.parametrize(
    "home", ["/Users/ann", "/Users/jörg", "/private/var/root", "/Volumes/Data/homes/ann", "/opt/h"]
)
@pytest.mark.parametrize(
    "pythons",
    [
        ["/opt/homebrew/Cellar/python@3.12/3.12.4"],
        ["/Users/jörg/.venv", "/Users/jörg/.local/share/uv/python/cpython-3.12"],
        ["/Volumes/Work disk/venv", "/Library/Frameworks/Python.framework/Versions/3.13"],
        ["/private/tmp/venv", '/private/var/folders/ab/cd/T/"odd"\\python'],
    ],
)
def test_homes_volumes_and_temporary_folders_are_closed_except_for_python_and_the_work_folder(home, pythons):
    profile = profile_for(home, pythons)
    closed = [home, "/Users", "/private/var/root", "/Volumes", "/Network", "/private/tmp", "/private/var/tmp"]
    closed += ["/private/var/folders", "/private/var/folders/ab/cd/T", "/System/Volumes/Data/Users/ann"]
    for folder in closed:
        assert not readable(profile, f"{folder}/secret")
        assert not decide(profile, "file-read-data", folder)
    for folder in [*pythons, WORK]:
        assert readable(profile, folder) and readable(profile, f"{folder}/lib/x.py")
        assert not readable(profile, f"{folder}x/secret") or not any(folder.startswith(f"{path}/") for path in closed)
        for parent in map(str, Path(folder).parents):
            assert decide(profile, "file-read-metadata", parent)
    for path in ("/", "/usr/lib/x", "/System/Library/x", "/private/etc/hosts", "/Library/x", "/dev/urandom", "/tmp"):
        assert readable(profile, path)
    for terminal in ("/dev/tty", "/dev/ttys001"):
        assert not readable(profile, terminal)


def test_only_the_work_folder_can_be_written():
    profile = profile_for("/Users/ann", ["/Users/ann/venv"])
    for operation in ("file-write-data", "file-write-create", "file-write-unlink"):
        assert decide(profile, operation, WORK) and decide(profile, operation, f"{WORK}/a/b")
        assert decide(profile, operation, "/dev/null")
        for path in (f"{WORK}2", "/private/tmp/x", "/Users/ann/x", "/Users/ann/venv/x", "/usr/local/x", "/dev/ttys001"):
            assert not decide(profile, operation, path)


def test_of_shared_memory_only_the_notification_centre_can_be_read_and_of_semaphores_only_pythons_are_open():
    profile = profile_for("/Users/ann", ["/opt/python"])
    assert decide(profile, "ipc-posix-shm-read-data", "apple.shm.notification_center")
    for name in ("/psm_0123abcd", "/x", "apple.shm.notification_center2", "/mp-abc"):
        assert not decide(profile, "ipc-posix-shm-read-data", name)
    for operation in ("ipc-posix-shm-write-create", "ipc-posix-shm-write-data", "ipc-posix-shm", "ipc-sysv-shm"):
        assert not decide(profile, operation, "/psm_0123abcd")
        assert not decide(profile, operation, "apple.shm.notification_center")
    assert decide(profile, "ipc-posix-sem", multiprocessing.synchronize.SemLock._make_name())
    assert not decide(profile, "ipc-posix-sem", "/other")


def test_nothing_else_is_allowed():
    profile = profile_for("/Users/ann", ["/opt/python"])
    assert decide(profile, "signal", "same-sandbox") and not decide(profile, "signal", "others")
    assert decide(profile, "process-info-pidinfo", "same-sandbox")
    assert not decide(profile, "process-info-pidinfo", "others")
    assert decide(profile, "mach-lookup", "com.apple.system.logger")
    for service in ("com.apple.SecurityServer", "com.apple.pasteboard.1", "com.apple.coreservices.launchservicesd"):
        assert not decide(profile, "mach-lookup", service)
    for operation in (
        "network-outbound",
        "network-bind",
        "job-creation",
        "mach-register",
        "iokit-open",
        "sysctl-write",
    ):
        assert not decide(profile, operation, "/private/var/run/x")


names = st.text(
    st.characters(min_codepoint=32, exclude_characters="/", exclude_categories=["Cs"]), min_size=1, max_size=20
)


@settings(deadline=None)
@given(
    name=names.filter(lambda name: name not in (".", "..")), parent=st.sampled_from(["/Users", "/opt", "/Volumes/x"])
)
def test_a_home_of_any_name_is_closed_and_a_python_in_it_is_open(name, parent):
    home = f"{parent}/{name}"
    profile = profile_for(home, [f"{home}/{name}"])
    for form in (home, normalize("NFC", home), normalize("NFD", home)):
        assert not readable(profile, f"{form}/secret") and not decide(profile, "file-read-data", form)
        assert readable(profile, f"{form}/{form.split('/')[-1]}/bin/python")
    assert readable(profile, f"{home}x") == (parent == "/opt")
    assert name.replace("\\", "\\\\").replace('"', '\\"') in profile  # no other character is escaped


@pytest.mark.parametrize("name", ["a\nb", "a\0b", "tab\t", "\udcff", "\x1b[m"])
@pytest.mark.parametrize("where", ["home", "python", "work", "executable"])
def test_a_name_that_the_profile_cannot_hold_is_refused(name, where):
    paths = {"home": "/Users/ann", "python": "/opt/python", "work": WORK, "executable": "/opt/python/bin/python"}
    paths[where] = f"/x/{name}/y"
    with mock.patch("os.path.expanduser", return_value=paths["home"]), pytest.raises(ToolError) as caught:
        seatbelt.profile(paths["work"], [paths["python"]], paths["executable"])
    message = str(caught.value)
    assert message.isprintable() and ascii(name)[1:-1] in message and "rename it, or use another home" in message


@pytest.mark.parametrize("folder", ["/Users/ann", "/Users", "/private/var"])
def test_a_python_whose_folder_holds_the_home_is_refused(folder):
    with pytest.raises(ToolError, match=f"{folder} holds Python, .*use a Python in a folder of its own"):
        profile_for("/Users/ann", [folder])


def test_of_a_python_in_a_shared_folder_only_its_own_files_can_be_read():
    local = "/Users/ann/.local"
    own = [f"{local}/bin/python3.12", f"{local}/lib/python3.12"]
    profile = profile_for("/Users/ann", own, executable=f"{local}/bin/python3")
    assert readable(profile, f"{local}/bin/python3.12") and readable(profile, f"{local}/lib/python3.12/os.py")
    for path in ("share/keyrings/login", "bin/own", "bin/python3.12x", "lib/own", "lib/python3.13/os.py"):
        assert not readable(profile, f"{local}/{path}")


def test_a_home_that_is_the_root_is_refused():
    with pytest.raises(ToolError, match="set HOME and TMPDIR"):
        profile_for("/", ["/opt/python"])


def test_the_home_of_the_password_file_is_closed_too(monkeypatch):
    entry = mock.Mock(pw_dir="/opt/homes/ann")
    monkeypatch.setattr(seatbelt.pwd, "getpwuid", lambda _: entry)
    profile = profile_for("/Users/somebody", ["/opt/python"])
    assert not readable(profile, "/opt/homes/ann/secret")


def test_links_to_python_can_be_followed_and_nothing_beside_them_is_seen(tmp_path):
    home = tmp_path.resolve() / "home"
    versions, venv, bin_folder = home / "versions", home / "venv", home / "bin"
    for folder in (versions / "3.12.4" / "bin", venv / "bin", bin_folder, home / "private"):
        folder.mkdir(parents=True)
    (versions / "3.12.4" / "bin" / "python").touch()
    (versions / "3.12").symlink_to("3.12.4")
    (bin_folder / "python").symlink_to("../versions/3.12/bin/python")
    (venv / "bin" / "python").symlink_to(bin_folder / "python")
    profile = profile_for(str(home), [str(venv), str(versions / "3.12")], executable=str(venv / "bin" / "python"))
    assert readable(profile, str(versions / "3.12.4" / "lib"))
    for step in (home, bin_folder, bin_folder / "python", versions, versions / "3.12"):
        assert decide(profile, "file-read-metadata", str(step)) and not decide(profile, "file-read-data", str(step))
    for hidden in (home / "private", bin_folder / "other", versions / "3.11", home / "bin2"):
        assert not readable(profile, str(hidden))


def test_links_in_a_circle_end(tmp_path):
    """Then there is nothing to read; it must not take for ever."""
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert len(list(seatbelt._steps(str(tmp_path / "a")))) < 100


def test_a_folder_is_named_as_the_kernel_names_it(tmp_path, monkeypatch):
    """On a Mac /users/ann is /Users/ann, and only the kernel says how it is written."""
    asked = mock.Mock(F_GETPATH=50)
    asked.fcntl = lambda descriptor, command, buffer: (
        os.readlink(f"/proc/self/fd/{descriptor}").upper().encode() + b"\0\0"
    )
    monkeypatch.setattr(seatbelt, "fcntl", asked)
    profile = profile_for(str(tmp_path), ["/opt/python"])
    assert not readable(profile, f"{str(tmp_path.resolve()).upper()}/secret")


# --- The tool

FAKE_SANDBOX_EXEC = """\
#!/bin/sh
[ "$1" = -p ] || { echo "usage: sandbox-exec -p profile command"; exit 64; }
printf %s "$2" > "FOLDER/profile"
shift 2
exec "$@"
"""
# Of several columns in one option, everything after a "=" is a title, as in POSIX. Lines that are none are added.
FAKE_PS = """\
#!/bin/sh
echo x >> "FOLDER/asked"
sleep 0.05
[ -e "FOLDER/broken" ] && exit 1
[ -e "FOLDER/stuck" ] && { sleep 60; exit; }
exec "PYTHON" -I -S -c '
import os, sys
sizes = os.sysconf("SC_PAGESIZE") // 1024
assert sys.argv[1] == "-A"
columns = []
for option, value in zip(sys.argv[2::2], sys.argv[3::2]):
    assert option == "-o"
    names, _, title = value.partition("=")
    columns += names.split(",")
print("  PGID    RSS\\n\\n 12\\n x y z\\n 1 -")
for pid in filter(str.isdigit, os.listdir("/proc")):
    try:
        fields = open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()
    except OSError:
        continue
    print("", *({"pgid": fields[2], "rss": int(fields[21]) * sizes}[name] for name in columns))
' "$@"
"""
LIMITS = Limits(seconds=60, memory_bytes=1 << 30, processes=40, file_bytes=32 << 20)
linux = pytest.mark.skipif(sys.platform != "linux", reason="the ps of these tests reads /proc")


@pytest.fixture
def mac(tmp_path, monkeypatch):
    """A folder with a sandbox-exec and a ps, which the tool uses as on a Mac."""
    for name, text in (("sandbox-exec", FAKE_SANDBOX_EXEC), ("ps", FAKE_PS)):
        path = tmp_path / name
        path.write_text(text.replace("FOLDER", str(tmp_path)).replace("PYTHON", sys.executable))
        path.chmod(0o755)
    monkeypatch.setattr(process, "_SANDBOX_EXEC", str(tmp_path / "sandbox-exec"))
    monkeypatch.setattr(process, "_PS", str(tmp_path / "ps"))
    monkeypatch.setattr(process, "_PS_INTERVAL", 0.05)
    return tmp_path


@pytest.fixture(params=["seatbelt", "limits"])
def tool(request, mac):
    tool = PythonTool(isolation=request.param, limits=LIMITS)
    yield tool
    tool.close()


def asked(mac: Path) -> int:
    """How often ps was asked."""
    return len((mac / "asked").read_text().splitlines())


def stopped(tool: PythonTool, code: str) -> str:
    """Runs code that has to be stopped, and returns the error message. Checks that the tool still works afterwards."""
    with pytest.raises(ToolError) as caught:
        tool.call("", code)
    tool.limits = LIMITS
    assert tool.call("", "6 * 7") == "42"
    return str(caught.value)


@linux
def test_code_runs_and_keeps_its_variables(tool):
    assert tool.call("", "import os; x = 5; open('a', 'w').write('kept')") == "4"
    assert tool.call("", "x, open('a').read()") == "(5, 'kept')"
    folder = Path(tool.call("", "os.getcwd()").strip("'"))
    assert folder.is_dir()
    tool.close()
    assert not folder.exists()


@linux
def test_sandbox_exec_gets_a_profile_under_which_this_python_can_run(mac, monkeypatch):
    home, temporary = mac / "höme", mac / "temporary files"
    temporary.mkdir()
    monkeypatch.setenv("HOME", str(home))
    monkeypatch.setattr(tempfile, "tempdir", str(temporary))
    tool = PythonTool(isolation="seatbelt", limits=LIMITS)
    work = tool.call("", "import os; os.getcwd()").strip("'")
    tool.close()
    profile = (mac / "profile").read_text(encoding="utf-8")
    for path in (sys.executable, os.path.realpath(sys.executable), os.__file__, pytest.__file__, f"{work}/a"):
        assert readable(profile, path)
    assert decide(profile, "file-write-create", f"{work}/a")
    for path in (home / "secret", temporary / "secret", "/private/tmp/x"):
        assert not readable(profile, str(path)) and not decide(profile, "file-write-create", str(path))


@linux
def test_too_much_memory_of_several_processes_is_noticed(tool):
    tool.limits = Limits(seconds=60, memory_bytes=200 << 20, processes=40)
    hungry = """
import os, time
for _ in range(4):
    if os.fork() == 0:
        x = b"x" * (80 << 20)
        time.sleep(60)
        os._exit(0)
time.sleep(60)
"""
    assert "more than 0.2 GB of memory" in stopped(tool, hungry)


@linux
def test_too_many_processes_are_noticed(tool):
    tool.limits = Limits(seconds=60, processes=5)
    many = "import subprocess, time\nkept = [subprocess.Popen(['sleep', '60']) for _ in range(8)]\ntime.sleep(60)"
    assert "more than 5 processes" in stopped(tool, many)


@linux
def test_too_much_time_is_noticed(tool):
    tool.limits = Limits(seconds=0.5)
    assert "stopped after 0.5 seconds" in stopped(tool, "while True: pass")


@linux
def test_the_address_space_is_not_limited(tool):
    """On a Mac the limit does not work, and can keep the interpreter from starting."""
    assert tool.call("", "import resource; resource.getrlimit(resource.RLIMIT_AS)") == str(
        resource.getrlimit(resource.RLIMIT_AS)
    )
    assert tool.call("", "resource.getrlimit(resource.RLIMIT_FSIZE)[0]") == str(LIMITS.file_bytes)


@linux
def test_ps_is_asked_only_while_code_runs(tool, mac):
    tool.call("", "1")
    count, deadline = 0, time.monotonic() + 60
    while (now := asked(mac)) != count:  # until what the call's end asked for is done
        assert time.monotonic() < deadline, "ps is asked although no code runs"
        count = now
        time.sleep(0.5)
    waiting = f"import time\nwhile len(open({str(mac / 'asked')!r}).read()) < {2 * count + 6}: time.sleep(0.05)"
    assert tool.call("", waiting) == "(no output: print what you want to see)"
    assert asked(mac) >= count + 3


@linux
@pytest.mark.parametrize("isolation", ["seatbelt", "limits"])
def test_processes_that_a_call_left_behind_are_noticed(mac, isolation):
    interpreter = sandbox.Sandbox(isolation, Limits(seconds=60, processes=5))
    try:
        interpreter.run("import subprocess\nkept = [subprocess.Popen(['sleep', '60']) for _ in range(8)]")
        assert interpreter._process.wait(60) == jail.TOO_MANY_PROCESSES
    finally:
        interpreter.close()


@linux
def test_the_code_cannot_take_what_the_supervisor_is_told(tool):
    pipes = "import os; sum(os.path.exists(f'/proc/self/fd/{n}') and n > 2 for n in range(256))"
    assert tool.call("", pipes) == "1"  # the pipe for code


@linux
def test_a_ps_that_fails_is_reported(tool, mac):
    (mac / "broken").touch()
    with pytest.raises(ToolError, match=r"no isolation '\w+' here: the process was not listed \(.*ps\)"):
        tool.call("", "1")
    (mac / "broken").unlink()
    assert tool.call("", "6 * 7") == "42"
    waiting = f"import time; open({str(mac / 'broken')!r}, 'w').close(); time.sleep(60)"
    with pytest.raises(ToolError, match="the system did not say how much memory"):
        tool.call("", waiting)


def test_lines_of_ps_that_make_no_sense_are_passed_over(tmp_path):
    ps = tmp_path / "ps"
    ps.write_text("#!/bin/sh\nprintf '\\n PGID RSS\\n 7 100\\n7\\n 7 -\\n 77 5\\n x\\n \\377 1\\n 7 20 x\\n'")
    ps.chmod(0o755)
    assert UsageByPs(str(ps), 7, 60).wait() == (4, 120 * 1024)
    with pytest.raises(OSError, match="not listed"):
        UsageByPs(str(ps), 8, 60).wait()
    with pytest.raises(OSError):
        UsageByPs(str(tmp_path / "none"), 7, 60).wait()


@pytest.mark.parametrize("script", ["exec sleep 60", "sleep 60 & wait"], ids=["", "its child keeps the pipe open"])
def test_a_ps_that_does_not_answer_is_given_up(tmp_path, script):
    ps = tmp_path / "ps"
    ps.write_text(f"#!/bin/sh\n{script}")
    ps.chmod(0o755)
    with pytest.raises(OSError, match="timed out"):
        UsageByPs(str(ps), 7, 0.1).wait()


@linux
def test_while_ps_is_stuck_the_supervisor_does_everything_else(tool, mac, monkeypatch):
    monkeypatch.setattr(process, "_PS_SECONDS", 3600)
    tool.call("", "1")
    (mac / "stuck").touch()
    assert tool._sandbox is not None
    supervisor = tool._sandbox._process
    threading.Timer(0.5, tool.cancel).start()
    with pytest.raises(ToolError, match="the code was stopped"):
        tool.call("", "2")
    assert supervisor.returncode == 0  # it has ended by itself, and was not killed
    (mac / "stuck").unlink()
    tool.call("", "1")
    (mac / "stuck").touch()
    with pytest.raises(ToolError, match="the interpreter was ended by the code"):
        tool.call("", "import os, time; time.sleep(0.5); os._exit(3)")


@linux
def test_a_ps_that_gets_stuck_ends_the_code(tool, mac, monkeypatch):
    monkeypatch.setattr(process, "_PS_SECONDS", 1.5)
    tool.call("", "1")
    (mac / "stuck").touch()
    with pytest.raises(ToolError, match="the system did not say how much memory"):
        tool.call("", "import time; time.sleep(60)")


@linux
def test_an_interpreter_that_exits_is_reported(tool, mac):
    assert "the interpreter was ended by the code" in stopped(tool, "import os; os._exit(3)")
    while_ps_runs = f"""
import os, time
count = len(open({str(mac / "asked")!r}).read())
while len(open({str(mac / "asked")!r}).read()) == count: time.sleep(0.001)
open({str(mac / "broken")!r}, "w").close()
os._exit(3)
"""
    with pytest.raises(ToolError, match="the interpreter was ended by the code"):
        tool.call("", while_ps_runs)


def beats(folder: Path) -> bool:
    """Whether a process keeps touching the file in this folder."""
    before = (folder / "beat").stat().st_mtime_ns
    time.sleep(0.3)
    return (folder / "beat").stat().st_mtime_ns != before


BEATING = """
import os, time
if os.fork() == 0:
    while True:
        open({path!r}, "w").close()
        time.sleep(0.02)
while not os.path.exists({path!r}): time.sleep(0.01)
"""


@linux
def test_closing_the_tool_ends_the_process_group(tool, mac):
    tool.call("", BEATING.format(path=str(mac / "beat")))
    assert beats(mac)
    tool.close()
    assert not beats(mac)


@linux
def test_a_supervisor_that_is_told_to_end_twice_still_kills_the_program(tmp_path):
    """`stop` and `close` both tell it, and may do so from two threads."""
    program = f"""
import os, signal, socket, threading, time
from mlx_oss.tools.sandbox.jail import processes, supervisor
kill_all, beat = processes.Program.kill_all, {str(tmp_path / "beat")!r}
def kill_all_while_told_to_end(program):
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(0.01)
    kill_all(program)
processes.Program.kill_all = kill_all_while_told_to_end
child = os.fork()
if not child:
    os.setpgid(0, 0)
    for _ in range(500):
        open(beat, "w").close()
        time.sleep(0.02)
    os._exit(0)
while not os.path.exists(beat): time.sleep(0.01)
threading.Timer(0.2, os.kill, [os.getpid(), signal.SIGTERM]).start()
(calls, _), (status, _) = os.pipe(), socket.socketpair()
config = dict(namespaces=False, ps="", starter=os.getppid(), memory_bytes=1 << 30, processes=40, interval=0.05)
config |= dict(requests=os.dup(0), calls=calls, status=status.detach())
supervisor.supervise(config, child, None, os.dup(0), None)
"""
    assert subprocess.run([sys.executable, "-c", program], check=False, timeout=120).returncode == 0
    assert not beats(tmp_path)


@linux
@pytest.mark.parametrize("isolation", ["seatbelt", "limits"])
@pytest.mark.parametrize("held", [False, True], ids=["", "another process keeps its pipes open"])
def test_the_process_group_ends_when_the_program_is_killed(mac, isolation, held):
    program = f"""
import os, signal, time
from mlx_oss.tools import PythonTool
from mlx_oss.tools.sandbox import process
process._SANDBOX_EXEC, process._PS = {str(mac / "sandbox-exec")!r}, {str(mac / "ps")!r}
tool = PythonTool(isolation={isolation!r})
tool.call("", {BEATING.format(path=str(mac / "beat"))!r})
if {held} and os.fork() == 0:
    time.sleep(20)
    os._exit(0)
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run([sys.executable, "-c", program], check=False, timeout=120)
    assert done.returncode == -signal.SIGKILL
    deadline = time.monotonic() + 15
    while beats(mac):
        assert time.monotonic() < deadline


@linux
def test_a_profile_that_sandbox_exec_refuses_is_reported(mac):
    (mac / "sandbox-exec").write_text("#!/bin/sh\necho 'sandbox-exec: line 3: unbound variable'\nexit 65")
    with pytest.raises(ToolError, match="no isolation 'seatbelt' here: sandbox-exec: line 3: unbound variable"):
        sandbox.Sandbox("seatbelt", LIMITS)


@linux
def test_a_machine_without_sandbox_exec_is_reported(mac):
    (mac / "sandbox-exec").unlink()
    with pytest.raises(ToolError, match=r"No such file or directory \(.*sandbox-exec\)"):
        sandbox.Sandbox("seatbelt", LIMITS)


@linux
def test_a_home_that_cannot_be_closed_is_reported_and_nothing_is_left_behind(mac, monkeypatch):
    monkeypatch.setenv("HOME", f"{mac}/a\nb")
    monkeypatch.setattr(tempfile, "tempdir", str(mac))
    before, files = set(os.listdir("/proc/self/fd")), set(os.listdir(mac))
    monkeypatch.setattr(python, "isolation_here", process.isolation_here.__wrapped__)
    monkeypatch.setattr(process.sys, "platform", "darwin")
    with pytest.raises(OptionError, match=r"cannot name .*a\\nb.*rename it.*isolation=\"limits\""):
        PythonTool()
    assert set(os.listdir("/proc/self/fd")) == before and set(os.listdir(mac)) == files
