"""What a repository of the Hub holds: asks for its files, their sizes and checksums, and reads headers of weight files.

Everything that the server says is checked before it is used. Downloads no weights.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from mlx_oss.errors import CheckpointError, DownloadError
from mlx_oss.files import HEADER_BYTES
from mlx_oss.weights.hub import choice
from mlx_oss.weights.hub.failures import site
from mlx_oss.weights.hub.names import HubModel

_SHA256 = re.compile(r"[0-9a-f]{64}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_LARGEST = 1 << 42  # bytes of a file
_LONGEST_ERROR = 1 << 20  # bytes of an answer that says what is wrong
_FIRST = 1 << 17  # bytes of a weight file that are asked for first; the headers of the releases are shorter


@dataclass(frozen=True, slots=True)
class RemoteFile:
    """A file of a repository.

    Attributes:
        path: Its path in the repository.
        nbytes: Its size.
        sha256: Its checksum. None for small files, which the Hub keeps in git.
    """

    path: str
    nbytes: int
    sha256: str | None


@dataclass(frozen=True, slots=True)
class Repository:
    """One revision of a model on the Hub, and the files of it that make up the model in one layout.

    Attributes:
        model: Its name, with the commit as the revision.
        folder: The folder of the layout, "" or one that ends in a slash.
        companions: The small files: config, index, tokenizer.
        weights: The weight files. Empty as long as the index that names them has not been read.
        indexed: True if an index names the weight files.
    """

    model: HubModel
    folder: str
    companions: tuple[RemoteFile, ...]
    weights: tuple[RemoteFile, ...]
    indexed: bool

    @property
    def nbytes(self) -> int:
        """Bytes of all files."""
        return sum(file.nbytes for file in (*self.companions, *self.weights))

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
    from huggingface_hub import HfApi

    info = HfApi(endpoint=site()).model_info(
        model.repository, revision=model.revision, files_metadata=True, timeout=_timeout()
    )
    if not _COMMIT.fullmatch(info.sha or ""):
        raise DownloadError(f"{site()} names no commit for {model}: check HF_ENDPOINT")
    files = {file.path: file for file in map(_checked, info.siblings or ()) if file is not None}
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
    companions = [files[folder + name] for name in choice.companions(names)]
    return Repository(
        HubModel(model.repository, info.sha),
        folder,
        tuple(companions),
        tuple(files[folder + name] for name in weights),
        indexed,
    )


def _checked(entry: Any) -> RemoteFile | None:
    """A file of the server's list; None for one that no model needs."""
    if not isinstance(entry.rfilename, str) or not choice.is_safe(entry.rfilename):
        return None
    size, lfs = entry.size, entry.lfs
    if type(size) is not int or not 0 <= size <= _LARGEST:
        raise DownloadError(f"{site()} states no size for {entry.rfilename}: try again later")
    sha256 = lfs["sha256"] if isinstance(lfs, Mapping) else getattr(lfs, "sha256", None)
    if sha256 is not None and not _SHA256.fullmatch(str(sha256)):
        raise DownloadError(f"{site()} states no sha256 for {entry.rfilename}: try again later")
    return RemoteFile(entry.rfilename, size, sha256)


def write_headers(repository: Repository, folder: Path) -> None:
    """Writes each weight file with its header alone: the rest is a hole, which takes no space on the disk.

    Raises:
        CheckpointError: If a header is longer than `HEADER_BYTES`.
        Exception: What `huggingface_hub` raises; see `failures.hub_errors`.
    """
    for file in repository.weights:
        start = _read(repository.model, file, 0, min(_FIRST, file.nbytes))
        length = int.from_bytes(start[:8], "little") + 8
        if length > HEADER_BYTES:
            raise CheckpointError(
                f"{repository.model.repository}: {file.path} has no safetensors header: use another model"
            )
        if length > len(start):
            start += _read(repository.model, file, len(start), min(length, file.nbytes))
        with (folder / Path(file.path).name).open("wb") as out:
            out.write(start[:length])
            out.truncate(file.nbytes)


def _read(model: HubModel, file: RemoteFile, start: int, end: int) -> bytes:
    data = b""
    with opened(model, file, start, end) as response:
        skipped = start if response.status_code == 200 else 0  # a server that ignores Range
        for piece in response.iter_raw():
            data += bytes(piece[skipped:])
            skipped = max(skipped - len(piece), 0)
            if len(data) >= end - start:
                return data[: end - start]
    raise DownloadError(f"{model}: {file.path} ends too early on the Hub: try again later")


@contextmanager
def opened(model: HubModel, file: RemoteFile, start: int, end: int | None = None) -> Iterator[Any]:
    """The response with the bytes of a file from `start` on, while it is open; its `iter_raw` gives them.

    The status is 206, or 200 if the server sends the whole file although a part was asked for.
    """
    from huggingface_hub import hf_hub_url
    from huggingface_hub.utils import build_hf_headers, get_session, hf_raise_for_status

    url = hf_hub_url(model.repository, file.path, revision=model.revision, endpoint=site())
    headers = {**build_hf_headers(), "Accept-Encoding": "identity"}
    if start or end is not None:
        headers["Range"] = f"bytes={start}-{'' if end is None else end - 1}"
    with get_session().stream("GET", url, headers=headers, timeout=_timeout()) as response:
        length = response.headers.get("Content-Length", "")
        if response.status_code >= 400 and length.isdigit() and int(length) <= _LONGEST_ERROR:
            response.read()
        hf_raise_for_status(response)
        yield response


def _timeout() -> float:
    """Seconds without an answer after which a request has failed; the variable is huggingface_hub's."""
    value = os.environ.get("HF_HUB_DOWNLOAD_TIMEOUT", "")
    return float(value) if value.isdigit() and int(value) else 10.0
