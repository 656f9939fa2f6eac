"""What a saved session consists of, and its text: JSON that anybody may have written, so every field is checked.

Knows nothing of files and caches.
"""

from __future__ import annotations

import contextlib
import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, fields
from typing import Any, get_args

from mlx_oss.chat.history import EFFORTS, Entry
from mlx_oss.chat.setup import ContextPolicy
from mlx_oss.constrain import kwargs_from_saved
from mlx_oss.costs import Stats
from mlx_oss.errors import HarmonyError, OptionError, SessionError, quoted, shortened
from mlx_oss.generation.options import SamplingOptions
from mlx_oss.harmony import Message, message_from_dict, message_to_dict
from mlx_oss.tokenizer import MOST_IDS

DECODING_ERRORS = (ValueError, LookupError, TypeError, AttributeError, RecursionError, HarmonyError, OptionError)

_COUNTS = ("reasoned", "retries")  # fields of `Entry` that are saved as they are
_SURROGATE = re.compile("[\ud800-\udfff]")  # half of a character


_FUNCTIONS = "functions"  # the namespace of functions without another one


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
        spaces = [space for content in developer for space in content.tools]
        return {
            "instructions": next((content.instructions or "" for content in developer), ""),
            "reasoning_effort": system.reasoning_effort,  # "low" instead of "none"; `limits` below has the real one
            "tools": [tool for space in spaces if space.name == _FUNCTIONS for tool in space.tools],
            "groups": [space for space in spaces if space.name != _FUNCTIONS],
            "system_tools": system.tools,
            "options": self.options,
            "current_date": system.conversation_start_date,
            **self.limits,
            **kwargs_from_saved(self.limits),
        }


def to_json(saved: Saved) -> str:
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


def from_json(text: str) -> Saved:
    """Raises one of DECODING_ERRORS for text that is not that of a saved session."""
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
        raise ImpossibleField(f"{name} holds something else than token ids")


def _check_limits(limits: dict[str, Any]) -> None:
    """Checks the keyword arguments of `ChatSession`. Files of older versions may lack all but the first four."""

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
        "stop": (lambda value: isinstance(value, list) and all(map(_is_text, value)), "a list of texts"),
        "tool_choice": (lambda value: isinstance(value, str | dict), "a text or an object"),
        "logprobs": (lambda value: isinstance(value, bool), "true or false"),
    }
    if unknown := sorted(limits.keys() - checks.keys()):
        raise ImpossibleField(f"limits.{shortened(unknown[0], 100)} is unknown")
    for number, (name, (is_good, wanted)) in enumerate(checks.items()):
        if number < 4 or name in limits:
            _require(is_good(limits.get(name)), f"limits.{name}", limits.get(name), wanted)
    for name, value in limits.get("guards", {}).items():
        good = value in (True, False) or (value is None and name == "strict_arguments")
        _require(good and type(value) is not int, f"limits.guards.{name}", value, "true or false")
    with _named("limits"):
        kwargs_from_saved(limits)


def _is_text(value: object) -> bool:
    return isinstance(value, str) and value != ""


def _check_stats(stats: dict[str, Any]) -> None:
    kinds = {field.name: field.type for field in fields(Stats)}
    if unknown := sorted(stats.keys() - kinds.keys()):
        raise ImpossibleField(f"stats.{shortened(unknown[0], 100)} is unknown")
    for name, value in stats.items():
        whole = kinds[name] == "int"
        good = type(value) is int or (not whole and type(value) is float and math.isfinite(value))
        _require(good and 0 <= value < 2**63, f"stats.{name}", value, "a whole number" if whole else "a number")


class ImpossibleField(SessionError):
    """A field of a file, whose checksum is right, has a value that no session can have."""


def _require(good: bool, name: str, value: object, wanted: str) -> None:
    if not good:
        raise ImpossibleField(f"{name} is {quoted(value)}, expected {wanted}")


@contextlib.contextmanager
def _named(name: str) -> Iterator[None]:
    """Names the field whose decoding fails."""
    try:
        yield
    except ImpossibleField:
        raise
    except DECODING_ERRORS as error:
        reason = f" ({error})" if isinstance(error, HarmonyError | OptionError) else ""
        raise ImpossibleField(f"{name} cannot be read{reason}") from None
