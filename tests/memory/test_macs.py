"""What the released models do on Macs: the plans are those of real folders, and the README has the figures."""

from __future__ import annotations

import json
import struct
from pathlib import Path

import pytest

from mlx_oss.backend.machine import GIB, mac
from mlx_oss.cli import main
from mlx_oss.memory.macs import SIZES, expected, plan_released, table
from mlx_oss.memory.plan import plan_for
from mlx_oss.weights.layouts.checkpoint import open_model, released
from mlx_oss.weights.placements import place

NAMES = ("gpt-oss-20b", "gpt-oss-120b")


def without_weights(name: str, bits: int | None, folder: Path) -> Path:
    """A folder with the config and header of a released model, in which all weights are a hole in the file."""
    checkpoint, start, header = released(name, bits), 0, {}
    for tensor in checkpoint.file_tensors.values():
        header[tensor.name] = {
            "dtype": tensor.dtype,
            "shape": tensor.shape,
            "data_offsets": [start, start + tensor.nbytes],
        }
        start += tensor.nbytes
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(struct.pack("<Q", len(text)) + text)
        file.truncate(8 + len(text) + start)
    (folder / "config.json").write_text(json.dumps(checkpoint.raw_config))
    return folder


@pytest.mark.parametrize("bits", [None, 8])
@pytest.mark.parametrize("name", NAMES)
def test_a_model_that_is_not_there_is_planned_as_its_folder_would_be(tmp_path, name, bits):
    checkpoint = open_model(without_weights(name, bits, tmp_path))
    for size in (8, 16, 32, 128):
        machine = mac(size * GIB)
        real = plan_for(
            checkpoint, place(checkpoint, "BF16", upcasts=False), context=8192, dtype="bfloat16", machine=machine
        )
        made = plan_released(name, machine, bits=bits)
        assert (made.slots, made.peak_bytes, made.weights) == (real.slots, real.peak_bytes, real.weights)


def test_the_released_models_have_the_sizes_of_the_model_card():
    """Table 1 of arXiv 2508.10925: checkpoints of 12.8 and 60.8 GiB."""
    sizes = [sum(plan_released(name, mac(128 * GIB)).weights.values()) / GIB for name in NAMES]
    assert sizes == pytest.approx([12.8, 60.8], abs=0.05)


def test_a_larger_mac_never_does_less():
    for name in NAMES:
        speeds = [expected(name, mac(size * GIB)).tokens_per_second for size in SIZES]
        assert speeds == sorted(speeds)


def test_with_experts_on_disk_reads_and_waits_for_the_router_are_counted():
    """By hand for 20b on 16 GB: 24 layers that wait 0.65 ms, and 4 experts of 13.24 MB each, 8 of 32 on disk."""
    found = expected("gpt-oss-20b", mac(16 * GIB))
    expert = 3 * 2880 * 2880 * 17 / 32 + 2 * 3 * 2880  # MXFP4, and the biases in bfloat16
    assert found.plan.slots == 24 and found.read == pytest.approx(24 * 4 * expert * 8 / 32)
    rest = found.plan.weights["attention"] + found.plan.weights["unembedding"] + found.plan.weights["other"]
    seconds = found.read / 3e9 + (rest + 24 * 4 * expert) / 100e9 + 24 * 0.65e-3
    assert found.tokens_per_second == pytest.approx(1 / seconds)


def test_the_limit_and_what_is_left_to_the_system_are_told_in_a_sentence():
    told = str(plan_released("gpt-oss-20b", mac(16 * GIB)))
    assert "the limit is 10.88 GB (6.30 GB of this Mac's 17.18 GB are left to the system)" in told


@pytest.mark.parametrize(
    "more", [["gpt-oss-20b"], ["--memory", "8GB"], ["--context", "9"], ["--chunk", "9"], ["--json"]]
)
def test_the_table_is_for_all_macs_and_takes_no_other_option(capsys, more):
    assert main(["plan", "--macs", *more]) == 2 and "all sizes" in "".join(capsys.readouterr())


def test_the_readme_has_the_table_that_plan_prints(capsys):
    assert main(["plan", "--macs"]) == 0
    printed = capsys.readouterr().out.strip()
    assert printed == table() and printed in (Path(__file__).parents[2] / "README.md").read_text()
