"""Layouts: each finds every canonical tensor, in the bytes that the converter writes for it, and no byte twice."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_oss.convert import convert
from mlx_oss.errors import CheckpointError, ConfigError, MlxOssError
from mlx_oss.weights.layouts.checkpoint import Checkpoint, open_checkpoint, open_model
from mlx_oss.weights.layouts.description import CanonicalTensor, Dense
from mlx_oss.weights.placements import place
from mlx_oss.weights.safetensors import TensorInfo, read_folder
from tests.synthetic import TINY, write_checkpoint

AS_THEY_ARE = ("hf", "hf_sharded", "original", "original_sharded")


def spans(tensor: CanonicalTensor) -> Iterator[tuple[TensorInfo, np.ndarray]]:
    """(stored tensor, the offsets in it of a canonical tensor's bytes) for each source of the tensor."""
    for source in tensor.sources:
        blocks = tensor.experts // len(tensor.sources)
        rows = np.arange(source.nbytes).reshape(blocks, source.shape[1 if ".experts." in tensor.name else 0], -1)
        yield source, rows[:, tensor.first :: tensor.step][:, : tensor.rows].reshape(-1)


def content(tensor: CanonicalTensor) -> bytes:
    parts = []
    for source, offsets in spans(tensor):
        stored = np.frombuffer(source.file.read_bytes()[source.start : source.end], np.uint8)
        parts.append(stored[offsets].tobytes())
    return b"".join(parts)


@pytest.mark.parametrize("layout", [*AS_THEY_ARE, "metal", "mlx"])
def test_every_stored_byte_belongs_to_exactly_one_canonical_tensor(release, folder, shape, layout):
    checkpoint = open_checkpoint(folder(shape) if layout == "mlx" else release(shape, layout))
    used = {name: np.zeros(tensor.nbytes, int) for name, tensor in checkpoint.file_tensors.items()}
    for tensor in checkpoint.tensors.values():
        for source, offsets in spans(tensor):
            used[source.name][offsets] += 1
    assert all((count == 1).all() for count in used.values())


@pytest.mark.parametrize("layout", AS_THEY_ARE)
def test_a_canonical_tensor_has_the_bytes_that_are_written_for_it(release, folder, shape, layout):
    found, written = open_checkpoint(release(shape, layout)).tensors, open_checkpoint(folder(shape)).tensors
    assert [(t.name, t.dtype, t.shape) for t in found.values()] == [
        (t.name, t.dtype, t.shape) for t in written.values()
    ]
    for name, tensor in found.items():
        assert content(tensor) == content(written[name]), name


def test_experts_that_are_not_quantised_are_one_tensor_for_weight_and_scales(release):
    found = open_checkpoint(release("tiny", "bf16")).tensors
    for projection, first in (("gate", 0), ("up", 1)):
        for suffix in ("weight", "scales"):
            tensor = found[f"model.layers.1.mlp.experts.{projection}_proj.{suffix}"]
            assert (tensor.sources[0].name, tensor.first) == ("model.layers.1.mlp.experts.gate_up_proj", first)
            assert isinstance(tensor.change, Dense)


@pytest.mark.parametrize("layout", [*AS_THEY_ARE, "mlx"])
def test_a_model_reads_every_stored_byte_once(release, folder, shape, layout):
    checkpoint = open_model(folder(shape) if layout == "mlx" else release(shape, layout))
    used = {name: np.zeros(tensor.nbytes, int) for name, tensor in checkpoint.file_tensors.items()}
    for placement in place(checkpoint, "F32", upcasts=True):
        for part in placement.parts:
            for span in (span for array in part.arrays for span in array.spans):
                for expert in range(span.experts):
                    start = span.start(expert) - span.tensor.start
                    used[span.tensor.name][start : start + span.nbytes] += 1
    assert all((count == 1).all() for count in used.values())


def test_layouts_and_placements_need_no_mlx():
    program = "import sys, mlx_oss.weights.placements; sys.exit('mlx.core' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program]).returncode == 0


def rewritten(source: Path, target: Path, change) -> Path:
    """A copy of a checkpoint in one file, after change(config, tensors) has changed the two in place."""
    config = json.loads((source / "config.json").read_text())
    tensors = dict(mx.load(str(source / "model.safetensors")).items())
    change(config, tensors)
    target.mkdir()
    (target / "config.json").write_text(json.dumps(config))
    mx.save_safetensors(str(target / "model.safetensors"), tensors)
    return target


def one_of_each_kind(layout: str) -> list[str]:
    """A stored tensor of each kind, from the last layer."""
    names = write_names(layout)
    last = f".{TINY['num_hidden_layers'] - 1}."
    return [name for name in names if last in name or name.count(".") < 3]


def write_names(layout: str) -> list[str]:
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        return sorted(read_folder(write_checkpoint(Path(folder) / "src", layout=layout)))


@pytest.mark.parametrize(
    ("layout", "name"), [(each, name) for each in ("hf", "original") for name in one_of_each_kind(each)]
)
def test_a_stored_tensor_that_is_missing_or_unlike_is_named(release, tmp_path, layout, name):
    source = release("tiny", layout)

    def reason(label: str, change) -> str:
        with pytest.raises(CheckpointError) as caught:
            open_model(rewritten(source, tmp_path / label, change))
        return str(caught.value)

    assert f"tensor {name} is missing" in reason("missing", lambda c, tensors: tensors.pop(name))
    longer = reason("longer", lambda c, t: t.update({name: mx.concatenate([t[name], t[name][:1]])}))
    assert f"tensor {name} has shape" in longer
    assert f"tensor {name} is I32, expected" in reason("kind", lambda c, t: t.update({name: t[name].astype(mx.int32)}))
    assert f"tensor {name}x is not part of" in reason("more", lambda c, t: t.update({f"{name}x": mx.zeros((1,))}))


def test_tensors_of_two_layouts_are_no_checkpoint(release, folder, tmp_path):
    def mix(config, tensors):
        for file in folder("tiny").glob("*.safetensors"):
            tensors |= mx.load(str(file))

    with pytest.raises(CheckpointError, match=r"has tensors of MLX \(model.*\) and Hugging Face \(model"):
        open_checkpoint(rewritten(release("tiny", "hf"), tmp_path / "mixed", mix))


def test_tensors_of_no_layout_are_no_checkpoint(release, tmp_path):
    def spoil(config, tensors):
        for name in [name for name in tensors if ".experts." in name]:
            del tensors[name]

    with pytest.raises(
        CheckpointError, match=r"no tensor has a name under which .*; there is, for example, .*mlp\.router"
    ):
        open_checkpoint(rewritten(release("tiny", "hf"), tmp_path / "none", spoil))


def test_a_file_in_place_of_a_folder_and_a_folder_without_weights_are_told(tmp_path, release):
    with pytest.raises(CheckpointError, match="does not exist"):
        open_model(tmp_path / "absent")
    with pytest.raises(CheckpointError, match=r"is not a folder.*GGUF files are not supported"):
        (tmp_path / "model.gguf").write_bytes(b"GGUF")
        open_model(tmp_path / "model.gguf")
    (tmp_path / "repository" / "original").mkdir(parents=True)
    write_checkpoint(tmp_path / "repository" / "original", layout="original")
    with pytest.raises(CheckpointError, match=r"original/ does: give .*repository/original"):
        open_model(tmp_path / "repository")
    assert open_model(tmp_path / "repository" / "original")
    write_checkpoint(tmp_path / "other" / "metal", layout="metal")
    with pytest.raises(CheckpointError, match=r"metal/ does: give .*other/metal"):
        open_model(tmp_path / "other")


def test_an_unreadable_config_is_named_whatever_the_layout(release, tmp_path):
    for layout in ("hf", "original"):
        source = rewritten(release("tiny", layout), tmp_path / layout, lambda config, tensors: None)
        for text in ("{", "[]", '{"model_type": "llama"}', '{"num_experts": 3}', "[" * 100_000):
            (source / "config.json").write_text(text)
            with pytest.raises(MlxOssError, match=r"config\.json"):
                open_model(source)


def test_a_left_over_quantization_config_does_not_matter_in_an_mlx_folder(folder, tmp_path):
    (tmp_path / "copy").mkdir()
    for path in folder("tiny").iterdir():
        (tmp_path / "copy" / path.name).write_bytes(path.read_bytes())
    config = json.loads((folder("tiny") / "config.json").read_text())
    config["quantization_config"] = {"quant_method": "bitsandbytes"}
    (tmp_path / "copy" / "config.json").write_text(json.dumps(config))
    assert open_model(tmp_path / "copy").config == open_model(folder("tiny")).config
    del config["quantization"]  # then the shapes of the tensors say how they are quantised
    (tmp_path / "copy" / "config.json").write_text(json.dumps(config))
    assert open_model(tmp_path / "copy").specs == open_model(folder("tiny")).specs


def test_a_config_without_num_experts_beside_openai_s_tensors_is_told_by_its_own_keys(release, tmp_path):
    source = rewritten(release("tiny", "original"), tmp_path / "src", lambda config, tensors: config.pop("num_experts"))
    with pytest.raises(ConfigError, match="num_experts is missing"):
        open_model(source)


def test_the_converted_folder_of_each_layout_is_found_to_be_one(release, tmp_path):
    for layout in ("bf16", "metal"):
        convert(release("tiny", layout), tmp_path / layout)
        assert open_model(tmp_path / layout).layout.name == "MLX"
        assert isinstance(open_checkpoint(release("tiny", layout)), Checkpoint)
