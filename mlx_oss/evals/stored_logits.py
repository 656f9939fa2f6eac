"""Predictions of a model in a file, so that another machine, or the same one later, can compare a copy with them.

The file is safetensors. `tokens` and `labels` of all passages stand one after the other, with the `lengths` of the
passages and the size of the `vocabulary`. For each token that counts there are the most likely ids with their
log-probabilities (`top_ids`, `top_logprobs`), the log of what all others have together (`rest`), and the
log-probability of the token itself (`said`): 2 kB a token. It is written in pieces, under another name until it is
whole, and may come from somebody else: its shapes and values are checked.
"""

from __future__ import annotations

import errno
import json
import math
import os
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from io import FileIO
from pathlib import Path

import numpy as np

from mlx_oss.errors import CheckpointError, MlxOssError, OptionError
from mlx_oss.evals.divergence import TOP, Top
from mlx_oss.evals.passages import LABELS, Passage
from mlx_oss.files import check_regular, expanded, lock
from mlx_oss.weights.safetensors import TensorInfo, read_header

_DTYPES = {"I32": "<i4", "U8": "u1", "F32": "<f4"}
_KINDS = {
    "tokens": "I32",
    "labels": "U8",
    "lengths": "I32",
    "vocabulary": "I32",
    "top_ids": "I32",
    "top_logprobs": "F32",
    "rest": "F32",
    "said": "F32",
}
_HEADER_BYTES = 1 << 16
_AGAIN = "store it again with `mlx-oss compare MODEL --store FILE`"


class StoredLogits:
    """What a file says that a model predicts.

    Args:
        path: The file.

    Attributes:
        path: The file.
        passages: The texts.
        vocab: Size of the vocabulary.

    Raises:
        CheckpointError: If it is damaged, or another file.
        OptionError: If it cannot be read.
    """

    def __init__(self, path: str | Path) -> None:
        self.path = expanded(path)
        header = read_header(self.path, _HEADER_BYTES)
        if {name: tensor.dtype for name, tensor in header.items()} != _KINDS:
            raise CheckpointError(f"{path} has no stored logits: give the folder of a model, or {_AGAIN}")
        self._arrays = {name: self._mapped(tensor) for name, tensor in header.items()}
        self.passages = self._checked_passages()
        self.vocab = int(self._arrays["vocabulary"][0])

    def _mapped(self, tensor: TensorInfo) -> np.ndarray:
        if 0 in tensor.shape:
            return np.zeros(tensor.shape, _DTYPES[tensor.dtype])
        try:
            return np.memmap(self.path, _DTYPES[tensor.dtype], "r", tensor.start, tensor.shape)
        except OSError as error:
            raise OptionError(f"{self.path} cannot be read ({error.strerror}): check its permissions") from None

    def _checked_passages(self) -> list[Passage]:
        a = self._arrays
        tokens, labels, lengths = a["tokens"], a["labels"], a["lengths"]
        good = tokens.ndim == labels.ndim == lengths.ndim == 1 and len(tokens) == len(labels) > 0
        good = good and bool((lengths > 0).all()) and int(lengths.astype(np.int64).sum()) == len(tokens)
        good = good and bool((labels < LABELS).all()) and bool((tokens >= 0).all())
        passages = []
        if good:
            ends = np.cumsum(lengths)
            spans = zip(ends - lengths, ends, strict=True)
            passages = [Passage(np.array(tokens[i:j]), np.array(labels[i:j])) for i, j in spans]
        count = sum(len(passage.counted) for passage in passages)
        shapes = [(a["top_ids"], 2), (a["top_logprobs"], 2), (a["rest"], 1), (a["said"], 1)]
        good = good and all(array.ndim == axes and len(array) == count for array, axes in shapes)
        good = good and a["vocabulary"].shape == (1,)
        good = good and a["top_ids"].shape == a["top_logprobs"].shape and 0 < a["top_ids"].shape[1] <= TOP
        if not good:
            raise CheckpointError(f"{self.path} is damaged: its tensors do not fit together; {_AGAIN}")
        return passages

    def tops(self) -> Iterator[Top]:
        """What was predicted for each token that counts, in their order.

        Raises:
            CheckpointError: If something is no id or no log-probability.
        """
        a = self._arrays
        for n in range(len(a["said"])):
            ids, logprobs = np.array(a["top_ids"][n]), np.array(a["top_logprobs"][n])
            rest, said = float(a["rest"][n]), float(a["said"][n])
            good = bool(((ids >= 0) & (ids < self.vocab)).all()) and len(np.unique(ids)) == len(ids)
            good = good and bool(np.isfinite(logprobs).all()) and math.isfinite(said) and not math.isnan(rest)
            good = good and max(float(logprobs.max()), rest, said) < 1e-3
            good = good and abs(float(np.exp(logprobs).sum()) + math.exp(rest) - 1) < 1e-3
            if not good:
                raise CheckpointError(f"{self.path} is damaged: what it has of token {n} is no prediction; {_AGAIN}")
            yield Top(ids, logprobs, rest, said)


def check_target(path: str | Path) -> None:
    """Raises OptionError if a file cannot be written, so that this is told before the work.

    Only stored logits are replaced: the file may be a model's weights, or the conversations themselves.
    """
    folder = expanded(path).parent
    if not os.access(folder, os.W_OK | os.X_OK):
        raise OptionError(
            f"{path} cannot be written, because {folder} is no folder or may not be changed: give another"
        )
    if expanded(path).is_dir():
        raise OptionError(f"{path} is a folder: give a file")
    if os.path.lexists(expanded(path)) and not _has_logits(expanded(path)):
        raise OptionError(f"{path} is there and has no stored logits: give another file, or move it away first")


def _has_logits(path: Path) -> bool:
    try:
        return {name: tensor.dtype for name, tensor in read_header(path, _HEADER_BYTES).items()} == _KINDS
    except MlxOssError:
        return False


def store(path: str | Path, passages: Sequence[Passage], tops: Iterable[Top], vocab: int) -> None:
    """Writes a file of predictions, and replaces the one that is there when it is whole.

    Args:
        path: The file.
        passages: The texts.
        tops: What is predicted for each token of them that counts, in their order. Read one at a time.
        vocab: Size of the vocabulary.

    Raises:
        OptionError: If it cannot be written.
    """
    path = expanded(path)
    count = sum(len(passage.counted) for passage in passages)
    written = {
        "tokens": np.concatenate([passage.ids for passage in passages]),
        "labels": np.concatenate([passage.labels for passage in passages]),
        "lengths": np.array([len(passage.ids) for passage in passages], np.int32),
        "vocabulary": np.array([vocab], np.int32),
    }
    width = min(TOP, vocab)
    shapes = {name: array.shape for name, array in written.items()}
    shapes |= {"top_ids": (count, width), "top_logprobs": (count, width), "rest": (count,), "said": (count,)}
    header, starts = _header(shapes)
    try:
        with _part_of(path) as (part, file):
            file.write(header)
            for name, array in written.items():
                _write(file.fileno(), array, _KINDS[name], starts[name])
            for number, top in enumerate(tops):
                row = {"top_ids": top.ids, "top_logprobs": top.logprobs, "rest": top.rest, "said": top.said}
                for name, values in row.items():
                    array = np.array(values)
                    _write(file.fileno(), array, _KINDS[name], starts[name] + number * array.size * 4)
            file.truncate(starts["end"])
            os.fsync(file.fileno())
            os.replace(part, path)
    except BlockingIOError:
        raise OptionError(f"{path} is being written by another process: give another file, or wait for it") from None
    except OSError as error:
        remedy = "free some space" if error.errno in (errno.ENOSPC, errno.EDQUOT, errno.EFBIG) else "give another file"
        raise OptionError(f"{path} cannot be written ({error.strerror}): {remedy}") from None


@contextmanager
def _part_of(path: Path) -> Iterator[tuple[Path, FileIO]]:
    """The file that becomes `path` when it is whole, empty and for this process alone. In the end it is gone."""
    part = path.with_name(f".{path.name}.part")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_CLOEXEC | os.O_NONBLOCK | os.O_NOFOLLOW, 0o666)
    with FileIO(descriptor, "w") as file:
        check_regular(part, os.fstat(descriptor))
        lock(descriptor)
        if not os.path.samestat(os.fstat(descriptor), os.stat(part)):  # it has just become the file of another process
            raise BlockingIOError
        file.truncate(0)
        try:
            yield part, file
        finally:
            with suppress(OSError):
                os.unlink(part)


def _header(shapes: dict[str, tuple[int, ...]]) -> tuple[bytes, dict[str, int]]:
    """The header of the file, and where in the file each tensor starts; "end" is where the file ends."""
    entries, position = {}, 0
    for name in sorted(shapes, key=lambda name: _KINDS[name] == "U8"):  # bytes last: the others stay aligned
        size = math.prod(shapes[name]) * np.dtype(_DTYPES[_KINDS[name]]).itemsize
        entries[name] = {
            "dtype": _KINDS[name],
            "shape": list(shapes[name]),
            "data_offsets": [position, position + size],
        }
        position += size
    text = json.dumps(entries).encode()
    text += b" " * (-len(text) % 8)
    base = 8 + len(text)
    starts = {name: base + entry["data_offsets"][0] for name, entry in entries.items()}  # type: ignore[operator]
    return len(text).to_bytes(8, "little") + text, {**starts, "end": base + position}


def _write(descriptor: int, array: np.ndarray, kind: str, position: int) -> None:
    view = memoryview(np.ascontiguousarray(array, _DTYPES[kind]).tobytes())
    while view:
        written = os.pwrite(descriptor, view, position)
        view, position = view[written:], position + written
