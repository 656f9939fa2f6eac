"""The benchmark of several requests at once: what it counts, how it shows it, and what it refuses.

No test depends on the speed of the machine.
"""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from importlib.util import find_spec

import pytest

from mlx_oss import Request, SamplingOptions
from mlx_oss.bench import engines, many, processes, worker
from mlx_oss.bench.many import ManyReport, Rows, measure_many
from mlx_oss.cli import main
from mlx_oss.errors import BenchmarkError, OptionError
from mlx_oss.loader import load_model


@pytest.fixture
def clock(monkeypatch):
    """A clock that stands until it is set."""

    class Clock:
        now = 0.0

    monkeypatch.setattr(time, "perf_counter", lambda: Clock.now)
    return Clock


def at(clock, *moments: tuple[float, int, int]) -> Iterator[tuple[int, int]]:
    """Tokens that arrive: the moment, the row, the id."""
    for moment, row, token in moments:
        clock.now = moment
        yield row, token


def test_only_tokens_of_the_time_in_which_all_rows_are_computed_count(clock):
    clock.now = 10.0
    early = [(11, 0, 5), (12, 0, 6), (13, 0, 7), (20, 1, 1)]  # row 0 is ahead when row 1 begins
    both = [(21, 0, 8), (22, 1, 2), (24, 0, 9), (25, 1, 3), (30, 0, 4)]
    late = [(40, 1, 4)]  # row 0 is finished
    measured = worker._timed_together(at(clock, *early, *both, *late), 2)
    assert measured["prefill"] == 10 and measured["ids"] == [[5, 6, 7, 8, 9, 4], [1, 2, 3, 4]]
    assert measured["decode"] == (30 - 20) / 5
    assert (measured["latency"], measured["longest"]) == (3, 6)  # of 1, 3, 6 and 2, 3


def test_requests_that_never_ran_together_are_told(clock):
    with pytest.raises(BenchmarkError, match=r"was finished before the last one began: let more tokens be generated"):
        worker._timed_together(at(clock, (1, 0, 5), (2, 0, 5), (3, 1, 5), (4, 1, 5)), 2)


@pytest.mark.parametrize("count", [1, 3])
def test_each_row_waits_for_the_others_first_token_and_gets_its_own_tokens(folder, count):
    model = load_model(folder(), dtype="float32", context=1024)
    greedy, prompts = SamplingOptions(temperature=0), [[n, 2, *range(60 * n)] for n in range(1, count + 1)]
    wanted = [[step.token for step in model.submit(Request(prompt, greedy, 6))] for prompt in prompts]
    arrived = list(engines._arrivals([model.submit(Request(prompt, greedy, 6)) for prompt in prompts]))
    assert [[token for row, token in arrived if row == n] for n in range(count)] == wanted
    assert {row for row, _ in arrived[:count]} == set(range(count))


def test_no_two_prompts_of_a_benchmark_begin_alike():
    """An engine may keep what it has read, and would then read less than is measured."""
    prompts = [worker._prompt(length, number) for length in (4, 32, 128, 512) for number in range(100)]
    assert len({prompt[0] for prompt in prompts}) == len(prompts)


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_measured_process_tells_everything(folder, dtype):
    measured = worker.measure("mlx-oss", folder(), [5, 12], 4, {"dtype": dtype}, [1, 3])
    assert set(measured["rows"]) == {"1", "3"} and measured["device"] and measured["resident"] > 10_000_000
    assert [run["prompt"] for run in measured["rows"].values()] == [5, 5 + 12 + 5]
    for count, run in measured["rows"].items():
        assert [len(ids) for ids in run["ids"]] == [4] * int(count)
        assert run["prefill"] > 0 and run["decode"] > 0 and run["longest"] >= run["latency"] > 0


def test_a_report_of_a_model(folder):
    report = measure_many(folder(), [1, 2], lengths=[3, 4], tokens=3, repeats=1)
    assert [(rows.rows, rows.prompt) for rows in report.results["mlx-oss"]] == [(1, 3), (2, 7)]


@pytest.mark.parity
@pytest.mark.skipif(find_spec("mlx_lm") is None, reason="mlx-lm is not installed (extra `parity`)")
def test_mlx_lm_gives_the_same_tokens(folder):
    report = measure_many(
        folder(), [1, 3], lengths=[6, 6], tokens=3, repeats=1, dtype="float32", compare=["mlx-lm-float32"]
    )
    ours, theirs = (results for results in report.results.values())
    assert [rows.ids for rows in ours] == [rows.ids for rows in theirs]


def sample(decode: float) -> dict[str, object]:
    run = {"prefill": 2 * decode, "decode": decode, "latency": 3 * decode, "longest": 4 * decode}
    rows = {count: run | {"prompt": 8 * int(count), "ids": [[1, 2]] * int(count)} for count in ("1", "4")}
    return {"rows": rows, "device": "Apple M1"}


def test_engines_take_turns_and_medians_are_reported(monkeypatch):
    samples, asked = [sample(n) for n in (5, 50, 1, 70, 2, 90)], []

    def run(request, environment):
        asked.append(request)
        return samples[len(asked) - 1]

    monkeypatch.setattr(processes, "sample_of", run)
    report = measure_many("folder", [1, 4], lengths=[8], tokens=9, repeats=3, compare=["mlx-lm"], memory="1GB")
    assert [request["engine"] for request in asked] == ["mlx-oss", "mlx-lm"] * 3
    assert all(request["rows"] == [1, 4] and request["lengths"] == [8] for request in asked)
    assert asked[0]["options"]["memory"] == "1GB" and asked[1]["options"] == {}
    assert report.device == "Apple M1"
    assert report.results["mlx-oss"][1] == Rows(4, 32, 4, 2, 6, 8, ((1, 2),) * 4)
    assert report.results["mlx-lm"][0].decode == 70


@pytest.mark.parametrize(
    "wrong",
    [
        {"rows": []},
        {"rows": [0]},
        {"rows": [2, 257]},
        {"repeats": 0},
        {"tokens": 2},
        {"lengths": [4, 0]},
        {"lengths": [1 << 21]},
        {"compare": ["mlx-lm", "llama.cpp"]},
    ],
)
def test_an_argument_out_of_range_is_refused_before_anything_runs(wrong, monkeypatch):
    monkeypatch.setattr(processes, "sample_of", None)
    with pytest.raises(OptionError):
        measure_many("folder", **{"rows": [1]} | wrong)


def test_llama_cpp_is_refused_at_the_command_line(capsys):
    assert main(["bench", "./folder", "--concurrency", "2", "--compare", "llama.cpp"]) == 2
    assert capsys.readouterr().err == (
        "error: 'llama.cpp' cannot be compared with several requests at once: mlx-lm and mlx-lm-float32 can\n"
    )


REPORT = ManyReport(
    "Apple M4 Pro",
    3,
    {
        "mlx-oss": (
            Rows(1, 32, 0.1, 0.02, 0.02, 0.03, ((5, 6, 7),)),
            Rows(8, 256, 0.5, 0.005, 0.04, 0.08, ((5, 6, 7),) * 8),
        ),
        "mlx-lm": (
            Rows(1, 32, 0.2, 0.04, 0.04, 0.05, ((5, 6, 7),)),
            Rows(8, 256, 2.0, 0.02, 0.16, 0.3, ((5, 6, 8),) * 8),
        ),
    },
)


def test_the_command_shows_a_table(monkeypatch, capsys):
    asked = []
    monkeypatch.setattr(many, "measure_many", lambda *what, **how: (asked.append((what, how)), REPORT)[1])
    command = ["bench", "./folder", "--concurrency", "1", "8", "--compare", "mlx-lm", "--tokens", "9"]
    assert main(command) == 0
    assert asked[0][0][1] == [1, 8] and asked[0][1]["compare"] == ["mlx-lm"] and asked[0][1]["tokens"] == 9
    shown = capsys.readouterr().out
    cells = [[cell.strip() for cell in line.split("│")[1:-1]] for line in shown.splitlines() if line.startswith("│")]
    assert cells == [
        ["one request: decode of all, tokens/s", "50", "25", "2.00"],
        ["a token of each, ms", "20", "40", "0.50"],
        ["the longest wait for one, ms", "30", "50", "0.60"],
        ["prefill of 32, tokens/s", "320", "160", "2.00"],
        ["8 at once: decode of all, tokens/s", "200", "50", "4.00"],
        ["times that of 1", "4", "2", "2.00"],
        ["a token of each, ms", "40", "160", "0.25"],
        ["the longest wait for one, ms", "80", "300", "0.27"],
        ["prefill of 256, tokens/s", "512", "128", "4.00"],
    ]
    assert "Apple M4 Pro, medians of 3 runs" in shown and "mlx-lm: 19 of 27 tokens are the same." in shown


def test_the_command_gives_json(monkeypatch, capsys):
    monkeypatch.setattr(many, "measure_many", lambda *_, **__: REPORT)
    assert main(["bench", "./folder", "--concurrency", "1", "8", "--json"]) == 0
    printed = json.loads(capsys.readouterr().out)
    assert printed["results"]["mlx-oss"][0] == {
        "rows": 1,
        "prompt": 32,
        "prefill": 0.1,
        "decode": 0.02,
        "latency": 0.02,
        "longest": 0.03,
        "ids": [[5, 6, 7]],
    }
