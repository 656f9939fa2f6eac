"""Converting with a LoRA adapter: its folder, what lies in it, interruptions, memory, and what is said of mistakes."""

from __future__ import annotations

import json
import os
import tracemalloc
from pathlib import Path

import mlx.core as mx
import pytest

from mlx_oss.cli import main
from mlx_oss.convert import ConvertOptions, convert, run, verify
from mlx_oss.errors import CheckpointError, ConfigError, ConversionError, TokenizerError
from mlx_oss.loader import load
from mlx_oss.weights.safetensors import read_folder
from tests.convert.test_adapter_kinds import Q_PROJ, adapter_of, random
from tests.convert.test_adapters import write_peft
from tests.synthetic import TINY, write_checkpoint
from tests.test_tokenizer_json import released
from tests.weights.test_fine_tunes import read


@pytest.fixture
def source(release) -> Path:
    return release("tiny", "hf")


def test_the_values_of_an_adapter_are_not_kept_in_memory(source, tmp_path):
    tensors = {}
    for path in Q_PROJ:
        tensors |= {f"{path}.lora_A.weight": random(20_000, 96), f"{path}.lora_B.weight": random(240, 20_000) / 100}
    adapter = adapter_of(tmp_path / "adapter", tensors)
    size = (adapter / "adapter_model.safetensors").stat().st_size
    del tensors
    tracemalloc.start()
    convert(source, tmp_path / "mlx", ConvertOptions(adapter=adapter, dry_run=True))
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 8 << 20 < size // 4


def test_an_adapter_that_changes_meanwhile_is_told(source, tmp_path):
    write_peft(tmp_path / "adapter", Q_PROJ)
    file = tmp_path / "adapter" / "adapter_config.json"
    with pytest.raises(CheckpointError, match=r"adapter_config\.json was changed while it was converted"):
        convert(
            source,
            tmp_path / "mlx",
            ConvertOptions(adapter=tmp_path / "adapter"),
            progress=lambda _: file.write_text(file.read_text() + " "),
        )


def test_it_resumes_with_the_same_adapter_and_starts_anew_with_another(release, tmp_path):
    source = release("tiny", "hf")
    for name in ("one", "two"):
        write_peft(tmp_path / name, Q_PROJ, lora_alpha=len(name) + (name == "two"))

    def interrupted(now):
        if now.shards_done:
            raise KeyboardInterrupt

    options = {name: ConvertOptions(adapter=tmp_path / name, shard_bytes=1, verify=True) for name in ("one", "two")}
    for name, resumed in (("one", True), ("two", False)):
        with pytest.raises(KeyboardInterrupt):
            convert(source, tmp_path / "mlx", options["one"], interrupted)
        report = convert(source, tmp_path / "mlx", options[name])
        assert (report.resumed_shards > 0) == resumed
        convert(source, tmp_path / f"whole {name}", options[name])
        made, whole = read(tmp_path / "mlx"), read(tmp_path / f"whole {name}")
        assert all(mx.array_equal(made[each], whole[each]) for each in whole)
        assert {each: report.losses[each] for each in report.losses} == dict.fromkeys(
            [f"{path}.weight" for path in Q_PROJ], "merged"
        )
        for path in [*(tmp_path / "mlx").iterdir()]:
            path.unlink()
        (tmp_path / "mlx").rmdir()


def test_verifying_says_that_an_adapter_is_missing_or_alone(source, tmp_path, capsys):
    write_peft(tmp_path / "adapter", Q_PROJ)
    convert(source, tmp_path / "mlx", ConvertOptions(adapter=tmp_path / "adapter"))
    verify(tmp_path / "mlx")
    with pytest.raises(CheckpointError, match=r"was converted with an adapter.* --adapter DIR"):
        verify(tmp_path / "mlx", source)
    with pytest.raises(ConversionError, match="give that too, --source SRC"):
        verify(tmp_path / "mlx", adapter=tmp_path / "adapter")
    assert main(["verify", str(tmp_path / "mlx"), "--adapter", str(tmp_path / "adapter")]) == 2
    assert "--source SRC" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (lambda file: file.unlink(), "does not exist: use the config that was saved with the adapter$"),
        (lambda file: file.write_text("{"), r"cannot be read as JSON .*: use the config that was saved with the"),
        (lambda file: file.write_text("[]"), "does not contain a JSON object: use the config that was saved with"),
        (lambda file: (file.unlink(), os.mkfifo(file)), "a named pipe.*: use the config that was saved with the"),
    ],
)
def test_a_config_that_is_missing_or_damaged_names_what_helps(source, tmp_path, change, expected):
    write_peft(tmp_path / "adapter", Q_PROJ)
    change(tmp_path / "adapter" / "adapter_config.json")
    with pytest.raises(ConfigError, match=expected):
        convert(source, tmp_path / "mlx", ConvertOptions(adapter=tmp_path / "adapter"))


def test_an_adapter_that_is_a_link_to_nowhere_or_a_state_of_a_training_is_told_as_one(source, tmp_path):
    write_peft(tmp_path / "adapter", Q_PROJ)
    file, options = tmp_path / "adapter" / "adapter_model.safetensors", ConvertOptions(adapter=tmp_path / "adapter")
    file.rename(tmp_path / "adapter" / "0000100_adapters.safetensors")
    with pytest.raises(CheckpointError, match=r"such as 0000100_adapters\.safetensors, to adapters\.safetensors there"):
        convert(source, tmp_path / "mlx", options)
    file.symlink_to("nowhere")
    with pytest.raises(CheckpointError, match="it is a link to 'nowhere', which is not there"):
        convert(source, tmp_path / "mlx", options)


@pytest.mark.parametrize(
    ("base", "named"),
    [
        ("openai/gpt-oss-120b", "openai/gpt-oss-120b"),
        ("unsloth/gpt-oss-20b-unsloth-bnb-4bit", "openai/gpt-oss-20b"),
        ("unsloth/gpt-oss-20b", "unsloth/gpt-oss-20b"),
        ("--force", "MODEL"),
        (["x"], "MODEL"),
    ],
)
def test_the_message_names_a_base_that_can_be_read(tmp_path, base, named):
    write_peft(tmp_path / "adapter", Q_PROJ, base_model_name_or_path=base)
    with pytest.raises(CheckpointError, match=f"`mlx-oss convert {named} DST --adapter "):
        load(tmp_path / "adapter")


def test_an_adapter_in_pytorch_s_format_names_what_helps(source, tmp_path):
    (tmp_path / "adapter").mkdir()
    (tmp_path / "adapter" / "adapter_model.bin").write_bytes(b"")
    with pytest.raises(CheckpointError, match="load it with PEFT and save it with save_pretrained"):
        convert(source, tmp_path / "mlx", ConvertOptions(adapter=tmp_path / "adapter"))


@pytest.mark.parametrize("layout", ["hf", "metal"])
def test_tokens_that_a_training_added_beside_its_adapter_come_along(tmp_path, layout):
    source = write_checkpoint(tmp_path / "source", TINY | {"vocab_size": 201_088, "hidden_size": 32}, layout=layout)
    (source / "tokenizer.json").write_bytes(released())
    (source / "chat_template.jinja").write_text("the model's")
    write_peft(tmp_path / "adapter", {"model.layers.0.self_attn.q_proj": (240, 32)})
    own = {"id": 200_013, "content": "<own>", "special": False}
    (tmp_path / "adapter" / "tokenizer.json").write_bytes(released(own))
    (tmp_path / "adapter" / "tokenizer_config.json").write_text("{}")
    options = ConvertOptions(adapter=tmp_path / "adapter", verify=True)
    convert(source, tmp_path / "mlx", options)
    verify(tmp_path / "mlx", source, adapter=tmp_path / "adapter")
    assert load(tmp_path / "mlx", dtype="float32")[1].encode("a<own>")[-1] == 200_013
    assert (tmp_path / "mlx" / "tokenizer_config.json").read_text() == "{}"
    if layout == "hf":
        assert (tmp_path / "mlx" / "chat_template.jinja").read_text() == "the model's"
    (tmp_path / "adapter" / "tokenizer.json").write_bytes(released(without=200_006))
    with pytest.raises(TokenizerError, match="id 200006 is missing"):
        convert(source, tmp_path / "mlx 2", options)


def test_the_record_of_a_conversion_names_the_files_of_its_adapter(source, tmp_path):
    write_peft(tmp_path / "adapter", Q_PROJ)
    for name, adapter in (("with", tmp_path / "adapter"), ("without", None)):
        run.convert(source, tmp_path / name, ConvertOptions(adapter=adapter))
        said = json.loads((tmp_path / name / "conversion.json").read_text())
        assert set(said.get("adapter", {})) == (
            {"adapter_config.json", "adapter_model.safetensors"} if adapter else set()
        )
    assert read_folder(tmp_path / "with").keys() == read_folder(tmp_path / "without").keys()


def test_a_target_never_takes_the_place_of_the_adapter(source, tmp_path):
    """As where an adapter lies beside a model, in one folder: replacing that would delete the only copy."""
    convert(source, tmp_path / "both")
    write_peft(tmp_path / "both", Q_PROJ)
    for target in ("both", "both/inside"):
        with pytest.raises(ConversionError, match="overlap: choose a target outside the adapter"):
            convert(source, tmp_path / target, ConvertOptions(adapter=tmp_path / "both", force=True))
    assert (tmp_path / "both" / "adapter_model.safetensors").is_file()


def test_a_folder_above_an_adapter_names_the_folder_to_give(source, tmp_path, capsys):
    write_peft(tmp_path / "out" / "checkpoint-30", Q_PROJ)
    options = ConvertOptions(adapter=tmp_path / "out")
    with pytest.raises(
        CheckpointError, match=r"/out holds no adapter, but checkpoint-30/ in it does: give (\S+)$"
    ) as told:
        convert(source, tmp_path / "mlx", options)
    given = str(told.value).rpartition(" give ")[2]
    assert main(["convert", str(source), str(tmp_path / "mlx"), "--adapter", given]) == 0


@pytest.mark.parametrize("names", [["checkpoint-9", "checkpoint-10", "checkpoint-20"], ["a/last", "b/adapter"]])
def test_a_folder_above_several_adapters_names_all_and_of_a_training_the_last(source, tmp_path, names):
    for name in names:
        write_peft(tmp_path / "out" / name, Q_PROJ)
    with pytest.raises(CheckpointError, match=f"/out holds no adapter, but {len(names)} folders in it do") as told:
        convert(source, tmp_path / "mlx", ConvertOptions(adapter=tmp_path / "out"))
    said, _, given = str(told.value).partition(": give ")
    assert all(f"{name}/" in said for name in names)
    assert given == str(tmp_path / "out" / names[-1]) or names[0] == "a/last"
    convert(source, tmp_path / "mlx", ConvertOptions(adapter=given))


def test_other_adapters_below_are_named_too(source, tmp_path):
    """States of a training, or PyTorch's files: the next message says what to do with those."""
    write_peft(tmp_path / "out" / "run", Q_PROJ)
    (tmp_path / "out" / "run" / "adapter_model.safetensors").rename(
        tmp_path / "out" / "run" / "0000100_adapters.safetensors"
    )
    with pytest.raises(CheckpointError, match=r"give .*/out/run$"):
        convert(source, tmp_path / "mlx", ConvertOptions(adapter=tmp_path / "out"))


def test_a_model_below_is_no_adapter_and_a_file_names_its_folder(source, tmp_path):
    write_checkpoint(tmp_path / "out" / "model")
    write_peft(tmp_path / "adapter", Q_PROJ)
    for path, expected in [
        (tmp_path / "out", "holds no adapter: give the folder with"),
        (tmp_path / "nowhere", "does not exist: give the folder with"),
        (tmp_path / "adapter" / "adapter_model.safetensors", f"give its folder, {tmp_path / 'adapter'}$"),
        (tmp_path / "adapter" / "adapter_config.json", f"give its folder, {tmp_path / 'adapter'}$"),
    ]:
        with pytest.raises(CheckpointError, match=expected):
            convert(source, tmp_path / "mlx", ConvertOptions(adapter=path))
