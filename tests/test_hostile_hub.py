"""A Hub that answers with nonsense, too much, or attacks: each is one sentence, and costs little."""

from __future__ import annotations

import json
import os
import shutil
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler
from pathlib import Path

import pytest

from mlx_oss import models
from mlx_oss.cli import main
from mlx_oss.errors import ConfigError, DownloadError, MlxOssError
from mlx_oss.weights.hub import download, repository
from tests.hub import COMMIT, Hub

NAME = "openai/gpt-oss-20b"
LIST = f"/api/models/{NAME}"
WEIGHTS = "model-00001-of-00002.safetensors"

Answer = Callable[[BaseHTTPRequestHandler], None]


def sends(body: bytes, status: int = 200, **headers: str) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(body)
        handler.close_connection = True

    return answer


def endless(status: int = 200, piece: bytes = b" " * (1 << 16)) -> Answer:
    def answer(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(status)
        handler.send_header("Transfer-Encoding", "chunked")
        handler.end_headers()
        for _ in range(40_000):
            handler.wfile.write(b"%x\r\n%s\r\n" % (len(piece), piece))
        raise AssertionError("everything was read")

    return answer


def listing(**changes: object) -> dict[str, object]:
    entry = {"rfilename": "config.json", "size": 10, "blobId": "a" * 40}
    return {"sha": COMMIT, "siblings": [entry, {**entry, "rfilename": "model.safetensors", **changes}]}


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>Log in to the hotel</html>",
        b"[]",
        b"null",
        b'"x"',
        b"{}",
        b"[" * 100_000,
        b"\xff\xfe",
        json.dumps({"sha": "../../x", "siblings": []}).encode(),
        json.dumps({"sha": COMMIT, "siblings": {"a": 1}}).encode(),
        json.dumps({"sha": COMMIT, "siblings": [None, 3, {"rfilename": None}]}).encode(),
        json.dumps(listing(size=-1)).encode(),
        json.dumps(listing(size=1 << 60)).encode(),
        json.dumps(listing(size="7")).encode(),
        json.dumps(listing(size=True)).encode(),
        json.dumps(listing(blobId="../../../x")).encode(),
        json.dumps(listing(lfs={"sha256": "../" * 30})).encode(),
        json.dumps(listing(lfs=["a" * 64])).encode(),
        json.dumps(listing(lfs={"sha256": 7})).encode(),
        json.dumps(listing(rfilename="../model.safetensors")).encode(),
        json.dumps(listing(rfilename="a\u001b[31m.safetensors")).encode(),
    ],
)
def test_a_senseless_list_is_one_sentence(hub, body, capsys):
    hub.answers[LIST] = sends(body)
    assert main(["pull", NAME]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: ") and len(err.splitlines()) == 1 and "\x1b" not in err


@pytest.mark.parametrize("body", [b"[]", b"[" * 100_000, b'{"error": {"a": "\\u001b[2J"}}', b"\x1b[2J"])
@pytest.mark.parametrize("where", [LIST, f"{COMMIT}/config.json", WEIGHTS])
def test_the_body_of_an_error_is_not_read(hub, where, body, capsys, monkeypatch):
    monkeypatch.setattr("mlx_oss.weights.hub.download._PAUSE", 0.0)
    for answer in (sends(body, 500), sends(body, 403, X_Error_Message="\x85\x9b31m"), endless(502, body)):
        hub.answers[where] = answer
        assert main(["pull", NAME]) == 2
        err = capsys.readouterr().err.splitlines()[-1]
        assert err.startswith("error: ") and "\x1b" not in err and "\x9b" not in err


def test_an_endless_list_is_not_read_to_its_end(hub):
    hub.answers[LIST] = endless()
    with pytest.raises(DownloadError, match=r"lists more files of .* than any model has"):
        models.folder_of(NAME)


@pytest.mark.parametrize("file", ["config.json", WEIGHTS])
def test_a_body_that_never_ends_fills_no_disk(hub, tmp_path, file):
    hub.answers[f"{COMMIT}/{file}"] = endless()
    with pytest.raises(DownloadError, match="does not have the checksum"):
        models.folder_of(NAME)
    assert sum(path.stat().st_size for path in tmp_path.rglob("*") if path.is_file()) < 2_000_000


def test_a_list_and_a_header_that_drip_are_given_up(hub, monkeypatch):
    def drip(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("Content-Length", "1000000")
        handler.end_headers()
        for _ in range(300):
            handler.wfile.write(b" ")
            time.sleep(0.05)
        raise AssertionError("everything was read")

    monkeypatch.setattr(repository, "_PATIENCE", 0.5)
    for where in (LIST, WEIGHTS):
        hub.answers[where] = drip
        with pytest.raises(DownloadError, match="does not answer"):
            models.checkpoint_of(NAME)
        del hub.answers[where]


@pytest.fixture
def short_limits(monkeypatch) -> None:
    """A connection is given up after a moment, and tried twice."""
    for name, value in {"_SECONDS": 0.2, "_LEAST": 1000, "_PAUSE": 0.0, "_ATTEMPTS": 2}.items():
        monkeypatch.setattr(download, name, value)


def drips(file: Path, times: int) -> Answer:
    """Sends a file byte by byte for the first `times` requests, and the rest of it at once after these."""
    asked = []

    def answer(handler: BaseHTTPRequestHandler) -> None:
        span = handler.headers.get("Range", "bytes=0-").removeprefix("bytes=").partition("-")
        if span[2]:  # a header
            return sends(file.read_bytes()[: int(span[2]) + 1], 206)(handler)
        asked.append(span[0])
        data = file.read_bytes()[int(span[0]) :]
        if len(asked) > times:
            return sends(data, 206)(handler)
        handler.send_response(206)
        handler.send_header("Content-Length", str(len(data)))
        handler.end_headers()
        handler.close_connection = True
        for byte in data[:1000]:
            handler.wfile.write(bytes([byte]))
            time.sleep(0.02)
        raise AssertionError("the client has read all that came so slowly")

    return answer


@pytest.mark.parametrize("name", [WEIGHTS, "config.json"])
def test_a_file_that_drips_is_given_up_and_what_has_come_is_kept(hub, published, short_limits, name, tmp_path):
    hub.answers[f"{COMMIT}/{name}"] = drips(published[NAME] / name, times=9)
    with pytest.raises(DownloadError, match=r"sends less than 1 kB in 0 seconds: try again later.*continues where"):
        models.folder_of(NAME)
    assert [path.stat().st_size for path in (tmp_path / "hub").rglob("*.incomplete") if path.stat().st_size < 1000]


def test_a_file_that_drips_is_asked_for_once_more_from_where_it_stopped(hub, published, short_limits):
    hub.answers[f"{COMMIT}/{WEIGHTS}"] = drips(published[NAME] / WEIGHTS, times=1)
    folder = models.folder_of(NAME)
    assert (folder / WEIGHTS).read_bytes() == (published[NAME] / WEIGHTS).read_bytes()


def test_a_connection_that_is_slow_but_not_too_slow_is_kept(hub, published, short_limits, monkeypatch):
    monkeypatch.setattr(download, "_SECONDS", 0.05)
    hub.pace = 0.02
    folder = models.folder_of(NAME)
    assert (folder / WEIGHTS).read_bytes() == (published[NAME] / WEIGHTS).read_bytes()
    assert hub.requests[f"GET /{NAME}/resolve/{COMMIT}/{WEIGHTS}"] == 1


def test_a_token_is_not_given_to_another_host(hub, monkeypatch, published):
    """A file may lie elsewhere, as the Hub's large files do."""
    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    with Hub(dict(published)) as other:
        seen = []
        other.answers[WEIGHTS] = lambda handler: (seen.append(dict(handler.headers)), sends(b"", 500)(handler))
        elsewhere = other.url.replace("127.0.0.1", "localhost")
        target = f"{elsewhere}/{NAME}/resolve/{COMMIT}/{WEIGHTS}"
        hub.answers[WEIGHTS] = sends(b"", 302, Location=target)
        with pytest.raises(DownloadError, match="HTTP status 500"):
            models.folder_of(NAME, check=lambda _: "")
        assert seen and not [header for header in seen if "hf_secret" in str(header)]
        del other.answers[WEIGHTS]
        models.folder_of(NAME)


@pytest.mark.parametrize("location", ["", "/again", "http://[bad", "file:///etc/passwd", "gopher://x/", "\x07"])
def test_a_redirect_to_nowhere_is_one_sentence(hub, location, capsys, monkeypatch):
    monkeypatch.setattr(download, "_PAUSE", 0.0)
    for where in (LIST, "config.json", WEIGHTS):
        hub.answers = {where: sends(b"", 302, Location=location), "/again": sends(b"", 302, Location="/again")}
        assert main(["pull", NAME]) == 2
        assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")


def changed(published: dict[str, Path], tmp_path: Path) -> Path:
    folder = tmp_path / "changed"
    shutil.copytree(published[NAME], folder)
    return folder


@pytest.mark.parametrize("header", [b"", b"\0" * 8, b"\xff" * 8, (1 << 22).to_bytes(8, "little"), b"x" * 300_000])
def test_a_file_without_a_header_is_refused_before_its_weights(hub, published, tmp_path, header):
    hub.repositories[NAME] = folder = changed(published, tmp_path)
    (folder / WEIGHTS).write_bytes(header)
    with pytest.raises(MlxOssError):
        models.folder_of(NAME, check=lambda _: "")
    assert not list((tmp_path / "hub").rglob("?" * 64))


@pytest.mark.parametrize(
    ("names", "expected"),
    [
        ([WEIGHTS, "elsewhere.safetensors"], r"names elsewhere\.safetensors, which the repository does not hold"),
        (["../../x", "/etc/passwd"], "names files outside its folder"),
        ([7], "is damaged"),
    ],
)
def test_an_index_of_strange_files_is_refused(hub, published, tmp_path, names, expected):
    hub.repositories[NAME] = folder = changed(published, tmp_path)
    content = {"weight_map": {str(number): name for number, name in enumerate(names)}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(content))
    with pytest.raises(MlxOssError, match=expected):
        models.checkpoint_of(NAME)
    assert not [path for path in hub.requests if "/x" in path or "passwd" in path]


def test_no_warning_names_a_temporary_folder(hub, published, tmp_path):
    hub.repositories[NAME] = folder = changed(published, tmp_path)
    (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "elsewhere.safetensors"}}')
    assert models.checkpoint_of(NAME).folder == Path(NAME)


def test_more_weight_files_than_any_model_has_are_refused(hub):
    entry = {"size": 10, "blobId": "a" * 40}
    names = [f"model-{number:05}-of-05000.safetensors" for number in range(1, 5001)]
    siblings = [{"rfilename": name, **entry} for name in ("config.json", *names)]
    hub.answers[LIST] = sends(json.dumps({"sha": COMMIT, "siblings": siblings}).encode())
    with pytest.raises(DownloadError, match="has 5000 weight files"):
        models.folder_of(NAME)


def test_a_large_file_beside_the_model_is_left_out(hub, published, tmp_path, monkeypatch):
    monkeypatch.setattr(repository, "COMPANION_BYTES", 100_000)
    hub.repositories[NAME] = folder = changed(published, tmp_path)
    (folder / "training_data.json").write_bytes(b" " * 100_001)
    assert not (models.folder_of(NAME) / "training_data.json").exists()


def test_a_truncated_blob_is_completed_by_pull(hub, published, capsys):
    folder = models.folder_of(NAME)
    os.truncate(folder / WEIGHTS, 1000)
    assert main(["pull", NAME]) == 0
    assert (folder / WEIGHTS).read_bytes() == (published[NAME] / WEIGHTS).read_bytes()


@pytest.mark.parametrize(
    "address", ["nonsense", "http://[bad", "http://a:99999", "file:///etc", "http://x\x1b[31m", "://"]
)
def test_a_wrong_address_of_the_hub_is_one_sentence(hub, monkeypatch, address, capsys):
    monkeypatch.setenv("HF_ENDPOINT", address)
    assert main(["pull", NAME]) == 2
    err = capsys.readouterr().err
    assert err.startswith("error: HF_ENDPOINT is ") and len(err.splitlines()) == 1


@pytest.mark.parametrize(("variable", "value"), [("HF_HUB_ETAG_TIMEOUT", "x"), ("HF_TOKEN", "\xfc")])
def test_a_wrong_variable_of_hugging_face_is_one_sentence(hub, variable, value):
    import subprocess
    import sys

    command = [sys.executable, "-m", "mlx_oss", "pull", NAME]
    done = subprocess.run(command, env=os.environ | {variable: value}, capture_output=True, text=True)
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1 and "begin with HF_" in done.stderr


def test_a_model_in_no_format_of_ours_is_refused(hub, tmp_path, published):
    no_config = tmp_path / "no_config"
    no_config.mkdir()
    shutil.copyfile(published[NAME] / WEIGHTS, no_config / WEIGHTS)
    hub.repositories["somebody/bare"] = no_config
    with pytest.raises(ConfigError):
        models.folder_of("somebody/bare", check=lambda _: "")
