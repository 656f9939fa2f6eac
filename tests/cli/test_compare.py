"""Tests `mlx-oss compare`: what is printed, and what is refused before a model is loaded."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from mlx_oss.cli import main
from mlx_oss.convert import ConvertOptions, convert
from tests.synthetic import TINY, write_checkpoint

SHAPE = TINY | {"num_hidden_layers": 2, "vocab_size": 201_088, "hidden_size": 64, "intermediate_size": 128}
SHAPE |= {"num_attention_heads": 6, "num_key_value_heads": 3, "head_dim": 32}
CONVERSATION = {
    "messages": [
        {"role": "user", "content": "Hello"},
        {"role": "assistant", "content": "Hi there!", "reasoning": "A greeting."},
    ]
}


@pytest.fixture(scope="module")
def work(tmp_path_factory) -> Path:
    """A folder with two copies of a model, `bf16` and `q8`, and a conversation."""
    base = tmp_path_factory.mktemp("compare")
    release = write_checkpoint(base / "release", SHAPE)
    for profile in ("bf16", "q8"):
        convert(release, base / profile, ConvertOptions(profile=profile))
    (base / "talk.jsonl").write_text(json.dumps(CONVERSATION) + "\n")
    return base


@pytest.fixture(autouse=True)
def in_work(work, monkeypatch) -> None:
    monkeypatch.chdir(work)
    monkeypatch.setenv("COLUMNS", "80")


TALK = ("--conversations", "talk.jsonl")


def test_a_row_for_everything_each_channel_and_each_kind(capsys):
    assert main(["compare", "bf16", "q8", *TALK]) == 0
    out = capsys.readouterr().out
    for name in ("everything", "analysis", "final", "reasoning", "answers", "headers"):
        assert f"\n{name} " in out
    assert "commentary" not in out and "A: bf16" in out and "…" not in out


def test_json_has_the_same_figures(capsys):
    assert main(["compare", "bf16", "bf16", *TALK, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["figures"]["everything"]["kl"] == 0 and found["figures"]["everything"]["same"] == 1


def test_predictions_are_stored_and_compared_with_later(capsys):
    assert main(["compare", "bf16", "--store", "stored", *TALK]) == 0
    assert "`mlx-oss compare stored B`" in capsys.readouterr().out
    assert main(["compare", "stored", "q8"]) == 0
    out = capsys.readouterr().out
    assert "at most" in out and "\neverything " in out and "…" not in out


def test_a_text_is_compared_as_a_long_answer(capsys):
    Path("text.txt").write_text("Once upon a time there was a model.")
    assert main(["compare", "bf16", "q8", "--text", "text.txt"]) == 0
    assert "\ntext " in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["bf16"], "give two models"),
        (["bf16", "q8", "--store", "x"], "give two models"),
        (["bf16", "q8", "--text", "missing.txt"], "missing.txt cannot be read"),
        (["bf16", "q8", "--conversations", "q8"], "q8 cannot be read"),
        (["bf16", "q8", "--text", "a", *TALK], "cannot be given together"),
        (["talk.jsonl", "q8"], "talk.jsonl"),
        (["bf16", "missing"], "missing"),
        (["bf16", "talk.jsonl"], "talk.jsonl"),
        (["bf16", "--store", "none/x", *TALK], "none/x cannot be written"),
        (["bf16", "--store", "talk.jsonl", *TALK], "talk.jsonl is there and has no stored logits"),
    ],
)
def test_what_cannot_be_compared_is_said_in_one_line(arguments, message, capsys):
    assert main(["compare", *arguments]) in (2, 4)
    err = capsys.readouterr().err
    assert err.startswith("error: ") and message in err and err.count("\n") == 1


def test_compare_under_mlx_launch_says_that_it_runs_on_one_machine(monkeypatch, capsys):
    monkeypatch.setenv("MLX_RANK", "1")
    assert main(["compare", "bf16", "q8"]) == 2
    assert "`mlx-oss compare` runs on one machine: start it without `mlx.launch`" in capsys.readouterr().err
