"""The bundled vocabulary and the tokenizer on it."""

import base64
import hashlib
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_oss import tokenizer
from mlx_oss.errors import TokenizerError
from mlx_oss.tokenizer import (
    ENDOFPROMPT,
    LAST_TEXT_ID,
    N_RANKS,
    N_VOCAB,
    SPECIAL_TOKENS,
    START,
    STOP_IDS,
    TIKTOKEN_SHA256,
    check_tokenizer_json,
    load_tokenizer,
)

any_text = st.text(st.characters(exclude_categories=["Cs"]))
control_like = st.sampled_from(["<|start|>", "<|end|>", "<|reserved_200013|>", " ", "\n"])
tricky_text = st.lists(any_text | control_like).map("".join)
quick = settings(max_examples=200, deadline=None, database=None)


@pytest.fixture(scope="module")
def tokens():
    """All tokens below the special ones, in rank order."""
    return [load_tokenizer().token_bytes(id_) for id_ in range(N_RANKS)]


def test_bundled_vocabulary_is_the_published_one(tokens):
    lines = b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens))
    assert hashlib.sha256(lines).hexdigest() == TIKTOKEN_SHA256


def test_packing_the_tokens_gives_the_bundled_file_back(tokens):
    assert (
        tokenizer._unpack(tokenizer.pack_tokens(tokens))
        == tokens
        == tokenizer._unpack(tokenizer.VOCABULARY.read_bytes())
    )


def test_special_ids_fill_the_vocabulary_once():
    assert sorted(SPECIAL_TOKENS.values()) == list(range(N_RANKS, N_VOCAB))
    assert load_tokenizer().encoding.n_vocab == load_tokenizer().n_vocab == N_VOCAB
    assert STOP_IDS == (200002, 200012, 199999)
    assert LAST_TEXT_ID == ENDOFPROMPT == 200018


@quick
@given(tricky_text)
def test_text_survives_and_never_becomes_special(text):
    ids = load_tokenizer().encode(text)
    assert all(id_ < N_RANKS for id_ in ids)
    assert load_tokenizer().decode(ids) == text


@quick
@given(st.lists(any_text, min_size=1, max_size=4))
def test_special_text_becomes_special_only_when_asked(texts):
    ids = load_tokenizer().encode_with_specials("<|start|>".join(texts))
    assert load_tokenizer().decode(ids) == "<|start|>".join(texts)
    assert ids.count(START) == len(texts) - 1


@quick
@given(st.lists(st.integers(0, N_RANKS - 1) | st.sampled_from([START, -1, N_VOCAB, 10**9])))
def test_stream_decoder_gives_the_text_of_the_whole(ids):
    decoder = load_tokenizer().stream_decoder()
    pieces = [decoder.feed(id_) for id_ in ids] + [decoder.finish()]
    assert "".join(pieces) == load_tokenizer().decode(ids)


def test_stream_decoder_holds_back_half_a_character():
    decoder = load_tokenizer().stream_decoder()
    assert [decoder.feed(id_) for id_ in load_tokenizer().encode("🫠é")] == ["", "", "🫠", "é"]


@pytest.mark.parametrize("blank", [" ", "\n", "\t "])
def test_a_million_blanks_are_no_trouble(blank):
    text = f"a{blank * 1_000_000}b"
    assert load_tokenizer().decode(load_tokenizer().encode(text)) == text


def test_damaged_vocabulary_is_named(tmp_path, monkeypatch):
    file = tmp_path / "o200k_base.zlib"
    monkeypatch.setattr(tokenizer, "VOCABULARY", file)
    with pytest.raises(TokenizerError, match=r"o200k_base\.zlib.*reinstall"):
        tokenizer._bundled_tokens()
    file.write_bytes(tokenizer.pack_tokens([b"a", b"b"]))
    with pytest.raises(TokenizerError, match=r"o200k_base\.zlib.*reinstall"):
        tokenizer._bundled_tokens()


@pytest.fixture(scope="module")
def release(tokens):
    """A `tokenizer.json` as releases have it, as far as it matters here."""
    letters = gpt2_letters()
    vocab = {"".join(letters[byte] for byte in token): rank for rank, token in enumerate(tokens)}
    added = [{"id": id_, "content": name} for name, id_ in SPECIAL_TOKENS.items() if id_ <= LAST_TEXT_ID]
    return {"model": {"type": "BPE", "vocab": vocab}, "added_tokens": added}


def gpt2_letters() -> dict[int, str]:
    """Bytes that Latin-1 prints stand for themselves, the others follow from U+0100 on."""
    own = [byte for byte in range(256) if chr(byte).isprintable() and chr(byte) != " "]
    others = [byte for byte in range(256) if byte not in own]
    return {byte: chr(byte) for byte in own} | {byte: chr(256 + n) for n, byte in enumerate(others)}


def write(tmp_path, data):
    path = tmp_path / "tokenizer.json"
    path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def test_tokenizer_json_of_the_release_passes(tmp_path, release):
    check_tokenizer_json(write(tmp_path, release))


def test_first_difference_in_tokenizer_json_is_named(tmp_path, release):
    vocab = dict(release["model"]["vocab"])
    by_id = {id_: token for token, id_ in vocab.items()}
    vocab[by_id[1000]], vocab[by_id[70000]] = 70000, 1000
    changed = {**release, "model": {"vocab": vocab}}
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: id 1000 "):
        check_tokenizer_json(write(tmp_path, changed))


@pytest.mark.parametrize(
    ("added", "id_"),
    [
        ([{"id": START, "content": "<|im_start|>"}], START),
        ([], ENDOFPROMPT),
        ([{"id": N_VOCAB, "content": "x"}], N_VOCAB),
    ],
)
def test_other_control_tokens_are_named(tmp_path, release, added, id_):
    kept = [entry for entry in release["added_tokens"] if entry["id"] != id_]
    with pytest.raises(TokenizerError, match=f"id {id_} "):
        check_tokenizer_json(write(tmp_path, {**release, "added_tokens": kept + added}))


@pytest.mark.parametrize(
    "data", ["", "[]", "{}", '{"model": {"vocab": {"a": "b"}}, "added_tokens": []}', '{"model": 3}']
)
def test_file_that_is_no_tokenizer_json_is_an_error(tmp_path, data):
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: "):
        check_tokenizer_json(write(tmp_path, data))


def test_missing_tokenizer_json_is_an_error(tmp_path):
    with pytest.raises(TokenizerError, match="cannot read"):
        check_tokenizer_json(tmp_path / "tokenizer.json")
