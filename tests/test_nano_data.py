"""The generated dialogues of nano, and the files of them and of its weights. Not how well nano has learned them."""

from __future__ import annotations

import io
import json
import re
import sys
import tarfile
from importlib import resources
from itertools import islice, pairwise
from pathlib import Path
from random import Random

import numpy as np
import pytest

from mlx_oss import ToolCall
from mlx_oss.harmony import HarmonyParser
from mlx_oss.tokenizer import N_VOCAB, load_tokenizer

NANO = Path(__file__).parents[1] / "examples" / "nano"
sys.path.insert(0, str(NANO))

import dialogues  # noqa: E402
import evaluate  # noqa: E402
import manners  # noqa: E402
import phrasings  # noqa: E402
import sequences  # noqa: E402
from knowledge import FACTS  # noqa: E402
from scenes import Scene, Turn, expand  # noqa: E402
from tool_turns import any_sum  # noqa: E402
from vocabulary import UNKNOWN, Rows  # noqa: E402

WORDS = ["river", "green", "market", "because"]
EVERYTHING = Rows(np.arange(N_VOCAB, dtype=np.int32))


def conversations(n: int, length: int = 2) -> list[tuple[Scene, list[Turn]]]:
    rng = Random(7)
    scenes = (dialogues.any_scene(rng, WORDS) for _ in range(n))
    return [(scene, dialogues.conversation(scene, length)) for scene in scenes]


def parsed(ids: list[int]) -> list:
    parser = HarmonyParser(None, strict=True)
    events = [event for id_ in ids for event in parser.feed(id_)] + list(parser.finish())
    return [event.message.message for event in events if hasattr(event, "message")]


def test_sequences_are_strict_harmony_and_hold_what_the_turns_say() -> None:
    for scene, turns in conversations(60):
        turns = [turn for turn in turns if UNKNOWN not in turn.user]
        if not turns:
            continue
        ids, _ = sequences.continuation(EVERYTHING, turns, scene.effort, Random(1))
        messages = parsed(ids)
        assert [m.content for m in messages if m.role == "user"] == [turn.user for turn in turns]
        assert [m.content for m in messages if m.channel == "final"] == [turn.final for turn in turns]
        calls = [(m.recipient, m.content) for m in messages if m.role == "assistant" and m.recipient]
        assert calls == [(turn.call.tool, turn.call.arguments) for turn in turns if turn.call]


def test_reasoning_grows_with_the_effort_and_leaves_the_history() -> None:
    _, turns = conversations(1, 3)[0]
    turns = [Turn("hello", "hi", "greets me", "Hello!"), *turns]
    thoughts = {}
    for effort in ("low", "medium", "high"):
        ids, _ = sequences.continuation(EVERYTHING, turns[:2], effort, Random(1))
        before, _, last = load_tokenizer().decode(ids).rpartition("<|start|>user")
        assert "analysis<|message|>" not in before
        thoughts[effort] = last.partition("<|channel|>final")[0]
    assert len(thoughts["low"]) < len(thoughts["medium"]) < len(thoughts["high"])


def test_the_last_turn_is_learned_and_what_others_say_is_not() -> None:
    for scene, turns in conversations(40, 1):
        ids, learned = sequences.continuation(EVERYTHING, turns, scene.effort, Random(1))
        text = load_tokenizer().decode([id_ for id_, mark in zip(ids, learned, strict=True) if mark])
        assert turns[0].final in text and text.endswith("<|return|>")
        assert "<|start|>user" not in text and "to=assistant" not in text


def test_calls_are_json_with_the_arguments_of_the_offered_schema() -> None:
    seen = 0
    for scene, turns in conversations(250):
        offered = {f"functions.{function.name}": function for function in scene.functions}
        for call in (turn.call for turn in turns if turn.call and turn.call.tool != "python"):
            schema = offered[call.tool].description.parameters
            assert schema is not None and set(json.loads(call.arguments)) <= set(schema["properties"])
            assert set(schema.get("required", ())) <= set(json.loads(call.arguments))
            seen += 1
    assert seen > 20


def test_sums_are_right() -> None:
    rng = Random(3)
    for what in (any_sum(rng, small) for small in (False, True) for _ in range(300)):
        assert float(what.value()) == pytest.approx(float(evaluate.compute(what.code())), abs=1e-4)


def test_every_fact_has_one_answer() -> None:
    assert sum(map(len, FACTS.values())) > 600
    for kind, facts in FACTS.items():
        answers: dict[str, str] = {}
        for fact in facts:
            for asked in fact.asked:
                assert answers.setdefault(asked, fact.answer) == fact.answer, (kind, asked)


def test_the_same_seed_gives_the_same_groups() -> None:
    first, second = ([sequences.any_group(EVERYTHING, WORDS, Random(5)) for _ in range(2)] for _ in range(2))
    assert first == second


def test_held_out_dialogues_are_readable_and_not_in_the_training_phrasings() -> None:
    cases = evaluate.read_cases(evaluate.HELD_OUT.read_text(encoding="utf-8"))
    assert len(cases) >= 250 and all(case.turns for case in cases)
    rng = Random(11)
    trained = {
        turn.user.lower() for _ in range(300) for turn in dialogues.conversation(dialogues.any_scene(rng, WORDS), 3)
    }
    questions = [question.lower() for case in cases for question, _ in case.turns]
    assert sum(question in trained for question in questions) < len(questions) / 20
    for case in cases:
        for name, (_, description) in evaluate.functions(case.scene).items():
            assert name == description.name and description.parameters


def test_what_nano_is_evaluated_with_is_never_trained_on(monkeypatch: pytest.MonkeyPatch) -> None:
    """Not even by accident: whatever a seed would generate, questions of the evaluation are left out."""
    asked = sequences.asked_in_evaluation()
    assert "which day follows tuesday?" in asked and len(asked) > 300
    first = sequences.any_group(EVERYTHING, WORDS, Random(5))
    users = {sequences.plain(text) for row in first.rows for text in said_by_the_user(row)}
    monkeypatch.setattr(sequences, "asked_in_evaluation", lambda: frozenset(users))
    again = sequences.any_group(EVERYTHING, WORDS, Random(5))
    assert len(users) > 5
    assert not users & {sequences.plain(text) for row in again.rows for text in said_by_the_user(row)}


def said_by_the_user(ids: list[int]) -> list[str]:
    text = load_tokenizer().decode(ids)
    return [part.partition("<|end|>")[0] for part in text.split("<|start|>user<|message|>")[1:]]


def test_other_ways_to_put_a_question_keep_what_it_is_about() -> None:
    rng = Random(4)
    templates = [text for _, _, texts in phrasings.FACT.values() for text in texts]
    templates += ["{a} plus {b}", "what is {a} times {b}", *phrasings.MESSAGE_ASK, *phrasings.WEATHER_ASK]
    changed = 0
    for template in templates:
        plain = expand(template, rng)
        for _ in range(5):
            other = manners.rephrase(plain, rng)
            assert sorted(re.findall(r"\{\w+\}", other)) == sorted(re.findall(r"\{\w+\}", plain)), (plain, other)
            changed += other != plain
    assert changed > len(templates)


def test_checks_tell_right_from_wrong_answers() -> None:
    def satisfied(wanted: str, answer: str, *calls: ToolCall) -> bool:
        kinds = [(kind, description) for kind, description in evaluate.functions("weather(get_weather,city)").values()]
        return not evaluate.checks(wanted, kinds if calls else [], 0).problem(answer, calls)

    assert satisfied("Paris & nocall", "It is Paris.")
    assert satisfied("Rome / Milan", "Milan")
    assert not satisfied("Paris", "Rome")
    assert not satisfied("call", "1776")
    call = ToolCall("functions.get_weather", '{"city": "Oslo"}')
    assert satisfied('call {"city": "Oslo"}', "17 degrees, light rain", call)
    assert not satisfied('call {"city": "Oslo"}', "17 degrees", call)
    assert not satisfied('call {"city": "Rome"}', "17 degrees, light rain", call)
    assert not satisfied("Paris", "It is Paris.", call)
    assert evaluate.compute("print(round(22/7, 4))") == "3.1429"
    assert evaluate.compute("__import__('os')").startswith("error")


def test_the_bundle_holds_a_row_for_each_of_its_ids_and_one_more() -> None:
    data = (resources.files("mlx_oss") / "data" / "nano.tar.xz").read_bytes()
    assert len(data) <= 6_000_000
    with tarfile.open(fileobj=io.BytesIO(data)) as archive:
        files = {member.name: archive.extractfile(member) for member in archive}
        content = {name: file.read() for name, file in files.items() if file}
    rows, config = json.loads(content["rows.json"]), json.loads(content["config.json"])
    length = int.from_bytes(content["model.safetensors"][:8], "little")
    header = json.loads(content["model.safetensors"][8 : 8 + length])
    assert rows == sorted(set(rows)) and rows[-1] < config["vocab_size"] == N_VOCAB
    for name in ("model.embed_tokens.weight", "lm_head.weight"):
        assert header[name]["shape"] == [len(rows) + 1, config["hidden_size"]]
    assert config["rope_scaling"]["truncate"] is False


@pytest.mark.parity
def test_packed_mxfp4_unpacks_to_the_values_trained_with() -> None:
    torch = pytest.importorskip("torch")
    import export
    import model

    weight = torch.randn(3, 5, 64, generator=torch.Generator().manual_seed(0)) * 10
    weight[0, 0, :32] = 0
    blocks, scales = export.pack_mxfp4(weight)
    nibbles = torch.stack([blocks & 15, blocks >> 4], -1).flatten(-2)
    table = torch.tensor([*export.FP4, *(-value for value in export.FP4)])
    values = table[nibbles.long()] * torch.exp2(scales.float() - 127)[..., None]
    assert torch.equal(values.reshape(weight.shape), model.mxfp4(weight))


@pytest.mark.parity
def test_training_goes_on_from_the_bundle_with_more_tokens(tmp_path: Path) -> None:
    torch = pytest.importorskip("torch")
    import bundle
    import export
    import model

    ids = np.array([5, 12_650, 45_367], np.int32)  # 12650 is " Paris"
    network = model.Nano(model.Shape(len(ids)))
    path = tmp_path / "nano.tar.xz"
    path.write_bytes(export.bundle(ids, network.state_dict()))
    read, state = bundle.read(path)
    assert read.tolist() == ids.tolist()
    for name, weight in network.state_dict().items():
        held = model.mxfp4(weight) if name.endswith((".up", ".down")) else weight.bfloat16().float()
        assert torch.equal(state[name], held), name
    wanted = np.array([load_tokenizer().encode(text)[0] for text in ("Paris", " Rome")], np.int32)
    every, grown = bundle.with_rows(read, state, wanted)
    assert every.tolist() == sorted({*ids.tolist(), *wanted.tolist()})
    for name in ("embedding", "unembedding"):
        rows = [*np.searchsorted(every, ids).tolist(), len(every)]
        assert grown[name].shape[0] == len(every) + 1 and torch.equal(grown[name][rows], state[name])
    near, far = (grown["embedding"][int(np.searchsorted(every, id_))] for id_ in wanted)
    paris = state["embedding"][ids.tolist().index(load_tokenizer().encode(" Paris")[0])]
    assert (near - paris).norm() < (far - paris).norm() / 2


@pytest.mark.parity
def test_exported_weights_compute_in_transformers_what_the_trainer_computes_with_a_shared_prefix() -> None:
    torch = pytest.importorskip("torch")
    transformers = pytest.importorskip("transformers")
    import export
    import train
    from model import Nano, Shape

    rng = Random(2)
    rows = Rows(np.arange(300, dtype=np.int32))
    group = sequences.Group(
        [rng.randrange(300) for _ in range(13)],
        [[rng.randrange(300) for _ in range(n)] for n in (21, 17, 5)],
        [[False] + [True] * (n - 1) for n in (21, 17, 5)],
        ["a", "b", "c"],
    )
    shape = Shape(
        len(rows.ids),
        hidden=96,
        layers=3,
        heads=6,
        kv_heads=2,
        head_dim=40,
        experts=5,
        active=2,
        expert_hidden=160,
        window=7,
        vocab=301,
    )
    torch.manual_seed(0)
    trained = Nano(shape)
    for name, p in trained.named_parameters():
        p.data = (p.data + 0.1 * torch.randn_like(p) * ("bias" in name or "sinks" in name)).bfloat16().float()
    trained.quantise(True)
    batch, _ = train.batch_of([group], shape.window)
    with torch.no_grad():
        ours = trained(batch)[batch.targets >= 0]
    tensors = export.released(trained.state_dict(), shape)
    theirs = _in_transformers(transformers, export.config(shape), tensors)
    expected = []
    for row in group.rows:
        with torch.no_grad():
            logits = theirs(torch.tensor([group.prefix + row])).logits[0]
        expected.append(logits[len(group.prefix) : -1])
    error = (ours - torch.cat(expected)).abs().max()
    assert error < 0.1 * torch.cat(expected).std(), error  # bfloat16 in training, float32 there


def _in_transformers(transformers, config, tensors):
    import export
    import torch

    table = torch.tensor([*export.FP4, *(-value for value in export.FP4)])
    plain = {}
    for name, tensor in tensors.items():
        if name.endswith("_blocks"):
            nibbles = torch.stack([tensor & 15, tensor >> 4], -1).flatten(-2).long()
            scales = torch.exp2(tensors[name.replace("_blocks", "_scales")].float() - 127)
            plain[name.removesuffix("_blocks")] = (
                (table[nibbles] * scales[..., None]).flatten(-2).transpose(1, 2).contiguous()
            )
        elif not name.endswith("_scales"):
            plain[name] = tensor.float()
    settings = {
        key: value
        for key, value in config.items()
        if key not in {"quantization_config", "architectures", "pad_token_id", "eos_token_id"}
    }
    network = (
        transformers.GptOssForCausalLM(transformers.GptOssConfig(**settings, attn_implementation="eager"))
        .eval()
        .float()
    )
    network.load_state_dict(plain, strict=True)
    return network


def test_training_batches_learn_only_tokens_with_a_row() -> None:
    pytest.importorskip("torch")
    import train

    with tarfile.open(
        fileobj=io.BytesIO((resources.files("mlx_oss") / "data" / "nano.tar.xz").read_bytes())
    ) as archive:
        file = archive.extractfile("rows.json")
        assert file
        rows = Rows(np.array(json.load(file), np.int32))
    for step in islice(train.steps(rows, 1, 128), 2):
        for batch, intents in step:
            learned = batch.targets[batch.targets >= 0]
            assert len(learned) and int(learned.max()) < rows.unknown
            assert any(intents)
            assert all(a < b for a, b in pairwise(batch.slots[: len(learned)].tolist()))
