"""Verification accepts what the converter wrote, and finds and names every changed byte."""

from __future__ import annotations

import hashlib
import json
import math
import os
import random
import re
import shutil
import zlib
from pathlib import Path

import pytest

from mlx_oss.cli import main as mlx_oss
from mlx_oss.convert import ConvertOptions, convert, verify
from mlx_oss.convert.command import main
from mlx_oss.errors import CheckpointError, ConversionError, MlxOssError, TokenizerError
from mlx_oss.memory.estimates import MAC_SIZES
from mlx_oss.weights.safetensors import read_folder
from tests.synthetic import LAYOUTS, TINY, tokenizer_json, write_checkpoint

OPTIONS = ConvertOptions(shard_bytes=200_000)


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    folder = write_checkpoint(tmp_path_factory.mktemp("verify") / "src", seed=9, layout="hf_sharded")
    (folder / "chat_template.jinja").write_text("{{ messages }}")
    return folder


@pytest.fixture(scope="module")
def finished(source) -> Path:
    """Must not be changed; use `copy` for that."""
    convert(source, source.parent / "dst", OPTIONS)
    return source.parent / "dst"


@pytest.fixture
def copy(finished, tmp_path) -> Path:
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def test_dry_run_writes_nothing(source, tmp_path):
    report = convert(source, tmp_path / "dst", ConvertOptions(dry_run=True))
    assert not any(tmp_path.iterdir())
    assert report.tensors == 3 + 22 * TINY["num_hidden_layers"]


def test_verify_passes_what_convert_wrote(source, finished):
    report = verify(finished, source)
    assert report.nbytes == sum(tensor.nbytes for tensor in read_folder(finished).values())
    assert verify(finished).tensors == report.tensors


def test_the_manifest_holds_the_crc_32_of_each_tensor(finished):
    checksums = json.loads((finished / "conversion.json").read_text())["crc32"]
    tensors = read_folder(finished).values()
    assert checksums == {t.name: f"{zlib.crc32(t.file.read_bytes()[t.start : t.end]):08x}" for t in tensors}


def test_a_flipped_bit_in_any_file_is_found_and_the_file_named(copy):
    draw = random.Random(2)
    names = {path.name for path in copy.iterdir()}
    assert {"config.json", "conversion.json", "model.safetensors.index.json", "chat_template.jinja"} < names
    for path in copy.iterdir():
        kept = path.read_bytes()
        places = {0, len(kept) - 1, *(draw.randrange(len(kept)) for _ in range(12))}
        for place in places:
            data = bytearray(kept)
            data[place] ^= 1 << draw.randrange(8)
            path.write_bytes(data)
            with pytest.raises(CheckpointError, match=path.name):
                verify(copy)
        path.write_bytes(kept)
    verify(copy)


def test_a_flipped_bit_in_the_header_of_a_weight_file_is_found(copy):
    for path in copy.glob("*.safetensors"):
        kept = path.read_bytes()
        for place in range(8 + int.from_bytes(kept[:8], "little")):
            if place % 7:
                continue
            path.write_bytes(kept[:place] + bytes([kept[place] ^ 1]) + kept[place + 1 :])
            with pytest.raises(CheckpointError, match=path.name):
                verify(copy)
        path.write_bytes(kept)


@pytest.mark.parametrize("with_source", [True, False])
def test_a_flipped_bit_in_any_tensor_is_found_and_the_tensor_named(source, copy, with_source):
    draw = random.Random(2)
    for tensor in draw.sample(sorted(read_folder(copy).values(), key=lambda t: t.name), 8):
        kept = tensor.file.read_bytes()
        data = bytearray(kept)
        data[draw.randrange(tensor.start, tensor.end)] ^= 1 << draw.randrange(8)
        tensor.file.write_bytes(data)
        with pytest.raises(CheckpointError, match=tensor.name):
            verify(copy, source if with_source else None)
        tensor.file.write_bytes(kept)


def test_a_missing_file_is_found_and_named(copy):
    for path in sorted(copy.iterdir()):
        if path.name != "conversion.json":
            kept = path.read_bytes()
            path.unlink()
            with pytest.raises(CheckpointError, match=path.name):
                verify(copy)
            path.write_bytes(kept)


def test_another_source_is_found(finished, tmp_path):
    other = write_checkpoint(tmp_path / "src", seed=10)
    with pytest.raises(CheckpointError, match="differs from"):
        verify(finished, other)


@pytest.mark.parametrize("change", ["file", "config"])
def test_a_source_whose_other_files_have_changed_is_found(source, finished, tmp_path, change):
    other = Path(shutil.copytree(source, tmp_path / "src"))
    verify(finished, other)
    if change == "file":
        (other / "chat_template.jinja").write_text("{{ other }}")
    else:
        config = json.loads((other / "config.json").read_text()) | {"eos_token_id": 199999}
        (other / "config.json").write_text(json.dumps(config))
    with pytest.raises(CheckpointError, match="chat_template" if change == "file" else "eos_token_id"):
        verify(finished, other)


def test_a_folder_of_others_may_have_other_settings(source, copy):
    (copy / "conversion.json").unlink()
    config = json.loads((copy / "config.json").read_text()) | {"eos_token_id": 199999}
    (copy / "config.json").write_text(json.dumps(config))
    (copy / "chat_template.jinja").unlink()
    verify(copy, source)


def test_a_folder_without_manifest_needs_a_source(source, copy):
    (copy / "conversion.json").unlink()
    verify(copy, source)
    with pytest.raises(CheckpointError, match=r"conversion\.json.*--source"):
        verify(copy)


def test_a_manifest_of_another_format_is_told(copy):
    path = copy / "conversion.json"
    path.write_text(path.read_text().replace('"format": 3', '"format": 1'))
    with pytest.raises(CheckpointError, match=r"format 1, .* reads format 3"):
        verify(copy)


@pytest.mark.parametrize("name", ["nothing", "file"])
def test_what_is_no_folder_is_told(tmp_path, name):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConversionError, match="not a folder"):
        verify(tmp_path / name)


def test_the_command_verifies_with_and_without_source(source, finished, capsys):
    assert mlx_oss(["verify", str(finished)]) == 0
    assert "verified" in capsys.readouterr().out
    assert mlx_oss(["verify", str(finished), "--source", str(source), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["outcome"] == "verified"


def test_the_command_tells_damage_in_one_line(copy, capsys):
    shard = max(copy.glob("*.safetensors"))
    shard.write_bytes(shard.read_bytes()[:-1] + b"\x99")
    assert mlx_oss(["verify", str(copy)]) == 4
    captured = capsys.readouterr()
    assert captured.out == "" and len([line for line in captured.err.splitlines() if line.startswith("error: ")]) == 1


def test_the_converter_reports_as_json(source, tmp_path, capsys):
    assert main([str(source), str(tmp_path / "dst"), "--json"]) == 0
    outcome = json.loads(capsys.readouterr().out)
    assert outcome["outcome"] == "written" and outcome["layout"] == "Hugging Face"


def test_the_converter_verifies_what_it_wrote_when_asked_to(source, tmp_path, capsys, monkeypatch):
    assert main([str(source), str(tmp_path / "dst"), "--verify"]) == 0
    assert "written and verified" in capsys.readouterr().out
    write = os.pwrite

    def with_a_flaw(descriptor, data, position):
        data = bytes(data)
        return write(descriptor, data[:-1] + bytes([data[-1] ^ (position > 0)]), position)  # not in the header

    monkeypatch.setattr(os, "pwrite", with_a_flaw)
    assert main([str(source), str(tmp_path / "flawed"), "--verify"]) == 2
    assert "tensor model." in capsys.readouterr().err
    assert sorted(path.name for path in tmp_path.iterdir()) == ["dst"]  # the damaged folder did not get its name


def test_a_dry_run_counts_every_kind_of_tensor(source, finished, tmp_path):
    report = convert(source, tmp_path / "dst", ConvertOptions(dry_run=True))
    stored = read_folder(finished).values()
    assert sum(kind.count for kind in report.kinds) == len(stored) == report.tensors
    assert sum(kind.nbytes for kind in report.kinds) == sum(tensor.nbytes for tensor in stored) == report.nbytes
    by_name = {kind.name: kind for kind in report.kinds}
    router = by_name["model.layers.*.mlp.router.weight"]
    assert (router.count, router.dtype) == (TINY["num_hidden_layers"], "BF16")
    assert router.shape == (TINY["num_local_experts"], TINY["hidden_size"])
    assert len(by_name) == len(report.kinds) == 3 + 22


@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_dry_run_counts_every_byte_of_the_source(tmp_path, layout):
    source = write_checkpoint(tmp_path / "src", layout=layout)
    report = convert(source, tmp_path / "dst", ConvertOptions(dry_run=True))
    for kind in report.source_kinds:
        itemsize = 1 if kind.dtype == "U8" else 2
        assert kind.nbytes == kind.count * math.prod(kind.shape) * itemsize
        assert not re.search(r"\.\d", kind.name)
    if layout != "metal":
        stored = read_folder(source).values()
        assert sum(kind.count for kind in report.source_kinds) == len(stored)
        assert sum(kind.nbytes for kind in report.source_kinds) == sum(tensor.nbytes for tensor in stored)


def test_a_dry_run_shows_the_released_names_and_shapes(source, tmp_path, capsys):
    main([str(source), str(tmp_path / "dst"), "--dry-run"])
    experts, hidden, inner = (TINY[name] for name in ("num_local_experts", "hidden_size", "intermediate_size"))
    shape = f"({experts}, {2 * inner}, {hidden // 32}, 16)"
    line = f"model.layers.*.mlp.experts.gate_up_proj_blocks U8 {TINY['num_hidden_layers']} x {shape} "
    assert any(" ".join(shown.split()).startswith(line) for shown in capsys.readouterr().out.splitlines())


def test_a_dry_run_shows_tensors_and_macs(source, tmp_path, capsys):
    assert main([str(source), str(tmp_path / "dst"), "--dry-run"]) == 0
    shown = capsys.readouterr().out
    assert "would write" in shown and "from Hugging Face" in shown and "arithmetic, not measured" in shown
    assert "model.layers.*.mlp.experts.down_proj.weight" in shown
    assert "512 GB: " in shown and "tokens" in shown


def test_a_dry_run_as_json_has_tensors_and_macs(source, tmp_path, capsys):
    assert main([str(source), str(tmp_path / "dst"), "--dry-run", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["outcome"] == "would write" and {kind["dtype"] for kind in report["kinds"]} == {"BF16", "U32", "U8"}
    assert [int(size) for size in report["contexts"]] == list(MAC_SIZES)


def recorded(folder: Path, records: Path, prefix: str = "") -> Path:
    """Records the checksums of all files of a folder as `hf download --local-dir` does; weights are in Git LFS."""
    records = records / ".cache" / "huggingface" / "download" / prefix
    records.mkdir(parents=True)
    for path in folder.iterdir():
        if path.is_file():
            content = path.read_bytes()
            etag = hashlib.sha256(content).hexdigest()
            if path.suffix != ".safetensors":
                etag = hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
            (records / f"{path.name}.metadata").write_text(f"{'a1' * 20}\n{etag}\n1764000000.5\n")
    return folder


def cached(folder: Path, cache: Path) -> Path:
    """The folder as the cache of huggingface_hub holds it: a snapshot of links to files named by their checksums."""
    snapshot = cache / "snapshots" / ("a1" * 20)
    for made in (cache / "blobs", snapshot):
        made.mkdir(parents=True)
    for path in folder.iterdir():
        blob = cache / "blobs" / hashlib.sha256(path.read_bytes()).hexdigest()
        shutil.copy(path, blob)
        (snapshot / path.name).symlink_to(Path("../../blobs") / blob.name)
    return snapshot


@pytest.fixture(params=["hf_sharded", "original", "cached", "mlx"])
def download(request, tmp_path) -> Path:
    """A folder whose download has recorded the checksums of its files."""
    layout = "hf_sharded" if request.param in ("cached", "mlx") else request.param
    source = write_checkpoint(tmp_path / "repository" / "original", layout=layout)
    if request.param == "cached":
        return cached(source, tmp_path / "cache")
    if request.param == "original":
        return recorded(source, tmp_path / "repository", "original")
    if request.param == "mlx":
        convert(source, tmp_path / "mlx")
        (tmp_path / "mlx" / "conversion.json").unlink()  # as mlx-community has none
        source = tmp_path / "mlx"
    return recorded(source, source)


@pytest.mark.filterwarnings("ignore:config.json. unknown keys")
def test_a_download_is_compared_with_its_recorded_checksums(download):
    report = verify(download)
    assert report.compared == report.shards == len(list(download.glob("*.safetensors")))
    draw = random.Random(3)
    for path in [path for path in download.iterdir() if path.is_file()]:
        kept = path.read_bytes()
        for place in (len(kept) - 1, draw.randrange(len(kept))):
            path.write_bytes(kept[:place] + bytes([kept[place] ^ 1]) + kept[place + 1 :])
            with pytest.raises(MlxOssError, match=path.name):
                verify(download)
        path.write_bytes(kept)
    verify(download)


@pytest.mark.parametrize("layout", ["hf_sharded", "original"])
def test_a_release_without_recorded_checksums_is_checked_by_index_and_sizes(tmp_path, capsys, layout):
    source = write_checkpoint(tmp_path / "src", layout=layout)
    assert verify(source).compared == 0
    assert mlx_oss(["verify", str(source)]) == 0
    assert "no checksums" in capsys.readouterr().out
    weights = next(source.glob("*.safetensors"))
    weights.write_bytes(weights.read_bytes()[:-1])
    assert mlx_oss(["verify", str(source)]) == 4
    assert f"{weights} is truncated" in capsys.readouterr().err


def test_a_download_is_found_from_within_its_folder(download, monkeypatch):
    monkeypatch.chdir(download)
    assert verify(".").compared == verify(download).compared > 0


def test_a_download_of_which_only_an_empty_file_is_recorded(tmp_path, capsys):
    source = write_checkpoint(tmp_path / "src")
    records = source / ".cache" / "huggingface" / "download"
    records.mkdir(parents=True)
    (source / "LICENSE").write_bytes(b"")
    (records / "LICENSE.metadata").write_text(f"a1\n{hashlib.sha1(b'blob 0' + bytes(1)).hexdigest()}\n1\n")
    assert mlx_oss(["verify", str(source)]) == 0
    assert "not the values" in capsys.readouterr().out


@pytest.mark.parametrize("layout", ["hf", "original", "metal"])
def test_only_mlx_folders_are_compared_with_a_source(source, tmp_path, layout):
    folder = write_checkpoint(tmp_path / "release", layout=layout)
    with pytest.raises(CheckpointError, match="only MLX folders are compared with a source"):
        verify(folder, source)


def test_settings_beside_openai_s_layout_are_kept(tmp_path):
    source = write_checkpoint(tmp_path / "src", layout="original")
    (source / "generation_config.json").write_text('{"eos_token_id": 7}')
    convert(source, tmp_path / "dst", ConvertOptions(verify=True))
    assert (tmp_path / "dst" / "generation_config.json").read_text() == '{"eos_token_id": 7}'
    verify(tmp_path / "dst", source)


def test_a_download_is_found_through_a_link(download, tmp_path):
    (tmp_path / "link").symlink_to(download)
    assert verify(tmp_path / "link").compared == verify(download).compared


def test_a_file_that_was_downloaded_and_is_missing_is_named(tmp_path):
    source = write_checkpoint(tmp_path / "src")
    (source / "LICENSE").write_text("terms")
    recorded(source, source)
    (source / "LICENSE").unlink()
    with pytest.raises(CheckpointError, match="LICENSE is missing, although it was downloaded"):
        verify(source)


def test_a_download_with_another_tokenizer_is_refused(tmp_path):
    source = write_checkpoint(tmp_path / "src")
    data = tokenizer_json()
    data["added_tokens"][0]["content"] = "<|other|>"
    (source / "tokenizer.json").write_text(json.dumps(data))
    with pytest.raises(TokenizerError, match=r"<.other.>"):
        verify(source)


def test_a_download_that_is_recorded_in_part_is_checked_and_not_verified(tmp_path, capsys):
    source = write_checkpoint(tmp_path / "src", layout="hf_sharded")
    recorded(source, source)
    next((source / ".cache" / "huggingface" / "download").glob("*.safetensors.metadata")).unlink()
    assert mlx_oss(["verify", str(source)]) == 0
    out = capsys.readouterr().out
    assert ": checked," in out and "2 of 3 weight files" in out


def test_a_record_that_is_no_record_is_none(tmp_path):
    source = write_checkpoint(tmp_path / "src")
    records = source / ".cache" / "huggingface" / "download"
    records.mkdir(parents=True)
    for content in (b"", b"one line", b"\xff\xfe\n\xff\n", b"a\n" + b"f" * 63 + b"\n1\n", b"\n" * 10_000_000):
        (records / "model.safetensors.metadata").write_bytes(content)
        assert verify(source).compared == 0
    for make in (Path.mkdir, os.mkfifo):
        (records / "model.safetensors.metadata").rename(records / f"old {make.__name__}")
        make(records / "model.safetensors.metadata")
        assert verify(source).compared == 0
