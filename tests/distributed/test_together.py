"""Several machines compute one model: the same bits as one."""

from __future__ import annotations

import argparse
import json
import operator
import subprocess
import sys
from pathlib import Path

import pytest

from mlx_oss import Request, SamplingOptions, load_model
from mlx_oss.bench.worker import _prompt
from mlx_oss.cli import bench
from mlx_oss.convert import ConvertOptions, convert
from mlx_oss.errors import OptionError
from mlx_oss.shards import check_size
from tests.distributed.machines import ended, start
from tests.synthetic import TINY, write_checkpoint

HERE = Path(__file__).parent
# As the releases: eight key-value heads, so that up to eight machines can have some. Widths can be quantised.
SHAPE = TINY | {"num_hidden_layers": 2, "num_local_experts": 32, "num_experts_per_tok": 4, "vocab_size": 1024}
SHAPE |= {"hidden_size": 320, "intermediate_size": 192, "num_attention_heads": 64, "num_key_value_heads": 8}
SHAPE |= {"head_dim": 64, "sliding_window": 24}


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A model in several forms."""
    base = tmp_path_factory.mktemp("together")
    made = {layout: write_checkpoint(base / layout, SHAPE, layout=layout) for layout in ("hf", "original")}
    for profile in ("bf16", "q4"):
        convert(made["hf"], base / profile, ConvertOptions(profile=profile))
        made[profile] = base / profile
    return made


@pytest.mark.parametrize(
    ("size", "form"),
    [(2, "hf"), (2, "q4"), (4, "original"), (4, "bf16"), pytest.param(8, "hf", marks=pytest.mark.long)],
)
def test_logits_are_bit_for_bit_those_of_one_process(size, form, folders):
    for status, out, err in ended(start(size, HERE / "whole_and_part.py", folders[form])):
        assert (status, out) == (0, ""), err


def test_a_conversation_is_the_same_and_opens_with_any_number_of_machines(tmp_path):
    one, two = tmp_path / "one", tmp_path / "two"

    def said(size: int, opened: object, saved: Path) -> str:
        if size == 1:
            run = [sys.executable, HERE / "conversation.py", str(opened), str(saved)]
            return subprocess.run(run, check=True, capture_output=True, text=True, timeout=120).stdout
        (status, out, err), other = ended(start(size, HERE / "conversation.py", opened, saved))
        assert status == 0 and (other[0], other[1]) == (0, ""), err + other[2]
        return out

    assert said(1, "", one) == said(2, "", two)
    assert caches(one) == caches(two)
    assert said(1, two, tmp_path / "three") == said(2, one, tmp_path / "four")


def test_bench_measures_all_machines(folders):
    command = ["bench", folders["hf"], "--prompt", 5, 12, "--tokens", 3, "--repeats", 2, "--json"]
    (status, out, err), other = ended(start(2, "-m", "mlx_oss", *command))
    assert status == 0 and other[:2] == (0, ""), err + other[2]
    report = json.loads(out)
    prompt = [token % SHAPE["vocab_size"] for token in _prompt(12)]
    alone = load_model(folders["hf"]).submit(Request(prompt, SamplingOptions(temperature=0), 3))
    assert report["ids"]["12"] == [step.token for step in alone]
    assert len(report["loaded"]) == 2 and min(report["loaded"]) > 0
    assert all(map(operator.ge, report["resident"], report["loaded"]))
    assert report["gathers"] == 4 * SHAPE["num_hidden_layers"] + 3 and report["gather"] > 0
    assert [speed["length"] for speed in report["speeds"]] == [5, 12]


@pytest.mark.parametrize("wrong", [["--compare", "mlx-lm"], ["--concurrency", "2"]])
def test_what_bench_cannot_do_with_several_machines_is_told(wrong, monkeypatch):
    monkeypatch.setattr(bench, "is_launched", lambda: True)
    parser = argparse.ArgumentParser()
    bench.add_arguments(parser)
    with pytest.raises(OptionError, match="--compare and --concurrency are not possible: leave them out"):
        bench.run(parser.parse_args(wrong))


def caches(saved: Path) -> bytes:
    """The keys and values in a saved session, after its text, which has times."""
    data = saved.read_bytes()
    return data[8 + int.from_bytes(data[:8], "little") :]


def test_a_machine_with_another_model_is_named(folders, tmp_path):
    program = (
        "import mlx_oss, sys\n"
        "from mlx_oss import distributed\n"
        "group = distributed.group()\n"
        "try: mlx_oss.load(sys.argv[1 + group.rank()], group=group)\n"
        "except mlx_oss.MlxOssError as error: sys.exit(str(error))\n"
    )
    for status, _, err in ended(start(2, "-c", program, folders["bf16"], folders["q4"])):
        assert status == 1 and "machine 1 (" in err and "has another model" in err


def test_a_model_that_cannot_be_divided_says_by_what_it_can():
    from mlx_oss.config import ModelConfig
    from mlx_oss.errors import OptionError

    config = ModelConfig(**SHAPE)
    check_size(config, 8)
    with pytest.raises(
        OptionError, match=r"64 query heads, which cannot be divided between 3 machines|8 key-value heads"
    ):
        check_size(config, 3)
