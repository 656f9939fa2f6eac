"""Plans: their sizes are those of the loaded models, they never exceed the limit, and `load` follows them."""

from __future__ import annotations

import json
import logging
import re
import subprocess
import sys
from pathlib import Path

import mlx.core as mx
import pytest
from mlx.utils import tree_flatten

import mlx_oss
from mlx_oss import Plan, load_model, plan
from mlx_oss.backend import host_memory
from mlx_oss.backend.device import on_gpu
from mlx_oss.backend.machine import Machine
from mlx_oss.cli import main
from mlx_oss.convert import ConvertOptions, convert
from mlx_oss.errors import OptionError
from mlx_oss.memory.estimates import format_bytes, parse_bytes
from mlx_oss.memory.footprint import Footprint
from mlx_oss.memory.plan import place_here
from mlx_oss.nano import nano_folder
from mlx_oss.offload.install import offload_stats
from mlx_oss.weights.layouts.checkpoint import open_model
from tests.synthetic import TINY, write_checkpoint
from tests.test_loader import AFFINE_4, AFFINE_8, even, is_rest, quantized  # noqa: F401

SIZE = {"float32": 4, "bfloat16": 2}


def held(model: mlx_oss.Transformer) -> int:
    parameters = tree_flatten(model.transformer.parameters())
    assert isinstance(parameters, list)
    return sum(array.nbytes for _, array in parameters)


def counted(folder: Path, dtype: str) -> Footprint:
    checkpoint = open_model(folder)
    return Footprint(place_here(checkpoint, dtype), checkpoint.config.num_local_experts, SIZE[dtype])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_weights_are_counted_as_a_loaded_model_holds_them(shape, folder, dtype):
    path = folder(shape)
    assert counted(path, dtype).weights(None) == held(load_model(path, dtype=dtype))


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_slots_are_counted_as_a_loaded_model_holds_them(shape, folder, dtype):
    """In addition to the slots, the biases of all experts are in memory, in a separate buffer."""
    path = folder(shape)
    model = load_model(path)
    for slots in range(model.config.num_experts_per_tok, model.config.num_local_experts + 1):
        model = load_model(path, dtype=dtype, slots=slots)
        biases = sum(
            source.origin._content.nbytes
            for layer in model.transformer.layers
            for source in layer.mlp.experts._sources
            if hasattr(source.origin, "_content")
        )
        assert counted(path, dtype).weights(slots) == held(model) + biases


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("entry", [AFFINE_8, AFFINE_4])
def test_quantised_weights_are_counted_as_they_are_held(even, tmp_path, entry, dtype):  # noqa: F811
    path, _ = quantized(even, tmp_path / "packed", lambda name: entry if is_rest(name) else None)
    assert counted(path, dtype).weights(None) == held(load_model(path, dtype=dtype))


def test_parts_stored_unlike_are_counted_as_they_are_joined(even, tmp_path):  # noqa: F811
    bits = {"q_proj": AFFINE_8, "k_proj": AFFINE_4}
    path, _ = quantized(even, tmp_path / "packed", lambda name: bits.get(name.rpartition(".")[2]))
    assert counted(path, "float32").weights(None) == held(load_model(path, dtype="float32"))


def test_what_a_smaller_profile_saves_is_what_it_saves(even, tmp_path):  # noqa: F811
    path, _ = quantized(even, tmp_path / "packed", lambda name: AFFINE_4 if is_rest(name) else None)
    saved = counted(even, "bfloat16").weights(None) - counted(path, "bfloat16").weights(None)
    assert counted(even, "bfloat16").saved_by(4) == pytest.approx(saved, rel=0.01)
    assert counted(path, "bfloat16").saved_by(4) == 0


def least(path: Path, context: int | None = None) -> Plan:
    return plan(path, memory=1, context=context)


def test_the_least_memory_is_enough_and_a_byte_less_is_refused_with_it_named(routed):
    path = routed("32 experts")
    needed = least(path, context=64).least_bytes
    assert plan(path, memory=needed, context=64).verdict == "experts on disk"
    too_little = plan(path, memory=needed - 1, context=64)
    assert too_little.verdict == "too small" and too_little.least_bytes == needed
    with pytest.raises(
        OptionError,
        match=f"needs at least {format_bytes(needed, round_up=True)}.*: allow more memory or use a smaller model",
    ):
        load_model(path, memory=needed - 1, context=64)
    model = load_model(path, memory=needed, context=64)
    assert model.plan.slots == 4 and mx.isfinite(model(mx.array([[1, 2, 3]]))).all()


def test_more_memory_never_gives_less_and_no_plan_exceeds_it(routed):
    path = routed("128 experts")
    whole, before = plan(path, memory="1TB", context=512), (False, 0, 0)
    for memory in range(least(path, context=512).least_bytes, whole.peak_bytes + 100_000, 100_000):
        made = plan(path, memory=memory, context=512)
        assert made.peak_bytes <= memory
        now = (made.slots is None, made.chunk, made.slots or 0)  # a full chunk rounds as without a limit
        assert now >= before
        before = now
    assert before == (True, 512, 0) and whole.slots is None


def test_without_a_context_as_much_as_fits_is_chosen(routed):
    path = routed("32 experts")
    whole = plan(path, memory="1TB")
    assert whole.context == 131_072 and whole.verdict == "everything in memory"
    less = plan(path, memory=whole.peak_bytes - 1)
    assert less.verdict == "everything in memory" and (less.context, less.chunk) < (whole.context, whole.chunk)
    least_context = least(path)
    assert least_context.context == 1024 and plan(path, memory=least_context.least_bytes).context == 1024


def test_load_does_as_planned_and_tells(routed, caplog):
    path = routed("32 experts")
    memory = least(path, context=2000).least_bytes + 50_000
    model = load_model(path, memory=memory, context=2000)
    assert isinstance(model.plan, Plan) and model.plan == plan(path, memory=memory, context=2000)
    assert (model.context, model.chunk) == (2000, model.plan.chunk)
    assert model.transformer.layers[0].mlp.experts.down_proj.weight.shape[0] == model.plan.slots
    (record,) = caplog.records
    assert record.levelno == logging.WARNING and "experts of each layer are in memory" in record.getMessage()
    with pytest.raises(mlx_oss.errors.ContextError):
        list(mlx_oss.generate_step(model, [1] * 2000))


def test_a_model_that_fits_is_loaded_silently(routed, caplog):
    assert load_model(routed("32 experts"), memory="1TB").plan.slots is None
    assert not [record for record in caplog.records if record.levelno >= logging.WARNING]


def test_memory_that_the_device_has_not_is_not_planned_with(routed, monkeypatch):
    path = routed("32 experts")
    memory = least(path).least_bytes
    monkeypatch.setattr(host_memory, "this_machine", lambda: Machine(memory, on_gpu()))
    assert plan(path).slots == 4 and "(available)" in str(plan(path))
    monkeypatch.setattr(host_memory, "this_machine", lambda: Machine(memory - 1, on_gpu()))
    with pytest.raises(OptionError, match="needs at least"):
        load_model(path)


def test_a_smaller_profile_is_named_where_it_would_do(even):  # noqa: F811
    whole = plan(even, memory="1TB", context=64)
    saved = counted(even, "bfloat16" if on_gpu() else "float32").saved_by(4)
    tight = plan(even, memory=whole.peak_bytes - saved, context=64)
    assert tight.profile in ("q8", "q4") and whole.profile is None


def test_what_helps_against_too_little_memory_is_what_would_be_enough(even):  # noqa: F811
    for context in (None, 1024, 64):
        needed = least(even, context)
        slightly = plan(even, memory=needed.least_bytes - 1, context=context)
        assert slightly.verdict == "too small" and slightly.profile == "q8"
        assert ("use a shorter context" in slightly.remedy) == (context != 64)
        assert "convert the model with --profile q8" in slightly.remedy and "smaller model" not in slightly.remedy
        shorter = plan(even, memory=needed.least_bytes - 1, context=32)
        assert shorter.verdict != "too small" and not shorter.remedy
        assert needed.remedy == "allow more memory or use a smaller model" and needed.profile is None
    all_of_it = counted(even, "bfloat16" if on_gpu() else "float32").saved_by(4)  # of which the embedding is on disk
    assert plan(even, memory=needed.least_bytes - all_of_it, context=64).profile is None


@pytest.mark.parametrize("profile", ["q8", "q4"])
def test_with_the_profile_that_is_named_the_least_memory_is_enough(even, tmp_path, profile):  # noqa: F811
    convert(even, tmp_path / "mlx", ConvertOptions(profile=profile))
    memory = least(tmp_path / "mlx", 64).least_bytes
    told = plan(even, memory=memory, context=64)
    assert told.verdict == "too small" and told.profile == profile and f"--profile {profile}" in told.remedy
    assert plan(tmp_path / "mlx", memory=memory, context=64).verdict == "experts on disk"


def test_a_profile_that_is_not_possible_is_not_named(routed):
    """The converter refuses groups of 64 in matrices of 96 columns."""
    path = routed("32 experts")
    assert counted(path, "float32").saved_by(8) == 0
    assert plan(path, memory=least(path, context=64).least_bytes, context=64).profile is None


@pytest.mark.parametrize(
    ("size", "nbytes"),
    [("8GB", 8 * 10**9), ("6GiB", 6 << 30), ("1.5 gb", 1_500_000_000), (77, 77), ("500M", 5 * 10**8)],
)
def test_sizes_of_memory(size, nbytes):
    assert parse_bytes(size) == nbytes


@pytest.mark.parametrize("size", ["8", "1.5", "999999"])
def test_a_size_without_a_unit_that_can_only_be_a_mistake_is_refused_with_the_remedy(size):
    with pytest.raises(OptionError, match="add the unit"):
        parse_bytes(size)


@pytest.mark.parametrize("size", ["", "GB", "-1GB", "8XB", "0", "0GB", 0, -5, True, None, 1.5j, "nan", "1e999GB"])
def test_what_is_no_size_is_refused(size):
    with pytest.raises(OptionError, match="not a size of memory"):
        parse_bytes(size)


@pytest.mark.parametrize("wrong", [{"context": 0}, {"context": 131_073}, {"context": "9"}, {"chunk": 0}])
def test_arguments_out_of_range_are_refused(routed, wrong):
    with pytest.raises(OptionError, match=r"(context|chunk) is"):
        plan(routed("32 experts"), **wrong)


@pytest.mark.parametrize("slots", [0, 3, 33, True])
def test_slots_out_of_range_are_refused(routed, slots):
    with pytest.raises(OptionError, match="expected 4 to 32"):
        load_model(routed("32 experts"), slots=slots)


def test_the_command_tells_what_fits(routed, capsys):
    path = str(routed("32 experts"))
    assert main(["plan", path, "--memory", "1TB"]) == 0
    assert "fits in memory" in capsys.readouterr().out
    assert main(["plan", path, "--memory", str(least(Path(path)).least_bytes)]) == 0
    assert "4 of the 32 experts of each layer are in memory" in capsys.readouterr().out
    assert main(["plan", path, "--memory", "1MB"]) == 1
    assert "needs at least" in capsys.readouterr().out
    assert main(["plan", path, "--memory", "much"]) == 2
    assert capsys.readouterr().err.startswith("error: 'much' is not a size")


def test_without_a_path_nano_is_planned(monkeypatch, capsys):
    monkeypatch.delenv("MLX_OSS_MODEL", raising=False)
    assert plan(context=100, memory="1GB") == plan("nano", context=100, memory="1GB")
    assert main(["plan", "--json"]) == 0 and "nano" in json.loads(capsys.readouterr().out)["folder"]


def test_the_command_gives_figures_as_json(routed, capsys):
    path = routed("32 experts")
    assert main(["plan", str(path), "--memory", "1GB", "--context", "100", "--json"]) == 0
    printed, made = json.loads(capsys.readouterr().out), plan(path, memory="1GB", context=100)
    assert printed["peak_bytes"] == made.peak_bytes and printed["weights"] == made.weights
    assert made.base_bytes + made.weight_bytes + made.kv_bytes + made.prefill_bytes <= made.peak_bytes


def test_commands_with_little_memory_write_the_same(capsys):
    """With nano, and half of its experts in memory."""
    asked = ["generate", "What can you do?", "--temperature", "0", "--max-tokens", "12", "--context", "256"]
    little = str(least(nano_folder(), context=256).least_bytes)
    assert main(asked) == 3
    whole = capsys.readouterr().out
    assert main([*asked, "--memory", little]) == 3
    assert capsys.readouterr().out == whole
    assert main([*asked, "--memory", "1MB"]) == 2
    assert "needs at least" in capsys.readouterr().err


def test_a_session_tells_what_was_read():
    model, tokenizer = load_model(nano_folder(), slots=4), mlx_oss.load_tokenizer()
    session = mlx_oss.ChatSession(model, tokenizer, options=mlx_oss.SamplingOptions(temperature=0), max_tokens=5)
    before = offload_stats(model.transformer)
    session.ask("Hi")
    session.ask("And you?")
    spent, stats = offload_stats(model.transformer) - before, session.stats
    assert (stats.experts_held, stats.experts_read, stats.read_bytes) == (spent.hits, spent.misses, spent.nbytes)
    assert 0 < stats.hit_rate < 1 and stats.read_seconds == pytest.approx(spent.seconds)
    assert stats.read_bytes_per_token == spent.nbytes / (stats.prefilled_tokens + stats.generated_tokens)
    assert mlx_oss.Stats().hit_rate == 1 and mlx_oss.Stats().read_bytes_per_token == 0


def test_the_least_is_that_of_the_chunk_asked_for(routed):
    path = routed("32 experts")
    least = mlx_oss.plan(path, context=1024, chunk=512, memory=1).least_bytes
    assert mlx_oss.plan(path, context=1024, chunk=512, memory=least).verdict == "experts on disk"
    assert mlx_oss.plan(path, context=1024, chunk=512, memory=least - 1).verdict == "too small"
    assert mlx_oss.plan(path, context=1024, memory=1).least_bytes < least


def test_what_is_named_as_the_least_is_enough_as_it_is_printed(routed):
    text = str(mlx_oss.plan(routed("32 experts"), memory=1))
    printed = re.search(r"at least ([\d.]+ [MG]B)", text)
    assert printed and mlx_oss.plan(routed("32 experts"), memory=printed[1].replace(" ", "")).verdict != "too small"


def test_a_smaller_chunk_is_told(routed):
    path = routed("32 experts")
    small = mlx_oss.plan(path, context=1024, memory=mlx_oss.plan(path, context=1024, memory=1).least_bytes)
    assert small.chunk < 512 and f"processed {small.chunk} tokens at a time, which rounds differently" in str(small)
    large = mlx_oss.plan(path, context=1024, memory=mlx_oss.plan(path, context=1024, chunk=512, memory=1).least_bytes)
    assert large.chunk == 512 and "rounds differently" not in str(large)


@pytest.mark.skipif(mx.default_device().type == mx.gpu, reason="a GPU allocates whole pages")
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("stored", [mx.bfloat16, mx.float16, mx.float32])
def test_loading_allocates_no_more_than_is_planned_for_it(tmp_path, stored, dtype):
    """The embedding has most of the bytes. In float16 and float32 it is rounded, which needs memory for both."""
    source = write_checkpoint(tmp_path / "src", TINY | {"vocab_size": 6000})
    tensors = mx.load(str(source / "model.safetensors"))
    tensors = {name: a.astype(stored) if a.dtype == mx.bfloat16 else a for name, a in tensors.items()}
    mx.save_safetensors(str(source / "model.safetensors"), tensors)
    del tensors
    footprint = counted(source, dtype)
    program = "import sys, mlx_oss; mlx_oss.load_model(sys.argv[1], dtype=sys.argv[2]); import mlx.core as mx; "
    program += "print(mx.get_peak_memory())"  # in a process of its own: here, other tests leave arrays behind
    allocated = int(subprocess.check_output([sys.executable, "-c", program, str(source), dtype]))
    small = 20_000  # bytes of what is no weight, such as the frequencies
    assert footprint.weights(None) <= allocated <= footprint.weights(None) + footprint.loading(None) + small
    assert footprint.loading(None) <= 2 * (allocated - footprint.weights(None)) + small
