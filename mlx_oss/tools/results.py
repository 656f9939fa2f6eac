"""Writes what a function returned as text for the model: bounded, and readable as text.

Knows nothing of tools, calls and sessions.
"""

from __future__ import annotations

import dataclasses
import datetime
import enum
import io
import json
import math
from collections.abc import (
    AsyncIterable,
    ItemsView,
    Iterable,
    Iterator,
    KeysView,
    Mapping,
    Sequence,
    Set,
    ValuesView,
)
from dataclasses import dataclass
from typing import Any

from mlx_oss.errors import ToolError
from mlx_oss.events import Attachment
from mlx_oss.json_text import whole_characters


@dataclass(frozen=True, slots=True)
class WithAttachments:
    """A result with something that the model cannot read, which the app gets.

    Attributes:
        text: What the model reads.
        attachments: The rest.
    """

    text: str
    attachments: tuple[Attachment, ...] = ()


MAX_LENGTH = 500_000  # characters, more than fit into the longest context of gpt-oss as ordinary text
MAX_ITEMS = 100_000  # in all lists and objects of a result together

_BYTES = "there are bytes in the result, which the model cannot read: return a text, or decode them"
_IMAGE = "there is an image in the result, which the model cannot see: return a description, or the path of a file"
_IMAGE_CLASSES = {
    ("PIL", "Image"),
    ("matplotlib", "Figure"),
    ("IPython", "Image"),
}  # package and class, or a base class


def text_of(result: Any) -> str:
    """Writes a handler's result for the model: a text as it is, anything else as JSON.

    Args:
        result: Anything that JSON can represent. NaN and infinity become null, iterators and generators become lists,
            open files their text, and what JSON has no form for, such as a date, a path or an array, becomes a text or
            a list. Halves of surrogate pairs become question marks.

    Raises:
        ToolError: If JSON cannot represent the result, because it contains itself; if it is too long or endless; or if
            there are bytes or images in it. The message is a sentence for the model.
    """
    if isinstance(result, str):
        _check_text(result)
        return bounded(result)
    try:
        return bounded(json.dumps(_Writer().written(result), ensure_ascii=False))
    except (TypeError, ValueError, RecursionError) as error:
        raise _not_json(error) from None


async def list_of(items: AsyncIterable[Any]) -> list[Any]:
    """All items of an async iterator, as JSON has them. Raises ToolError if they are more than a result may have."""
    writer, collected = _Writer(), list[Any]()
    async for item in items:
        if len(collected) == MAX_ITEMS:
            raise _too_many()
        collected.append(writer.written(item))
    return collected


def bounded(text: str) -> str:
    """A text that the model can read, with whole characters. Raises ToolError if it is too long."""
    if len(text) > MAX_LENGTH:
        raise ToolError(f"the result is too long, {len(text):,} characters: ask for less of it")
    return whole_characters(text)


def _not_json(error: Exception) -> ToolError:
    return ToolError(f"the result is nothing that JSON can say ({error})")


def _too_many() -> ToolError:
    return ToolError(f"the result has more than {MAX_ITEMS:,} items: ask for less of it")


class _Writer:
    """Simplifies one result, and counts what is in it."""

    def __init__(self) -> None:
        self._left, self._room = MAX_ITEMS, MAX_LENGTH  # items and characters

    def written(self, value: Any) -> Any:
        """Like `jsonable`, but raises ToolError instead of TypeError, ValueError and RecursionError."""
        try:
            return self.jsonable(value)
        except (TypeError, ValueError, RecursionError) as error:
            raise _not_json(error) from None

    def jsonable(self, value: Any) -> Any:
        """The value in types that `json.dumps` can write; NaN and infinity become None."""
        if isinstance(value, float) and not isinstance(value, enum.Enum):
            return value if math.isfinite(value) else None
        if isinstance(value, str) and not isinstance(value, enum.Enum):
            return self._fitting(value)
        if value is None or (isinstance(value, int) and not isinstance(value, enum.Enum)):
            return value
        if isinstance(value, Mapping):
            kind = value.get("type")
            if kind in ("image", "audio", "base64") and isinstance(value.get("data"), str | bytes):  # as in MCP
                raise ToolError(_IMAGE if kind == "image" else _BYTES)
            return {self._key(key): self.jsonable(entry) for key, entry in self._counted(value.items(), len(value))}
        if isinstance(value, bytes | bytearray | memoryview):
            raise ToolError(_BYTES)
        if isinstance(value, list | tuple):
            return [self.jsonable(item) for item in self._counted(value, len(value))]
        simpler = self._simplified(value)
        return [self.jsonable(item) for item in self._taken(value)] if simpler is value else self.jsonable(simpler)

    def _key(self, key: Any) -> Any:
        """A key that `json.dumps` can write: a key that would be a list or an object becomes its JSON text."""
        key = self.jsonable(key)
        return key if key is None or isinstance(key, str | int | float) else json.dumps(key, ensure_ascii=False)

    def _simplified(self, value: Any) -> Any:
        """A value of a type that JSON does not have, one step closer to those that it has.

        The value itself if its items are to be taken one by one: all of them together may need any amount of memory.
        """
        if dataclasses.is_dataclass(value) and not isinstance(value, type):
            return {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
        if _is_image(value):
            raise ToolError(_IMAGE)
        if hasattr(value, "model_dump"):  # a pydantic model
            return value.model_dump(mode="json")
        if isinstance(value, enum.Enum):
            return value.value
        if isinstance(value, datetime.date | datetime.time):
            return value.isoformat()
        if isinstance(value, io.TextIOBase):  # an open file, which may be one long line
            return value.read(self._room + 1)
        if isinstance(value, io.IOBase):
            raise ToolError(_BYTES)
        if isinstance(value, Iterator | Sequence | KeysView | ValuesView | ItemsView):
            return value
        if isinstance(value, Set):
            return sorted(value, key=repr)
        if hasattr(value, "tolist"):  # an array of numbers
            if isinstance(size := getattr(value, "size", 0), int) and size > MAX_ITEMS:
                raise _too_many()
            return value.tolist()
        return str(value)

    def _taken(self, items: Iterable[Any]) -> Iterator[Any]:
        """The items, of which there may be no end."""
        iterator = iter(items)
        while True:
            try:
                item = next(iterator)
            except StopIteration:
                return
            except (TypeError, ValueError) as error:  # of the app, and not about JSON
                raise ToolError(f"{type(error).__name__}: {error}") from error
            self._counted((), 1)
            yield item

    def _fitting(self, text: str) -> str:
        _check_text(text)
        self._room -= len(text)
        if self._room < 0:
            raise ToolError(f"the result is too long, more than {MAX_LENGTH:,} characters: ask for less of it")
        return text

    def _counted(self, items: Iterable[Any], count: int) -> Iterable[Any]:
        self._left -= count
        if self._left < 0:
            raise _too_many()
        return items


def _check_text(text: str) -> None:
    """Raises ToolError for a text that is only an address with the data in it."""
    if text.startswith("data:") and ";base64," in text[:200]:
        raise ToolError(_IMAGE if text.startswith("data:image/") else _BYTES)


def _is_image(value: Any) -> bool:
    classes = {(kind.__module__.partition(".")[0], kind.__name__) for kind in type(value).__mro__}
    return bool(classes & _IMAGE_CLASSES) or hasattr(type(value), "_repr_png_")
