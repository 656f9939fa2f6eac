"""Files of requests in OpenAI's batch format, and the files of their responses.

A line of responses is written as soon as it is there, and its `id` is made from the request. So a file of responses
says by itself which requests are answered, and whether they were the same ones. Knows nothing of the command line.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import json
import os
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from io import BufferedReader, FileIO
from pathlib import Path
from typing import Any, BinaryIO

from mlx_oss import json_text
from mlx_oss.errors import BatchError, MlxOssError, quoted
from mlx_oss.events import Reply
from mlx_oss.files import TEXT_BYTES, UnsuitableFile, can_exist, check_regular, expanded, open_regular
from mlx_oss.server.asked import failure_body, status_of
from mlx_oss.server.chat_completions.response import completion

LINE_BYTES = TEXT_BYTES
MOST_REQUESTS = 1_000_000  # their ids are kept in memory
_LONGEST_ID = 512  # characters
_ID = "batch_req_"
_BEGINNING = f'{{"id": "{_ID}'.encode()  # of each line of responses


@dataclass(frozen=True, slots=True)
class BatchRequest:
    """A line of a file of requests.

    Attributes:
        custom_id: Its name, which the response repeats.
        id: Identifies what is asked: another request has another one.
        fields: The line, as read from JSON.
    """

    custom_id: str
    id: str
    fields: Mapping[str, Any]


def read_requests(path: str | Path) -> Iterator[BatchRequest]:
    """Reads a file of requests, line by line. Lines without text are left out.

    Raises:
        BatchError: If the file cannot be read, or a line of it is no request. A wrong `body` is no such error: that is
            found when the request is answered.
    """
    lines: dict[str, int] = {}
    for number, line in _lines(path):
        where = f"{path}, line {number}"
        fields = _decoded(line, where)
        name = fields.get("custom_id") if isinstance(fields, dict) else None
        if not isinstance(name, str) or not 0 < len(name) <= _LONGEST_ID:
            raise BatchError(
                f"{where} has no custom_id: each line has to be an object with a custom_id of 1 to {_LONGEST_ID} "
                "characters, method, url and body"
            )
        if name in lines:
            raise BatchError(
                f"{where} has the custom_id {quoted(name)} of line {lines[name]}: give each request one of its own"
            )
        lines[name] = number
        if len(lines) > MOST_REQUESTS:
            raise BatchError(f"{path} has more than {MOST_REQUESTS:,} requests: split it into several files")
        content = json.dumps([fields.get(key) for key in ("method", "url", "body")], sort_keys=True)
        yield BatchRequest(name, _ID + hashlib.sha256(content.encode()).hexdigest()[:32], fields)


def _decoded(line: bytes, where: str) -> Any:
    try:
        return json_text.loads(line.decode())
    except UnicodeDecodeError:
        raise BatchError(f"{where} is not text in UTF-8: save the file as UTF-8") from None
    except (ValueError, RecursionError) as error:
        raise BatchError(f"{where} is not JSON ({error}): give one JSON object in each line") from None


def _lines(path: str | Path) -> Iterator[tuple[int, bytes]]:
    """The lines with text, and their numbers, from 1 on."""
    try:
        with open_regular(expanded(path)) as file:
            yield from _lines_of(file, path)
    except (OSError, ValueError) as error:  # ValueError: an impossible path
        reason = getattr(error, "strerror", None) or error
        raise BatchError(f"{path} cannot be read ({reason}): give a file with a request in each line") from None


def _lines_of(file: BinaryIO, path: str | Path) -> Iterator[tuple[int, bytes]]:
    number = 0
    while line := file.readline(LINE_BYTES + 1):
        number += 1
        if len(line) > LINE_BYTES:
            raise BatchError(f"{path}, line {number} has more than {LINE_BYTES:,} bytes: shorten it or take it out")
        if number == 1:
            line = line.removeprefix(b"\xef\xbb\xbf")  # which some editors write before UTF-8
        if line.strip():
            yield number, line


class ResponseFile:
    """The file of responses, which is continued if it is there. Only one process can have it open.

    Args:
        path: The file.
        requests: The ids of the requests, by `custom_id`.
        model: Name of the model that answers.

    Attributes:
        answered: The `custom_id`s of the requests that have a response in the file.
        refused: How many of these responses are errors.

    Raises:
        BatchError: If the file cannot be written, is no file of responses, has responses to other requests or of
            another model, or is used by another process.
    """

    def __init__(self, path: str | Path, requests: Mapping[str, str], model: str) -> None:
        self._path, self._model = path, model
        self.answered: set[str] = set()
        self.refused = 0
        try:
            self._file = _opened(expanded(path))
        except BlockingIOError:
            raise BatchError(f"{path} is used by another process: wait until it has ended, or kill it") from None
        except (OSError, ValueError) as error:
            raise _unwritable(path, error) from None
        try:
            self._size = self._continue(requests)
        except OSError as error:
            self.close()
            raise _unwritable(path, error) from None
        except BaseException:
            self.close()
            raise

    def _continue(self, requests: Mapping[str, str]) -> int:
        """Reads what is in the file, and takes away a line that was half written. Returns the size of the rest."""
        size, reader = 0, BufferedReader(self._file)
        for number, line in _lines_of(reader, self._path):
            is_ours = line.startswith(_BEGINNING) or _BEGINNING.startswith(line)
            if is_ours and not line.endswith(b"\n") and not _is_json(line):
                break
            self._take(line, f"{self._path}, line {number}", requests)
            size = reader.tell()
        reader.detach()
        self._file.truncate(size)
        self._file.seek(size)
        if size and os.pread(self._file.fileno(), 1, size - 1) != b"\n":  # an editor has saved the file without it
            self._write(b"\n")
            size += 1
        return size

    def _take(self, line: bytes, where: str, requests: Mapping[str, str]) -> None:
        try:
            fields = json_text.loads(line.decode())
            name, id_, response = fields["custom_id"], fields["id"], fields["response"]
            status, model = response["status_code"], response["body"].get("model")
        except (ValueError, RecursionError, TypeError, LookupError, AttributeError):
            raise BatchError(f"{where} is no response of this command: {_NOT_OURS}") from None
        if not isinstance(name, str) or requests.get(name) != id_:
            raise BatchError(
                f"{where} is the response to another request {quoted(name)} than the file of requests has now: "
                "give the requests as they were, or another file for the responses"
            )
        if status == 200 and model != self._model:
            raise BatchError(
                f"{where} was answered by {quoted(model)}, not by {quoted(self._model)}: give the same --model, or "
                "another file for the responses"
            )
        self.answered.add(name)
        self.refused += status != 200

    def write(self, request: BatchRequest, outcome: Reply | MlxOssError) -> None:
        """Adds the response to a request; it is in the file when this returns.

        Raises:
            BatchError: If it cannot be written. The file then has whole lines only, as before.
        """
        unique = uuid.uuid4().hex
        if isinstance(outcome, Reply):
            status = 200
            body = completion(outcome, id=f"chatcmpl-{unique}", created=int(time.time()), model=self._model)
        else:
            status, body = status_of(outcome), dict(failure_body(outcome))
        response = {"status_code": status, "request_id": f"req_{unique}", "body": body}
        fields = {"id": request.id, "custom_id": request.custom_id, "response": response, "error": None}
        line = json.dumps(fields).encode() + b"\n"
        try:
            self._write(line)
        except OSError as error:
            with contextlib.suppress(OSError):
                self._file.truncate(self._size)
            raise _unwritable(self._path, error) from None
        self._size += len(line)
        self.answered.add(request.custom_id)
        self.refused += status != 200

    def _write(self, data: bytes) -> None:
        left = memoryview(data)
        while left:
            left = left[self._file.write(left) or 0 :]

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()


_NOT_OURS = "give another file for the responses, or take the line out"


def _is_json(line: bytes) -> bool:
    try:
        json.loads(line)
    except (ValueError, RecursionError):
        return False
    return True


def _opened(path: Path) -> FileIO:
    """The file, for reading and writing, locked. Raises BlockingIOError if another process has it."""
    if not can_exist(path):
        raise ValueError("no file can be called so")
    with contextlib.suppress(FileNotFoundError):
        check_regular(path, os.stat(path))  # opening a device can already do something
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOCTTY, 0o666)
    try:
        check_regular(path, os.fstat(descriptor))
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise
        except OSError:  # a file system without locks
            pass
        return FileIO(descriptor, "r+")
    except BaseException:
        os.close(descriptor)
        raise


def _unwritable(path: str | Path, error: Exception) -> BatchError:
    reason = getattr(error, "strerror", None) or error
    remedy = "give another path"
    if isinstance(error, FileNotFoundError) and not expanded(path).parent.exists():
        reason, remedy = "its folder is not there", "make the folder first"
    elif isinstance(error, UnsuitableFile):
        remedy = "give a file"
    elif isinstance(error, OSError) and error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG):
        remedy = "free some space, and give the same command again"
    return BatchError(f"{path} cannot be written ({reason}): {remedy}")
