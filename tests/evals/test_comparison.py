"""Comparing models: with themselves, with stored predictions, and with transformers' logits."""

from __future__ import annotations

import contextlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import mlx.core as mx
import numpy as np
import pytest

from mlx_oss import load_model
from mlx_oss.convert import ConvertOptions, convert
from mlx_oss.errors import CheckpointError, ContextError, MlxOssError, NumericalError, OptionError
from mlx_oss.evals import comparison, stored_logits
from mlx_oss.evals.comparison import Comparison, compare, store
from mlx_oss.evals.passages import LABELS, Passage, bundled_conversations, label
from mlx_oss.evals.stored_logits import StoredLogits
from mlx_oss.nano import nano_folder
from mlx_oss.weights.safetensors import read_header
from tests.synthetic import TINY, write_checkpoint

# Every quantised width is a multiple of 64, and there are more tokens than a file stores of each prediction.
SHAPE = TINY | {"num_hidden_layers": 3, "num_local_experts": 6, "num_experts_per_tok": 3, "vocab_size": 1117}
SHAPE |= {"hidden_size": 128, "intermediate_size": 64, "num_attention_heads": 10, "num_key_value_heads": 5}
SHAPE |= {"head_dim": 32, "sliding_window": 19}


@pytest.fixture(scope="module")
def copies(tmp_path_factory) -> Callable[[str], Path]:
    """copies(profile): the same model in a profile."""
    base = tmp_path_factory.mktemp("copies")
    release = write_checkpoint(base / "release", SHAPE, layout="hf")
    for profile in ("bf16", "q8", "q4"):
        convert(release, base / profile, ConvertOptions(profile=profile))
    return lambda profile: base / profile


def passages_of(vocab: int, *lengths: int) -> list[Passage]:
    """Random texts, in which each token has a random label or none."""
    random = np.random.default_rng(sum(lengths))
    return [
        Passage(random.integers(0, vocab, n).astype(np.int32), random.integers(0, LABELS, n).astype(np.uint8))
        for n in lengths
    ]


TEXTS = passages_of(SHAPE["vocab_size"], 83, 41, 7)


def hugging_face_tensors(folder: Path) -> dict[str, np.ndarray]:
    """The tensors of an MLX folder in float32, dequantised, under the names of the release."""
    config, found = json.loads((folder / "config.json").read_text()), dict[str, mx.array]()
    for file in folder.glob("*.safetensors"):
        found.update(mx.load(str(file)))  # type: ignore[arg-type]
    plain = {}
    for name in [name for name in found if not name.endswith((".scales", ".biases"))]:
        path = name.removesuffix(".weight")
        value = found[name]
        if f"{path}.scales" in found:
            entry = config["quantization"].get(path, config["quantization"])
            how = {key: entry[key] for key in ("group_size", "bits")} | {"mode": entry.get("mode", "affine")}
            parts = [found[f"{path}.{part}"] for part in ("scales", "biases") if f"{path}.{part}" in found]
            if how["mode"] == "affine":
                parts = [part.astype(mx.float32) for part in parts]
            value = mx.dequantize(value, *parts, **how)
        plain[name] = np.array(value.astype(mx.float32))
    tensors = {}
    for name, value in plain.items():
        if ".up_proj" in name:
            continue
        if ".gate_proj" in name:
            both = np.stack([value, plain[name.replace("gate_proj", "up_proj")]], axis=2)
            value = both.reshape(value.shape[0], -1, *value.shape[2:])
            name = name.replace("gate_proj.weight", "gate_up_proj").replace("gate_proj.bias", "gate_up_proj_bias")
        name = name.replace("down_proj.weight", "down_proj").replace("down_proj.bias", "down_proj_bias")
        tensors[name] = value
    return tensors


def expected(logits: list[tuple[np.ndarray, np.ndarray]], texts: list[Passage]) -> Comparison:
    """What NumPy says in float64 of two models' logits (L, V) for each text."""
    kl, same, change = [], [], []
    for (a, b), passage in zip(logits, texts, strict=True):
        log_p, log_q = (x - np.logaddexp.reduce(x, axis=-1, keepdims=True) for x in (np.float64(a), np.float64(b)))
        before = passage.counted - 1
        kl.append((np.exp(log_p) * (log_p - log_q)).sum(-1)[before])
        same.append((a.argmax(-1) == b.argmax(-1))[before])
        change.append((log_q - log_p)[before, passage.ids[before + 1]])
    labels = np.concatenate([passage.labels[passage.counted] for passage in texts])
    found = np.concatenate(kl)
    return Comparison(labels, found, np.zeros_like(found), np.concatenate(same), np.concatenate(change))


@pytest.fixture(scope="module")
def nanos(tmp_path_factory) -> Callable[[str], Path]:
    """nanos(profile): nano in a profile. `release` has its config as transformers wants it."""
    base = tmp_path_factory.mktemp("nanos")
    for profile in ("bf16", "q4"):
        convert(nano_folder(), base / profile, ConvertOptions(profile=profile))
    config = json.loads((base / "bf16" / "config.json").read_text())
    (base / "release").mkdir()
    (base / "release" / "config.json").write_text(
        json.dumps({**config, "quantization_config": config.pop("quantization")})
    )
    return lambda profile: base / profile


@pytest.mark.parity
@pytest.mark.parametrize(("model", "profile"), [("random", "q8"), ("random", "q4"), ("nano", "q4")])
def test_figures_are_those_of_numpy_from_the_logits_of_transformers(model, profile, request):
    torch = pytest.importorskip("torch")
    from tests.model.test_parity import hugging_face_model

    folder = request.getfixturevalue("copies" if model == "random" else "nanos")
    texts = TEXTS if model == "random" else bundled_conversations()[3:4]
    theirs_of = [
        hugging_face_model(folder("release"), hugging_face_tensors(folder(name))) for name in ("bf16", profile)
    ]
    with torch.no_grad():
        logits = [tuple(each(torch.tensor(t.ids[None]).long()).logits[0].numpy() for each in theirs_of) for t in texts]
    theirs = expected(logits, texts)
    ours = compare(folder("bf16"), folder(profile), texts, dtype="float32")
    assert theirs.kl.mean() > 1e-4
    for name in ("kl", "change"):  # logits may differ by 1e-4 between the libraries
        assert np.abs(getattr(ours, name) - getattr(theirs, name)).max() < (1e-5 if model == "random" else 1e-4)
    assert (ours.same == theirs.same).mean() > 0.99  # two tokens may be equally likely but for rounding
    for (name, ours_of), (theirs_name, theirs_of_it) in zip(ours.rows, theirs.rows, strict=True):
        assert name == theirs_name and ours_of.tokens == theirs_of_it.tokens
        for figure in ("kl", "median", "change"):
            assert abs(getattr(ours_of, figure) - getattr(theirs_of_it, figure)) < 1e-5


@pytest.mark.parametrize("chunk", [5, 512])
def test_a_model_does_not_differ_from_itself_at_all(chunk, copies):
    model = load_model(copies("q4"))
    model.chunk = chunk
    found = compare(model, copies("q4"), TEXTS)
    if chunk == 512:
        assert not found.kl.any() and not found.change.any()
    assert found.same.all() and found.kl.max() < 1e-9 and len(found.kl) == sum(len(t.counted) for t in TEXTS)


def test_stored_predictions_of_a_model_do_not_differ_from_it(copies, tmp_path):
    store(copies("bf16"), tmp_path / "a", TEXTS)
    found = compare(tmp_path / "a", copies("bf16"))
    assert not found.kl.any() and not found.change.any() and found.same.all()


def test_stored_predictions_bound_the_divergence_from_both_sides(copies, tmp_path):
    store(copies("bf16"), tmp_path / "a", TEXTS)
    exact, coarse = (compare(a, copies("q4"), TEXTS) for a in (copies("bf16"), tmp_path / "a"))
    assert (coarse.kl <= exact.kl + 1e-6).all() and (exact.kl <= coarse.kl + coarse.missing + 1e-6).all()
    assert coarse.kl.mean() > 0.1 * exact.kl.mean()
    assert np.abs(coarse.change - exact.change).max() < 1e-5 and (coarse.same == exact.same).all()


def test_a_file_has_its_texts_and_any_program_can_read_it(copies, tmp_path):
    safetensors = pytest.importorskip("safetensors.numpy")
    store(copies("bf16"), tmp_path / "a", TEXTS)
    arrays = safetensors.load_file(tmp_path / "a")
    assert len(arrays["said"]) == sum(len(text.counted) for text in TEXTS)
    assert (np.exp(arrays["top_logprobs"]).sum(1) + np.exp(arrays["rest"]) - 1 < 1e-5).all()
    for text, stored in zip(TEXTS, StoredLogits(tmp_path / "a").passages, strict=True):
        assert (text.ids == stored.ids).all() and (text.labels == stored.labels).all()
    with pytest.raises(OptionError, match="of other texts"):
        compare(tmp_path / "a", copies("bf16"), TEXTS[:-1])


def test_figures_of_channels_and_kinds_add_up_to_all(copies):
    found = compare(copies("bf16"), copies("q8"), TEXTS)
    by_channel = [found.figures(channel=name) for name in ("analysis", "commentary", "final")]
    assert sum(one.tokens for one in by_channel if one) == len(found.kl)
    mean = sum(one.kl * one.tokens for one in by_channel if one) / len(found.kl)
    assert abs(mean - found.kl.mean()) < 1e-12
    one = found.figures("final", "code")
    assert one is not None and one.tokens == (found.labels == label("final", "code")).sum()


def test_progress_counts_every_token(copies):
    told: list[tuple[int, int]] = []
    compare(copies("q8"), copies("q4"), TEXTS, progress=lambda done, total: told.append((done, total)))
    total = sum(len(text.counted) for text in TEXTS)
    assert told == [(n, total) for n in range(1, total + 1)]


def test_two_models_that_do_not_fit_together_are_refused_with_what_to_do(copies):
    with pytest.raises(OptionError, match=r"together, but the limit is .*: store the logits of the one first"):
        compare(copies("bf16"), copies("q8"), TEXTS, memory="230MB")
    with pytest.raises(MlxOssError, match=r"together, but the limit is 1.00 MB"):
        compare(copies("bf16"), copies("q8"), TEXTS, memory="1MB")


def test_models_with_other_vocabularies_are_refused(copies, folder, tmp_path):
    with pytest.raises(OptionError, match="compare two copies of one model"):
        compare(copies("bf16"), folder("tiny"), TEXTS)
    store(copies("bf16"), tmp_path / "a", TEXTS)
    with pytest.raises(OptionError, match="compare two copies of one model"):
        compare(tmp_path / "a", folder("tiny"))


def test_a_text_that_is_too_long_and_a_token_that_is_none_are_refused(copies):
    model = load_model(copies("q8"))
    model.context = 40
    with pytest.raises(ContextError, match="has 83 tokens, but the model has room for 40"):
        compare(model, model, TEXTS)
    with pytest.raises(OptionError, match="has the token 5000"):
        compare(copies("q8"), copies("q8"), [Passage(np.array([5000, 1], np.int32), np.array([1, 1], np.uint8))])
    with pytest.raises(OptionError, match="has the token 5000"):  # the last one is only looked up
        compare(copies("q8"), copies("q8"), [Passage(np.array([1, 5000], np.int32), np.array([1, 1], np.uint8))])


def test_logits_that_are_not_numbers_are_told(copies, monkeypatch, tmp_path):
    model = load_model(copies("q8"))
    model.transformer.norm.weight = model.transformer.norm.weight * float("nan")
    with pytest.raises(NumericalError, match="the logits are not numbers"):
        compare(copies("q8"), model, TEXTS)
    with pytest.raises(NumericalError, match="the logits are not numbers"):
        store(model, tmp_path / "a", TEXTS)
    assert not os.listdir(tmp_path)


def test_an_interrupted_store_leaves_what_was_there(copies, tmp_path):
    store(copies("bf16"), tmp_path / "a", TEXTS)
    before = (tmp_path / "a").read_bytes()

    def interrupt(done: int, total: int) -> None:
        if done == 20:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        store(copies("q8"), tmp_path / "a", TEXTS, progress=interrupt)
    assert os.listdir(tmp_path) == ["a"] and (tmp_path / "a").read_bytes() == before


@pytest.mark.parametrize("name", ["conversations.jsonl", "model.safetensors", "device"])
def test_only_stored_predictions_are_replaced(copies, tmp_path, name):
    path = tmp_path / name
    if name == "device":
        path.symlink_to("/dev/null")
    else:
        path.write_bytes((copies("q8") / "model-00001-of-00001.safetensors").read_bytes() if "model" in name else b"{}")
    before = path.read_bytes()
    with pytest.raises(OptionError, match=r"is there and has no stored logits: give another file, or move it away"):
        store(copies("q8"), path, TEXTS)
    assert path.read_bytes() == before and os.listdir(tmp_path) == [name]
    for part in ("q8", "q4"):
        store(copies(part), tmp_path / "a", TEXTS)


def test_two_processes_do_not_write_into_one_file(copies, tmp_path):
    refused: list[str] = []

    def again(done: int, total: int) -> None:
        if done == 1:
            with pytest.raises(OptionError, match="is being written by another process") as raised:
                store(copies("q4"), tmp_path / "a", TEXTS)
            refused.append(str(raised.value))

    store(copies("q8"), tmp_path / "a", TEXTS, progress=again)
    assert refused and not compare(tmp_path / "a", copies("q8")).kl.any() and os.listdir(tmp_path) == ["a"]


def test_a_full_disk_is_told_and_leaves_nothing(copies, tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(stored_logits, "_write", full)
    with pytest.raises(OptionError, match=r"No space left on device\): free some space"):
        store(copies("q8"), tmp_path / "a", TEXTS)
    assert not os.listdir(tmp_path)


def test_without_anything_that_the_model_has_written_there_is_nothing_to_compare(copies, tmp_path):
    silent = Passage(np.array([1, 2], np.int32), np.zeros(2, np.uint8))
    for texts in ([], [silent]):
        with pytest.raises(OptionError, match="the texts have nothing that the model has written"):
            compare(copies("q8"), copies("q8"), texts)
        with pytest.raises(OptionError, match="the texts have nothing that the model has written"):
            store(copies("q8"), tmp_path / "a", texts)


def test_a_file_that_cannot_be_written_is_told(copies, tmp_path):
    with pytest.raises(OptionError, match="cannot be written"):
        store(copies("q8"), tmp_path / "missing" / "a", TEXTS)


def test_damaged_files_are_refused(copies, tmp_path):
    store(copies("q8"), tmp_path / "good", TEXTS)
    good, header = (tmp_path / "good").read_bytes(), read_header(tmp_path / "good")
    damages = {
        "not safetensors": b"x" * 100,
        "of a model": (copies("q8") / "model-00001-of-00001.safetensors").read_bytes(),
        "cut": good[:-10],
        "empty": b"",
    }
    for name, value in (
        ("top_ids", b"\xff"),
        ("top_ids", b"\0"),
        ("top_logprobs", b"\x7f"),
        ("top_logprobs", b"\0"),
        ("said", b"\xff"),
    ):
        tensor = header[name]
        damages[f"{name} {value!r}"] = good[: tensor.start] + value * tensor.nbytes + good[tensor.end :]
    for name, value in (("lengths", b"\xff"), ("labels", b"\xff"), ("tokens", b"\xff"), ("lengths", b"\0")):
        tensor = header[name]
        damages[f"{name} {value!r}"] = good[: tensor.start] + value * tensor.nbytes + good[tensor.end :]
    for name, data in damages.items():
        (tmp_path / "bad").write_bytes(data)
        with pytest.raises(CheckpointError):
            compare(tmp_path / "bad", copies("q8"))
            pytest.fail(name)


def test_random_bytes_in_a_file_are_never_a_traceback(copies, tmp_path):
    model = load_model(copies("q8"))
    store(model, tmp_path / "good", TEXTS[2:])
    good, random = (tmp_path / "good").read_bytes(), np.random.default_rng(11)
    for _ in range(60):
        data = bytearray(good)
        for at in random.integers(0, len(data), random.integers(1, 6)):
            data[at] = random.integers(256)
        (tmp_path / "bad").write_bytes(data)
        with contextlib.suppress(MlxOssError):
            compare(tmp_path / "bad", model)


def test_no_more_than_a_few_logits_are_there_at_a_time(copies, monkeypatch):
    seen: list[int] = []
    model = load_model(copies("q8"))
    logits = type(model.transformer).logits
    monkeypatch.setattr(
        type(model.transformer), "logits", lambda self, hidden: seen.append(hidden.shape[1]) or logits(self, hidden)
    )
    compare(model, model, passages_of(SHAPE["vocab_size"], 300))
    assert max(seen) <= comparison._SLICE and sum(seen) > 400
