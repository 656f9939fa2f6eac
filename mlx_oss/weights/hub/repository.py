"""What a repository of the Hub holds: asks for its files, their sizes and checksums, and reads headers of weight files.

Everything that the server says is checked before it is used. Downloads no weights.
"""

from __future__ import annotations

import json
import os
import re
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

from mlx_oss.errors import CheckpointError, DownloadError
from mlx_oss.files import COMPANION_BYTES, HEADER_BYTES
from mlx_oss.weights.hub import choice
from mlx_oss.weights.hub.failures import site
from mlx_oss.weights.hub.names import HubModel

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHA1 = re.compile(r"[0-9a-f]{40}")
_LARGEST = 1 << 42  # bytes of a file
_LIST_BYTES = 8 << 20  # of the answer that lists a repository's files; those of the releases have 10 kB
_MOST_WEIGHTS = 1000  # files; the releases have 3 and 15
_ERROR_HEADERS = ("X-Error-Code", "X-Error-Message", "Retry-After")
_PATIENCE = 60.0  # seconds for the list, or for a header
_FIRST = 1 << 17  # bytes of a weight file that are asked for first; the headers of the releases are shorter


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository.

    Attributes:
        path: Its path in the repository.
        nbytes: Its size.
        checksum: Its sha256, or for small files, which the Hub keeps in git, git's SHA-1 of a blob.
    """

    path: str
    nbytes: int
    checksum: str


@dataclass(frozen=True, slots=True)
class Repository:
    """One revision of a model on the Hub, and the files of it that make up the model in one layout.

    Attributes:
        model: Its name, with the commit as the revision.
        folder: The folder of the layout, "" or one that ends in a slash.
        first: The small files that opening the model needs: config and index.
        companions: The other small files: tokenizer, templates.
        weights: The weight files. Empty as long as the index that names them has not been read.
        indexed: True if an index names the weight files.
    """

    model: HubModel
    folder: str
    first: tuple[RemoteFile, ...]
    companions: tuple[RemoteFile, ...]
    weights: tuple[RemoteFile, ...]
    indexed: bool

    def named_by(self, index: Path) -> Repository:
        """The same with only the weight files that the index names."""
        have = {file.path.removeprefix(self.folder): file for file in self.weights}
        names = choice.weights(have, choice.index_files(index))
        if missing := [name for name in names if name not in have]:
            raise DownloadError(
                f"{self.model.repository}: {choice.INDEX} names {missing[0]}, which the repository does not hold: use "
                "another revision, or another model"
            )
        return replace(self, weights=tuple(have[name] for name in names))


def look_up(model: HubModel, preferred: str = "") -> Repository:
    """Asks the Hub for the files of a model.

    Args:
        model: The model.
        preferred: The folder of the layout to use, if the repository has it.

    Raises:
        DownloadError: If the repository holds no weights that can be read here, or the server's answer makes no sense.
        Exception: What `huggingface_hub` raises; see `failures.hub_errors`.
    """
    listed = _listed(model)
    commit, siblings = listed.get("sha"), listed.get("siblings")
    if not isinstance(commit, str) or not _SHA1.fullmatch(commit) or not isinstance(siblings, list):
        raise _senseless(f"names no commit of {model}")
    files = {file.path: file for file in map(_checked, siblings) if file is not None}
    folder = choice.model_folder(files, preferred)
    if folder is None:
        kinds = sorted({Path(name).suffix for name in files} & {".gguf", ".bin", ".pt", ".pth"})
        held = f" but {', '.join(kinds)} files" if kinds else ""
        raise DownloadError(
            f"{model} holds no *.safetensors files{held}: use a model in Hugging Face's or MLX's format, such as "
            "openai/gpt-oss-20b"
        )
    names = choice.inside(files, folder)
    indexed = choice.INDEX in names
    every = [name for name in names if name.endswith(".safetensors")]
    weights = sorted(every) if indexed else choice.weights(names, None)
    if len(weights) > _MOST_WEIGHTS:
        raise DownloadError(f"{model} has {len(weights)} weight files, more than any gpt-oss: use another model")
    small = [files[folder + name] for name in choice.companions(names)]
    small = [file for file in small if file.nbytes <= COMPANION_BYTES]
    first = {folder + name for name in ("config.json", choice.INDEX)}
    return Repository(
        HubModel(model.repository, commit),
        folder,
        tuple(file for file in small if file.path in first),
        tuple(file for file in small if file.path not in first),
        tuple(files[folder + name] for name in weights),
        indexed,
    )


def _listed(model: HubModel) -> dict[str, Any]:
    """The Hub's description of a repository, with its files."""
    from huggingface_hub.utils import build_hf_headers

    url = f"{site()}/api/models/{model.repository}"
    if model.revision is not None:
        url += f"/revision/{quote(model.revision, safe='')}"
    end, data = time.monotonic() + _PATIENCE, b""
    with _request(f"{url}?blobs=true", build_hf_headers()) as response:
        for piece in response.iter_bytes():
            data += piece
            if len(data) > _LIST_BYTES:
                raise _senseless(f"lists more files of {model} than any model has")
            if time.monotonic() > end:
                raise TimeoutError
    try:
        listed = json.loads(data)
    except (ValueError, RecursionError):
        listed = None
    if not isinstance(listed, dict):
        raise _senseless(f"does not answer as the Hub does when asked for {model}")
    return listed


def _senseless(what: str) -> DownloadError:
    return DownloadError(
        f"{site()} {what}: check HF_ENDPOINT, and whether the network lets you log in first; or try again later"
    )


def _checked(entry: Any) -> RemoteFile | None:
    """A file of the server's list; None for one that no model needs."""
    path = entry.get("rfilename") if isinstance(entry, dict) else None
    if not isinstance(path, str) or not choice.is_safe(path):
        return None
    size, lfs, checksum = entry.get("size"), entry.get("lfs"), entry.get("blobId")
    if type(size) is not int or not 0 <= size <= _LARGEST:
        raise DownloadError(f"{site()} states no size for {path}: try again later")
    form = _SHA1
    if lfs:
        form, checksum = _SHA256, lfs.get("sha256") if isinstance(lfs, dict) else None
    if not isinstance(checksum, str) or not form.fullmatch(checksum):
        raise DownloadError(f"{site()} states no checksum for {path}: try again later")
    return RemoteFile(path, size, checksum)


def write_headers(repository: Repository, folder: Path) -> None:
    """Writes each weight file with its header alone: the rest is a hole, which takes no space on the disk.

    Of OpenAI's Metal file it writes the beginning, which is more than its header.

    Raises:
        CheckpointError: If a safetensors header is longer than `HEADER_BYTES`.
        Exception: What `huggingface_hub` raises; see `failures.hub_errors`.
    """
    for file in repository.weights:
        start = _read(repository.model, file, 0, min(_FIRST, file.nbytes)) if file.nbytes >= 8 else b""
        is_metal = file.path.rpartition("/")[2] == choice.METAL_FILE
        length = len(start) if is_metal else int.from_bytes(start[:8], "little") + 8
        if not start or length > min(HEADER_BYTES, file.nbytes):
            raise CheckpointError(
                f"{repository.model.repository}: {file.path} has no safetensors header: use another model"
            )
        if length > len(start):
            start += _read(repository.model, file, len(start), length)
        with (folder / Path(file.path).name).open("wb") as out:
            out.write(start[:length])
            out.truncate(file.nbytes)


def _read(model: HubModel, file: RemoteFile, start: int, end: int) -> bytes:
    data, last = b"", time.monotonic() + _PATIENCE
    with opened(model, file, start, end) as response:
        skipped = start if response.status_code == 200 else 0  # a server that ignores Range
        for piece in response.iter_bytes():
            data += bytes(piece[skipped:])
            skipped = max(skipped - len(piece), 0)
            if time.monotonic() > last:
                raise TimeoutError
            if len(data) >= end - start:
                return data[: end - start]
    raise DownloadError(f"{model}: {file.path} ends too early on the Hub: try again later")


@contextmanager
def opened(model: HubModel, file: RemoteFile, start: int, end: int | None = None) -> Iterator[Any]:
    """The response with the bytes of a file from `start` on, while it is open; its `iter_bytes` gives them.

    The status is 206, or 200 if the server sends the whole file although a part was asked for.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers

    url = hf_hub_url(model.repository, file.path, revision=model.revision, endpoint=site())
    headers = build_hf_headers()
    if start or end is not None:
        headers["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
    with _request(url, headers) as response:
        yield response


@contextmanager
def _request(url: str, headers: dict[str, str]) -> Iterator[Any]:
    """The response, while it is open. Raises what `huggingface_hub` makes of the headers of an error."""
    from huggingface_hub.utils import get_session, hf_raise_for_status

    headers = {**headers, "Accept-Encoding": "identity"}
    with get_session().stream("GET", url, headers=headers, timeout=_timeout()) as response:
        if response.status_code >= 400:  # without the body, which could be of any size and form
            headers = {name: response.headers[name] for name in _ERROR_HEADERS if name in response.headers}
            hf_raise_for_status(type(response)(response.status_code, headers=headers, request=response.request))
        yield response


def _timeout() -> float:
    """Seconds without an answer after which a request has failed; the variable is huggingface_hub's."""
    value = os.environ.get("HF_HUB_DOWNLOAD_TIMEOUT", "")
    return float(value) if re.fullmatch("[1-9][0-9]{0,5}", value) else 10.0
