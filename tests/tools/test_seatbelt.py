"""Tests of the profile for sandbox-exec on macOS that run anywhere.

`decide` evaluates the part of the profile language that the profile uses. What sandbox-exec and the kernel make of the
profile can be seen only on a Mac.
"""

from __future__ import annotations

import multiprocessing.synchronize
import os
import re
from pathlib import Path
from unicodedata import normalize
from unittest import mock

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_oss.errors import ToolError
from mlx_oss.tools.sandbox import seatbelt

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
