"""A finding: what one check has found out, and what the user can do about it. An error becomes one as well.

Knows nothing of what is checked.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, Literal

from mlx_oss.backend.device_errors import known
from mlx_oss.errors import MlxOssError

Level = Literal["ok", "note", "problem"]

REPORT_IT = "Report this as a bug, with the output of `mlx-oss doctor --json`."


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check has found out.

    Attributes:
        group: Which checks it belongs to, for example "memory".
        name: Which check of the group.
        level: "ok" if all is well, "note" if something is slower or less exact than it could be, "problem" if something
            does not work.
        text: What was found, as a sentence.
        remedy: What the user can do, as a sentence. Empty if there is nothing to do.
        details: Figures for `--json`: numbers, texts, lists and mappings.
    """

    group: str
    name: str
    level: Level
    text: str
    remedy: str = ""
    details: Mapping[str, Any] = field(default_factory=dict)


def findings_of(group: str, name: str, check: Callable[[], Iterable[Finding]]) -> Iterator[Finding]:
    """Runs a check and yields what it finds. An exception that it raises becomes the last finding, with this name."""
    try:
        yield from check()
    except MlxOssError as error:
        yield Finding(group, name, "problem", f"{error}.")
    except Exception as error:
        meaning, remedy = explain(f"{type(error).__name__}: {error}")
        yield Finding(group, name, "problem", f"An error occurred in this step: {name}. {meaning}", remedy)


def explain(message: str) -> tuple[str, str]:
    """What an error message of MLX means and what to do about it, as sentences. The first one contains the message."""
    message = " ".join(message.split())
    shown = message if len(message) <= 400 else f"{message[:400]}..."
    if (found := known(message)) is None:
        return f"The message is: {shown or 'none'}", REPORT_IT
    meaning, remedy = (f"{text[0].upper()}{text[1:]}." for text in found)
    return f"{meaning} The message is: {shown}", remedy


def without_private(value: Any) -> Any:
    """Removes the user's home folder and name from all texts in a JSON value or `Finding`: they become ~ and USER."""
    if isinstance(value, str):
        return _without_name(value)
    if isinstance(value, Mapping):
        return {key: without_private(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_private(each) for each in value]
    if isinstance(value, Finding):
        text, remedy, details = (without_private(each) for each in (value.text, value.remedy, value.details))
        return replace(value, text=text, remedy=remedy, details=details)
    return value


def _without_name(text: str) -> str:
    home = os.path.expanduser("~")
    for folder in sorted({home, os.path.realpath(home)}, key=len, reverse=True):
        if len(folder) > 1:
            text = re.sub(rf"{re.escape(folder)}(?![\w.-])", "~", text)
    for name in {os.path.basename(home), *(os.environ.get(name, "") for name in ("USER", "LOGNAME"))} - {""}:
        # Only where it is a part of a path: a name like "mac" also occurs in other words.
        text = re.sub(rf"(?<=/){re.escape(name)}(?![\w.-])", "USER", text)
    return text
