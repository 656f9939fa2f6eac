"""What functions return, as the model reads it."""

from __future__ import annotations

import asyncio
import collections
import dataclasses
import datetime
import enum
import io
import itertools
import json
import math
from typing import Any

import numpy as np
import pydantic
import pytest

import mlx_oss
from mlx_oss.errors import ToolError
from mlx_oss.events import ToolCall
from mlx_oss.tools.base import SystemTool
from mlx_oss.tools.results import MAX_ITEMS, MAX_LENGTH, text_of
from mlx_oss.tools.toolset import Toolset


class Colour(enum.Enum):
    RED = "red"


@dataclasses.dataclass
class Place:
    name: str
    height: float = 0.0


class Outer(pydantic.BaseModel):
    inner: Any
    more: list[int] = []


def counting(end: int):
    yield from range(end)


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ("as it is", "as it is"),
        (None, "null"),
        ({"a": [1, 2.5, True]}, '{"a": [1, 2.5, true]}'),
        (Place("Rome", 21.0), '{"name": "Rome", "height": 21.0}'),
        ([Outer(inner={"size": 2})], '[{"inner": {"size": 2}, "more": []}]'),
        ({Colour.RED}, '["red"]'),
        ({Colour.RED: 1, 2: (3, math.nan)}, '{"red": 1, "2": [3, null]}'),
        ({datetime.date(2026, 1, 15): math.inf, (1, 2): None}, '{"2026-01-15": null, "[1, 2]": null}'),
        (datetime.date(2026, 1, 15), '"2026-01-15"'),
        ("Größe", "Größe"),
        ({"n": "Größe"}, '{"n": "Größe"}'),
        (np.array([[1, 2]]), "[[1, 2]]"),
        (np.float32(1.5), "1.5"),
    ],
)
def test_results_of_any_kind_are_text(result, text):
    assert text_of(result) == text


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (counting(3), "[0, 1, 2]"),
        ((n * n for n in range(3)), "[0, 1, 4]"),
        (map(str, [1, 2]), '["1", "2"]'),
        (zip("ab", counting(2), strict=True), '[["a", 0], ["b", 1]]'),
        ({"a": counting(2), "b": [counting(1)]}, '{"a": [0, 1], "b": [[0]]}'),
        (range(3), "[0, 1, 2]"),
        (collections.deque([2, 1]), "[2, 1]"),
        ({"b": 2, "a": 1}.keys(), '["b", "a"]'),
        ({"b": 2, "a": 1}.values(), "[2, 1]"),
        ({"b": 2}.items(), '[["b", 2]]'),
        (Place("Rome", counting(1)), '{"name": "Rome", "height": [0]}'),
    ],
)
def test_iterators_and_generators_are_lists(result, text):
    assert text_of(result) == text


@pytest.mark.parametrize(
    "result",
    [
        itertools.count(),
        {"a": itertools.repeat("x")},
        [itertools.repeat(0) for _ in range(3)],
        range(10**12),
        np.zeros(MAX_ITEMS + 1),
        dict.fromkeys(range(MAX_ITEMS + 1)),
        [[0] * 1000] * 1000,
    ],
    ids=range(7),
)
def test_a_result_without_an_end_is_a_sentence(result):
    with pytest.raises(ToolError, match="the result has more than 100,000 items: ask for less of it"):
        text_of(result)


@pytest.mark.parametrize("result", ["x" * (MAX_LENGTH + 1), ["x" * MAX_LENGTH], {"x" * MAX_LENGTH: 1}], ids=range(3))
def test_a_result_is_bounded_whatever_the_context(result):
    with pytest.raises(ToolError, match=r"the result is too long, 500,0\d\d characters: ask for less of it"):
        text_of(result)
    assert len(text_of("x" * MAX_LENGTH)) == MAX_LENGTH


def held():
    """Yields long texts without an end; fails where more of them are taken than fit into a result."""
    for number in itertools.count():
        assert number < 3
        yield ["x" * 300_000]


def test_items_are_taken_only_while_they_fit():
    async def also():
        for item in held():
            yield item

    for function in (held, lambda: {"a": (item for item in held())}, also):
        invocation = Toolset([mlx_oss.tools.tool_from(function, name="f")]).invoke(ToolCall("functions.f", "{}"))
        invocation.perform()
        assert invocation.result.error == ("the result is too long, more than 500,000 characters: ask for less of it")


def test_an_open_file_is_its_text_and_bounded(tmp_path):
    (tmp_path / "short").write_text("a\nb")
    (tmp_path / "long").write_bytes(b"x" * (MAX_LENGTH + 1))
    with (tmp_path / "short").open() as file:
        assert json.loads(text_of([file])) == ["a\nb"]
    with (tmp_path / "long").open() as file, pytest.raises(ToolError, match="too long, more than 500,000"):
        text_of(file)
    for source in ((tmp_path / "long").open("rb"), io.BytesIO(b"a")):
        with source, pytest.raises(ToolError, match="there are bytes"):
            text_of(source)


def test_lists_within_themselves_that_double_are_bounded():
    doubling: list[Any] = [0]
    for _ in range(60):
        doubling = [doubling, doubling]
    with pytest.raises(ToolError, match="more than 100,000 items"):
        text_of(doubling)


BYTES_AS_TEXT = [
    {"type": "audio", "data": "aGk=", "mimeType": "audio/wav"},
    {"type": "document", "source": {"type": "base64", "data": "aGk="}},
    ["data:application/pdf;base64,aGk="],
]


@pytest.mark.parametrize(
    "result", [b"abc", bytearray(b"a"), memoryview(b"a"), {"a": [b"\xff"]}, [Place(b"a")], *BYTES_AS_TEXT]
)
def test_bytes_are_refused_in_a_sentence(result):
    with pytest.raises(ToolError, match="there are bytes in the result, which the model cannot read"):
        text_of(result)


def an_image():
    """An object as PIL's."""
    base = type("Image", (), {"__module__": "PIL.Image"})
    return type("PngImageFile", (base,), {"__module__": "PIL.PngImagePlugin"})()


@pytest.mark.parametrize(
    "result",
    [
        an_image(),
        [an_image()],
        type("Figure", (), {"__module__": "matplotlib.figure"})(),
        type("Plot", (), {"_repr_png_": lambda self: b""})(),
        {"content": [{"type": "image", "data": "aGk=", "mimeType": "image/png"}]},
        {"type": "image_url", "image_url": {"url": "data:image/png;base64,aGk="}},
        "data:image/jpeg;base64,aGk=",
    ],
    ids=range(7),
)
def test_images_are_refused_in_a_sentence(result):
    with pytest.raises(ToolError, match="there is an image in the result, which the model cannot see"):
        text_of(result)


def test_a_result_that_json_cannot_say_is_a_sentence():
    loop: list[Any] = []
    loop.append(loop)
    for result in (loop, Outer(inner=b"\xff")):
        with pytest.raises(ToolError, match="JSON"):
            text_of(result)


@pytest.mark.parametrize(
    ("result", "text"),
    [("a\ud800b", "a?b"), ({"\udfff": ["\U0001f600\ud83d"]}, '{"?": ["\U0001f600?"]}')],
    ids=range(2),
)
def test_half_characters_never_reach_the_app(result, text):
    assert text_of(result) == text

    def failing() -> None:
        raise ValueError("no \ud800")

    for function in (lambda: result, failing):
        invocation = Toolset([mlx_oss.tools.tool_from(function, name="f")]).invoke(ToolCall("functions.f", "{}"))
        invocation.perform()
        (invocation.result.text + (invocation.result.error or "")).encode()


def test_results_of_tools_with_a_section_of_their_own_are_bounded_and_whole_too():
    class Echo(SystemTool):
        namespace = mlx_oss.harmony.ToolNamespace("echo", "Says it again.")

        def call(self, function: str, text: str) -> str:
            return text

    for text, said in (
        ("a\ud800", "a?"),
        ("x" * (MAX_LENGTH + 1), "Error: the result is too long, 500,001 characters"),
    ):
        invocation = Toolset([Echo()]).invoke(ToolCall("echo", text))
        invocation.perform()
        assert invocation.result.text.startswith(said)


def test_an_async_generator_is_a_list_too():
    async def some():
        for n in range(3):
            await asyncio.sleep(0)
            yield n

    async def endless():
        while True:
            yield 0

    for function, text in ((some, "[0, 1, 2]"), (endless, "Error: the result has more than 100,000 items")):
        invocation = Toolset([function]).invoke(ToolCall(f"functions.{function.__name__}", "{}"))
        invocation.perform()
        assert invocation.result.text.startswith(text)
        invocation = Toolset([function]).invoke(ToolCall(f"functions.{function.__name__}", "{}"))
        asyncio.run(invocation.aperform())
        assert invocation.result.text.startswith(text)


@pytest.mark.parametrize("kind", [LookupError, ValueError, TypeError])
def test_an_error_in_a_generator_is_an_error_of_the_call(kind):
    def failing():
        yield 1
        raise kind("no more")

    invocation = Toolset([failing]).invoke(ToolCall("functions.failing", ""))
    invocation.perform()
    assert invocation.result.error == f"{kind.__name__}: no more" and json.dumps(invocation.result.text)
