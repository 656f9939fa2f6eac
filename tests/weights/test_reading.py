"""Reading weights: tensors are joined as concatenation would join them, and a failure leaves no thread behind."""

from __future__ import annotations

import errno
import threading
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_oss import load_model
from mlx_oss.errors import CheckpointError
from mlx_oss.weights import arrays, files, reading
from mlx_oss.weights.placements import Part, Placement, Span, StoredArray
from mlx_oss.weights.reading import open_files, read
from mlx_oss.weights.safetensors import TensorInfo, read_header

SHAPES = {  # the shapes of tensors that are joined, by what they are
    "vector": [(5,)],
    "matrices": [(7, 3), (2, 3), (4, 3)],
    "experts' matrices": [(6, 5, 3), (6, 2, 3)],
    "biases": [(7,), (2,), (4,)],
    "experts' biases": [(6, 5), (6, 2)],
}


def readers() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name.startswith("mlx-oss-load")]


def placed(what: str, tensors: list[TensorInfo]) -> Placement:
    """A parameter of packed words that consists of these tensors, joined by rows."""
    first, axis = tensors[0].shape, 1 if "experts" in what else 0
    experts = first[0] if axis else 1
    shape = (*first[:axis], sum(tensor.shape[axis] for tensor in tensors), *first[axis + 1 :])
    spans = tuple(Span(tensor, experts, 0, tensor.nbytes // experts) for tensor in tensors)
    return Placement(what, "weight", "U32", shape, (Part(StoredArray("U32", shape, spans), "U32"),))


@pytest.fixture
def stored(tmp_path) -> tuple[Path, dict[str, list[mx.array]]]:
    """A file with tensors of all SHAPES, and these tensors."""
    members = {
        what: [mx.random.randint(0, 1 << 30, shape).astype(mx.uint32) for shape in shapes]
        for what, shapes in SHAPES.items()
    }
    named = {f"{what} {n}": array for what, stored_arrays in members.items() for n, array in enumerate(stored_arrays)}
    mx.save_safetensors(str(tmp_path / "some.safetensors"), named)
    return tmp_path / "some.safetensors", members


@pytest.mark.parametrize("large", [0, arrays.LARGE])
@pytest.mark.parametrize("portion", [7, 64, reading.PORTION])
@pytest.mark.parametrize("ahead", [0, 100, reading.AHEAD])
def test_members_are_joined_by_rows_whatever_is_read_at_a_time(stored, monkeypatch, ahead, portion, large):
    monkeypatch.setattr(reading, "AHEAD", ahead)
    monkeypatch.setattr(reading, "PORTION", portion)
    monkeypatch.setattr(arrays, "LARGE", large)
    file, members = stored
    tensors = read_header(file)
    wanted = [placed(what, [tensors[f"{what} {n}"] for n in range(len(each))]) for what, each in members.items()]
    found = {placement.module: array for placement, array in read(wanted, open_files(wanted))}
    assert found.keys() == members.keys()
    for what, stored_arrays in members.items():
        axis = -2 if "matrices" in what else -1
        expected = np.concatenate([np.array(array) for array in stored_arrays], axis)
        assert np.array_equal(np.array(found[what]), expected), what
    assert not readers()


def test_a_disk_that_fails_while_a_model_is_loaded_is_named_and_nobody_reads_on(folder, monkeypatch):
    real, left = files._pread, [40]

    def failing(*asked: object) -> int:
        left[0] -= 1
        if left[0] < 0:
            raise OSError(errno.EIO, "Input/output error")
        return real(*asked)

    monkeypatch.setattr(files, "_pread", failing)
    with pytest.raises(CheckpointError, match=r"model.*safetensors cannot be read \(Input/output error\) at byte"):
        load_model(folder("tiny"))
    assert not readers()


def test_a_file_that_is_cut_short_behind_the_check_of_its_header_is_named(stored):
    file, _ = stored
    tensors = read_header(file)
    wanted = [placed(name, [tensor]) for name, tensor in tensors.items()]
    files = open_files(wanted)
    with file.open("r+b") as opened:
        opened.truncate(file.stat().st_size - 5)
    with pytest.raises(CheckpointError, match="is cut short"):
        list(read(wanted, files))
    assert not readers()
