"""Files of requests in OpenAI's batch format, and the files of their responses.

A line of responses is written as soon as it is there, and its `id` is made from the request. So a file of responses
says by itself which requests are answered, and whether they were the same ones. Knows nothing of the command line.
"""

from __future__ import annotations

import hashlib
import json
import time
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from mlx_oss import json_text
from mlx_oss.errors import BatchError, MlxOssError, quoted
from mlx_oss.events import Reply
from mlx_oss.json_lines import LINE_BYTES, GrowingFile, decoded, read_lines
from mlx_oss.server.asked import failure_body, status_of
from mlx_oss.server.chat_completions.response import completion

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
    for number, line in read_lines(path, BatchError, "give a file with a request in each line", LINE_BYTES):
        where = f"{path}, line {number}"
        fields = decoded(line, where, BatchError)
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
        self._file = GrowingFile(path, BatchError)
        try:
            for number, line in self._file.lines(_BEGINNING, longest=LINE_BYTES):
                self._take(line, f"{path}, line {number}", requests)
        except BaseException:
            self.close()
            raise

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
        self._file.write(fields)
        self.answered.add(request.custom_id)
        self.refused += status != 200

    def close(self) -> None:
        """Lets go of the file."""
        self._file.close()


_NOT_OURS = "give another file for the responses, or take the line out"
