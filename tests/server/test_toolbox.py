"""The server's own tools: a conversation keeps its own, and those that rest are closed."""

from __future__ import annotations

from mlx_oss.harmony import PYTHON, ToolNamespace
from mlx_oss.server.toolbox import BuiltinTool, Toolbox
from mlx_oss.tools.base import SystemTool


class Notebook(SystemTool):
    is_closed = False

    @property
    def namespace(self) -> ToolNamespace:
        return PYTHON

    def call(self, function: str, text: str) -> str:
        return text

    def close(self) -> None:
        self.is_closed = True


def toolbox() -> Toolbox:
    return Toolbox({"python": BuiltinTool(lambda: [Notebook()]), "other": BuiltinTool(lambda: [len])})


def test_a_conversation_gets_the_same_tools_again_and_no_other_gets_them():
    tools = toolbox()
    (first,), (again,), (other,) = (tools.take(["python"], name) for name in ("a", "a", "b"))
    assert first is again and first is not other


def test_a_request_without_a_conversation_has_tools_of_its_own():
    tools = toolbox()
    assert tools.take(["python"])[0] is not tools.take(["python"])[0]


def test_only_the_tools_that_are_named_are_made():
    assert toolbox().take(["other"], "a") == [len]


def test_the_tools_of_conversations_that_rest_are_closed():
    tools = toolbox()
    (first,) = tools.take(["python"], "first")
    (used,) = tools.take(["python"], "used")
    for number in range(15):
        tools.take(["python"], "used")
        tools.take(["python"], str(number))
    assert first.is_closed and not used.is_closed
    assert tools.take(["python"], "used") == [used]
