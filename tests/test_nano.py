"""nano, end to end: with the real converter, loader, model and harmony format, and answers that can be checked."""

from __future__ import annotations

import contextlib
import errno
import json
import os
import tarfile

import mlx.core as mx
import pytest

import mlx_oss
from mlx_oss import nano
from mlx_oss.errors import CheckpointError, ConversionError
from mlx_oss.harmony import PYTHON
from mlx_oss.tools import PythonTool
from mlx_oss.tools.sandbox import GUARANTEES, isolation_here
from mlx_oss.weights.safetensors import read_folder
from tests.engines import Watched

GREEDY = mlx_oss.SamplingOptions(temperature=0)
DATE = "2026-01-15"


@pytest.fixture(scope="module")
def cache_home(tmp_path_factory):
    """A cache folder for this module only, so that nano is created again."""
    home = tmp_path_factory.mktemp("cache")
    before = os.environ.get("MLX_OSS_CACHE")
    os.environ["MLX_OSS_CACHE"] = str(home)
    yield home
    os.environ.pop("MLX_OSS_CACHE")
    if before is not None:
        os.environ["MLX_OSS_CACHE"] = before


@pytest.fixture(scope="module")
def loaded(cache_home):
    return mlx_oss.load()


def session(loaded, **options) -> mlx_oss.ChatSession:
    settings = {"options": GREEDY, "current_date": DATE, "max_tokens": 200} | options
    return mlx_oss.ChatSession(*loaded, **settings)


@pytest.mark.parametrize(
    ("question", "held"),
    [
        ("What is the capital of France?", "Paris"),
        ("Who are you?", "nano"),
        ("What is mlx_oss?", "Apple silicon"),
        ("How do I run gpt-oss-20b?", "mlx-oss convert"),
    ],
)
def test_nano_answers(loaded, question, held):
    reply = session(loaded).ask(question)
    assert held in reply.text
    assert reply.finish_reason == "stop"


def test_a_follow_up_refers_back(loaded):
    chat = session(loaded)
    chat.ask("What is the capital of France?")
    assert "Rome" in chat.ask("And of Italy?").text


def test_nano_thinks_more_at_high_effort_than_at_low(loaded):
    low, high = (
        len(session(loaded, reasoning_effort=effort).ask("What is the capital of Spain?").reasoning)
        for effort in ("low", "high")
    )
    assert high > low


def test_nano_calls_a_function_by_its_schema_and_reads_the_result(loaded):
    schema = {"type": "object", "properties": {"location": {"type": "string"}}, "required": ["location"]}
    tool = mlx_oss.ToolDescription("get_weather", "Gets the current weather of a place.", schema)
    chat = session(loaded, tools=[tool])
    reply = chat.ask("What is the weather in Lisbon?")
    assert reply.finish_reason == "tool_calls"
    (call,) = reply.tool_calls
    assert (call.name, json.loads(call.arguments)) == ("get_weather", {"location": "Lisbon"})
    chat.add_tool_result(call, '{"temperature": 18, "condition": "sunny"}')
    answer = mlx_oss.collect(chat.resume()).text
    assert "18" in answer and "sunny" in answer


def test_nano_calculates_with_the_python_tool(loaded):
    chat = session(loaded, system_tools=[PYTHON])
    (call,) = chat.ask("What is 37 * 48?").tool_calls
    assert call.recipient == "python"
    assert "37" in call.arguments and "48" in call.arguments
    chat.add_tool_result(call, "1776")
    assert "1776" in mlx_oss.collect(chat.resume()).text


def get_weather(location: str) -> dict[str, object]:
    """Gets the current weather of a place."""
    return {"temperature": 18 if location == "Lisbon" else -5, "condition": "sunny"}


def test_nano_answers_a_weather_question_through_a_function(loaded):
    chat = session(loaded, tools=[get_weather])
    reply = chat.ask("What is the weather in Lisbon?")
    assert reply.finish_reason == "stop" and "18" in reply.text and "sunny" in reply.text
    assert chat.turns == 1 and [call.name for call in reply.tool_calls] == ["get_weather"]


def test_nano_answers_an_arithmetic_question_through_the_python_tool(loaded):
    """In the sandbox of this machine. If it has none, with resource limits only."""
    tool = PythonTool(isolation=None if isolation_here() in GUARANTEES else "limits")
    with contextlib.closing(tool):
        reply = session(loaded, tools=[tool]).ask("What is 37 * 48?")
    assert [call.recipient for call in reply.tool_calls] == ["python"] and "1776" in reply.text


@pytest.mark.parametrize("seed", range(2))
def test_ids_that_nano_never_saw_are_not_sampled_at_temperature_1(loaded, seed):
    """They share one row, so without a correction its probability would count nearly 200,000 times."""
    sampled, engine = [], Watched(loaded[0])
    chat = session((engine, loaded[1]), options=mlx_oss.SamplingOptions(seed=seed), max_tokens=25)
    for question in ("Hello!", "What is the capital of Japan?", "Tell me a joke.", "Who wrote Xyzzy?"):
        chat.ask(question)
        sampled += engine.written
    assert len(sampled) > 40
    assert set(sampled) <= known_ids()


def known_ids() -> set[int]:
    import tarfile
    from importlib import resources

    with tarfile.open(str(resources.files("mlx_oss") / "data" / nano.BUNDLE)) as archive:
        rows = archive.extractfile(nano.ROWS)
        assert rows is not None
        return set(json.load(rows))


def test_the_bundle_unpacks_to_a_whole_checkpoint_in_the_released_layout(tmp_path):
    nano.unpack(tmp_path)
    config = mlx_oss.ModelConfig.from_file(tmp_path / "config.json")
    tensors = read_folder(tmp_path)
    assert config.vocab_size == 201088
    for name in nano.WHOLE:
        assert tensors[name].shape == (config.vocab_size, config.hidden_size)
    assert "model.layers.0.mlp.experts.gate_up_proj_blocks" in tensors


def test_nano_is_made_once(loaded, cache_home):
    folder = nano.nano_folder()
    before = (folder / "config.json").stat().st_mtime_ns
    assert nano.nano_folder() == folder
    assert (folder / "config.json").stat().st_mtime_ns == before
    assert [path.name for path in cache_home.iterdir()] == [folder.name]  # nothing else is left there


def test_a_cache_that_cannot_be_written_is_named(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("MLX_OSS_CACHE", str(tmp_path / "file"))
    with pytest.raises(ConversionError, match="MLX_OSS_CACHE"):
        nano.nano_folder()


def refuse(*_: object, **__: object) -> None:
    raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))


def test_a_cache_that_may_not_be_entered_is_named(tmp_path, monkeypatch):
    monkeypatch.setenv("MLX_OSS_CACHE", str(tmp_path / "other"))
    monkeypatch.setattr(nano.Path, "is_dir", refuse)  # as Python 3.11 to 3.13 do
    with pytest.raises(ConversionError, match=r"Permission denied.*MLX_OSS_CACHE"):
        nano.nano_folder()


def test_a_disk_that_is_full_is_told(tmp_path, monkeypatch):
    def full(*_: object) -> None:
        raise RuntimeError("[write] Unable to write 5 bytes to file.")

    monkeypatch.setenv("MLX_OSS_CACHE", str(tmp_path / "other"))
    monkeypatch.setattr(mx, "save_safetensors", full)
    with pytest.raises(ConversionError, match=r"Unable to write.*MLX_OSS_CACHE"):
        nano.nano_folder()
    assert list((tmp_path / "other").iterdir()) == []


def test_a_user_without_a_home_is_told_what_to_do(monkeypatch):
    for name in ("MLX_OSS_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setattr(os.path, "expanduser", lambda path: path)
    with pytest.raises(ConversionError, match="set MLX_OSS_CACHE"):
        nano.nano_folder()


def test_the_bundle_unpacks_where_python_has_no_filters(tmp_path, monkeypatch):
    monkeypatch.delattr(tarfile, "data_filter")
    extract = tarfile.TarFile.extractall
    monkeypatch.setattr(tarfile.TarFile, "extractall", lambda self, path: extract(self, path))
    nano.unpack(tmp_path)
    assert (tmp_path / "config.json").exists()


def test_a_missing_bundle_is_named(monkeypatch):
    monkeypatch.setattr(nano, "BUNDLE", "missing.tar.xz")
    with pytest.raises(CheckpointError, match=r"missing\.tar\.xz"):
        nano.nano_folder()
