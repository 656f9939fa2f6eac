"""The benchmark: its counts are right, its times are reported, and failures have clear messages.

No test depends on the speed of the machine.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import math
import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Sequence
from importlib.machinery import ModuleSpec
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import mlx.core as mx
import numpy as np
import pytest

from mlx_oss import bench
from mlx_oss.bench import BenchReport, Result, Speed, chips, engines, gguf_file, measure, processes, worker
from mlx_oss.bench.kernels import bytes_per_token, copied_buffers, kernels_per_layer
from mlx_oss.cli import main
from mlx_oss.config import MXFP4, ModelConfig, QuantizationSpec
from mlx_oss.errors import BenchmarkError, OptionError
from mlx_oss.loader import load_model
from mlx_oss.model.kv_cache import KVCache
from mlx_oss.weights.layouts.checkpoint import open_checkpoint
from mlx_oss.weights.names import is_expert, modules
from tests.shapes import SHAPES

GB = 10**9
RESULT = Result("mlx-oss", 0.75, 1.5, 0.25, 2 * GB, 3 * GB, (Speed(32, 2.0, 0.5),), {32: (5, 6, 7)})

OTHERS = (("mlx-lm", 2.0), ("mlx-lm-float32", 1.0))  # seconds per token


NOTHING = {"hit_rate": 1.0, "hits": 0, "misses": 0, "nbytes": 0, "seconds": 0.0}


@pytest.fixture(autouse=True)
def a_load_or_two(monkeypatch):
    monkeypatch.setattr(bench, "LOADS", 1)


def report(*results: Result, **changed: object) -> BenchReport:
    facts = {"device": "Apple M4 Pro", "repeats": 3, "bytes_per_token": 27_300_000_000, "kernels_per_layer": 20.0}
    facts["copied_buffers"] = (0, 96)
    return BenchReport(**facts | {"bandwidth": 273, "reads": None, "results": results} | changed)


@pytest.fixture
def fake_processes(monkeypatch):
    """fake_processes(*samples, loads=...): replaces the measuring processes and returns the list of their requests.

    A process that generates returns the next of the samples. A process that only loads returns the next of the loads,
    or fixed values if there are none.
    """

    def install(*samples: dict[str, object], loads: Sequence[dict[str, float]] = ()) -> list[dict[str, object]]:
        remaining, asked = {True: list(samples), False: list(loads)}, []

        def run(request: dict[str, object], environment: dict[str, str]) -> dict[str, object]:
            asked.append(request)
            writes = bool(request["lengths"])
            return remaining[writes].pop(0) if writes or loads else {"imports": 1.0, "load": 1.0, "loaded": 1}

        monkeypatch.setattr(processes, "sample_of", run)
        return asked

    return install


def sample(first: float, decode: float = 1.0) -> dict[str, object]:
    lengths = {"8": {"prefill": 2 * first, "decode": decode, "ids": [1, 2]}}
    times = {"imports": -1.0, "load": -1.0, "first": first, "loaded": -1, "resident": 200 * first, "lengths": lengths}
    return times | {
        "device": "Apple M1",
        "bytes_per_token": 5,
        "kernels_per_layer": 20.0,
        "reads": NOTHING,
        "copied_buffers": [0, 8],
    }


def test_a_layer_launches_twenty_kernels_at_most(folder):
    assert kernels_per_layer(load_model(folder("one kv head")).transformer) <= 20


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_stored_in_another_dtype_add_no_kernel(folder, dtype):
    assert kernels_per_layer(load_model(folder("one kv head"), dtype=dtype).transformer) <= 20


def test_a_further_operation_in_each_layer_is_counted(folder, monkeypatch):
    model = load_model(folder("one kv head"))
    before = kernels_per_layer(model.transformer)
    norm = type(model.transformer.layers[0].input_layernorm)
    monkeypatch.setattr(norm, "__call__", lambda self, x: mx.sin(mx.fast.rms_norm(x, self.weight, self.eps)))
    assert kernels_per_layer(model.transformer) == before + 2  # a layer has two norms


def test_a_step_copies_no_keys_and_values(shape, folder):
    model = load_model(folder(shape)).transformer
    assert copied_buffers(model) == (0, 2 * len(model.layers))


def test_buffers_that_something_else_still_holds_are_seen_to_be_copied(folder, monkeypatch):
    model, held = load_model(folder("one kv head")).transformer, []
    real = KVCache.update

    def update(self, keys, values):
        held[:] = [*held[-6:], *self.arrays]  # as a computation that still runs would
        return real(self, keys, values)

    monkeypatch.setattr(KVCache, "update", update)
    assert copied_buffers(model) == (4, 8)  # those of the two full layers


def test_counting_leaves_the_model_as_it_was(folder):
    model, tokens = load_model(folder("one kv head")), mx.array([[3, 1, 2]])
    before = model(tokens)
    kernels_per_layer(model.transformer)
    assert len(model.transformer.layers) == 4 and mx.array_equal(model(tokens), before)


def test_models_of_few_layers_are_counted_too(folder):
    assert kernels_per_layer(load_model(folder("heads as released")).transformer) > 0


def test_a_token_reads_its_experts_one_row_of_the_embedding_and_all_else(shape, folder):
    model, s = load_model(folder(shape), dtype="float32"), SHAPES[shape]
    C, F, D = s["hidden_size"], s["intermediate_size"], s["head_dim"]
    H, K, E, T = (
        s[f"num_{name}"] for name in ("attention_heads", "key_value_heads", "local_experts", "experts_per_tok")
    )
    mxfp4 = 17 / 32  # bytes per weight: 4 bits, and an 8-bit scale for each 32 weights
    expert = mxfp4 * (2 * F * C + C * F) + 4 * (2 * F + C)
    matrix = model.transformer.lm_head.weight.itemsize  # as stored on the CPU backend
    attention = ((H + 2 * K) * D + E) * (matrix * C + 4) + C * (matrix * H * D + 4) + 4 * H
    layer = T * expert + attention + 2 * 4 * C
    embedding_row = C * model.transformer.embed_tokens.weight.itemsize
    expected = s["num_hidden_layers"] * layer + 4 * C + matrix * C * s["vocab_size"] + embedding_row
    assert bytes_per_token(model.transformer) == pytest.approx(expected, abs=100)


def test_what_experts_on_disk_cost_is_told(fake_processes, capsys):
    spent = {"hit_rate": 0.5, "hits": 4, "misses": 4, "nbytes": 30_000_000, "seconds": 0.03}
    asked = fake_processes(*[sample(5) | {"reads": spent}] * 2)
    assert main(["bench", "./folder", "--prompt", "8", "--tokens", "2", "--repeats", "2", "--memory", "1GB"]) == 0
    assert [request["options"]["memory"] for request in asked] == ["1GB"] * 5
    assert "50.0% were in memory when needed; a token reads 3 MB from disk and waits 3 ms" in " ".join(
        capsys.readouterr().out.split()
    )


def test_a_prompt_that_leaves_no_room_for_its_answer_is_told(folder):
    with pytest.raises(
        BenchmarkError, match="131065 tokens and 8 generated tokens do not fit into the context of 131072"
    ):
        measure(folder(), lengths=[131_065], tokens=8, repeats=1)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_measured_process_tells_everything(folder, dtype):
    measured = worker.measure("mlx-oss", folder(), [5, 12], 3, {"dtype": dtype})
    assert set(measured["lengths"]) == {"5", "12"}
    for run in measured["lengths"].values():
        assert run["prefill"] > 0 and run["decode"] > 0 and len(run["ids"]) == 3
    assert measured["load"] > 0 and measured["first"] > 0 and measured["device"]
    assert 10_000_000 < measured["loaded"] <= measured["resident"]


def test_a_process_that_only_loads_writes_nothing(folder):
    measured = worker.measure("mlx-oss", folder(), [], 3, {"dtype": "float32"})
    assert measured.keys() == {"imports", "load", "loaded"} and measured["imports"] > 0 and measured["load"] > 0


def test_a_report_of_a_model(folder):
    progress: list[str] = []
    measured = measure(folder(), lengths=[3], tokens=2, repeats=1, progress=progress.append)
    (result,) = measured.results
    assert result.engine == "mlx-oss" and [speed.length for speed in result.speeds] == [3]
    assert len(result.ids[3]) == 2 and progress[-1] == "mlx-oss, generating, 1 of 1"


@pytest.mark.parity
@pytest.mark.skipif(find_spec("mlx_lm") is None, reason="mlx-lm is not installed (extra `parity`)")
def test_mlx_lm_gives_the_same_tokens(folder):
    """mlx-lm-float32 over 150 positions, where mlx-lm's own frequencies lead to other tokens."""
    asked = {"folder": str(folder()), "lengths": [6, 150], "tokens": 4}
    ours, own, theirs = (
        processes.sample_of(
            asked | {"engine": engine, "options": {"dtype": "float32"} if engine == "mlx-oss" else {}}, dict(os.environ)
        )["lengths"]
        for engine in bench.ENGINES[:3]
    )
    assert len(ours["150"]["ids"]) == len(own["150"]["ids"]) == 4
    assert all(theirs[length]["ids"] == ours[length]["ids"] for length in ("6", "150"))


def test_the_command_and_the_measuring_process_know_the_same_engines(capsys):
    assert tuple(engines.ENGINES) == bench.ENGINES
    for engine in bench.ENGINES[1:]:
        # Wrong because of the number that follows, not because of the engine.
        assert main(["bench", "--compare", engine, "--repeats", "x"]) == 2
        assert "--repeats is 'x'" in capsys.readouterr().err


def test_engines_take_turns_and_medians_are_reported(fake_processes):
    asked = fake_processes(sample(5), sample(50), sample(1, 7.0), sample(70), sample(2, 3.0), sample(90))
    measured = measure("folder", lengths=[8], tokens=2, repeats=3, compare=["mlx-lm"])
    assert [request["engine"] for request in asked if request["lengths"]] == ["mlx-oss", "mlx-lm"] * 3
    ours, theirs = measured.results
    assert (ours.first, ours.resident, ours.speeds) == (2, 400, (Speed(8, 4, 3.0),)) and theirs.first == 70
    assert (measured.device, measured.bandwidth) == ("Apple M1", 68)


@pytest.mark.parametrize(("repeats", "least"), [(2, 1), (1, 2)])
def test_loading_is_measured_before_all_else_and_its_first_round_is_not_counted(
    repeats, least, fake_processes, monkeypatch
):
    monkeypatch.setattr(bench, "LOADS", least)
    loads = [{"imports": s / 10, "load": s, "loaded": 10 * s} for s in (90, 80, 4, 7, 6, 9)]
    asked = fake_processes(*[sample(1)] * 2 * repeats, loads=loads)
    ours, theirs = measure("folder", lengths=[8], tokens=2, repeats=repeats, compare=["mlx-lm"]).results
    assert [bool(request["lengths"]) for request in asked] == [False] * 6 + [True] * 2 * repeats
    assert [request["engine"] for request in asked[:6]] == ["mlx-oss", "mlx-lm"] * 3
    assert (ours.imports, ours.load, ours.loaded) == (0.5, 5, 50)
    assert (theirs.imports, theirs.load, theirs.loaded) == (0.8, 8, 80)


@pytest.mark.parametrize(
    "wrong", [{"repeats": 0}, {"tokens": 1}, {"lengths": []}, {"lengths": [4, 0]}, {"compare": ["mlx-lm", "ollama"]}]
)
def test_an_argument_out_of_range_is_refused_before_anything_runs(wrong, fake_processes):
    fake_processes()
    with pytest.raises(OptionError):
        measure("folder", **wrong)


def test_a_folder_without_a_model_is_told(tmp_path):
    with pytest.raises(BenchmarkError, match=f"mlx-oss cannot run {tmp_path}: .*no .*safetensors"):
        measure(tmp_path, repeats=1)


def test_an_engine_that_is_killed_is_told(monkeypatch):
    killed = subprocess.CompletedProcess([], -9, "", "")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: killed)
    with pytest.raises(BenchmarkError, match=r"killed by signal 9 .*out of memory"):
        measure("folder", repeats=1)


def test_an_engine_that_is_not_installed_is_told(folder, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "mlx_lm.generate", None)
    asked = {"engine": "mlx-lm", "folder": str(folder()), "lengths": [3], "tokens": 2, "options": {}}
    assert worker.main(json.dumps(asked)) == 2
    assert "mlx_lm" in capsys.readouterr().err


def test_the_share_of_the_bandwidth_is_bytes_over_time():
    assert report(RESULT).bandwidth_share(Speed(32, 1.0, 0.2)) == pytest.approx(0.5)
    assert report(RESULT, bandwidth=None).bandwidth_share(Speed(32, 1.0, 0.2)) is None


def test_every_chip_has_more_bandwidth_than_its_smaller_kin():
    for generation in range(1, 6):
        kin = [chips.bandwidth(f"Apple M{generation}{kind}") for kind in ("", " Pro", " Max", " Ultra")]
        known = [figure for figure in kin if figure is not None]
        assert len(known) >= 3 and known == sorted(known)
    assert chips.bandwidth("CPU backend") is None


def test_the_command_shows_a_table(monkeypatch, capsys):
    theirs = Result("mlx-lm", 6.0, 3.0, 0.5, GB, GB, (Speed(32, 8.0, 2.0),), {32: (5, 6, 8)})
    monkeypatch.setattr(bench, "measure", lambda *_, **__: report(RESULT, theirs))
    assert main(["bench", "./folder", "--compare", "mlx-lm"]) == 0
    shown = capsys.readouterr().out
    assert "Apple M4 Pro, medians of 3 runs" in shown and "20 kernels" in shown
    rows = {line.split("│")[1].strip(): line.split("│")[2:-1] for line in shown.splitlines() if line.startswith("│")}
    cells = {name: [cell.strip() for cell in row] for name, row in rows.items()}
    assert cells["imports, s"] == ["0.75", "6", "0.12"] and cells["load, s"] == ["1.5", "3", "0.50"]
    assert cells["prefill of 32, tokens/s"] == ["16", "4", "4.00"]
    assert cells["decode after 32, tokens/s"] == ["2", "0.5", "4.00"]
    assert cells["of the chip's bandwidth"][0] == "20%"
    assert "mlx-lm: 2 of 3 tokens are the same" in shown


def test_the_command_shows_a_ratio_to_each_of_several(monkeypatch, capsys):
    own, exact = (Result(name, 6.0, 3.0, 0.5, GB, GB, (Speed(32, 8.0, t),), {32: (5, 6, 7)}) for name, t in OTHERS)
    asked = []
    monkeypatch.setattr(bench, "measure", lambda *_, **how: (asked.append(how), report(RESULT, own, exact))[1])
    assert main(["bench", "--compare", "mlx-lm", "--compare", "mlx-lm-float32", "./folder"]) == 0
    assert asked[0]["compare"] == ["mlx-lm", "mlx-lm-float32"]
    shown = capsys.readouterr().out
    decoding = next(line for line in shown.splitlines() if "decode after 32" in line)
    assert decoding.replace("│", " ").split()[-5:] == ["2", "0.5", "4.00", "1", "2.00"]
    assert "mlx-lm-float32: 3 of 3 tokens are the same" in shown


def test_the_command_gives_json(monkeypatch, capsys):
    monkeypatch.setattr(bench, "measure", lambda *_, **__: report(RESULT))
    assert main(["bench", "./folder", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["results"][0]["speeds"] == [{"length": 32, "prefill": 2.0, "decode": 0.5}]


def test_on_a_terminal_an_error_stands_on_a_line_of_its_own(tmp_path, monkeypatch, capsys):
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(["bench", str(tmp_path / "nothing"), "--repeats", "1"]) == 2
    last = capsys.readouterr().err.rpartition("\x1b[K")[2]
    assert last.startswith("error: ")
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    assert main(["bench", str(tmp_path / "nothing"), "--repeats", "1"]) == 2
    assert capsys.readouterr().err.startswith("error: ")


def test_a_wrong_folder_is_one_line_at_the_command_line(tmp_path):
    command = [sys.executable, "-m", "mlx_oss", "bench", str(tmp_path / "nothing"), "--repeats", "1"]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 2 and done.stderr.startswith("error: ") and len(done.stderr.splitlines()) == 1


class Gguf(ModuleType):
    """Stands for the package gguf, and keeps what is written.

    Attributes:
        facts: What was added to the metadata, by the method.
        tensors: (shape in the file, type, bytes) by name.
    """

    GGMLQuantizationType = type("Types", (), {"__class_getitem__": classmethod(lambda cls, name: name)})
    RopeScalingType = SimpleNamespace(YARN="yarn")

    def __init__(self) -> None:
        super().__init__("gguf")
        self.__spec__ = ModuleSpec("gguf", None)
        self.facts: dict[str, object] = {}
        self.tensors: dict[str, tuple[tuple[int, ...], str, bytes]] = {}
        self._infos: list[tuple[str, tuple[int, ...], str, int]] = []

    def GGUFWriter(self, path: Path, architecture: str) -> Gguf:
        path.write_bytes(b"GGUF")
        self.facts["architecture"] = architecture
        return self

    def __getattr__(self, name: str) -> Callable[..., None]:
        if name.startswith("add_"):
            return lambda value: self.facts.__setitem__(name.removeprefix("add_"), value)
        if name.startswith("write_") or name == "close":
            return lambda: None
        raise AttributeError(name)

    def add_tensor_info(self, name, shape, dtype, nbytes, raw_dtype) -> None:
        assert nbytes == math.prod(shape) * dtype.itemsize
        self._infos.append((name, shape, raw_dtype, nbytes))

    def write_tensor_data(self, values: np.ndarray) -> None:
        name, shape, kind, nbytes = self._infos[len(self.tensors)]
        assert values.shape == shape and values.nbytes == nbytes
        self.tensors[name] = shape, kind, values.tobytes()


@pytest.fixture
def gguf(monkeypatch) -> Gguf:
    """The packages gguf and llama-cpp-python, as far as a parent process needs them."""
    fake, llama_cpp = Gguf(), ModuleType("llama_cpp")
    llama_cpp.__spec__ = ModuleSpec("llama_cpp", None)
    monkeypatch.setitem(sys.modules, "gguf", fake)
    monkeypatch.setitem(sys.modules, "llama_cpp", llama_cpp)
    return fake


def test_llama_cpp_gets_a_file_in_the_shapes_and_types_of_the_folder(shape, folder, gguf, tmp_path):
    checkpoint, s = open_checkpoint(folder(shape)), SHAPES[shape]
    tensors = gguf_file.tensors(checkpoint.config, checkpoint.specs)
    gguf_file.write(tmp_path / "x.gguf", checkpoint.config, tensors)
    C, F, D, V = s["hidden_size"], s["intermediate_size"], s["head_dim"], s["vocab_size"]
    H, K, E = (s[f"num_{name}"] for name in ("attention_heads", "key_value_heads", "local_experts"))
    layer = {
        "attn_q.weight": ((H * D, C), "BF16"),
        "attn_q.bias": ((H * D,), "F32"),
        "attn_v.weight": ((K * D, C), "BF16"),
        "attn_output.weight": ((C, H * D), "BF16"),
        "attn_sinks.weight": ((H,), "F32"),
        "ffn_gate_inp.weight": ((E, C), "F32"),
        "ffn_gate_exps.weight": ((E, F, C // 32 * 17), "MXFP4"),
        "ffn_up_exps.bias": ((E, F), "F32"),
        "ffn_down_exps.weight": ((E, C, F // 32 * 17), "MXFP4"),
        "post_attention_norm.weight": ((C,), "F32"),
    }
    expected = {"token_embd.weight": ((V, C), "BF16"), "output.weight": ((V, C), "BF16")}
    for number in range(s["num_hidden_layers"]):
        expected |= {f"blk.{number}.{name}": tensor for name, tensor in layer.items()}
    assert {name: gguf.tensors[name][:2] for name in expected} == expected
    assert len(gguf.tensors) == 3 + 19 * s["num_hidden_layers"]
    assert sum(len(values) for _, _, values in gguf.tensors.values()) == gguf_file.size(tensors)
    assert (gguf.facts["architecture"], gguf.facts["head_count_kv"], gguf.facts["key_length"]) == ("gpt-oss", K, D)
    assert (gguf.facts["sliding_window"], gguf.facts["expert_used_count"]) == (s["sliding_window"], _used(s))
    assert gguf.facts["vocab_size"] == V and gguf.facts["rope_scaling_type"] == "yarn"


def _used(shape: dict[str, int]) -> int:
    return shape["num_experts_per_tok"]


def test_random_weights_are_small_numbers_of_their_type(folder, gguf, tmp_path):
    config = ModelConfig(**SHAPES["tiny"])
    specs = {name: QuantizationSpec(64, 8) for name, _, _ in modules(config) if not is_expert(name)}
    specs |= {"lm_head": QuantizationSpec(64, 4), "model.embed_tokens": None}
    specs |= {name: MXFP4 for name, _, _ in modules(config) if is_expert(name)}
    tensors = gguf_file.tensors(config, specs)
    gguf_file.write(tmp_path / "x.gguf", config, tensors)
    assert gguf_file.described(tensors, specs).endswith("the same shapes and nearest types (BF16, MXFP4, Q4_0, Q8_0)")
    halves = np.frombuffer(gguf.tensors["token_embd.weight"][2], np.uint16).astype(np.uint32) << 16
    assert np.abs(halves.view(np.float32)).max() < 0.04 and len(set(halves.tolist())) > 100
    for name, size, scale in (("blk.0.attn_q", 34, 2.0**-12), ("output", 18, 2.0**-8)):
        blocks = np.frombuffer(gguf.tensors[f"{name}.weight"][2], np.uint8).reshape(-1, size)
        assert (blocks[:, :2].copy().view(np.float16) == scale).all() and len(np.unique(blocks[:, 2:])) > 100
    blocks = np.frombuffer(gguf.tensors["blk.0.ffn_gate_exps.weight"][2], np.uint8).reshape(-1, 17)
    assert (blocks[:, 0] == 120).all() and len(np.unique(blocks[:, 1:])) > 100


def test_llama_cpp_takes_turns_and_its_file_is_removed(folder, gguf, fake_processes, monkeypatch, capsys):
    files, asked = [], fake_processes(*[sample(1)] * 4)
    run = processes.sample_of

    def look(request: dict[str, object], environment: dict[str, str]) -> dict[str, object]:
        if request["engine"] == "llama.cpp":
            files.append(Path(request["options"]["gguf"]))
            assert files[-1].exists()
        return run(request, environment)

    monkeypatch.setattr(processes, "sample_of", look)
    how = ["--prompt", "8", "--tokens", "3", "--repeats", "2", "--compare", "llama.cpp"]
    assert main(["bench", str(folder()), *how]) == 0
    assert [request["engine"] for request in asked] == ["mlx-oss", "llama.cpp"] * 5
    assert {request["options"]["context"] for request in asked[1::2]} == {11}
    assert len(files) == 5 and not any(file.parent.exists() for file in files)
    shown = " ".join(capsys.readouterr().out.split())
    assert "llama.cpp: random weights of the same shapes and types (BF16, MXFP4), so its tokens are others." in shown


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit, BenchmarkError])
def test_llama_cpps_file_is_removed_whatever_ends_the_benchmark(folder, gguf, monkeypatch, error):
    seen: list[Path] = []

    def run(request: dict[str, object], environment: dict[str, str]) -> dict[str, object]:
        seen.extend(Path(environment["TMPDIR"]).iterdir())
        raise error

    monkeypatch.setattr(processes, "sample_of", run)
    with pytest.raises(error):
        measure(folder(), compare=["llama.cpp"])
    assert [file.name for file in seen] == ["random.gguf"] and not seen[0].exists()


def test_a_disk_without_room_for_llama_cpps_file_is_told_before_it_is_written(folder, gguf, monkeypatch):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=gguf_file.SPARE))
    with pytest.raises(BenchmarkError, match=r"takes 0\.0 GB, but .* has 0\.3 GB free: make room, or set TMPDIR"):
        measure(folder(), compare=["llama.cpp"])
    assert not gguf.tensors


@pytest.mark.parametrize("module", ["llama_cpp", "gguf"])
def test_a_package_that_llama_cpp_needs_is_named_if_it_is_not_installed(folder, gguf, monkeypatch, module, capsys):
    monkeypatch.setattr(gguf_file, "find_spec", lambda name: None if name == module else ModuleSpec(name, None))
    assert main(["bench", str(folder()), "--compare", "llama.cpp"]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert f"the module {module} is not installed" in line and "`pip install llama-cpp-python gguf`" in line


def test_layers_that_llama_cpp_does_not_know_are_told(folder, gguf, tmp_path):
    changed = tmp_path / "model"
    shutil.copytree(folder(), changed)
    config = json.loads((changed / "config.json").read_text())
    config["layer_types"] = ["full_attention"] * config["num_hidden_layers"]
    (changed / "config.json").write_text(json.dumps(config))
    with pytest.raises(BenchmarkError, match="only models whose first layer has a sliding window"):
        measure(changed, compare=["llama.cpp"])


def test_an_engine_that_gives_up_is_quoted(monkeypatch):
    stopped = subprocess.CompletedProcess([], -6, "", "first\nGGML_ASSERT(n > 0) failed\n")
    monkeypatch.setattr(subprocess, "run", lambda *_, **__: stopped)
    with pytest.raises(BenchmarkError, match=r"gave up while it ran .*GGML_ASSERT\(n > 0\) failed"):
        measure("folder", repeats=1)


@pytest.fixture
def llama_cpp(monkeypatch) -> ModuleType:
    """llama-cpp-python with a model of 50 ids, in which the next id is the last one plus 1.

    It keeps what it was given: `read` has the ids of each batch, and `options` how the context was made.
    """
    fake, logits = ModuleType("llama_cpp"), (ctypes.c_float * 50)()
    fake.read, fake.options, fake.status = [], SimpleNamespace(), 0

    def decode(context: object, batch: tuple[ctypes.Array[ctypes.c_int32], int]) -> int:
        fake.read.append(list(batch[0][: batch[1]]))
        logits[:] = [float(id_ == (fake.read[-1][-1] + 1) % 50) for id_ in range(50)]
        return fake.status

    def load(path: bytes, how: object) -> int | None:
        if not Path(path.decode()).exists():
            fake.log(2, b"a warning\n", None)
            fake.log(4, b"error loading  model:\nno such file\n", None)
            fake.log(4, b"failed\n", None)
            return None
        return 1

    fake.llama_log_callback = lambda function: function
    fake.llama_log_set = lambda callback, _: setattr(fake, "log", callback)
    fake.llama_backend_init = lambda: None
    fake.llama_supports_gpu_offload = lambda: False
    fake.llama_model_default_params = fake.llama_context_default_params = lambda: fake.options
    fake.llama_model_load_from_file, fake.llama_init_from_model = load, lambda model, options: 2
    fake.llama_model_get_vocab, fake.llama_vocab_n_tokens = lambda model: 3, lambda vocabulary: 50
    fake.llama_get_memory, fake.llama_memory_clear = lambda context: 4, lambda memory, data: fake.read.clear()
    fake.llama_token, fake.llama_batch_get_one = ctypes.c_int32, lambda ids, count: (ids, count)
    fake.llama_decode, fake.llama_get_logits_ith = decode, lambda context, index: logits
    monkeypatch.setitem(sys.modules, "llama_cpp", fake)
    monkeypatch.delitem(sys.modules, "mlx_oss.bench.llama", raising=False)
    return fake


def test_llama_cpp_reads_a_prompt_in_batches_and_each_token_alone(llama_cpp, tmp_path):
    file = tmp_path / "x.gguf"
    file.touch()
    measured = worker.measure("llama.cpp", tmp_path, [1200, 3], 4, {"gguf": str(file), "context": 1204})
    options = llama_cpp.options
    assert (options.n_ctx, options.n_batch, options.n_ubatch) == (1204, 512, 512) and options.n_threads >= 1
    prompt = [token % 50 for token in worker._prompt(3)]
    assert llama_cpp.read == [prompt, *([(prompt[-1] + n) % 50] for n in (1, 2, 3))]
    assert measured["lengths"]["3"]["ids"] == [(prompt[-1] + n) % 50 for n in (1, 2, 3, 4)]
    engine = importlib.import_module("mlx_oss.bench.llama").Llama(file, 1204)
    next(engine.generate(list(range(1200)), 4))
    assert [len(batch) for batch in llama_cpp.read] == [512, 512, 176]


def test_what_llama_cpp_refuses_is_one_line(llama_cpp, tmp_path, capsys):
    asked = {"engine": "llama.cpp", "folder": str(tmp_path), "lengths": [3], "tokens": 2}
    file = tmp_path / "x.gguf"
    assert worker.main(json.dumps(asked | {"options": {"gguf": str(file), "context": 5}})) == 2
    assert capsys.readouterr().err == "error loading model: no such file\n"
    file.touch()
    llama_cpp.status = 1
    assert worker.main(json.dumps(asked | {"options": {"gguf": str(file), "context": 5}})) == 2
    assert capsys.readouterr().err == "llama.cpp could not compute (status 1)\n"


@pytest.mark.skipif(find_spec("llama_cpp") is None or find_spec("gguf") is None, reason="llama.cpp is not installed")
def test_llama_cpp_runs_every_shape(shape, folder):
    measured = measure(folder(shape), lengths=[5, 40], tokens=3, repeats=1, compare=["llama.cpp"])
    theirs = measured.results[1]
    assert theirs.engine == "llama.cpp" and theirs.weights.startswith("random weights")
    assert all(speed.prefill > 0 and speed.decode > 0 for speed in theirs.speeds)
    assert {length: len(ids) for length, ids in theirs.ids.items()} == {5: 3, 40: 3}
