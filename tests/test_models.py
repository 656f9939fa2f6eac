"""From the name of a model to its folder, against a server that plays the Hub."""

from __future__ import annotations

import gc
import io
import os
import shutil
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import mlx.core as mx
import pytest

import mlx_oss
from mlx_oss import models
from mlx_oss.errors import CheckpointError, DownloadError
from mlx_oss.weights.hub import copies
from tests.hub import COMMIT, sha256

NAME = "openai/gpt-oss-20b"


def same_files(folder: Path, source: Path, *, but: set[str] = frozenset()) -> bool:
    names = {path.name for path in source.iterdir() if path.is_file()} - but
    return all((folder / name).read_bytes() == (source / name).read_bytes() for name in names)


def blobs(tmp_path: Path, name: str = NAME) -> Path:
    return tmp_path / "hub" / f"models--{name.replace('/', '--')}" / "blobs"


def weights_there(tmp_path: Path) -> int:
    """Bytes of weight files in the cache."""
    names = [path for path in blobs(tmp_path).glob("*") if len(path.name.removesuffix(".incomplete")) == 64]
    return sum(path.stat().st_size for path in names)


def header_bytes(folder: Path) -> int:
    """Bytes that are asked for to see whether the files hold a model that can be read."""
    return sum(min(path.stat().st_size, 1 << 17) for path in folder.glob("*.safetensors"))


def weight_bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.glob("*.safetensors"))


@pytest.mark.parametrize("name", ["20b", "gpt-oss-20b", NAME, f"{NAME}@main", f"{NAME}@{COMMIT}"])
def test_a_name_becomes_the_models_own_files_in_hugging_faces_cache(hub, published, name):
    folder = models.folder_of(name)
    assert same_files(folder, published[NAME], but={"README.md"})
    assert folder == copies.cache_entry(NAME) / "snapshots" / COMMIT


def test_only_the_files_of_one_layout_are_downloaded(hub, published):
    folder = models.folder_of(NAME)
    assert not (folder / "original").exists() and not (folder / "metal").exists()
    assert hub.sent == sum(
        path.stat().st_size for path in published[NAME].iterdir() if path.suffix != ".md" and path.is_file()
    )
    assert not [path for path in hub.requests if "/original/" in path or "/metal/" in path]


def test_a_model_that_is_here_needs_no_network(hub, monkeypatch):
    folder = models.folder_of(NAME)
    hub.requests.clear()
    assert models.folder_of(NAME) == models.folder_of("20b") == folder and not hub.requests
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    assert models.folder_of(f"{NAME}@{COMMIT}") == folder


def test_what_huggingface_hub_has_downloaded_is_found(hub):
    from huggingface_hub import snapshot_download

    where = snapshot_download(NAME, endpoint=hub.url, cache_dir=copies.hub_cache(), allow_patterns="*/*")
    hub.requests.clear()
    assert models.folder_of(NAME) == Path(where) / "original" and not hub.requests


def test_huggingface_hub_finds_what_was_downloaded(hub):
    from huggingface_hub import hf_hub_download

    folder = models.folder_of(NAME)
    before = hub.sent
    there = hf_hub_download(NAME, "model-00001-of-00002.safetensors", endpoint=hub.url, cache_dir=copies.hub_cache())
    assert Path(there).parent == folder and hub.sent == before
    offline = hf_hub_download(NAME, "config.json", cache_dir=copies.hub_cache(), local_files_only=True)
    assert Path(offline).parent == folder


def test_a_repository_without_the_usual_layout_is_run_from_the_one_it_has(hub):
    folder = models.folder_of("somebody/original")
    assert folder.name == "original"
    assert mlx_oss.load_model(folder).config.num_hidden_layers == 3


@pytest.mark.parametrize("name", [NAME, "mlx-community/gpt-oss-20b-MXFP4"])
def test_a_model_is_loaded_by_its_name(hub, published, name):
    model, _ = mlx_oss.load(name)
    again = mlx_oss.load_model(published[name])
    assert mx.array_equal(model(mx.array([[5, 7]])), again(mx.array([[5, 7]])))


def test_what_cannot_be_loaded_as_it_is_is_converted_once(hub, published, caplog):
    steps = []
    folder = models.folder_of("somebody/fine-tune", progress=lambda now: steps.append(now.step))
    assert set(steps) == {"downloading", "converting"} and "is converted once" in caplog.text
    mlx_oss.load_model(folder)
    steps.clear(), hub.requests.clear()
    assert models.folder_of("somebody/fine-tune", progress=lambda now: steps.append(now.step)) == folder
    assert not steps and not hub.requests
    assert same_files(models.folder_of("somebody/fine-tune", as_released=True), published["somebody/fine-tune"])


def test_progress_counts_the_bytes_of_the_weights(hub, published):
    seen = []
    models.folder_of(NAME, progress=seen.append)
    total = weight_bytes(published[NAME])
    assert seen[-1] == models.Progress("downloading", total, total)
    assert [now.done for now in seen] == sorted(now.done for now in seen)


def test_a_broken_connection_is_continued(hub, published, monkeypatch):
    monkeypatch.setattr("mlx_oss.weights.hub.download._PAUSE", 0.0)
    hub.cut["model-00001-of-00002.safetensors"] = 100_000
    assert same_files(models.folder_of(NAME), published[NAME], but={"README.md"})
    assert hub.sent < 1.05 * sum(path.stat().st_size for path in published[NAME].iterdir() if path.is_file())


def test_a_half_downloaded_file_is_completed(hub, published, tmp_path):
    file = published[NAME] / "model-00001-of-00002.safetensors"
    part = blobs(tmp_path) / f"{sha256(file)}.incomplete"
    part.parent.mkdir(parents=True)
    part.write_bytes(file.read_bytes()[:200_000])
    assert same_files(models.folder_of(NAME), published[NAME], but={"README.md"})
    assert hub.sent < weight_bytes(published[NAME]) - 150_000
    assert not list(blobs(tmp_path).glob("*.incomplete"))


def test_rubble_of_a_download_is_downloaded_again(hub, published, tmp_path):
    file = published[NAME] / "model-00001-of-00002.safetensors"
    part = blobs(tmp_path) / f"{sha256(file)}.incomplete"
    part.parent.mkdir(parents=True)
    part.write_bytes(bytes(200_000))
    assert same_files(models.folder_of(NAME), published[NAME], but={"README.md"})


@pytest.mark.parametrize("length", [1, 10_000_000])
def test_a_server_that_ignores_ranges_and_a_part_that_is_too_long_do_no_harm(hub, published, tmp_path, length):
    hub.ranges = False
    file = published[NAME] / "model-00001-of-00002.safetensors"
    part = blobs(tmp_path) / f"{sha256(file)}.incomplete"
    part.parent.mkdir(parents=True)
    part.write_bytes((file.read_bytes() * 100)[:length])
    assert same_files(models.folder_of(NAME), published[NAME], but={"README.md"})


def test_a_file_with_another_sha256_than_stated_never_gets_its_name(hub, tmp_path):
    hub.spoiled.add("model-00001-of-00002.safetensors")
    with pytest.raises(DownloadError, match=r"model-00001-of-00002\.safetensors does not have the checksum"):
        models.folder_of(NAME)
    assert len(list(blobs(tmp_path).glob("?" * 64))) <= 2 and not copies.find(models.hub_model(NAME)).is_whole
    hub.spoiled.clear()
    models.folder_of(NAME)


@pytest.mark.parametrize(
    ("status", "headers", "expected"),
    [
        (401, {"X-Error-Code": "RepoNotFound"}, "no model openai/gpt-oss-20b, or it is private.*hf auth login"),
        (403, {"X-Error-Code": "GatedRepo"}, "accept them on .*/openai/gpt-oss-20b, then log in"),
        (401, {"X-Error-Message": "Invalid credentials in Authorization header"}, "refuses the access token"),
        (404, {"X-Error-Code": "RepoNotFound"}, "no model openai/gpt-oss-20b"),
        (404, {"X-Error-Code": "RevisionNotFound"}, "no revision"),
        (429, {"Retry-After": "7"}, "wait 7 seconds"),
        (429, {}, "wait some minutes"),
        (503, {}, "HTTP status 503: try again later"),
    ],
)
@pytest.mark.parametrize("where", ["/api/models/", "model-00001-of-00002"])
def test_each_refusal_of_the_server_is_a_sentence(hub, monkeypatch, where, status, headers, expected):
    monkeypatch.setattr("mlx_oss.weights.hub.download._PAUSE", 0.0)
    hub.statuses[where], hub.headers = status, headers
    with pytest.raises(DownloadError, match=expected):
        models.folder_of(NAME)


def test_a_name_that_is_not_on_the_hub_and_one_that_is_none_are_told_apart(hub):
    with pytest.raises(DownloadError, match="has no model somebody/nothing"):
        models.folder_of("somebody/nothing")
    with pytest.raises(DownloadError, match="21b does not exist, and is not the name of a model"):
        models.folder_of("21b")
    with pytest.raises(DownloadError, match=r"no \*\.safetensors files but \.gguf"):
        models.folder_of("somebody/gguf")
    with pytest.raises(CheckpointError, match="does not exist"):
        mlx_oss.load("./somebody/nothing")
    assert not [path for path in hub.requests if "21b" in path]


def test_a_server_that_cannot_be_reached_or_stalls_is_a_sentence(hub, monkeypatch):
    monkeypatch.setattr("mlx_oss.weights.hub.download._PAUSE", 0.0)
    monkeypatch.setattr("mlx_oss.weights.hub.download._ATTEMPTS", 1)
    hub.stalled.add("model-00001-of-00002.safetensors")
    with pytest.raises(DownloadError, match="does not answer: try again later"):
        models.folder_of(NAME)
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(DownloadError, match="cannot be reached: check the network"):
        models.folder_of("openai/gpt-oss-120b")


def test_a_disk_without_room_is_told_before_the_first_byte_of_weights(hub, monkeypatch, tmp_path):
    monkeypatch.setattr(shutil, "disk_usage", lambda _: shutil._ntuple_diskusage(10**9, 10**9, 10_000))
    with pytest.raises(DownloadError, match=r"GB more on the disk of .*hub, which has .* free: free some space"):
        models.folder_of(NAME)
    assert not list(blobs(tmp_path).glob("*.incomplete"))


def test_a_disk_that_fills_up_is_a_sentence_and_what_is_there_is_kept(hub, published, monkeypatch, tmp_path):
    real = Path.open

    class Full:
        def __init__(self, file):
            self.file, self.room = file, 100_000

        def write(self, data):
            self.room -= len(data)
            if self.room < 0:
                raise OSError(28, "No space left on device")
            return self.file.write(data)

        def __getattr__(self, name):
            return getattr(self.file, name)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            self.file.close()

    def limited(path, mode="r", *args, **options):
        file = real(path, mode, *args, **options)
        return Full(file) if path.name.endswith(".incomplete") and mode == "ab+" else file

    with monkeypatch.context() as patch:
        patch.setattr("mlx_oss.weights.hub.download._PIECE", 10_000)
        patch.setattr(Path, "open", limited)
        with pytest.raises(DownloadError, match=r"the disk of .* is full: free some space"):
            models.folder_of(NAME)
    for thread in threading.enumerate():
        if thread.name == "mlx-oss download":
            thread.join()
    kept = weights_there(tmp_path)
    assert kept > 50_000
    before = hub.asked
    models.folder_of(NAME)
    assert hub.asked - before == weight_bytes(published[NAME]) - kept


COMMAND = [sys.executable, "-m", "mlx_oss"]


def started(*arguments: str) -> subprocess.Popen[str]:
    return subprocess.Popen([*COMMAND, *arguments], text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE)


def until(condition, seconds: float = 60) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_a_download_that_is_stopped_or_killed_goes_on_where_it_was(hub, published, number, tmp_path):
    hub.pace = 0.05
    process = started("pull", NAME)
    until(lambda: weights_there(tmp_path) > 100_000)
    process.send_signal(number)
    _, stderr = process.communicate(timeout=30)
    if number == signal.SIGINT:
        assert process.returncode == 130 and "the same command continues from there" in stderr
    kept, before, hub.pace = weights_there(tmp_path), hub.asked, 0.0
    assert kept > 100_000
    done = started("pull", NAME)
    out, _ = done.communicate(timeout=60)
    assert done.returncode == 0 and "is here" in out
    assert same_files(models.folder_of(NAME), published[NAME], but={"README.md"})
    assert hub.asked - before == weight_bytes(published[NAME]) - kept + header_bytes(published[NAME])


def test_two_processes_at_once_download_each_file_once(hub, published):
    hub.pace = 0.01
    both = [started("pull", NAME) for _ in range(2)]
    for process in both:
        process.communicate(timeout=60)
    assert [process.returncode for process in both] == [0, 0]
    assert same_files(models.folder_of(NAME), published[NAME], but={"README.md"})
    weights = [path.name for path in published[NAME].glob("*.safetensors")]  # each process reads the headers
    assert all(hub.requests[f"GET /{NAME}/resolve/{COMMIT}/{name}"] == 3 for name in weights)


def test_ctrl_c_does_not_wait_for_a_server_that_stalls(hub, monkeypatch):
    monkeypatch.setenv("HF_HUB_DOWNLOAD_TIMEOUT", "60")
    hub.stalled.add("model-00001-of-00002.safetensors")
    timer = threading.Timer(1.0, os.kill, (os.getpid(), signal.SIGINT))
    timer.start()
    begun = time.monotonic()
    with pytest.raises(KeyboardInterrupt):
        models.folder_of(NAME)
    assert time.monotonic() - begun < 20  # not the sixty seconds of the timeout


def test_a_damaged_file_is_downloaded_again(hub, published, tmp_path, capsys):
    from mlx_oss.cli import main

    folder = models.folder_of(NAME)
    blob = (folder / "model-00001-of-00002.safetensors").resolve()
    data = bytearray(blob.read_bytes())
    data[-1] ^= 1
    blob.write_bytes(data)
    assert main(["verify", NAME]) == 4 and "differs from the checksum" in capsys.readouterr().err
    before = hub.sent
    assert main(["verify", NAME, "--repair"]) == 0
    assert "downloaded again: model-00001-of-00002.safetensors" in capsys.readouterr().err
    assert same_files(folder, published[NAME], but={"README.md"}) and hub.sent - before == len(data)


def test_models_are_listed_with_their_places(hub, published, tmp_path, capsys):
    from mlx_oss.cli import main

    assert main(["models"]) == 0 and "mlx-oss pull 20b" in capsys.readouterr().out
    models.folder_of("somebody/fine-tune")
    studio = tmp_path / "home" / ".lmstudio" / "models" / "mlx-community" / "gpt-oss-20b-MXFP4"
    shutil.copytree(published["mlx-community/gpt-oss-20b-MXFP4"], studio)
    part = blobs(tmp_path) / ("0" * 64 + ".incomplete")
    part.parent.mkdir(parents=True)
    part.write_bytes(b"begun")
    assert main(["models", "--json"]) == 0
    import json

    rows = {(row["name"], row["place"]): row for row in json.loads(capsys.readouterr().out)}
    assert rows["mlx-community/gpt-oss-20b-MXFP4", "LM Studio"]["here"] == "everything in memory"
    assert rows["mlx-community/gpt-oss-20b-MXFP4", "LM Studio"]["stored"] == "mxfp4, bf16"
    assert rows["somebody/fine-tune", "Hugging Face's cache"]["here"] == "converted when it is first loaded"
    assert rows["somebody/fine-tune", "mlx-oss"]["whole"] is True
    assert rows[NAME, "Hugging Face's cache"]["whole"] is False
    assert models.folder_of("mlx-community/gpt-oss-20b-MXFP4") == studio
    assert main(["models"]) == 0 and "LM Studio" in capsys.readouterr().out


def test_removing_says_what_is_freed_and_leaves_what_others_use(hub, tmp_path, capsys):
    from mlx_oss.cli import main

    models.folder_of("somebody/fine-tune")
    assert main(["rm", "somebody/fine-tune"]) == 1
    captured = capsys.readouterr()
    assert "freed" in captured.out and "add --yes" in captured.err
    assert [copy.place for copy in copies.all_copies()] == ["Hugging Face's cache"]
    assert main(["rm", "somebody/fine-tune", "--yes"]) == 0
    assert copies.all_copies() == []
    assert main(["rm", "somebody/fine-tune"]) == 2 and "is not on this disk" in capsys.readouterr().err


@pytest.fixture(scope="module")
def released_nano(tmp_path_factory) -> Path:
    """nano in the released layout, to stand in for a model that answers."""
    from mlx_oss.nano import unpack

    folder = tmp_path_factory.mktemp("nano") / "release"
    folder.mkdir()
    unpack(folder)
    return folder


@pytest.mark.parametrize(
    ("document", "section"), [("README.md", "## The real weights"), ("examples/README.md", "## Getting a model")]
)
def test_the_commands_for_real_weights_run_as_they_are_written(hub, released_nano, document, section, tmp_path):
    """One after another in one shell, with the question on stdin."""
    text = (Path(__file__).parents[1] / document).read_text()
    commands = text.partition(section)[2].partition("```sh\n")[2].partition("```")[0]
    hub.repositories[NAME] = released_nano
    (tmp_path / "bin").mkdir()
    script = tmp_path / "bin" / "mlx-oss"
    script.write_text(f'#!/bin/sh\nexec {sys.executable} -m mlx_oss "$@"\n')
    script.chmod(0o755)
    environment = os.environ | {"PATH": f"{tmp_path / 'bin'}:{os.environ['PATH']}"}
    done = subprocess.run(
        ["sh", "-e", "-c", commands],
        input="What is the capital of France?",
        text=True,
        capture_output=True,
        env=environment,
    )
    assert done.returncode == 0 and "Paris" in done.stdout, done.stderr
    assert "GB from 127.0.0.1" in done.stderr


def test_in_a_conversation_the_model_is_changed_and_the_conversation_goes_on(hub, released_nano, monkeypatch, capsys):
    """The old model is out of memory before the new one is loaded. If that cannot be loaded, the old one comes back."""
    from mlx_oss.cli import main

    hub.repositories[NAME] = released_nano
    loaded: list[weakref.ref[object]] = []
    real = mlx_oss.load

    def load(*arguments, **options):
        gc.collect()
        assert all(engine() is None for engine in loaded)
        model, tokenizer = real(*arguments, **options)
        loaded.append(weakref.ref(model))
        return model, tokenizer

    typed = iter(
        [
            "What is the capital of France?",
            "/model",
            "/models",
            "/model 20b",
            "And of Italy?",
            "/model somebody/nothing",
            "/model mlx-community/gpt-oss-20b-MXFP4",
            "/stats",
        ]
    )

    def read() -> str:
        if (line := next(typed, None)) is None:
            raise EOFError
        return line

    monkeypatch.setattr(mlx_oss, "load", load)
    monkeypatch.setattr("mlx_oss.cli.prompt.make_reader", lambda commands, **_: read)
    monkeypatch.setattr("sys.stdin", io.StringIO())
    monkeypatch.setattr("sys.stdin.isatty", lambda: True, raising=False)
    assert main(["chat", "--temperature", "0"]) == 0
    captured = capsys.readouterr()
    said = captured.out + captured.err
    assert "Paris" in said and "Rome" in said and "mlx-oss pull 20b" in said
    assert f"snapshots/{COMMIT}; it reads the conversation again" in said
    assert "has no model somebody/nothing" in said
    assert (len(loaded) == 3 and "turns 2" in said) or "answers 2" in said
