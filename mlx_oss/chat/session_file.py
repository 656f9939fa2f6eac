"""The file of a saved session: safetensors, with the conversation as JSON in the header and the caches as tensors.

The text can be read even if the tensors are damaged. Checksums protect both. The file contains a fingerprint of the
model, because caches of another model would give wrong answers without an error. Knows nothing of turns.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import mlx.core as mx
import numpy as np

from mlx_oss.chat.history import Entry
from mlx_oss.constrain import kwargs_from_saved
from mlx_oss.errors import HarmonyError, OptionError, SessionError
from mlx_oss.events import Stats
from mlx_oss.generation.sampling import SamplingOptions
from mlx_oss.harmony import Message, SystemContent, message_from_dict, message_to_dict
from mlx_oss.model.samples import samples
from mlx_oss.model.transformer import Transformer
from mlx_oss.tokenizer import LAST_TEXT_ID

FORMAT = "mlx_oss session 1"
T = TypeVar("T")

_RECOVERY_BYTES = 2**26  # how much of a file is searched for text if the length of its header is damaged
_COUNTS = ("reasoned", "retries")  # fields of `Entry` that are saved as they are
_ESCAPED = re.compile(r'\\(?:["\\/bfnrt]|u[0-9a-f]{4})')  # an escape sequence of JSON
_SURROGATE = re.compile("[\ud800-\udfff]")  # in a path: bytes that are not UTF-8; in a text: half of a character
_DECODING_ERRORS = (ValueError, LookupError, TypeError, AttributeError, RecursionError, HarmonyError, OptionError)


def fingerprint(model: Transformer) -> str:
    """SHA-256 of what a model computes with: its config, its dtype and some values of every module.

    Only models with the same fingerprint share caches. It does not depend on how weights are stored: a release and the
    folder that it was converted to have the same one.
    """
    config = _numbers(asdict(replace(model.config, quantization=None)))
    return _sha256(f"{json.dumps(config)} {model.dtype}".encode(), *map(_bytes, samples(model)))


def _numbers(value: Any) -> Any:
    """Returns `value` with every integer as a float, because checkpoints write 32 or 32.0 for the same setting."""
    if isinstance(value, dict):
        return {key: _numbers(each) for key, each in value.items()}
    return float(value) if isinstance(value, int) and not isinstance(value, bool) else value


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


def write(path: str | Path, saved: Saved, caches: Mapping[str, mx.array]) -> None:
    """Writes a temporary file and renames it, so that the file is always complete.

    Args:
        path: The file to write.
        saved: Everything except the caches.
        caches: The tensors, by name.

    Raises:
        SessionError: If the file cannot be written.
    """
    path = Path(path)
    caches = {name: mx.contiguous(array) for name, array in caches.items()}
    text = _to_json(replace(saved, caches=_checksum(caches)))
    unfinished = path.parent / f".{path.name}.unfinished.safetensors"
    try:
        _check_path(path)
        unfinished.touch()  # if this fails, its error is clearer than that of MLX
        mx.save_safetensors(str(unfinished), caches, {"format": FORMAT, "text": text, "seal": _sha256(text.encode())})
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    except (OSError, RuntimeError, ValueError) as error:
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
    """Raises ValueError for a path that MLX cannot open, or would change into another path."""
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


def read_caches(path: str | Path, saved: Saved, model: Transformer) -> dict[str, mx.array]:
    """Reads the caches.

    Args:
        path: The file.
        saved: What `read` returned for it.
        model: The model that the caches must belong to.

    Raises:
        SessionError: If the caches are damaged or belong to another model.
    """
    if saved.model != fingerprint(model):
        raise SessionError(
            f"{path} was saved with another model or dtype, or by an earlier version: `text_only=True` loads its text"
        )
    try:
        caches = mx.load(str(path), format="safetensors")
        assert isinstance(caches, dict)
        if _checksum(caches) == saved.caches:
            return caches
    except (OSError, RuntimeError, ValueError):
        pass
    raise SessionError(f"{path} has damaged caches: `text_only=True` recovers the conversation without them")


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


def _checksum(caches: Mapping[str, mx.array]) -> str:
    """SHA-256 of the names, dtypes, shapes and values."""
    parts: list[bytes | memoryview] = []
    for name, array in sorted(caches.items()):
        parts += [f"{name} {array.dtype} {array.shape}".encode(), _bytes(array)]
    return _sha256(*parts)


def _bytes(array: mx.array) -> bytes | memoryview:
    return np.array(mx.contiguous(array).reshape(-1).view(mx.uint8)).data


def _sha256(*parts: bytes | memoryview) -> str:
    checksum = hashlib.sha256()
    for part in parts:
        checksum.update(part)
    return checksum.hexdigest()
