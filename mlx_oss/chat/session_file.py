"""The file of a saved session: safetensors, with the conversation as JSON in the header and the caches as tensors.

The text can be read even if the tensors are damaged. Checksums protect both. The file contains a fingerprint of the
model, because caches of another model would give wrong answers without an error. Knows nothing of turns and MLX.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

from mlx_oss.chat.history import Entry
from mlx_oss.constrain import kwargs_from_saved
from mlx_oss.errors import CheckpointError, HarmonyError, OptionError, SessionError
from mlx_oss.events import Stats
from mlx_oss.generation.engine import PromptCache, SavedTensor
from mlx_oss.generation.options import SamplingOptions
from mlx_oss.harmony import Message, SystemContent, message_from_dict, message_to_dict
from mlx_oss.tokenizer import LAST_TEXT_ID
from mlx_oss.weights.safetensors import read_header

FORMAT = "mlx_oss session 1"
T = TypeVar("T")

_RECOVERY_BYTES = 2**26  # how much of a file is searched for text if the length of its header is damaged
_DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}  # their names in safetensors
_NAMES = {stored: name for name, stored in _DTYPES.items()}
_COUNTS = ("reasoned", "retries")  # fields of `Entry` that are saved as they are
_ESCAPED = re.compile(r'\\(?:["\\/bfnrt]|u[0-9a-f]{4})')  # an escape sequence of JSON
_SURROGATE = re.compile("[\ud800-\udfff]")  # in a path: bytes that are not UTF-8; in a text: half of a character
_DECODING_ERRORS = (ValueError, LookupError, TypeError, AttributeError, RecursionError, HarmonyError, OptionError)


@dataclass(frozen=True, slots=True)
class Saved:
    """Everything in a file except the caches.

    Attributes:
        preamble: The system message and, if there is one, the developer message.
        entries: The messages after them.
        cached: The ids whose keys and values are in the caches.
        options: The sampling options.
        limits: Other keyword arguments of `ChatSession`, as JSON.
        stats: What the session cost so far.
        model: Fingerprint of the model that the caches belong to.
        caches: Checksum of the caches; "" before they are written.
    """

    preamble: Sequence[Message]
    entries: Sequence[Entry]
    cached: Sequence[int]
    options: SamplingOptions
    limits: Mapping[str, Any]
    stats: Stats
    model: str
    caches: str = ""

    def session_kwargs(self) -> dict[str, Any]:
        """The keyword arguments of `ChatSession` for this session."""
        contents: list[Any] = [message.content for message in self.preamble]
        system, *developer = contents
        return {
            "instructions": next((content.instructions or "" for content in developer), ""),
            "reasoning_effort": system.reasoning_effort,  # "low" instead of "none"; `limits` below has the real one
            "tools": [tool for content in developer for space in content.tools for tool in space.tools],
            "system_tools": system.tools,
            "options": self.options,
            "current_date": system.conversation_start_date,
            **self.limits,
            **kwargs_from_saved(self.limits),
        }


def write(path: str | Path, saved: Saved, tensors: Callable[[], Iterable[tuple[str, SavedTensor]]]) -> None:
    """Writes a temporary file and renames it, so that the file is always complete.

    Args:
        path: The file to write.
        saved: Everything except the caches.
        tensors: `PromptCache.tensors` of the caches. It is called twice, so that one tensor at a time is in memory.

    Raises:
        SessionError: If the file cannot be written.
    """
    path = Path(path)
    checksum, entries, end = _Checksum(), {}, 0
    for name, tensor in tensors():
        checksum.add(name, tensor)
        start, end = end, end + len(tensor.data)
        entries[name] = {"dtype": _DTYPES[tensor.dtype], "shape": tensor.shape, "data_offsets": [start, end]}
    text = _to_json(replace(saved, caches=checksum.value))
    metadata = {"format": FORMAT, "text": text, "seal": _sha256(text.encode())}
    header = json.dumps({"__metadata__": metadata, **entries}).encode()
    header += b" " * (-len(header) % 8)
    unfinished = path.parent / f".{path.name}.unfinished.safetensors"
    try:
        _check_path(path)
        with unfinished.open("wb") as file:
            file.write(len(header).to_bytes(8, "little") + header)
            for _, tensor in tensors():
                file.write(tensor.data)
            file.flush()
            os.fsync(file.fileno())
        unfinished.replace(path)
    except (OSError, ValueError) as error:
        with contextlib.suppress(OSError, ValueError):  # the temporary file may not exist
            unfinished.unlink()
        reason = getattr(error, "strerror", None) or error
        raise SessionError(f"{path} cannot be written ({reason}): choose another path") from None


def read(path: str | Path, *, damaged: bool = False) -> Saved:
    """Reads everything except the caches.

    Args:
        path: The file.
        damaged: Whether to recover the readable messages if the file is damaged.

    Raises:
        SessionError: If the file cannot be read, is not a saved session, or is damaged (if `damaged`: beyond recovery).
    """
    path = Path(path)
    try:
        _check_path(path)
        with path.open("rb") as file:
            length, size = int.from_bytes(file.read(8), "little"), path.stat().st_size
            raw = file.read(length if length < size else _RECOVERY_BYTES)
            more = file.read(_RECOVERY_BYTES) if damaged else b""  # the damage may be in the length itself
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SessionError(f"{path} cannot be read ({reason}): check the path and its permissions") from None
    try:
        return _from_header(path, raw)
    except SessionError:
        if not damaged:
            raise
        if (recovered := _recover(raw + more)) is None:
            raise SessionError(
                f"{path} is not a saved session, or is damaged: no message in it can be read, so give another file"
            ) from None
        return recovered


def _check_path(path: Path) -> None:
    """Raises ValueError for a path that does not name a file, or not the same one everywhere."""
    if not path.name or "\0" in str(path) or _SURROGATE.search(str(path)):
        raise ValueError("not a valid file name")


def _from_header(path: Path, raw: bytes) -> Saved:
    try:
        metadata = json.loads(raw)["__metadata__"]
        text, seal, form = metadata["text"], metadata["seal"], metadata["format"]
        if form != FORMAT:
            raise SessionError(f"{path} has format {form!r}, but this version reads {FORMAT!r}: update mlx-oss")
        if _sha256(text.encode()) != seal:
            raise SessionError(f"{path} is damaged: `text_only=True` recovers the readable part of the conversation")
        return _from_json(text)
    except _DECODING_ERRORS:
        raise SessionError(
            f"{path} is not a saved session, or is damaged: `text_only=True` recovers the readable messages"
        ) from None


def _recover(raw: bytes) -> Saved | None:
    """The messages of a damaged header that can still be decoded, with newly rendered ids; None if there is none.

    A message that can be decoded is kept even if its text was changed by the damage.
    """
    text = _ESCAPED.sub(lambda match: str(json.loads(f'"{match[0]}"')), raw.decode(errors="replace"))
    decoded = _decode_all(text, '{"message": ', lambda data: Entry.from_message(message_from_dict(data)))
    entries = [entry for entry in decoded if isinstance(entry.message.content, str)]
    blank = [Message("system", SystemContent())]
    preamble = next(_decode_all(text, '"preamble": ', lambda dicts: list(map(message_from_dict, dicts))), blank)
    saved = Saved(preamble, entries, (), SamplingOptions(), {}, Stats(), "")
    try:
        saved.session_kwargs()
    except _DECODING_ERRORS:
        saved = replace(saved, preamble=blank)
    return saved if entries else None


def _decode_all(text: str, prefix: str, convert: Callable[[Any], T]) -> Iterator[T]:
    """Decodes and converts every JSON value that follows `prefix` in the text; skips those that fail."""
    start = text.find(prefix)
    while start >= 0:
        with contextlib.suppress(*_DECODING_ERRORS):
            yield convert(json.JSONDecoder().raw_decode(text, start + len(prefix))[0])
        start = text.find(prefix, start + 1)


def restore(path: str | Path, saved: Saved, cache: PromptCache, fingerprint: str) -> None:
    """Reads the caches into a prompt cache, one tensor at a time.

    Args:
        path: The file.
        saved: What `read` returned for it.
        cache: The prompt cache; it stays as it is if the caches cannot be read.
        fingerprint: Fingerprint of the engine that the caches must belong to.

    Raises:
        SessionError: If the caches are damaged or belong to another model.
    """
    if saved.model != fingerprint:
        raise SessionError(
            f"{path} was saved with another model or dtype, or by an earlier version: `text_only=True` loads its text"
        )
    try:
        cache.restore(saved.cached, _tensors(Path(path), saved.caches))
    except (OSError, ValueError, RuntimeError, CheckpointError):  # MLX raises RuntimeError for impossible shapes
        raise SessionError(
            f"{path} has damaged caches: `text_only=True` recovers the conversation without them"
        ) from None


def _tensors(path: Path, expected: str) -> Iterator[tuple[str, SavedTensor]]:
    """The tensors of a file, sorted by name. Raises ValueError at the end if their checksum is not the expected one."""
    checksum = _Checksum()
    with path.open("rb") as file:
        for name, info in sorted(read_header(path).items()):
            if info.dtype not in _NAMES:
                raise ValueError(f"{name} has dtype {info.dtype}")
            file.seek(info.start)
            tensor = SavedTensor(_NAMES[info.dtype], info.shape, file.read(info.nbytes))
            checksum.add(name, tensor)
            yield name, tensor
    if checksum.value != expected:
        raise ValueError("the checksum is wrong")


def _to_json(saved: Saved) -> str:
    fields = {name: getattr(saved, name) for name in ("cached", "limits", "model", "caches")}
    fields |= {
        "preamble": [message_to_dict(message) for message in saved.preamble],
        "entries": [
            {"message": message_to_dict(entry.message), "ids": list(entry.ids)}
            | {count: getattr(entry, count) for count in _COUNTS}
            for entry in saved.entries
        ],
        "options": {**asdict(saved.options), "logit_bias": list(saved.options.logit_bias.items())},
        "stats": asdict(saved.stats),
    }
    text = json.dumps(fields, ensure_ascii=False)
    return _SURROGATE.sub(lambda match: f"\\u{ord(match[0]):04x}", text)


def _from_json(text: str) -> Saved:
    fields = json.loads(text)
    fields.pop("retries", None)  # older files have one count, for the last turn; now each entry has its own
    fields["preamble"] = [message_from_dict(entry) for entry in fields["preamble"]]
    fields["entries"] = [
        Entry(message_from_dict(entry["message"]), tuple(entry["ids"]), *(entry.get(count, 0) for count in _COUNTS))
        for entry in fields["entries"]
    ]
    fields["options"]["logit_bias"] = dict(fields["options"]["logit_bias"])
    saved = Saved(**fields | {"options": SamplingOptions(**fields["options"]), "stats": Stats(**fields["stats"])})
    saved.session_kwargs()  # raises if the preamble is damaged
    ids = [*saved.cached, *(id_ for entry in saved.entries for id_ in entry.ids)]
    limits = [saved.limits["context_limit"], saved.limits["max_tokens"] or 1]
    limits += [getattr(entry, count) for entry in saved.entries for count in _COUNTS]
    if (
        not {int} >= {*map(type, ids), *map(type, limits)}
        or not 0 <= min(ids, default=0) <= max(ids, default=0) <= LAST_TEXT_ID
    ):
        raise ValueError
    return saved


class _Checksum:
    """SHA-256 of the names, dtypes, shapes and values of tensors that are added sorted by name."""

    def __init__(self) -> None:
        self._hash = hashlib.sha256()

    def add(self, name: str, tensor: SavedTensor) -> None:
        # As MLX writes dtypes, because the first version of the format did.
        self._hash.update(f"{name} mlx.core.{tensor.dtype} {tensor.shape}".encode())
        self._hash.update(tensor.data)

    @property
    def value(self) -> str:
        return self._hash.hexdigest()


def _sha256(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()
