"""Files of requests and responses: read as untrusted, continued where they stopped, never half written."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from mlx_oss import BatchError, OptionError, Reply, Usage
from mlx_oss.server import batch_files
from mlx_oss.server.batch_files import BatchRequest, ResponseFile, read_requests

BODY = {"messages": [{"role": "user", "content": "Hi"}]}


def line(custom_id: Any, **more: Any) -> dict[str, Any]:
    return {"custom_id": custom_id, "method": "POST", "url": "/v1/chat/completions", "body": BODY} | more


def written(path: Path, *lines: Any) -> Path:
    texts = [text if isinstance(text, str) else json.dumps(text) for text in lines]
    path.write_text("".join(f"{text}\n" for text in texts), encoding="utf-8")
    return path


@pytest.fixture
def requests(tmp_path) -> list[BatchRequest]:
    return [*read_requests(written(tmp_path / "in.jsonl", line("a"), line("b"), line("c")))]


def ids(requests: list[BatchRequest]) -> dict[str, str]:
    return {request.custom_id: request.id for request in requests}


def reply(text: str = "Hello.") -> Reply:
    return Reply(text, "", (), "stop", Usage(1, 0, 1))


def test_each_line_is_a_request_and_blank_ones_are_none(tmp_path):
    path = written(tmp_path / "in.jsonl", line("a"), "", "  ", line("b \N{SNOWMAN}", priority=1))
    assert [request.custom_id for request in read_requests(path)] == ["a", "b \N{SNOWMAN}"]


def test_a_file_of_windows_is_read_too(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_bytes(b"\xef\xbb\xbf" + json.dumps(line("a")).encode() + b"\r\n" + json.dumps(line("b")).encode())
    assert [request.custom_id for request in read_requests(path)] == ["a", "b"]


def test_the_id_says_what_is_asked_and_not_how_it_is_written(tmp_path):
    (first,) = read_requests(written(tmp_path / "1", line("a")))
    (same,) = read_requests(written(tmp_path / "2", dict(reversed(line("x").items()))))
    (other,) = read_requests(written(tmp_path / "3", line("a", body={"messages": []})))
    assert first.id == same.id != other.id


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"{", "line 2 is not JSON"),
        (b"[" * 100_000, "line 2 is not JSON"),
        (b"1" * 5000, "line 2 is not JSON"),
        (b"\xff\xfe", "line 2 is not text in UTF-8: save the file as UTF-8"),
        (b"[]", "line 2 has no custom_id"),
        (b'{"method": "POST"}', "line 2 has no custom_id"),
        (b'{"custom_id": 7}', "line 2 has no custom_id"),
        (b'{"custom_id": ""}', "line 2 has no custom_id"),
        (json.dumps({"custom_id": "x" * 600}).encode(), "custom_id of 1 to 512 characters"),
        (json.dumps(line("a")).encode(), "line 2 has the custom_id 'a' of line 1: give each request one of its own"),
    ],
)
def test_a_bad_line_is_named_with_its_number(tmp_path, content, reason):
    path = written(tmp_path / "in.jsonl", line("a"))
    path.write_bytes(path.read_bytes() + content + b"\n")
    with pytest.raises(BatchError) as raised:
        list(read_requests(path))
    assert reason in str(raised.value) and "in.jsonl, " in str(raised.value)


def test_a_line_is_read_up_to_a_limit_only(tmp_path, monkeypatch):
    monkeypatch.setattr(batch_files, "LINE_BYTES", 1000)
    path = written(tmp_path / "in.jsonl", line("a"), line("b", body="x" * 2000))
    with pytest.raises(BatchError, match="line 2 has more than 1,000 bytes: shorten it or take it out"):
        list(read_requests(path))
    with open(tmp_path / "hole", "wb") as file:
        file.truncate(1 << 40)  # a terabyte without a line break
    with pytest.raises(BatchError, match="line 1 has more than"):
        list(read_requests(tmp_path / "hole"))


def test_so_many_requests_are_refused_that_their_ids_would_fill_the_memory(tmp_path, monkeypatch):
    monkeypatch.setattr(batch_files, "MOST_REQUESTS", 2)
    with pytest.raises(BatchError, match="has more than 2 requests: split it into several files"):
        list(read_requests(written(tmp_path / "in.jsonl", line("a"), line("b"), line("c"))))


def test_what_is_no_file_is_not_waited_for(tmp_path):
    os.mkfifo(tmp_path / "pipe")
    for path, reason in (("pipe", "a named pipe"), (".", "a folder"), ("none", "No such file"), ("a\0b", "null")):
        with pytest.raises(BatchError) as raised:
            list(read_requests(str(tmp_path / path)))
        assert reason in str(raised.value) and "give a file with a request in each line" in str(raised.value)
        if path != "none":
            with pytest.raises(BatchError, match="cannot be written"):
                ResponseFile(str(tmp_path / path), {}, "nano")


def test_responses_are_in_the_file_at_once_and_a_second_opening_goes_on(tmp_path, requests):
    path = tmp_path / "out.jsonl"
    first = ResponseFile(path, ids(requests), "nano")
    first.write(requests[1], reply("\N{SNOWMAN}\ud800\n"))
    first.write(requests[0], OptionError("top_p is 7"))
    told = [json.loads(text) for text in path.read_text().splitlines()]
    assert [entry["custom_id"] for entry in told] == ["b", "a"]
    assert [entry["response"]["status_code"] for entry in told] == [200, 400]
    assert told[0].keys() == {"id", "custom_id", "response", "error"}
    assert told[0]["response"].keys() == {"status_code", "request_id", "body"}
    assert told[1]["response"]["body"]["error"]["message"] == "top_p is 7"
    first.close()
    second = ResponseFile(path, ids(requests), "nano")
    assert second.answered == {"a", "b"} and second.refused == 1
    second.write(requests[2], reply())
    second.close()
    assert [json.loads(text)["custom_id"] for text in path.read_text().splitlines()] == ["b", "a", "c"]


def test_a_line_that_was_half_written_is_taken_away_wherever_it_was_cut(tmp_path, requests):
    path = tmp_path / "out.jsonl"
    whole = ResponseFile(path, ids(requests), "nano")
    whole.write(requests[0], reply())
    whole.write(requests[1], reply("\N{SNOWMAN}"))
    whole.close()
    content = path.read_bytes()
    kept = content.index(b"\n") + 1
    for length in range(kept, len(content)):
        path.write_bytes(content[:length])
        again = ResponseFile(path, ids(requests), "nano")
        again.close()
        if length < len(content) - 1:
            assert again.answered == {"a"} and path.read_bytes() == content[:kept]
        else:  # only the line break was missing
            assert again.answered == {"a", "b"} and path.read_bytes() == content


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        ("my notes", "line 1 is no response of this command"),
        ("my notes\n", "line 1 is no response of this command"),
        ('{"id": "batch_req_1", "custom_id": "a", "response": null, "error": null}\n', "is no response"),
        ('{"custom_id": "a"}\n', "is no response of this command: give another file for the responses"),
        ("[]\n", "is no response"),
        ("[" * 100_000 + "\n", "is no response"),
    ],
)
def test_a_file_of_something_else_stays_as_it_is(tmp_path, requests, content, reason):
    path = tmp_path / "out.jsonl"
    path.write_text(content)
    with pytest.raises(BatchError) as raised:
        ResponseFile(path, ids(requests), "nano")
    assert reason in str(raised.value) and path.read_text() == content


def test_changed_requests_are_noticed_and_new_ones_are_welcome(tmp_path, requests):
    path = tmp_path / "out.jsonl"
    file = ResponseFile(path, ids(requests), "nano")
    file.write(requests[0], reply())
    file.close()
    for changed in ({**ids(requests), "a": "batch_req_other"}, {"b": requests[1].id}):
        with pytest.raises(BatchError, match=r"line 1 is the response to another request 'a' .* give the requests as"):
            ResponseFile(path, changed, "nano")
    more = ResponseFile(path, {**ids(requests), "d": "batch_req_new"}, "nano")
    assert more.answered == {"a"}
    more.close()


def test_another_model_is_noticed(tmp_path, requests):
    path = tmp_path / "out.jsonl"
    file = ResponseFile(path, ids(requests), "nano")
    file.write(requests[0], reply())
    file.close()
    with pytest.raises(BatchError, match="was answered by 'nano', not by 'openai/gpt-oss-20b': give the same --model"):
        ResponseFile(path, ids(requests), "openai/gpt-oss-20b")


def test_two_processes_do_not_write_into_one_file(tmp_path, requests):
    path = tmp_path / "out.jsonl"
    file = ResponseFile(path, ids(requests), "nano")
    program = (
        "import sys; from mlx_oss.server.batch_files import ResponseFile\n"
        "try: ResponseFile(sys.argv[1], {}, 'nano')\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert "BatchError" in done.stdout and "is used by another process: wait until it has ended" in done.stdout
    file.close()
    assert subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True).stdout == ""


def test_a_missing_folder_is_told_as_such(tmp_path):
    with pytest.raises(BatchError, match=r"its folder is not there.*: make the folder first"):
        ResponseFile(tmp_path / "none" / "out.jsonl", {}, "nano")


def test_a_full_disk_leaves_whole_lines(tmp_path, requests):
    """A limit on the size of files stands for the disk; its signal is ignored by Python."""
    program = """
import resource, sys
from tests.server.test_batch_files import *
requests = [BatchRequest(name, "batch_req_" + name, {}) for name in "abcdef"]
resource.setrlimit(resource.RLIMIT_FSIZE, (1500, 1500))
file = ResponseFile(sys.argv[1], ids(requests), "nano")
try:
    for request in requests:
        file.write(request, reply("x" * 100))
except BatchError as error:
    print(error)
file.close()
"""
    path = tmp_path / "out.jsonl"
    done = subprocess.run([sys.executable, "-c", program, str(path)], capture_output=True, text=True, check=True)
    assert "cannot be written (File too large): free some space, and give the same command again" in done.stdout
    kept = [json.loads(text)["custom_id"] for text in path.read_text().splitlines()]
    assert kept == list("ab") and path.read_text().endswith("\n")
