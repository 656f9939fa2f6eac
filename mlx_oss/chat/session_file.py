"""The file of a saved session: safetensors, with the conversation as JSON in the header and the caches as tensors.

The text can be read even if the tensors are damaged. Checksums protect both. The file contains a fingerprint of the
model, because caches of another model would give wrong answers without an error. Knows nothing of turns and MLX.
"""

from __future__ import annotations

import contextlib
import fcntl
import hashlib
import json
import math
import os
import re
import secrets
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, BinaryIO, TypeVar, get_args

from mlx_oss.chat.history import EFFORTS, Entry
from mlx_oss.chat.setup import ContextPolicy
from mlx_oss.constrain import kwargs_from_saved
from mlx_oss.errors import CheckpointError, HarmonyError, OptionError, SessionError, quoted, shortened
from mlx_oss.events import Stats
from mlx_oss.files import SESSION_BYTES, check_regular, expanded, open_regular
from mlx_oss.generation.engine import PromptCache, SavedTensor
from mlx_oss.generation.options import SamplingOptions
from mlx_oss.harmony import Message, SystemContent, message_from_dict, message_to_dict
from mlx_oss.tokenizer import MOST_IDS
from mlx_oss.weights.safetensors import TensorInfo, read_header

FORMAT = "mlx_oss session 1"
T = TypeVar("T")

_UNFINISHED = ".unfinished.safetensors"
_STALE = 60  # seconds after which the temporary file of a process that has ended is removed
_DTYPES = {"float32": "F32", "bfloat16": "BF16", "float16": "F16"}  # their names in safetensors
_NAMES = {stored: name for name, stored in _DTYPES.items()}
_COUNTS = ("reasoned", "retries")  # fields of `Entry` that are saved as they are
_ESCAPED = re.compile(r'\\(?:["\\/bfnrt]|u[0-9a-f]{4})')  # an escape sequence of JSON
_SURROGATE = re.compile("[\ud800-\udfff]")  # in a path: bytes that are not UTF-8; in a text: half of a character
_LETTERS = {'"': '"', "\\": "\\", "/": "/", "b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_MOST_FAILURES = 2000  # places in a damaged file where a message seems to begin and cannot be read
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
    """Writes a temporary file and renames it, so that the file is always complete. Only the user may read it.

    Each call has a temporary file of its own, so several processes can write to one path; the last one counts. What a
    killed process has left behind is removed.

    Args:
        path: The file to write. `~` stands for the home folder.
        saved: Everything except the caches.
        tensors: `PromptCache.tensors` of the caches. It is called twice, so that one tensor at a time is in memory.

    Raises:
        SessionError: If the file cannot be written, or the conversation is too long for a file.
    """
    path = expanded(path)
    checksum, entries, end = _Checksum(), {}, 0
    for name, tensor in tensors():
        checksum.add(name, tensor)
        start, end = end, end + len(tensor.data)
        entries[name] = {"dtype": _DTYPES[tensor.dtype], "shape": tensor.shape, "data_offsets": [start, end]}
    text = _to_json(replace(saved, caches=checksum.value))
    metadata = {"format": FORMAT, "text": text, "seal": _sha256(text.encode())}
    header = json.dumps({"__metadata__": metadata, **entries}).encode()
    header += b" " * (-len(header) % 8)
    if len(header) > SESSION_BYTES:
        raise SessionError(
            f"{path} cannot be written: the text of the conversation takes {len(header):,} bytes, and a file holds "
            f"{SESSION_BYTES:,}; clear the conversation, or save it as text"
        )
    unfinished = path.parent / f"{_beginning(path)}{secrets.token_hex(8)}{_UNFINISHED}"
    try:
        _check_path(path)
        if os.path.lexists(path):
            check_regular(path, os.stat(path))
        _remove_stale(path)
        with _created(unfinished) as file:
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


def _created(path: Path) -> BinaryIO:
    """A new file that only the user may read, locked as long as it is open."""
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
    with contextlib.suppress(OSError):  # a file system without locks: then nothing stale is removed, either
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    return open(descriptor, "wb")


def _beginning(path: Path) -> str:
    """How the names of the temporary files of this path begin: short enough that the whole name has 255 bytes."""
    return f".{path.name.encode(errors='replace')[:150].decode(errors='ignore')}."


def _remove_stale(path: Path) -> None:
    """Removes temporary files of this path that no process writes any more."""
    beginning = _beginning(path)
    for entry in os.scandir(path.parent):
        middle = entry.name.removeprefix(beginning).removesuffix(_UNFINISHED)
        if entry.name != f"{beginning}{middle}{_UNFINISHED}" or not re.fullmatch("[0-9a-f]{16}", middle):
            continue
        # An error means that it is being written, or is gone already.
        with contextlib.suppress(OSError), open_regular(entry.path) as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            if time.time() - os.fstat(file.fileno()).st_mtime > _STALE:
                os.unlink(entry.path)


def read(path: str | Path, *, damaged: bool = False) -> Saved:
    """Reads everything except the caches.

    Args:
        path: The file. `~` stands for the home folder.
        damaged: Whether to recover the readable messages if the file is damaged.

    Raises:
        SessionError: If the file cannot be read, is not a saved session, or is damaged (if `damaged`: beyond recovery);
            or if it is whole, but a field has an impossible value.
    """
    path = expanded(path)
    try:
        _check_path(path)
        with open_regular(path) as file:
            length = int.from_bytes(file.read(8), "little")
            raw = file.read(min(length, SESSION_BYTES))
            more = file.read(SESSION_BYTES - len(raw)) if damaged else b""  # the damage may be in the length itself
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise SessionError(f"{path} cannot be read ({reason}): check the path and its permissions") from None
    try:
        return _from_header(path, raw)
    except _ImpossibleField:
        raise
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
            raise SessionError(f"{path} has format {quoted(form)}, but this version reads {FORMAT!r}: update mlx-oss")
        if _sha256(text.encode()) != seal:
            raise SessionError(f"{path} is damaged: `text_only=True` recovers the readable part of the conversation")
        return _from_json(text)
    except _ImpossibleField as error:
        raise _ImpossibleField(
            f"{path} was not written by mlx-oss, or by another version of it: {error}; give another file"
        ) from None
    except _DECODING_ERRORS:
        raise SessionError(
            f"{path} is not a saved session, or is damaged: `text_only=True` recovers the readable messages"
        ) from None


def _recover(raw: bytes) -> Saved | None:
    """The messages of a damaged header that can still be decoded, with newly rendered ids; None if there is none.

    A message that can be decoded is kept even if its text was changed by the damage.
    """
    text = _ESCAPED.sub(_unescaped, raw.decode(errors="replace"))
    text = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")  # joins the halves of characters
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


def _unescaped(match: re.Match[str]) -> str:
    """The character that an escape sequence of JSON stands for."""
    return _LETTERS.get(match[0][1]) or chr(int(match[0][2:], 16))


def _decode_all(text: str, prefix: str, convert: Callable[[Any], T]) -> Iterator[T]:
    """Decodes and converts every JSON value that follows `prefix` in the text; skips those that fail.

    Stops after _MOST_FAILURES, or when failures have read the text several times: values that begin within one another
    could take hours.
    """
    decoder, start, failures, wasted = json.JSONDecoder(), text.find(prefix), 0, 0
    while start >= 0 and failures < _MOST_FAILURES and wasted <= 8 * len(text):
        try:
            yield convert(decoder.raw_decode(text, start + len(prefix))[0])
        except json.JSONDecodeError as error:
            failures, wasted = failures + 1, wasted + error.pos - start
        except RecursionError:  # it may have read up to the end
            failures, wasted = failures + 1, wasted + len(text) - start
        except _DECODING_ERRORS:
            failures += 1
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
        with open_regular(expanded(path)) as file:
            tensors = read_header(expanded(path), SESSION_BYTES)
            described = {name: (_NAMES[info.dtype], info.shape) for name, info in tensors.items()}
            cache.check(len(saved.cached), described)
            cache.restore(saved.cached, _tensors(file, tensors, saved.caches))
    except (OSError, ValueError, LookupError, RuntimeError, CheckpointError):  # MLX raises RuntimeError for bad shapes
        raise SessionError(
            f"{path} has damaged caches: `text_only=True` recovers the conversation without them"
        ) from None


def _tensors(file: BinaryIO, tensors: Mapping[str, TensorInfo], expected: str) -> Iterator[tuple[str, SavedTensor]]:
    """The tensors of a file, sorted by name. Raises ValueError at the end if their checksum is not the expected one."""
    checksum = _Checksum()
    for name, info in sorted(tensors.items()):
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
    """Raises one of _DECODING_ERRORS for text that is not that of a saved session."""
    saved = json.loads(text)
    saved.pop("retries", None)  # older files have one count, for the last turn; now each entry has its own
    preamble, entries, options = saved["preamble"], saved["entries"], saved["options"]
    for name in ("preamble", "entries", "cached"):
        _require(isinstance(saved[name], list), name, saved[name], "a list")
    for name in ("limits", "options", "stats"):
        _require(isinstance(saved[name], dict), name, saved[name], "an object")
    for name in ("model", "caches"):
        _require(isinstance(saved[name], str), name, saved[name], "a text")
    _check_ids("cached", saved["cached"])
    _check_limits(saved["limits"])
    _check_stats(saved["stats"])
    with _named("preamble"):
        saved["preamble"] = [message_from_dict(entry) for entry in preamble]
    saved["entries"] = [_entry(f"entries[{number}]", entry) for number, entry in enumerate(entries)]
    with _named("options"):
        options["logit_bias"] = dict(options["logit_bias"])
        saved["options"] = SamplingOptions(**options)
    saved["stats"] = Stats(**saved["stats"])
    with _named("preamble"):
        whole = Saved(**saved)
        whole.session_kwargs()
    return whole


def _entry(name: str, data: Any) -> Entry:
    _require(isinstance(data, dict), name, data, "an object")
    counts = [data.get(count, 0) for count in _COUNTS]
    for count, value in zip(_COUNTS, counts, strict=True):
        _require(type(value) is int and value >= 0, f"{name}.{count}", value, "a whole number")
    _require(isinstance(data.get("ids"), list), f"{name}.ids", data.get("ids"), "a list")
    _check_ids(f"{name}.ids", data["ids"])
    with _named(f"{name}.message"):
        return Entry(message_from_dict(data["message"]), tuple(data["ids"]), *counts)


def _check_ids(name: str, ids: list[Any]) -> None:
    if not {*map(type, ids)} <= {int} or not 0 <= min(ids, default=0) <= max(ids, default=0) < MOST_IDS:
        raise _ImpossibleField(f"{name} holds something else than token ids")


def _check_limits(limits: dict[str, Any]) -> None:
    """Checks the keyword arguments of `ChatSession`. Files of older versions may lack the last three."""

    def is_count(value: object, least: int) -> bool:
        return type(value) is int and value >= least

    checks: dict[str, tuple[Callable[[Any], bool], str]] = {
        "reasoning_effort": (lambda value: value in EFFORTS, f"one of {', '.join(EFFORTS)}"),
        "max_tokens": (lambda value: value is None or is_count(value, 1), "a number from 1 on, or null"),
        "context_limit": (lambda value: is_count(value, 1), "a number from 1 on"),
        "context_policy": (lambda value: value in get_args(ContextPolicy), "refuse or drop_oldest"),
        "max_reasoning_tokens": (lambda value: value is None or is_count(value, 0), "a number from 0 on, or null"),
        "response_format": (lambda value: value is None or isinstance(value, str | dict), "a text, an object or null"),
        "guards": (lambda value: isinstance(value, dict), "an object"),
    }
    if unknown := sorted(limits.keys() - checks.keys()):
        raise _ImpossibleField(f"limits.{shortened(unknown[0], 100)} is unknown")
    for number, (name, (is_good, wanted)) in enumerate(checks.items()):
        if number < 4 or name in limits:
            _require(is_good(limits.get(name)), f"limits.{name}", limits.get(name), wanted)
    for name, value in limits.get("guards", {}).items():
        good = value in (True, False) or (value is None and name == "strict_arguments")
        _require(good and type(value) is not int, f"limits.guards.{name}", value, "true or false")
    with _named("limits"):
        kwargs_from_saved(limits)


def _check_stats(stats: dict[str, Any]) -> None:
    kinds = {field.name: field.type for field in fields(Stats)}
    if unknown := sorted(stats.keys() - kinds.keys()):
        raise _ImpossibleField(f"stats.{shortened(unknown[0], 100)} is unknown")
    for name, value in stats.items():
        whole = kinds[name] == "int"
        good = type(value) is int or (not whole and type(value) is float and math.isfinite(value))
        _require(good and 0 <= value < 2**63, f"stats.{name}", value, "a whole number" if whole else "a number")


class _ImpossibleField(SessionError):
    """A field of a file, whose checksum is right, has a value that no session can have."""


def _require(good: bool, name: str, value: object, wanted: str) -> None:
    if not good:
        raise _ImpossibleField(f"{name} is {quoted(value)}, expected {wanted}")


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Names the field whose decoding fails."""
    try:
        yield
    except _ImpossibleField:
        raise
    except _DECODING_ERRORS as error:
        reason = f" ({error})" if isinstance(error, HarmonyError | OptionError) else ""
        raise _ImpossibleField(f"{name} cannot be read{reason}") from None


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
