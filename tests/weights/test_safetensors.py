"""Safetensors headers: valid ones are read, and a damaged file or folder is refused with a clear message."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from safetensors.numpy import save_file

from mlx_oss.errors import CheckpointError
from mlx_oss.weights.safetensors import INDEX, ITEMSIZE, passed_over, read_folder, read_header, weight_files

GOOD = {
    "a": {"dtype": "BF16", "shape": [2, 3], "data_offsets": [0, 12]},
    "b": {"dtype": "U8", "shape": [], "data_offsets": [12, 13]},
    "c": {"dtype": "F32", "shape": [0, 7], "data_offsets": [13, 13]},
    "d": {"dtype": "U32", "shape": [5], "data_offsets": [13, 33]},
}


def write(path: Path, header: Any = GOOD, nbytes: int = 33) -> Path:
    """Writes a safetensors file with any header, given as bytes or as an object for JSON, and `nbytes` of data."""
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + bytes(range(nbytes)))
    return path


def with_entry(name: str, **changes: Any) -> dict[str, Any]:
    entry = {key: value for key, value in (GOOD[name] | changes).items() if value is not ...}
    return GOOD | {name: entry}


def error_of(path: Path) -> str:
    with pytest.raises(CheckpointError) as caught:
        read_header(path) if path.is_file() else read_folder(path)
    return str(caught.value)


def test_a_header_gives_each_tensor_and_where_its_bytes_are(tmp_path):
    path = write(tmp_path / "x.safetensors", {"__metadata__": {"format": "pt"}} | GOOD)
    tensors = read_header(path)
    assert [(t.name, t.dtype, t.shape, t.nbytes) for t in tensors.values()] == [
        ("a", "BF16", (2, 3), 12),
        ("b", "U8", (), 1),
        ("c", "F32", (0, 7), 0),
        ("d", "U32", (5,), 20),
    ]
    assert path.read_bytes()[tensors["d"].start : tensors["d"].end] == bytes(range(13, 33))
    assert all(t.file == path for t in tensors.values())


def test_a_file_of_the_safetensors_library_is_read_alike(tmp_path):
    arrays = {"x": np.arange(15, dtype=np.uint16).reshape(3, 5), "y": np.ones((2,), np.float32), "z": np.ones(7, bool)}
    save_file(arrays, tmp_path / "x.safetensors", metadata={"format": "np"})
    tensors, data = read_header(tmp_path / "x.safetensors"), (tmp_path / "x.safetensors").read_bytes()
    assert tensors.keys() == arrays.keys()
    for name, array in arrays.items():
        assert tensors[name].shape == array.shape
        assert data[tensors[name].start : tensors[name].end] == array.tobytes()


def test_tensors_come_in_the_order_of_their_bytes(tmp_path):
    backwards = dict(reversed(GOOD.items()))
    assert list(read_header(write(tmp_path / "x.safetensors", backwards))) == list(GOOD)


def test_a_file_without_tensors_is_good(tmp_path):
    assert read_header(write(tmp_path / "x.safetensors", {}, nbytes=0)) == {}


@pytest.mark.parametrize(
    ("header", "nbytes", "expected"),
    [
        (GOOD, 32, "truncated: "),
        (GOOD, 34, "too long: "),
        (with_entry("b", data_offsets=[13, 14]), 33, "does not start where the one before it ends"),
        (with_entry("b", data_offsets=[11, 12]), 33, "does not start where the one before it ends"),
        (with_entry("a", shape=[2, 2], data_offsets=[4, 12]), 33, "tensor a does not start"),
        (with_entry("a", shape=[2, 4]), 33, "tensor a has a damaged header entry"),
        (with_entry("a", dtype="BF61"), 33, "tensor a has the unknown dtype 'BF61'"),
        (with_entry("a", dtype=["BF16"]), 33, "tensor a has a damaged"),
        (with_entry("a", dtype=...), 33, "tensor a has a damaged"),
        (with_entry("a", shape=...), 33, "tensor a has a damaged"),
        (with_entry("a", shape=[-2, -3]), 33, "tensor a has a damaged"),
        (with_entry("a", shape=[2.0, 3]), 33, "tensor a has a damaged"),
        (with_entry("b", shape=[True]), 33, "tensor b has a damaged"),
        (with_entry("a", shape="23"), 33, "tensor a has a damaged"),
        (with_entry("a", data_offsets=[0]), 33, "tensor a has a damaged"),
        (with_entry("a", data_offsets=[-1, 11]), 33, "tensor a has a damaged"),
        (with_entry("a", data_offsets=[0, None]), 33, "tensor a has a damaged"),
        (GOOD | {"a": 3}, 33, "tensor a has a damaged"),
        (b"{", 33, "damaged safetensors header"),
        (b"\xff\xfe\xfd", 33, "damaged safetensors header"),
        (b"[" * 100_000, 33, "damaged safetensors header"),
        (b"[]", 0, "damaged safetensors header"),
        (b"", 0, "damaged safetensors header"),
    ],
)
def test_a_damaged_header_is_refused(tmp_path, header, nbytes, expected):
    path = write(tmp_path / "x.safetensors", header, nbytes)
    message = error_of(path)
    assert expected in message and str(path) in message


@pytest.mark.parametrize("content", [b"", b"\x01", (2**63).to_bytes(8, "little") + b"{}", (9).to_bytes(8, "little")])
def test_a_file_too_short_for_its_header_is_refused(tmp_path, content):
    path = tmp_path / "x.safetensors"
    path.write_bytes(content)
    assert "truncated or not a safetensors file" in error_of(path)


def test_a_header_beyond_what_a_model_needs_is_not_read(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_bytes((100_000_001).to_bytes(8, "little") + b"{}")
    with path.open("ab") as file:
        file.truncate(100_000_100)  # sparse
    assert "has a header of 100,000,001 bytes" in error_of(path)


def test_a_git_lfs_pointer_is_called_one(tmp_path):
    path = tmp_path / "x.safetensors"
    path.write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 4792272488\n")
    assert "Git LFS pointer" in error_of(path) and "git lfs pull" in error_of(path)


def test_a_file_that_cannot_be_read_is_named(tmp_path):
    with pytest.raises(CheckpointError, match=r"absent.safetensors cannot be read \(No such file"):
        read_header(tmp_path / "absent.safetensors")


def test_sizes_of_dtypes_are_the_safetensors_librarys(tmp_path):
    """For the dtypes that NumPy has."""
    kinds = "uint8 int8 uint16 int16 float16 uint32 int32 float32 uint64 int64 float64 bool".split()
    save_file({kind: np.zeros((3, 5), kind) for kind in kinds}, tmp_path / "x.safetensors")
    tensors = read_header(tmp_path / "x.safetensors")
    assert {t.dtype: ITEMSIZE[t.dtype] for t in tensors.values()} == {
        tensors[kind].dtype: np.dtype(kind).itemsize for kind in kinds
    }
    assert ITEMSIZE["BF16"] == 2


def corrupt(data: bytes, edits: list[tuple[int, int]], length: int | None) -> bytes:
    changed = bytearray(data)
    for at, byte in edits:
        changed[at % len(changed)] = byte
    return bytes(changed if length is None else changed[: length % (len(changed) + 1)])


@settings(max_examples=500, deadline=None, database=None)
@given(
    st.lists(
        st.tuples(st.integers(0, 10**6), st.integers(0, 255) | st.sampled_from(b'0123456789[]{},:"-')), max_size=6
    ),
    st.none() | st.integers(0, 10**6),
)
def test_a_corrupted_file_is_read_or_refused_with_checkpoint_error(tmp_path_factory, edits, length):
    """If it is read, all tensors are within the file, and the size of each matches its shape and dtype."""
    path = tmp_path_factory.getbasetemp() / "corrupted.safetensors"
    data = write(path).read_bytes()
    path.write_bytes(corrupt(data, edits, length))
    try:
        tensors = read_header(path)
    except CheckpointError as error:
        assert str(path) in str(error)
        return
    assert sum(t.nbytes for t in tensors.values()) == path.stat().st_size - 8 - int.from_bytes(
        path.read_bytes()[:8], "little"
    )
    for t in tensors.values():
        assert t.nbytes == int(np.prod(t.shape)) * ITEMSIZE[t.dtype]


@pytest.fixture
def shards(tmp_path) -> Path:
    """A folder with two shards and their index, which the tests damage."""
    one = {"a": GOOD["a"]}
    two = {"x": {"dtype": "U8", "shape": [3], "data_offsets": [0, 3]}}
    write(tmp_path / "model-1.safetensors", one, 12)
    write(tmp_path / "model-2.safetensors", two, 3)
    write_index(tmp_path, a="model-1.safetensors", x="model-2.safetensors")
    return tmp_path


def write_index(folder: Path, **weight_map: Any) -> None:
    (folder / INDEX).write_text(json.dumps({"metadata": {}, "weight_map": weight_map}))


def test_a_folder_is_read_with_its_index_and_without(shards):
    with_index = read_folder(shards)
    assert {name: t.file.name for name, t in with_index.items()} == {
        "a": "model-1.safetensors",
        "x": "model-2.safetensors",
    }
    (shards / INDEX).unlink()
    assert read_folder(shards) == with_index


PASSED_OVER = ["consolidated.safetensors", "adapters.safetensors", "optimizer.safetensors"]


@pytest.mark.parametrize(
    ("there", "read"),
    [
        ([INDEX, "model-1.safetensors", "model-2.safetensors", "model.safetensors"], {"a", "x"}),
        (["model.safetensors", "model-1.safetensors"], {"whole"}),
        ([INDEX, "model.safetensors"], {"whole"}),  # an index whose files are all gone
        ([INDEX, "model-3.safetensors"], {"b"}),  # and one of fewer files
        (["model-1.safetensors", "model-2.safetensors"], {"a", "x"}),
    ],
)
def test_the_index_s_files_are_the_model_else_one_file_else_the_numbered_ones(shards, there, read):
    write(shards / "model.safetensors", {"whole": GOOD["b"] | {"data_offsets": [0, 1]}}, 1)
    write(shards / "model-3.safetensors", {"b": GOOD["b"] | {"data_offsets": [0, 1]}}, 1)
    for path in shards.iterdir():
        if path.name not in there:
            path.unlink()
    for name in PASSED_OVER:
        (shards / name).write_bytes(b"no safetensors")
    tensors = read_folder(shards)
    assert set(tensors) == read
    files = {tensor.file.name for tensor in tensors.values()}
    told = set(passed_over(shards, files))
    assert told >= set(PASSED_OVER) and not told & files
    assert told - set(PASSED_OVER) == {
        name for name in there if name not in files and (name != INDEX or len(there) == 2)
    }


def test_files_of_any_name_are_the_model_except_adapters_and_optimizers(shards):
    (shards / INDEX).unlink()
    for number in (1, 2):
        (shards / f"model-{number}.safetensors").rename(shards / f"part{number}.safetensors")
    for name in ("0000100_adapters.safetensors", "adapter_model.safetensors", "optimizer.safetensors"):
        (shards / name).write_bytes(b"no safetensors")
    assert set(read_folder(shards)) == {"a", "x"}


def test_a_link_that_leads_nowhere_is_told_as_one(shards):
    (shards / "model-2.safetensors").unlink()
    (shards / "model-2.safetensors").symlink_to("../blobs/absent")
    assert "it is a link to '../blobs/absent', which is not there" in error_of(shards)
    (shards / INDEX).unlink()
    (shards / INDEX).symlink_to("absent")
    assert "it is a link to 'absent', which is not there" in error_of(shards)


def test_an_index_with_a_byte_order_mark_is_read(shards):
    (shards / INDEX).write_bytes(b"\xef\xbb\xbf" + (shards / INDEX).read_bytes())
    assert set(read_folder(shards)) == {"a", "x"}


@pytest.mark.parametrize(("dtype", "shape", "nbytes"), [("F4", [3, 4], 6), ("F6_E2M3", [4], 3), ("F8_E8M0", [5], 5)])
def test_dtypes_of_values_smaller_than_a_byte_are_read(tmp_path, dtype, shape, nbytes):
    header = {"a": {"dtype": dtype, "shape": shape, "data_offsets": [0, nbytes]}}
    (tensor,) = read_header(write(tmp_path / "x.safetensors", header, nbytes)).values()
    assert (tensor.dtype, tensor.shape, tensor.nbytes) == (dtype, tuple(shape), nbytes)
    header["a"]["data_offsets"] = [0, nbytes + 1]
    assert "damaged header entry" in error_of(write(tmp_path / "y.safetensors", header, nbytes + 1))


@pytest.mark.parametrize(
    ("weight_map", "expected"),
    [
        ({"a": "model-1.safetensors"}, None),
        ({"a": "model-1.safetensors", "x": "model-3.safetensors"}, "model-3.safetensors is missing"),
        (
            {"a": "model-1.safetensors", "x": "model-1.safetensors"},
            "names tensor x, which model-1.safetensors does not",
        ),
        ({"a": "model-2.safetensors", "x": "model-1.safetensors"}, f"tensor a is in model-1.safetensors, but {INDEX}"),
        ({"x": "model-2.safetensors", "a": "model-1.safetensors", "y": "model-2.safetensors"}, "names tensor y, which"),
        ({"a": "../model-1.safetensors"}, "names files outside its folder"),
        ({"a": "/etc/passwd"}, "names files outside its folder"),
        ({"a": "..", "x": "model-2.safetensors"}, ".. cannot be read (it is a folder, not a file"),
        ({"a": 3}, "is damaged"),
        ({}, "names files outside its folder, or none"),
    ],
)
def test_an_index_that_disagrees_with_the_shards_is_refused(shards, weight_map, expected):
    write_index(shards, **weight_map)
    if expected is None:
        assert set(read_folder(shards)) == {"a"}
    else:
        assert expected in error_of(shards)


def test_a_tensor_the_index_leaves_out_of_a_shard_it_names_is_refused(shards):
    write(
        shards / "model-2.safetensors",
        {"x": GOOD["b"] | {"data_offsets": [0, 1]}, "y": GOOD["b"] | {"data_offsets": [1, 2]}},
        2,
    )
    assert f"tensor y is in model-2.safetensors, but {INDEX} names no file for it" in error_of(shards)


def test_a_tensor_in_two_shards_is_refused(shards):
    (shards / INDEX).unlink()
    write(shards / "model-3.safetensors", {"a": GOOD["a"]}, 12)
    assert "tensor a is in model-1.safetensors and in model-3.safetensors" in error_of(shards)


@pytest.mark.parametrize("text", ["", "{", "[]", "{}", '{"weight_map": []}', '{"weight_map": 3}', "[" * 100_000])
def test_a_damaged_index_is_refused(shards, text):
    (shards / INDEX).write_text(text)
    assert f"{INDEX} is damaged" in error_of(shards)


def test_a_damaged_shard_is_named(shards):
    (shards / "model-2.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    assert str(shards / "model-2.safetensors") in error_of(shards)


def test_an_empty_folder_and_no_folder_are_refused(tmp_path):
    assert "contains no *.safetensors" in error_of(tmp_path)
    assert "does not exist" in error_of(tmp_path / "absent")


def test_what_macos_puts_beside_a_file_on_other_disks_is_no_shard(tmp_path):
    write(tmp_path / "model.safetensors")
    (tmp_path / "._model.safetensors").write_bytes(b"\0\5\x16\7Mac OS X")
    assert set(read_folder(tmp_path)) == set(GOOD)


def test_a_folder_that_may_not_be_read_is_not_taken_for_an_empty_one(tmp_path, monkeypatch):
    save_file({"a": np.zeros(3, np.float32)}, tmp_path / "model.safetensors")
    monkeypatch.setattr("os.access", lambda path, mode: False)  # root may read everything
    with pytest.raises(CheckpointError, match=r"cannot be read \(permission denied\)"):
        read_folder(tmp_path)


def test_hidden_files_are_no_weights(tmp_path):
    for name in ("model.safetensors", ".model.safetensors", "._model.safetensors"):
        (tmp_path / name).touch()
    assert weight_files(tmp_path) == ["model.safetensors"]
