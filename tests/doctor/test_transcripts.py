"""What `mlx-oss doctor` prints, on Macs that are only pretended to and on this machine for real."""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_oss.cli import main
from mlx_oss.doctor import kernels
from mlx_oss.version import __version__
from tests.doctor.macs import Mac, hanging, killed

OUT_OF_MEMORY = (
    "[METAL] Command buffer execution failed: Insufficient Memory "
    "(00000008:kIOGPUCommandBufferCallbackErrorOutOfMemory)"
)
NEW_PYTHON = "Install a newer Python, create a new virtual environment with it, and install mlx-oss there."


@pytest.fixture
def doctor(monkeypatch, tmp_path, capsys):
    """doctor(mac, arguments): exit status and output of the command on this Mac, with the waiting time as N."""

    def run(mac: Mac, *arguments: str) -> tuple[int, str]:
        mac.pretend(monkeypatch, tmp_path)
        status = main(["doctor", *(arguments or ["--quick"])])
        out, err = capsys.readouterr()
        assert err == ""
        return status, re.sub(r"takes [\d,]+ (.*) at least [\d.]+ ms", r"takes N \1 at least N ms", out)

    return run


def header(chip: str = "Apple M1, 16 GB", macos: str = "14.5") -> str:
    return (
        f"{chip}, macOS {macos}, Python 3.12.4 (Homebrew's, in a virtual environment), MLX 0.32.4, "
        f"mlx-oss {__version__}\n"
    )


def test_on_a_healthy_mac_little_is_printed(doctor):
    status, out = doctor(Mac())
    assert status == 0
    assert out == header() + (
        "All 21 checks passed.\n"
        "Waiting for a small result takes N microseconds, so experts on disk cost gpt-oss-20b at least N ms for each "
        "token.\n"
        "gpt-oss-20b needs 14.26 GB to fit in memory, but the limit is 10.88 GB (6.30 GB of this Mac's 17.18 GB are "
        "left to the system): 24 of the 32 experts of each layer are in memory, and the others are read from disk when "
        "needed. This uses up to 10.58 GB with 8,192 tokens of context.\n"
        "gpt-oss-120b needs 65.88 GB to fit in memory, but the limit is 10.88 GB (6.30 GB of this Mac's 17.18 GB are "
        "left to the system): 14 of the 128 experts of each layer are in memory, and the others are read from disk "
        "when needed. This uses up to 10.48 GB with 8,192 tokens of context.\n"
    )


def test_all_findings_are_printed_on_request(doctor):
    status, out = doctor(Mac("Apple M3 Max", 128, "15.3", wheel="macosx_15_0_arm64"), "--quick", "--all")
    assert status == 0 and out.startswith(header("Apple M3 Max, 128 GB", "15.3"))
    assert out.count("\nok, ") == 21
    for text in (
        "This Mac has Apple M3 Max.",
        "mlx-metal is built for macOS 15.0.",
        "Of 137.44 GB of memory, a model may use 109.68 GB.",
        "The GPU's limit is the usual one.",
        "macOS reports normal memory pressure; 71 % is available.",
        "1.24 GB are swapped out.",
        "gpt-oss-120b fits in memory: it uses up to ",
        "The Python tool runs code in isolation (seatbelt); tried and held: network, files, memory.",
    ):
        assert text in out


PROBLEMS = {
    "Rosetta": (
        Mac("VirtualApple @ 2.50GHz", architecture="x86_64"),
        header("VirtualApple @ 2.50GHz, 16 GB")
        + "problem: This Python is built for Intel Macs and runs in Rosetta, where MLX does not work.\n"
        "  Install a Python that is built for Apple silicon (from python.org, with Homebrew in /opt/homebrew, or with "
        "`uv python install`), create a new virtual environment with it, and install mlx-oss there.\n"
        "note: The GPU was not tested: the problem with the system has to be solved first.\n"
        "1 problem and 1 note; 15 of 17 checks passed.\n",
    ),
    "Intel": (
        Mac("Intel(R) Core(TM) i7", architecture="x86_64", kernel={"hw.optional.arm64": None}),
        header("Intel(R) Core(TM) i7, 16 GB")
        + "problem: This Mac has Intel(R) Core(TM) i7, but MLX needs Apple silicon.\n"
        "  Use a Mac with Apple silicon, or Linux.\n"
        "note: The GPU was not tested: the problem with the system has to be solved first.\n"
        "1 problem and 1 note; 15 of 17 checks passed.\n",
    ),
    "macOS 13": (
        Mac(macos="13.6.1"),
        header(macos="13.6.1") + "problem: This is macOS 13.6.1, but MLX needs macOS 14 or later.\n"
        "  Update macOS: System Settings, General, Software Update.\n"
        "note: The GPU was not tested: the problem with the system has to be solved first.\n"
        "1 problem and 1 note; 15 of 17 checks passed.\n",
    ),
    "two versions": (
        Mac(metal="0.32.3"),
        header() + "problem: mlx is 0.32.4, but mlx-metal 0.32.3 is installed beside it.\n"
        "  Run `pip install --force-reinstall mlx==0.32.4`: both have to be the same version.\n"
        "1 problem; 20 of 21 checks passed.\n",
    ),
    "a wheel for a newer macOS": (
        Mac(macos="15.3", wheel="macosx_26_0_arm64"),
        header(macos="15.3") + "problem: mlx-metal is built for macOS 26.0, but this is macOS 15.3.\n"
        "  Run `pip install --force-reinstall --no-deps mlx-metal==0.32.4`.\n"
        "1 problem; 20 of 21 checks passed.\n",
    ),
    "no kernels": (
        Mac(has_kernels=False),
        header() + "problem: The file with Metal's kernels (mlx.metallib) is missing.\n"
        "  Run `pip install --force-reinstall --no-deps mlx-metal==0.32.4`.\n"
        "1 problem; 21 of 22 checks passed.\n",
    ),
    "an M5 before macOS 26.2": (
        Mac("Apple M5", 32, "26.1", wheel="macosx_26_0_arm64"),
        header("Apple M5, 32 GB", "26.1")
        + "problem: mlx-metal is built for macOS 26.2, where it uses the matrix units of Apple M5, but this is macOS "
        "26.1.\n"
        "  Update macOS to 26.2 or later.\n"
        "1 problem; 21 of 22 checks passed.\n",
    ),
    "a hanging GPU": (
        Mac(crash=hanging("multiplying two matrices")),
        header() + "problem: After 120 seconds the GPU had not finished this step: multiplying two matrices.\n"
        "  Close programs that use the GPU, then try again. If this persists, restart the Mac.\n"
        "1 problem; 16 of 17 checks passed.\n",
    ),
    "a crash": (
        Mac(
            crash=killed("loading MLX", signal.SIGABRT, "libc++abi: [metal::load_device] No Metal device available.\n")
        ),
        header()
        + "problem: MLX ended its process by SIGABRT in this step: loading MLX. MLX finds no GPU, as in a session "
        "without a screen, in a sandbox, or on a virtual machine. The message is: libc++abi: [metal::load_device] No "
        "Metal device available.\n"
        "  Log in at the Mac itself and start the program there.\n"
        "1 problem; 16 of 17 checks passed.\n",
    ),
    "too little memory": (
        Mac(crash=killed("loading MLX", signal.SIGKILL)),
        header() + "problem: MLX ended its process by SIGKILL in this step: loading MLX. Probably the memory was not "
        "enough.\n"
        "  Close other programs, then try again.\n"
        "1 problem; 16 of 17 checks passed.\n",
    ),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_problem_is_named_with_its_remedy_and_exit_status_1(doctor, name):
    mac, expected = PROBLEMS[name]
    assert doctor(mac) == (1, expected)


NOTES = {
    "an M5 with a Python that does not know its macOS": (
        Mac("Apple M5", 32, "26.2", wheel="macosx_14_0_arm64", python_says="16.0"),
        header("Apple M5, 32 GB", "26.2")
        + "note: mlx-metal is built for macOS 14.0, so it does not use the matrix units of Apple M5. Prompts take "
        "several times as long.\n"
        "  Install a Python that knows this macOS (see below), create a new virtual environment with it, and install "
        "mlx-oss there.\n"
        "note: This is macOS 26.2, but this Python says that it is macOS 16.0, so pip chooses packages for that one.\n"
        f"  {NEW_PYTHON}\n"
        "2 notes; 21 of 23 checks passed.\n",
    ),
    "an M5 with an older wheel": (
        Mac("Apple M5 Pro", 48, "26.3", wheel="macosx_15_0_arm64"),
        header("Apple M5 Pro, 48 GB", "26.3")
        + "note: mlx-metal is built for macOS 15.0, so it does not use the matrix units of Apple M5 Pro. Prompts take "
        "several times as long.\n"
        "  Run `pip install --force-reinstall --no-deps mlx-metal==0.32.4`.\n"
        "1 note; 21 of 22 checks passed.\n",
    ),
    "an M5 with an older macOS": (
        Mac("Apple M5", 32, "15.7", wheel="macosx_15_0_arm64"),
        header("Apple M5, 32 GB", "15.7")
        + "note: mlx-metal is built for macOS 15.0, so it does not use the matrix units of Apple M5. Prompts take "
        "several times as long.\n"
        "  Update macOS to 26.2 or later. Then run `pip install --force-reinstall --no-deps mlx-metal==0.32.4`.\n"
        "1 note; 21 of 22 checks passed.\n",
    ),
    "a virtual machine": (
        Mac("Apple M2 (Virtual)", 8, gpu="Apple Paravirtual device"),
        header("Apple M2 (Virtual), 8 GB")
        + "note: This Mac is a virtual machine, and its GPU can do less than a real one.\n"
        "  Use the Mac itself rather than a virtual machine.\n"
        "1 note; 21 of 22 checks passed.\n",
    ),
    "little memory left": (
        Mac(
            kernel={
                "kern.memorystatus_vm_pressure_level": "4",
                "vm.swapusage": "total = 8192,00M  used = 6144,00M  free = 2048,00M  (encrypted)",
                "iogpu.wired_limit_mb": "16000",
            }
        ),
        header() + "note: iogpu.wired_limit_mb is 16,000: the GPU may take so much that macOS itself has too little.\n"
        "  Run `sudo sysctl iogpu.wired_limit_mb=0`, which sets the usual limit.\n"
        "note: macOS reports critical memory pressure.\n"
        "  Close other programs. Otherwise a model is slow, or is ended.\n"
        "note: 6.44 GB are swapped out.\n"
        "  Close other programs. Otherwise a model is slow.\n"
        "3 notes; 18 of 21 checks passed.\n",
    ),
    "an odd limit of Metal": (
        Mac("Apple M4", 64, kernel={"hw.memsize": str(16 << 30)}),
        header("Apple M4, 16 GB") + "note: Metal recommends 51.54 GB of 17.18 GB of memory, which is unusual.\n"
        "  Set a limit with --memory, for example --memory 8GB.\n"
        "1 note; 20 of 21 checks passed.\n",
    ),
}


@pytest.mark.parametrize("name", NOTES)
def test_a_note_is_printed_with_its_remedy_and_exit_status_0(doctor, name):
    mac, expected = NOTES[name]
    assert doctor(mac) == (0, expected)


def test_an_m4_needs_no_wheel_for_macos_26(doctor):
    assert doctor(Mac("Apple M4", 24, "26.2", wheel="macosx_15_0_arm64"))[0] == 0


def test_a_kernel_that_lacks_some_values_is_no_problem(doctor):
    gone = dict.fromkeys(("iogpu.wired_limit_mb", "kern.memorystatus_level", "vm.swapusage"))
    status, out = doctor(Mac(kernel=gone))
    assert status == 0 and "All 20 checks passed." in out


def test_fast_synch_is_a_problem_and_the_gpu_is_tested_without_it(doctor, monkeypatch):
    mac = Mac()
    pretend = mac.pretend

    def with_variables(*arguments) -> None:
        pretend(*arguments)
        monkeypatch.setenv("MLX_METAL_FAST_SYNCH", "1")
        monkeypatch.setenv("MLX_MAX_OPS_PER_BUFFER", "5")

    mac.pretend = with_variables
    status, out = doctor(mac)
    assert status == 1
    assert out == header() + (
        "problem: MLX_METAL_FAST_SYNCH=1 is set: it can lock up the GPU until the Mac is restarted.\n"
        "  Run `unset MLX_METAL_FAST_SYNCH`, and remove it from your shell's start files.\n"
        "note: Variables that change what MLX does are set: MLX_MAX_OPS_PER_BUFFER.\n"
        "  Unset them, unless you need them.\n"
        "1 problem and 1 note; 20 of 22 checks passed.\n"
    )
    assert [("MLX_METAL_FAST_SYNCH" in each, "MLX_MAX_OPS_PER_BUFFER" in each) for each in mac.environments] == [
        (False, True)
    ]


def test_an_error_of_the_gpu_is_explained(doctor, monkeypatch):
    def failing(*_: object) -> mx.array:
        raise RuntimeError(OUT_OF_MEMORY)

    monkeypatch.setattr(mx, "matmul", failing)
    assert doctor(Mac(), "--all")[1].count("kernels") == 0  # they would all fail
    assert doctor(Mac()) == (
        1,
        header() + "problem: An error occurred in this step: multiplying two matrices. There is not enough memory "
        f"to compute. The message is: RuntimeError: {OUT_OF_MEMORY}\n"
        "  Quit other programs, or load the model with less memory (--memory) or a shorter context (--context).\n"
        "1 problem; 17 of 18 checks passed.\n",
    )


def test_a_gpu_that_multiplies_wrongly_is_a_problem(doctor, monkeypatch):
    monkeypatch.setattr(mx, "matmul", lambda a, b: a)
    status, out = doctor(Mac())
    assert status == 1 and "problem: A product of two matrices is wrong: it adds up to 4096.0 instead of 262144." in out


def test_a_mac_whose_gpu_cannot_be_reached_is_a_problem(doctor, monkeypatch):
    mac = Mac()

    def absent() -> dict[str, object]:
        raise RuntimeError("[metal::load_device] No Metal device available.")

    mac.device_info = absent
    status, out = doctor(mac)
    assert status == 1 and "in this step: loading MLX. MLX finds no GPU" in out
    assert "a model may use 10.88 GB (estimated)" in doctor(mac, "--quick", "--all")[1]


def test_a_broken_mlx_is_a_problem(doctor, monkeypatch):
    monkeypatch.setitem(sys.modules, "mlx.core", None)  # importing it fails
    status, out = doctor(Mac())
    assert status == 1 and "problem: MLX is not installed in " in out and "activate the environment" in out


def test_an_absent_mlx_is_a_problem(doctor, monkeypatch):
    mac = Mac(crash=lambda: None)
    monkeypatch.setitem(sys.modules, "mlx.core", None)
    monkeypatch.setattr("mlx_oss.doctor.installation.find_spec", lambda _: None)
    mac.installed = lambda _: None
    status, out = doctor(mac)
    assert status == 1 and out.startswith("Apple M1, 16 GB, macOS 14.5, Python 3.12.4 (Homebrew's")
    assert "no MLX" in out.splitlines()[0]
    assert "problem: MLX is not installed in this Python.\n  Run `pip install mlx`.\n" in out


@pytest.fixture
def only_norms(monkeypatch) -> None:
    for name in "_experts _linear _swiglu _weighted_sum _rope _attention _choices _tf32".split():
        monkeypatch.setattr(kernels, name, lambda: ())
    monkeypatch.setattr(kernels, "_nano", lambda: ())


def test_a_kernel_that_errs_is_named_with_the_place(doctor, only_norms, monkeypatch):
    real = mx.fast.rms_norm

    def erring(x: mx.array, weight: mx.array, eps: float) -> mx.array:
        y = real(x, weight, eps)
        if x.dtype == mx.bfloat16 and x.shape[1] == 512:
            y[0, 300, 17] = 99
        return y

    assert doctor(Mac(), "--all")[0] == 0
    monkeypatch.setattr(mx.fast, "rms_norm", erring)
    status, out = doctor(Mac(), "--all")
    assert status == 1
    (line,) = [line for line in out.splitlines() if line.startswith("problem")]
    assert line.startswith("problem: RMS norm, 512 rows, bfloat16: differs by ")
    assert line.endswith("1 of 1,474,560 values are wrong, the worst at (0, 300, 17).")
    assert out.count("\nok, kernels: ") == 3


def test_a_crash_while_the_kernels_are_tested_keeps_what_was_found_before(doctor, only_norms, monkeypatch):
    def crashing(*_: object) -> mx.array:
        raise SystemExit("Caused GPU Hang Error (00000003:kIOGPUCommandBufferCallbackErrorHang)")

    real, calls = mx.fast.rms_norm, []

    def second(*arguments: object) -> mx.array:
        calls.append(1)
        return (crashing if len(calls) > 2 else real)(*arguments)

    monkeypatch.setattr(mx.fast, "rms_norm", second)
    status, out = doctor(Mac(), "--all")
    assert status == 1 and "ok, kernels: RMS norm, 1 row, bfloat16" in out
    assert "problem: MLX ended its process with exit status 1 in this step: RMS norm, 1 row. The system stopped" in out


def test_the_text_of_others_cannot_control_the_terminal(doctor):
    status, out = doctor(Mac(crash=killed("a\\u001b[2Jb", signal.SIGABRT, "\x1b]0;title\x07 text\n")))
    assert status == 1 and "\x1b" not in out and "\x07" not in out and "text" in out


def test_the_json_has_everything_and_nothing_private(doctor, monkeypatch, tmp_path):
    home = tmp_path / "ann.example"
    home.mkdir()
    mac = Mac(
        crash=killed(f"reading {home}/models/secret", signal.SIGABRT, f"cannot open {home}/x: /Volumes/ann.example/y")
    )
    pretend = mac.pretend

    def with_home(*arguments) -> None:
        pretend(*arguments)
        for name, value in {"HOME": home, "USER": "ann.example", "MLX_HOSTFILE": home / "hosts"}.items():
            monkeypatch.setenv(name, str(value))
        monkeypatch.setenv("MLX_OSS_CACHE", str(home / "cache"))

    mac.pretend = with_home
    status, out = doctor(mac, "--json", str(home / "my-model"))
    assert status == 1 and "ann.example" not in out
    report = json.loads(out)
    assert report["mlx_oss"] == __version__ and report["summary"] in header()
    assert report["levels"]["problem"] == sum(each["level"] == "problem" for each in report["findings"])
    assert {"system", "MLX", "GPU", "memory", "disk", "tools"} <= {each["group"] for each in report["findings"]}
    (variables,) = [each for each in report["findings"] if each["name"] == "environment"]
    assert variables["details"] == {"MLX_HOSTFILE": "~/hosts"}
    (crash,) = [each for each in report["findings"] if each["name"] == "crash"]
    assert "reading ~/models/secret" in crash["text"] and "/Volumes/USER/y" in crash["text"]


def test_this_machine_is_examined_for_real(folder):
    """With all that it is: a process with MLX, the sandbox, and the folder of a model. No MLX comes into the first."""
    program = f"""
import sys
from mlx_oss.cli import main
status = main(["doctor", "--quick", "--json", {str(folder())!r}])
sys.exit("mlx was loaded" if "mlx.core" in sys.modules else status)
"""
    ended = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, timeout=600)
    status, out, err = ended.returncode, ended.stdout, ended.stderr
    report = json.loads(out)
    found = {(each["group"], each["name"]): each for each in report["findings"]}
    assert err == "" and status == (1 if "problem" in report["levels"] else 0)
    assert {
        ("GPU", "product"),
        ("GPU", "wait"),
        ("model", "plan"),
        ("memory", "gpt-oss-20b"),
        ("disk", "cache"),
    } <= set(found)
    assert found["GPU", "product"]["level"] == found["model", "plan"]["level"] == "ok"
    assert found["GPU", "wait"]["details"]["seconds"] > 0
    assert str(Path.home()) + "/" not in out
    assert not [each for each in report["findings"] if each["name"] == each["group"]]


def test_a_folder_that_is_no_model_is_a_problem_of_the_model_only(doctor, tmp_path):
    status, out = doctor(Mac(), "--quick", str(tmp_path))
    assert status == 1 and "no *.safetensors" in out and out.count("problem: ") == 1
