"""The tokenizer.json of a folder: gpt-oss's own, with tokens of a fine-tune, and other tokenizers."""

from __future__ import annotations

import hashlib
import json
import os
import warnings
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

import mlx_oss
from mlx_oss import tokenizer_json
from mlx_oss.chat.history import Entry
from mlx_oss.cli import main
from mlx_oss.convert import convert, verify
from mlx_oss.errors import TokenizerError
from mlx_oss.generation.options import SamplingOptions
from mlx_oss.generation.sampling import Sampler
from mlx_oss.harmony import Message, Repair, parse_messages, render_message
from mlx_oss.tokenizer import (
    ENDOFPROMPT,
    LAST_TEXT_ID,
    LONGEST_TOKEN,
    MOST_IDS,
    N_RANKS,
    N_VOCAB,
    START,
    AddedToken,
    load_tokenizer,
)
from mlx_oss.tokenizer_json import added_tokens, check_tokenizer_json
from tests.synthetic import TINY, released_tokenizer_json, write_checkpoint
from tests.synthetic import tokenizer_json as parts

WIDE = TINY | {"num_hidden_layers": 2, "vocab_size": 201216, "hidden_size": 32, "intermediate_size": 64}
OWN = [
    {"id": 200013, "content": "<think>", "special": False},
    {"id": 200017, "content": "<|own_pad|>", "special": True},
    {"id": 200019, "content": "<|own|>", "special": True},
    {"id": 200020, "content": "</think>", "special": False, "single_word": False},
    {"id": 201090, "content": "§tool§", "special": False},
]
ADDED = tuple(AddedToken(entry["id"], entry["content"], entry["special"]) for entry in OWN)


@pytest.fixture(scope="module")
def release():
    """A `tokenizer.json` with the parts of a release's file that are checked."""
    return parts()


def write(folder: Path, data: object) -> Path:
    path = folder / "tokenizer.json"
    if isinstance(data, bytes):
        path.write_bytes(data)
    else:
        path.write_text(data if isinstance(data, str) else json.dumps(data))
    return path


def with_added(data: dict, *entries: dict) -> dict:
    taken = {entry["id"] for entry in entries}
    return {**data, "added_tokens": [e for e in data["added_tokens"] if e["id"] not in taken] + list(entries)}


def released(*entries: dict, without: int | None = None) -> bytes:
    """The releases' file with these added tokens, as Hugging Face's tokenizers writes it."""
    head, model, rest = released_tokenizer_json().partition(b'\n  "model": {')
    data = with_added(json.loads(head + b'"model": null}'), *entries)
    data["added_tokens"] = [entry for entry in data["added_tokens"] if entry["id"] != without]
    return json.dumps(data, indent=2).encode().removesuffix(b'\n  "model": null\n}') + model + rest


def test_the_file_of_the_releases_passes_without_being_parsed(tmp_path, monkeypatch):
    file = released_tokenizer_json()
    assert len(file) == 27_868_174  # as published with openai/gpt-oss-20b and -120b
    assert hashlib.sha256(file).hexdigest() == "0614fe83cadab421296e664e1f48f4261fa8fef6e03e63bb75c20f38e37d07d3"
    monkeypatch.setattr(tokenizer_json, "_compare_ranks", lambda vocab: pytest.fail("the vocabulary was parsed"))
    assert check_tokenizer_json(write(tmp_path, file)) == ()


def test_tokens_added_to_the_file_of_the_releases_are_read_without_parsing_the_rest(tmp_path, monkeypatch):
    monkeypatch.setattr(tokenizer_json, "_compare_ranks", lambda vocab: pytest.fail("the vocabulary was parsed"))
    assert check_tokenizer_json(write(tmp_path, released(*OWN))) == ADDED


def test_a_changed_vocabulary_in_the_file_of_the_releases_is_noticed(tmp_path):
    file = released_tokenizer_json().replace(b'"\xc4\xa0": 220', b'"\xc4\xa0": 300000')
    with pytest.raises(TokenizerError, match="id 220 is missing"):
        check_tokenizer_json(write(tmp_path, file))


@pytest.mark.parity
def test_tokens_that_hugging_face_adds_are_read(tmp_path):
    tokenizers = pytest.importorskip("tokenizers", reason="Hugging Face tokenizers is not installed (extra `parity`)")
    theirs = tokenizers.Tokenizer.from_file(str(write(tmp_path, released_tokenizer_json())))
    theirs.add_tokens(["<think>"])
    theirs.add_special_tokens(["<|own|>"])
    theirs.save(str(tmp_path / "tokenizer.json"))
    ours = mlx_oss.tokenizer.Tokenizer(load_tokenizer().encoding, added_tokens(tmp_path))
    for text in ("a<think>b", "<think><think> c", "it's 1 <thin"):
        assert ours.encode(text) == theirs.encode(text).ids
    assert ours.encode_with_specials("<|own|>x") == theirs.encode("<|own|>x").ids


def test_a_file_written_in_another_way_passes_too(tmp_path, release):
    assert check_tokenizer_json(write(tmp_path, release)) == ()
    assert check_tokenizer_json(write(tmp_path, with_added(release, *OWN))) == ADDED


def test_an_added_token_that_gpt_oss_has_is_none(tmp_path, release):
    ours = {"id": 1000, "content": load_tokenizer().decode([1000]), "special": False}
    reserved = {"id": 200019, "content": "<|reserved_200019|>", "special": False}
    assert check_tokenizer_json(write(tmp_path, released(ours, reserved))) == ()
    vocab = release["model"]["vocab"] | {"<|start|>": START, "<tool>": 200019}
    more = {**release, "model": {"vocab": vocab}}
    assert check_tokenizer_json(write(tmp_path, more)) == (AddedToken(200019, "<tool>"),)


def test_first_difference_is_named_with_what_would_help(tmp_path, release):
    vocab = dict(release["model"]["vocab"])
    by_id = {id_: token for token, id_ in vocab.items()}
    vocab[by_id[1000]], vocab[by_id[70000]] = 70000, 1000
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: id 1000 .*put the tokenizer.json of openai/gpt-oss"):
        check_tokenizer_json(write(tmp_path, {**release, "model": {"vocab": vocab}}))


@pytest.mark.parametrize(
    ("added", "id_"),
    [
        ([{"id": START, "content": "<|im_start|>"}], START),
        ([], ENDOFPROMPT),
        ([{"id": ENDOFPROMPT, "content": "<x>"}], ENDOFPROMPT),
        ([{"id": 200000, "content": "<x>"}], 200000),
        ([{"id": 200012, "content": "<x>"}], 200012),
        ([{"id": 1000, "content": "<x>"}], 1000),
        ([{"id": 200019, "content": "<|start|>", "special": False}], START),
        ([{"id": N_VOCAB, "content": "<|call|>"}], 200012),
        ([{"id": MOST_IDS, "content": "<x>"}], MOST_IDS),
        ([{"id": -1, "content": "<x>"}], -1),
    ],
)
def test_another_tokenizer_is_refused_by_its_first_id(tmp_path, added, id_):
    with pytest.raises(TokenizerError, match=f"id {id_} "):
        check_tokenizer_json(write(tmp_path, released(*added, without=None if added else id_)))


@pytest.mark.parametrize(
    "data",
    [
        *("", "[]", "{}", '{"model": {"vocab": {"a": "b"}}, "added_tokens": []}', '{"model": 3}', "[" * 100_000),
        '{"model": {"vocab": {"a": true}}, "added_tokens": []}',
        '{"model": {"vocab": []}, "added_tokens": []}',
        '{"model": {"vocab": {}}, "added_tokens": [{"id": 1e400, "content": "a"}]}',
        '{"model": {"vocab": {}}, "added_tokens": [{"id": 200019, "content": ""}]}',
        '{"model": {"vocab": {}}, "added_tokens": {"a": 1}}',
    ],
)
def test_file_that_is_no_tokenizer_json_is_an_error(tmp_path, data):
    with pytest.raises(TokenizerError, match=r"tokenizer\.json: .*download it again"):
        check_tokenizer_json(write(tmp_path, data))


def test_missing_tokenizer_json_is_an_error_and_a_folder_without_one_is_gpt_osss(tmp_path):
    with pytest.raises(TokenizerError, match="cannot be read"):
        check_tokenizer_json(tmp_path / "tokenizer.json")
    assert added_tokens(tmp_path) == ()


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, lambda path: path.symlink_to("nowhere")])
def test_what_is_no_file_is_an_error(tmp_path, make):
    make(tmp_path / "tokenizer.json")
    with pytest.raises(TokenizerError, match=r"tokenizer\.json cannot be read .*download it again"):
        added_tokens(tmp_path)


def test_tokens_behind_the_embedding_are_ordinary_text_and_told(tmp_path):
    write(tmp_path, released(*OWN))
    with pytest.warns(UserWarning, match="§tool§.*201090, but the model has 201088 ids"):
        assert added_tokens(tmp_path, 201088) == ADDED[:-1]


@pytest.mark.parametrize("flag", ["lstrip", "rstrip"])
@pytest.mark.parametrize("special", [True, False])
def test_a_token_that_takes_blanks_away_elsewhere_is_told(tmp_path, flag, special):
    write(tmp_path, released({"id": 200013, "content": "<m>", "special": special, flag: True}))
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        assert added_tokens(tmp_path) == (AddedToken(200013, "<m>", special, strips=True),)
    told = "token '<m>' takes the blanks beside it away in Hugging Face's tokenizers, but here they are kept"
    assert [str(each.message).partition(": ")[2] for each in caught] == ([] if special else [told])


def test_a_token_too_long_to_be_looked_for_is_told(tmp_path):
    write(tmp_path, released({"id": 200013, "content": "m" * (LONGEST_TOKEN + 1), "special": False}))
    with pytest.warns(UserWarning, match=f"has more than {LONGEST_TOKEN} characters: it is read as ordinary text"):
        added_tokens(tmp_path)


@pytest.fixture(scope="module")
def fine_tune(tmp_path_factory):
    """A model with more ids than gpt-oss, and tokens of its own."""
    folder = write_checkpoint(tmp_path_factory.mktemp("fine-tune") / "model", WIDE)
    write(folder, released(*OWN))
    return folder


def test_a_fine_tune_with_its_own_tokens_is_read_at_every_entrance(fine_tune, tmp_path):
    copy = tmp_path / "mlx"
    convert(fine_tune, copy)
    verify(copy)
    verify(fine_tune)
    for folder in (fine_tune, copy):
        model, tokenizer = mlx_oss.load(folder, memory="8GB", context=2048)
        assert tokenizer.decode([200013, 201090]) == "<think>§tool§"
        assert tokenizer.encode("<think>")[0] == 200013 and tokenizer.encode("<|own|>")[0] < N_RANKS
        assert model.added_ids == tokenizer.added_text_ids == {200013, 200020, 201090}
        session = mlx_oss.ChatSession(model, tokenizer, max_tokens=3)
        session.ask("What is §tool§?")
        assert 201090 in session._conversation.current.entries[0].ids
        steps = model.submit(mlx_oss.Request(tokenizer.encode("§tool§"), max_tokens=3))
        assert len([*steps]) == 3


def test_another_tokenizer_is_refused_at_every_entrance(fine_tune, tmp_path, capsys):
    folder = tmp_path / "model"
    folder.mkdir()
    for path in fine_tune.iterdir():
        (folder / path.name).symlink_to(path)
    (folder / "tokenizer.json").unlink()
    write(folder, released({"id": START, "content": "<|im_start|>", "special": True}))
    asked = [[command, "--model", str(folder), "Hi"] for command in ("chat", "generate")]
    for arguments in (*asked, ["convert", str(folder), str(tmp_path / "dst")], ["verify", str(folder)]):
        assert main(arguments) == 4 and f"id {START} is '<|im_start|>'" in capsys.readouterr().err
    for load in (mlx_oss.load, mlx_oss.load_model):
        with pytest.raises(TokenizerError, match=f"id {START} .*If .* put the tokenizer.json of openai/gpt-oss-20b"):
            load(folder)
    write(folder, released_tokenizer_json())
    assert mlx_oss.load(folder, memory="8GB", context=2048)[1].encode("Hi") == load_tokenizer().encode("Hi")


@pytest.fixture(scope="module")
def tuned():
    return mlx_oss.tokenizer.Tokenizer(load_tokenizer().encoding, ADDED)


def test_added_text_is_text_of_messages_and_control_tokens_are_none(tuned):
    ids = [*tuned.encode_with_specials("<|channel|>final<|message|>a"), 200013, 200020, 200019, 201090, 200002]
    (parsed,) = parse_messages(ids, tokenizer=tuned)
    assert parsed.message.content == "a<think></think>§tool§"
    assert [(note.repair, note.text) for note in parsed.notes] == [(Repair.STRAY_CONTROL, "<|own|>")]
    (plain,) = parse_messages(ids)
    assert plain.message.content == "a\N{REPLACEMENT CHARACTER}"
    ids = render_message(Message("user", "<think><|own|><|start|>"), tokenizer=tuned)
    assert [id_ for id_ in ids[3:] if id_ >= N_RANKS] == [200013, 200007]


def test_a_session_uses_the_tokens_of_its_tokenizer(tuned):
    engine = mlx_oss.ScriptedEngine([*tuned.encode_with_specials("<|channel|>final<|message|>"), 200013, 200002])
    session = mlx_oss.ChatSession(engine, tuned)
    reply = session.ask("Say <think>")
    assert reply.text == "<think>" and 200013 in engine.requests[0].prompt


def test_a_conversation_of_a_fine_tune_can_be_read_by_the_release(tuned):
    entry = Entry.from_message(Message("user", "§tool§ <think>"), tuned)
    known = entry.known_to(load_tokenizer())
    assert known.ids == render_message(Message("user", "§tool§ <think>")) and entry.known_to(tuned) is entry


def test_added_text_is_sampled_and_unused_ids_are_not():
    logits = mx.zeros(N_VOCAB + 128)
    logits[mx.array([200050, 201090, 201200])] = mx.array([9.0, 5.0, 9.0])
    greedy = SamplingOptions(temperature=0)
    assert Sampler(greedy, 0, {200013, 201090}).logits(logits).argmax().item() == 201090
    assert Sampler(greedy).logits(logits).shape == (LAST_TEXT_ID + 1,)
    allowed = np.arange(LAST_TEXT_ID + 1) == 7
    assert Sampler(greedy, 0, {201090}).logits(logits, (), allowed).argmax().item() == 7
