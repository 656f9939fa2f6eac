"""Reads the fields of a request's JSON, and says of each mistake where it is. Knows nothing of what they mean."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from mlx_oss.errors import OptionError, quoted


class RequestError(OptionError):
    """A request that cannot be answered as it is.

    Attributes:
        param: The field that is wrong, such as `messages[2].content`. None if it is not one field.
        status: The status of the response.
        code: What kind of mistake it is, in the words of OpenAI's API; None for one without a name.
    """

    def __init__(self, message: str, param: str | None = None, *, status: int = 400, code: str | None = None) -> None:
        super().__init__(message)
        self.param, self.status, self.code = param, status, code


class Fields:
    """An object of a request.

    The methods read one of its fields. null is the same as no field; a field that nobody reads is ignored.

    Args:
        value: The object, as read from JSON.
        path: Where it stands in the request; "" is the request itself.

    Raises:
        RequestError: If it is no object. The methods raise it if a field has another type.
    """

    def __init__(self, value: Any, path: str = "") -> None:
        if not isinstance(value, Mapping):
            raise RequestError(f"{path or 'the body'} is {quoted(value)}: give an object", path or None)
        self.raw: Mapping[str, Any] = value
        self.path = path

    def where(self, name: str) -> str:
        """The path of a field."""
        return f"{self.path}.{name}" if self.path else name

    def get(self, name: str) -> Any:
        """The value of a field, whatever it is."""
        return self.raw.get(name)

    def wrong(self, name: str, expected: str) -> RequestError:
        """The error of a field with a wrong value: `expected` says what to give, such as "a text"."""
        where = self.where(name)
        return RequestError(f"{where} is {quoted(self.raw.get(name))}: give {expected}", where)

    def text(self, name: str, default: str | None = None) -> str:
        """A text. It has to be there unless there is a default."""
        value = self.get(name)
        if value is None and default is not None:
            return default
        if not isinstance(value, str):
            raise self.wrong(name, "a text")
        return value

    def optional_text(self, name: str) -> str | None:
        """A text, or None."""
        return None if self.get(name) is None else self.text(name)

    def flag(self, name: str, default: bool = False) -> bool:
        """true or false."""
        value = self.get(name)
        if value is None:
            return default
        if not isinstance(value, bool):
            raise self.wrong(name, "true or false")
        return value

    def integer(self, name: str, *, least: int, most: int | None = None) -> int | None:
        """A whole number from `least` to `most`, or None."""
        value = self.get(name)
        if value is None:
            return None
        if isinstance(value, float) and value.is_integer():  # 5.0, which some languages write for 5
            value = int(value)
        if type(value) is not int or value < least or (most is not None and value > most):
            limits = f"of at least {least}" if most is None else f"from {least} to {most}"
            raise self.wrong(name, f"a whole number {limits}")
        return value

    def number(self, name: str) -> float | None:
        """A finite number, or None."""
        value = self.get(name)
        if value is None:
            return None
        if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
            raise self.wrong(name, "a number")
        return value

    def one_of(self, name: str, allowed: Sequence[str], default: str) -> str:
        """One of several texts."""
        value = self.get(name)
        if value is None:
            return default
        if not isinstance(value, str) or value not in allowed:
            raise self.wrong(name, f"one of {', '.join(allowed)}")
        return value

    def fields(self, name: str) -> Fields | None:
        """An object, or None."""
        value = self.get(name)
        return None if value is None else Fields(value, self.where(name))

    def list(self, name: str) -> list[Any]:
        """A list; an empty one if there is none."""
        value = self.get(name)
        if value is None:
            return []
        if not isinstance(value, list):
            raise self.wrong(name, "a list")
        return value

    def each(self, name: str) -> Iterator[Fields]:
        """The objects of a list."""
        for number, value in enumerate(self.list(name)):
            yield Fields(value, f"{self.where(name)}[{number}]")
