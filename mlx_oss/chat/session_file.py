"""A saved chat: one safetensors file with the conversation as JSON in its header and the caches as its tensors.

The text can be read whatever happens to the tensors. Both are sealed with checksums, and the file says which model the
caches are of: keys and values of another model would be nonsense that nobody notices. Knows nothing of turns.
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
from mlx_oss.model.transformer import Transformer
from mlx_oss.tokenizer import LAST_TEXT_ID

FORMAT = "mlx_oss session 1"
T = TypeVar("T")

_LONGEST_LOST = 2**26  # bytes: how far text is looked for where the header's length is damaged
_COUNTS = ("reasoned", "retries")  # of an entry
_ESCAPED = re.compile(r'\\(?:["\\/bfnrt]|u[0-9a-f]{4})')
_HALF = re.compile("[\ud800-\udfff]")  # surrogates: bytes of a path that are no UTF-8, halves of characters
_NONSENSE = (ValueError, LookupError, TypeError, AttributeError, RecursionError, HarmonyError, OptionError)


def fingerprint(model: Transformer) -> str:
    """Of a model's config, its dtype and some of each layer's weights; models that differ in it share no caches."""
    samples = [model.norm.weight, *(layer.self_attn.sinks for layer in model.layers)]
    samples += [layer.mlp.router.bias for layer in model.layers] + [model.lm_head.weight[0]]
    return _sha256(f"{model.config} {model.dtype}".encode(), *map(_bytes, samples))


@dataclass(frozen=True, slots=True)
class Saved:
    """What a file says in words: all of a session but its caches.

    preamble   the system and, if there is one, the developer message
    entries    the messages since
    cached     the ids whose keys and values are in the caches
    limits     other keyword arguments of `ChatSession`, as JSON
    model      the fingerprint of the model the caches are of; caches: their checksum, "" before they are written
    """

    preamble: Sequence[Message]
    entries: Sequence[Entry]
    cached: Sequence[int]
    options: SamplingOptions
    limits: Mapping[str, Any]
    stats: Stats
    model: str
    caches: str = ""

    def choices(self) -> dict[str, Any]:
        """The keyword arguments of `ChatSession` that this session was made with."""
        contents: list[Any] = [message.content for message in self.preamble]
        system, *developer = contents
        return {
            "instructions": next((content.instructions or "" for content in developer), ""),
            "reasoning_effort": system.reasoning_effort,  # which `limits` say better where it is none
            "tools": [tool for content in developer for space in content.tools for tool in space.tools],
            "system_tools": system.tools,
            "options": self.options,
            "current_date": system.conversation_start_date,
            **self.limits,
            **kwargs_from_saved(self.limits),
        }


def write(path: str | Path, saved: Saved, caches: Mapping[str, mx.array]) -> None:
    """Writes beside the file and renames, so that a file of the name is whole. Raises SessionError if it cannot."""
    path = Path(path)
    caches = {name: mx.contiguous(array) for name, array in caches.items()}
    text = _to_json(replace(saved, caches=_checksum(caches)))
    unfinished = path.parent / f".{path.name}.unfinished.safetensors"
    try:
        _check(path)
        unfinished.touch()  # tells better why it cannot be than MLX does
        mx.save_safetensors(str(unfinished), caches, {"format": FORMAT, "text": text, "seal": _sha256(text.encode())})
        with unfinished.open("rb") as file:
            os.fsync(file.fileno())
        unfinished.replace(path)
    except (OSError, RuntimeError, ValueError) as error:
        with contextlib.suppress(OSError, ValueError):  # it is not there either
            unfinished.unlink()
        reason = getattr(error, "strerror", None) or error
        raise SessionError(f"{path} cannot be written ({reason}): give another place") from None


def read(path: str | Path, *, damaged: bool = False) -> Saved:
    """What a saved file says; `damaged` takes the messages that can be read, if not all can."""
    path = Path(path)
    try:
        _check(path)
        with path.open("rb") as file:
            length, size = int.from_bytes(file.read(8), "little"), path.stat().st_size
            raw = file.read(length if length < size else _LONGEST_LOST)
            more = file.read(_LONGEST_LOST) if damaged else b""  # the length may be what is damaged
    except (OSError, ValueError) as error:
        raise SessionError(f"{path} cannot be read ({getattr(error, 'strerror', None) or error})") from None
    try:
        return _from_header(path, raw)
    except SessionError:
        recovered = _recovered(raw + more) if damaged else None
        if recovered is None:
            raise
        return recovered


def _check(path: Path) -> None:
    """Raises ValueError for a path that MLX could not take, or take for another."""
    if not path.name or "\0" in str(path) or _HALF.search(str(path)):
        raise ValueError("no name that a file can have")


def _from_header(path: Path, raw: bytes) -> Saved:
    try:
        metadata = json.loads(raw)["__metadata__"]
        text, seal, form = metadata["text"], metadata["seal"], metadata["format"]
        if form != FORMAT:
            raise SessionError(f"{path} has format {form!r}, {FORMAT!r} is known: update mlx-oss")
        if _sha256(text.encode()) != seal:
            raise SessionError(f"{path} is damaged: `text_only=True` recovers what can be read of the conversation")
        return _from_json(text)
    except _NONSENSE:
        raise SessionError(f"{path} is no saved session, or damaged: `text_only=True` recovers what it can") from None


def _recovered(raw: bytes) -> Saved | None:
    """Of a damaged header the messages that are whole, with the ids that they have when rendered; None if there is
    none. A message whose text is damaged but whole is taken as it is.
    """
    text = _ESCAPED.sub(lambda match: str(json.loads(f'"{match[0]}"')), raw.decode(errors="replace"))
    found = _found(text, '{"message": ', lambda data: Entry.of(message_from_dict(data)))
    entries = [entry for entry in found if isinstance(entry.message.content, str)]
    blank = [Message("system", SystemContent())]
    preamble = next(_found(text, '"preamble": ', lambda dicts: list(map(message_from_dict, dicts))), blank)
    saved = Saved(preamble, entries, (), SamplingOptions(), {}, Stats(), "")
    try:
        saved.choices()
    except _NONSENSE:
        saved = replace(saved, preamble=blank)
    return saved if entries else None


def _found(text: str, before: str, convert: Callable[[Any], T]) -> Iterator[T]:
    """Every JSON value in the text that stands behind `before`, converted; without those that cannot be."""
    start = text.find(before)
    while start >= 0:
        with contextlib.suppress(*_NONSENSE):
            yield convert(json.JSONDecoder().raw_decode(text, start + len(before))[0])
        start = text.find(before, start + 1)


def read_caches(path: str | Path, saved: Saved, model: Transformer) -> dict[str, mx.array]:
    """The tensors of a saved file. Raises SessionError if they are damaged or another model's."""
    if saved.model != fingerprint(model):
        raise SessionError(f"{path} was saved with another model: `text_only=True` takes its conversation")
    try:
        caches = mx.load(str(path), format="safetensors")
        assert isinstance(caches, dict)
        if _checksum(caches) == saved.caches:
            return caches
    except (OSError, RuntimeError, ValueError):
        pass
    raise SessionError(f"{path} has damaged caches: `text_only=True` recovers the conversation, to be read anew")


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
    return _HALF.sub(lambda half: f"\\u{ord(half[0]):04x}", text)


def _from_json(text: str) -> Saved:
    fields = json.loads(text)
    fields.pop("retries", None)  # of the last turn, in files of a time before each turn had its own
    fields["preamble"] = [message_from_dict(entry) for entry in fields["preamble"]]
    fields["entries"] = [
        Entry(message_from_dict(entry["message"]), tuple(entry["ids"]), *(entry.get(count, 0) for count in _COUNTS))
        for entry in fields["entries"]
    ]
    fields["options"]["logit_bias"] = dict(fields["options"]["logit_bias"])
    saved = Saved(**fields | {"options": SamplingOptions(**fields["options"]), "stats": Stats(**fields["stats"])})
    saved.choices()  # which a damaged preamble has not
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
    """Of names, types, shapes and values."""
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
