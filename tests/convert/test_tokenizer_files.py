"""Folders made of OpenAI's layouts get the tokenizer files of the releases, so that other programs open them."""

from __future__ import annotations

import hashlib
import json

import pytest

from mlx_oss import load_tokenizer
from mlx_oss.convert import convert, verify
from mlx_oss.tokenizer import CALL, ENDOFTEXT, RETURN, START
from mlx_oss.tokenizer_files import TOKENIZER_FILES, tokenizer_json
from mlx_oss.tokenizer_json import check_tokenizer_json
from tests.convert.test_metal import WHOLE
from tests.synthetic import TINY, released_tokenizer_json, write_checkpoint

RELEASED = "0614fe83cadab421296e664e1f48f4261fa8fef6e03e63bb75c20f38e37d07d3"  # of openai/gpt-oss-20b and -120b
TEXTS = ["Hello, world!", "it's 12345 ½ — naïve 日本語 🦉\n\n\tx", "<|start|>user<|message|>", " " * 100]


@pytest.fixture(scope="module", params=["original", "metal"])
def folder(request, tmp_path_factory):
    """A converted folder, and its source."""
    base = tmp_path_factory.mktemp(request.param)
    source = write_checkpoint(base / "source", WHOLE | {"hidden_size": 64}, layout=request.param)
    convert(source, base / "mlx")
    return base / "mlx"


def test_the_tokenizer_is_that_of_the_releases_byte_for_byte():
    written = tokenizer_json()
    assert hashlib.sha256(written).hexdigest() == RELEASED and written == released_tokenizer_json()


def test_folders_of_openais_layouts_have_the_tokenizer_and_are_verified(folder):
    assert hashlib.sha256((folder / "tokenizer.json").read_bytes()).hexdigest() == RELEASED
    assert check_tokenizer_json(folder / "tokenizer.json") == ()
    assert set(TOKENIZER_FILES) <= set(json.loads((folder / "conversion.json").read_text())["files"])
    verify(folder)
    verify(folder, folder.parent / "source")


def test_a_tokenizer_that_the_source_has_is_kept(tmp_path):
    source = write_checkpoint(tmp_path / "source", WHOLE, layout="original")
    (source / "tokenizer.json").write_bytes(released_tokenizer_json() + b"\n")
    convert(source, tmp_path / "mlx")
    assert (tmp_path / "mlx" / "tokenizer.json").read_bytes().endswith(b"}\n")
    assert not (tmp_path / "mlx" / "tokenizer_config.json").exists()


@pytest.mark.parametrize(("layout", "dims"), [("hf", WHOLE), ("original", TINY)])
def test_no_tokenizer_is_added_where_it_may_be_another_one(tmp_path, layout, dims):
    """A fine-tune may have lost its own; and ids of a smaller vocabulary are not those of gpt-oss."""
    convert(write_checkpoint(tmp_path / "source", dims, layout=layout), tmp_path / "mlx")
    assert not any((tmp_path / "mlx" / name).exists() for name in TOKENIZER_FILES)


@pytest.mark.parity
@pytest.mark.parametrize("folder", ["original"], indirect=True)  # both have the same files
def test_transformers_reads_it_and_gives_the_same_ids(folder):
    transformers = pytest.importorskip("transformers", reason="transformers is not installed (extra `parity`)")
    theirs, ours = transformers.AutoTokenizer.from_pretrained(folder), load_tokenizer()
    assert (theirs.eos_token_id, theirs.pad_token_id) == (RETURN, ENDOFTEXT)
    for text in TEXTS[:2] + TEXTS[3:]:
        assert theirs.encode(text) == ours.encode(text) and theirs.decode(ours.encode(text)) == text
    assert theirs.encode(TEXTS[2]) == ours.encode_with_specials(TEXTS[2])
    assert theirs.convert_tokens_to_ids(["<|start|>", "<|call|>"]) == [START, CALL]


@pytest.mark.parity
@pytest.mark.parametrize("folder", ["original"], indirect=True)
def test_mlx_lm_opens_the_folder(folder):
    mlx_lm = pytest.importorskip("mlx_lm", reason="mlx-lm is not installed (extra `parity`)")
    model, tokenizer = mlx_lm.load(str(folder))
    assert tokenizer.encode("Hello") == load_tokenizer().encode("Hello") and RETURN in tokenizer.eos_token_ids
    assert mlx_lm.generate(model, tokenizer, "Hello", max_tokens=2)
