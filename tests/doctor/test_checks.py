"""The single checks, with files and processes as they are on other machines."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
import sys
import sysconfig
import time
from collections.abc import Iterator
from types import SimpleNamespace

import pytest

from mlx_oss.config import ModelConfig
from mlx_oss.convert import ConvertOptions, convert
from mlx_oss.doctor import disk, host, installation, launch, memory, surroundings, system
from mlx_oss.doctor.findings import Finding, explain, findings_of, without_private
from mlx_oss.doctor.host import Computer, Ended
from mlx_oss.errors import OptionError
from mlx_oss.memory.estimates import expert_bytes
from mlx_oss.tools.sandbox import trial

LINUX = Computer("Linux", "6.1", "", "x86_64", "Intel(R) Xeon(R)", False, 16 << 30)


def test_a_check_that_raises_becomes_a_finding_after_those_before_it():
    def broken() -> Iterator[Finding]:
        yield Finding("disk", "first", "ok", "Good.")
        raise ZeroDivisionError("division by zero")

    first, second = findings_of("disk", "speed", broken)
    assert first.name == "first" and (second.group, second.name, second.level) == ("disk", "speed", "problem")
    assert "ZeroDivisionError: division by zero" in second.text and "--json" in second.remedy


def test_an_error_of_the_library_is_told_in_its_own_words():
    def refused() -> Iterator[Finding]:
        raise OptionError("x is not a folder: give a folder")
        yield

    (finding,) = findings_of("model", "plan", refused)
    assert (finding.level, finding.text, finding.remedy) == ("problem", "x is not a folder: give a folder.", "")


def test_the_users_name_is_removed_from_paths_and_nowhere_else(monkeypatch):
    monkeypatch.setenv("HOME", "/Users/mac")
    monkeypatch.setenv("USER", "mac")
    finding = Finding(
        "a",
        "b",
        "ok",
        "macOS: /Users/mac/x, /Users/macro, /Volumes/mac/y and mac",
        "in /Users/mac.",
        {"f": ["/Users/mac"]},
    )
    cleaned = without_private(finding)
    assert cleaned.text == "macOS: ~/x, /Users/macro, /Volumes/USER/y and mac"
    assert cleaned.details == {"f": ["~"]}


def test_a_process_is_stopped_after_its_time_and_its_output_is_kept():
    started = time.monotonic()
    ended = host.run(["/bin/sh", "-c", "echo begun; exec sleep 60"], 1)
    assert ended == Ended(None, "begun\n", "") and time.monotonic() - started < 50


def test_the_ending_of_a_process_is_told():
    program = "import sys; print('out'); sys.stderr.write('err'); sys.exit(3)"
    assert host.run([sys.executable, "-c", program], 60) == Ended(3, "out\n", "err")
    assert host.run(["/no/such/program"], 60).status is None


def test_lines_of_others_among_those_of_the_worker_are_skipped(monkeypatch):
    out = 'warning\n[1]\n{"step": "a"}\n{"facts": {"device": "x"}}\n{"findings": [{"group": "GPU", "name": "n", '
    out += '"level": "ok", "text": "t", "remedy": "", "details": {}}]}\n'
    monkeypatch.setattr(host, "run", lambda *_: Ended(0, out, ""))
    reported = launch.run_worker("device")
    assert reported.facts == {"device": "x"} and reported.findings == [Finding("GPU", "n", "ok", "t")]


@pytest.mark.parametrize(
    ("message", "meaning", "remedy"),
    [
        ("[metal::load_device] No Metal device available. This typically occurs", "MLX finds no GPU", "Log in at"),
        (
            "Insufficient Memory (00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)",
            "not enough memory",
            "Quit other",
        ),
        (
            "Impacting Interactivity (0000000e:kIOGPUCommandBufferCallbackErrorImpactingInteractivity)",
            "took too long",
            "Quit",
        ),
        ("Caused GPU Hang Error (00000003:kIOGPUCommandBufferCallbackErrorHang)", "took too long", "Quit"),
        ("Ignored (00000004:kIOGPUCommandBufferCallbackErrorSubmissionsIgnored)", "was reset", "restart"),
        (
            "Failed to load the default metallib. This library is using language version 4.0 which is not supported on "
            "this OS. library not found",
            "built for a newer macOS",
            "Update macOS",
        ),
        ("Failed to load the default metallib. library not found", "cannot load what it runs", "--force-reinstall"),
        ("cudaErrorNoDevice: no CUDA-capable device", "no GPU", "Log in"),
        ("something else", "The message is: something else", "--json"),
        ("", "none", "--json"),
    ],
)
def test_known_errors_are_explained(message, meaning, remedy):
    text, advice = explain(message)
    assert meaning in text and remedy in advice and message in text


@pytest.mark.parametrize(
    ("base", "kind"),
    [
        ("/opt/homebrew/opt/python@3.13/Frameworks/Python.framework/Versions/3.13", "Homebrew's"),
        ("/Library/Frameworks/Python.framework/Versions/3.12", "python.org's"),
        ("/Users/ann/.local/share/uv/python/cpython-3.13.0-macos-aarch64-none", "uv's (python-build-standalone)"),
        ("/Library/Developer/CommandLineTools/Library/Frameworks/Python3.framework/Versions/3.9", "Apple's"),
        ("/Users/ann/miniforge3", "conda's"),
        ("/opt/local/Library/Frameworks/Python.framework/Versions/3.12", "MacPorts'"),
        ("/home/ann/.pyenv/versions/3.11.7", "pyenv's"),
        ("/elsewhere", "of unknown origin"),
        ("/usr", "the system's"),
    ],
)
def test_the_kind_of_python_is_known_by_its_folder(base, kind, monkeypatch):
    monkeypatch.setattr(sys, "base_prefix", base)
    monkeypatch.setattr(sysconfig, "get_scheme_names", lambda: ("posix_prefix",))
    assert system.python_kind() == kind


def test_a_debian_python_is_known_by_its_schemes(monkeypatch):
    monkeypatch.setattr(sys, "base_prefix", "/usr")
    monkeypatch.setattr(sysconfig, "get_scheme_names", lambda: ("posix_prefix", "deb_system"))
    assert system.python_kind() == "Debian's"


@pytest.mark.parametrize(("version", "level"), [((3, 11), "ok"), ((3, 14), "ok"), ((3, 15), "note")])
def test_a_python_that_was_not_tested_is_noted(version, level, monkeypatch):
    monkeypatch.setattr(system.sys, "version_info", (*version, 0))
    assert list(system.check(LINUX))[-1].level == level


def test_a_wheel_is_described_by_its_files(tmp_path, monkeypatch):
    info = tmp_path / "mlx_metal-0.32.4.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: mlx-metal\nVersion: 0.32.4\n")
    (info / "WHEEL").write_text("Wheel-Version: 1.0\nRoot-Is-Purelib: false\nTag: py3-none-macosx_26_0_arm64\n")
    (info / "RECORD").write_text("mlx/lib/mlx.metallib,,\nmlx/lib/libmlx.dylib,,\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    found = installation.wheel("mlx-metal")
    assert found == installation.Wheel("0.32.4", "macosx_26_0_arm64", False) and found.macos == (26, 0)
    (tmp_path / "mlx" / "lib").mkdir(parents=True)
    (tmp_path / "mlx" / "lib" / "mlx.metallib").write_bytes(b"MTLB")
    assert installation.wheel("mlx-metal").kernels
    assert installation.wheel("no-such-package") is None


MEMINFO = "MemTotal: 16384000 kB\nMemAvailable: 9000000 kB\nSwapTotal: 8000000 kB\nSwapFree: 1000000 kB\n"


def test_the_memory_of_linux_is_read_from_proc(monkeypatch):
    files = {"/proc/meminfo": MEMINFO, "/sys/fs/cgroup/memory.max": "8000000000\n"}
    monkeypatch.setattr(host, "read_text", files.get)
    found = {finding.name: finding for finding in memory.check(LINUX, {})}
    assert found["container"].text == "This container may use 8.00 GB."
    assert (found["swap"].level, found["swap"].text) == ("note", "7.17 GB are swapped out.")
    assert found["size"].details["limit"] == 9_216_000_000


def test_a_machine_that_hides_its_memory_is_noted(monkeypatch):
    monkeypatch.setattr(host, "read_text", lambda _: None)
    unknown = Computer("Linux", "6.1", "", "x86_64", "CPU", False, None)
    assert [finding.level for finding in memory.check(unknown, {})] == ["note"]


def test_the_speed_of_a_models_files_is_measured(tmp_path, folder):
    (tmp_path / "config.json").write_bytes((folder() / "config.json").read_bytes())
    (tmp_path / "model.safetensors").write_bytes(os.urandom(3 * disk.READ))
    (finding,) = disk.check_model(tmp_path)
    assert finding.level == "ok" and finding.details["bytes"] == 3 * disk.READ
    assert "a token whose 9 experts were all on disk would wait" in finding.text


def test_an_expert_that_is_not_quantised_counts_with_its_own_bytes(tmp_path, folder):
    convert(folder(), tmp_path / "dense", ConvertOptions(overrides={"experts": "bf16"}))
    config = ModelConfig.from_file(folder() / "config.json")
    values = 3 * config.hidden_size * config.intermediate_size
    packed, dense = (disk._expert_bytes(path, config) for path in (folder(), tmp_path / "dense"))
    assert packed == expert_bytes(config) and dense - packed == values * 2 - values * 17 // 32


def test_no_more_is_read_than_allowed(tmp_path):
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(5 * disk.READ))
    assert disk.read_speed([path], most=2 * disk.READ)[0] == 2 * disk.READ


def test_a_folder_without_large_files_is_not_measured(tmp_path):
    (tmp_path / "model.safetensors").write_bytes(b"small")
    (finding,) = disk.check_model(tmp_path)
    assert finding.level == "ok" and "was not measured" in finding.text


def test_on_macos_reads_pass_the_cache(tmp_path, monkeypatch):
    import fcntl

    calls: list[tuple[int, int]] = []
    monkeypatch.delattr(os, "posix_fadvise")
    monkeypatch.setattr(fcntl, "F_NOCACHE", 48, raising=False)
    monkeypatch.setattr(fcntl, "fcntl", lambda _, command, value: calls.append((command, value)))
    path = tmp_path / "model.safetensors"
    path.write_bytes(bytes(disk.READ))
    assert disk.read_speed([path])[0] == disk.READ and calls == [(48, 1)]


def test_a_folder_that_cannot_be_written_or_is_full_is_noted(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    assert disk._folder("cache", tmp_path / "file" / "cache", "Set it.").level == "note"
    assert disk._folder("cache", None, "Set it.").remedy == "Set it."
    assert disk._folder("cache", tmp_path / "new" / "cache", "").level == "ok" and not (tmp_path / "new").exists()
    monkeypatch.setattr(disk.shutil, "disk_usage", lambda _: SimpleNamespace(free=5_000_000))
    assert disk._folder("cache", tmp_path, "").text == "Only 5.00 MB are free for the cache."


def test_a_missing_isolation_is_noted_with_its_reason(monkeypatch):
    monkeypatch.setattr("mlx_oss.tools.sandbox.isolation_here", lambda: "there is no isolation for it")
    (finding,) = surroundings.check_sandbox()
    assert finding.level == "note" and "there is no isolation for it" in finding.text


def test_a_promise_of_the_sandbox_that_does_not_hold_is_a_problem(monkeypatch):
    promises = [trial.Promise("network", "it connects to nothing", False), trial.Promise("files", "-", True)]
    monkeypatch.setattr("mlx_oss.tools.sandbox.isolation_here", lambda: "seatbelt")
    monkeypatch.setattr(trial, "try_promises", lambda _: promises)
    sandbox, network = surroundings.check_sandbox()
    assert sandbox.text.endswith("tried and held: files.") and sandbox.details["promises"]["network"] is False
    assert network.level == "problem" and "that it connects to nothing; that does not hold" in network.text


def test_a_terminal_that_cannot_show_all_characters_is_noted(monkeypatch):
    monkeypatch.setattr(sys, "__stdout__", SimpleNamespace(encoding="US-ASCII"))
    assert [finding.level for finding in surroundings.check_terminal()] == ["note"]
    monkeypatch.setattr(sys, "__stdout__", None)
    assert [finding.level for finding in surroundings.check_terminal()] == ["ok"]


def test_a_linux_machine_without_the_native_library_gets_a_note(monkeypatch):
    from mlx_oss.backend import device, native
    from mlx_oss.doctor import worker

    monkeypatch.setattr(device, "on_gpu", lambda: False)
    monkeypatch.setattr(native, "vectors", lambda: None)
    monkeypatch.setattr(worker.platform, "system", lambda: "Linux")
    monkeypatch.setattr(worker, "_write", lambda **_: None)
    notes = [finding for finding in worker._facts() if finding.level == "note"]
    assert [finding.name for finding in notes] == ["native library"] and "apt install gcc" in notes[0].remedy
    monkeypatch.setattr(worker.sysconfig, "get_config_var", lambda _: 1)
    (note,) = (finding for finding in worker._facts() if finding.level == "note")
    assert "lock" in note.remedy


@pytest.mark.parametrize("command", ["doctor", "bench"])
def test_no_file_of_the_current_folder_is_run(tmp_path, command):
    """It may be the folder of a downloaded model."""
    (tmp_path / "statistics.py").write_text("open('run', 'w').close()\n")
    program = "import sys; sys.path.remove(''); from mlx_oss.cli import main; main([sys.argv[1], '.', sys.argv[2]])"
    options = {"doctor": "--quick", "bench": "--repeats=1"}
    done = subprocess.run(
        [sys.executable, "-c", program, command, options[command]], cwd=tmp_path, capture_output=True, text=True
    )
    assert "no *.safetensors" in done.stdout + done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["statistics.py"]


def test_weights_that_cannot_be_read_are_no_bug(tmp_path, monkeypatch):
    (tmp_path / "model-2.safetensors").symlink_to(tmp_path / "deleted")
    (tmp_path / "model.safetensors").write_bytes(bytes(disk.READ))

    def refuse(path: str, *_: object) -> int:
        raise PermissionError(errno.EACCES, "Permission denied", str(path))

    monkeypatch.setattr(os, "open", refuse)
    (finding,) = disk.check_model(tmp_path)
    assert finding.level == "problem" and "Permission denied" in finding.text and "bug" not in finding.remedy


def test_a_doctor_that_is_ended_ends_the_process_that_computes(tmp_path):
    program = f"""
import os, signal, sys, threading
from mlx_oss.cli import main
from mlx_oss.doctor import launch
beating = "import sys, time\\nfor _ in range(500): open(sys.argv[1], 'w').close(); time.sleep(0.02)"
launch.command_of = lambda *_: [sys.executable, "-c", beating, {str(tmp_path / "beat")!r}]
def end():
    while not os.path.exists({str(tmp_path / "beat")!r}): pass
    os.kill(os.getpid(), signal.SIGTERM)
threading.Thread(target=end).start()
main(["doctor", "--quick"])
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=120)
    assert done.returncode == 128 + signal.SIGTERM, done
    before = (tmp_path / "beat").stat().st_mtime_ns
    time.sleep(0.3)
    assert (tmp_path / "beat").stat().st_mtime_ns == before


def test_the_memory_of_this_machine_is_known():
    computer = host.this_computer()
    assert computer.memory and computer.memory > 1 << 28
    assert {"ok", "note"} >= {finding.level for finding in memory.check(computer, {})}
