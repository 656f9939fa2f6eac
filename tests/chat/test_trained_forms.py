"""The prompts of sessions with the tools that gpt-oss was trained with, id for id as openai-harmony 0.0.8 writes them.

The hashes hold where openai-harmony is not installed.
"""

from __future__ import annotations

import hashlib

import pytest

from mlx_oss import ChatSession, ScriptedEngine, ToolDescription
from mlx_oss.harmony import BROWSER, PYTHON, Message, render_message
from mlx_oss.tools import BrowserTool, PythonTool, patch_tool
from mlx_oss.tools.sandbox import GUARANTEES, isolation_here
from tests.chat.scripted import DATE, TOKENIZER

SCHEMA = {"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]}
HASHES = {  # SHA-256 of what openai-harmony 0.0.8 writes
    "browser": "7f242bd00325d6f0800b1ec3f40ef48fad9dae5524ba61f249588b26760f9a65",
    "python": "3b397934caf6339233ee7e1d5d8248647760af87b146d9e935da3641acec90d3",
    "browser python": "7bfe0d99c068a278a49a9d078017240bf27fb2616f9d6a4b44190d3dd7673389",
    "python browser": "7bfe0d99c068a278a49a9d078017240bf27fb2616f9d6a4b44190d3dd7673389",
    "browser python functions": "041527ffa654061459a8d6116696eaca17a1f14f595d92c2cd7db35214bbeed4",
}


def tools_of(names: str, folder) -> list:
    """The tools that a program gives to a session."""
    (folder / "note.md").write_text("# Note\n")
    isolation = None if isolation_here() in GUARANTEES else "limits"
    make = {
        "browser": lambda: BrowserTool(folder),
        "python": lambda: PythonTool(isolation=isolation),
        "functions": lambda: ToolDescription("weather", "Tells the weather.", SCHEMA),
    }
    return [make[name]() for name in names.split()]


def prompt_of(names: str, folder) -> list[int]:
    tools = tools_of(names, folder)
    engine = ScriptedEngine("Yes.")
    session = ChatSession(
        engine, TOKENIZER, tools=tools, instructions="Be brief.", reasoning_effort="high", current_date=DATE
    )
    session.ask("Hello")
    for tool in tools:
        if isinstance(tool, PythonTool):
            tool.close()
    return list(engine.requests[0].prompt)


@pytest.mark.parametrize("names", HASHES)
def test_a_session_with_built_in_tools_is_told_to_the_model_byte_for_byte_as_it_was_trained(names, tmp_path):
    text = TOKENIZER.decode(prompt_of(names, tmp_path))
    assert hashlib.sha256(text.encode()).hexdigest() == HASHES[names]


@pytest.mark.parametrize("names", HASHES)
def test_its_ids_are_those_of_openai_harmony(names, tmp_path):
    pytest.importorskip("openai_harmony")
    from tests.harmony.oracle import EVERYTHING, encoding, oh

    system = oh.SystemContent.new().with_reasoning_effort(oh.ReasoningEffort.HIGH).with_conversation_start_date(DATE)
    developer = oh.DeveloperContent.new().with_instructions("Be brief.")
    for name in names.split():
        match name:
            case "browser":
                system = system.with_browser_tool()
            case "python":
                system = system.with_python_tool()
            case "functions":
                described = oh.ToolDescription.new("weather", "Tells the weather.", parameters=SCHEMA)
                developer = developer.with_function_tools([described])
    contents = [(oh.Role.SYSTEM, system), (oh.Role.DEVELOPER, developer), (oh.Role.USER, "Hello")]
    conversation = oh.Conversation.from_messages([oh.Message.from_role_and_content(*each) for each in contents])
    theirs = encoding().render_conversation_for_completion(conversation, oh.Role.ASSISTANT, EVERYTHING)
    assert prompt_of(names, tmp_path) == theirs


@pytest.mark.parametrize("recipient", ["browser.search", "browser.open", "python", "functions.weather"])
def test_results_come_back_as_openai_harmony_writes_them(recipient):
    pytest.importorskip("openai_harmony")
    from tests.harmony.oracle import encoding, oh

    channel = "commentary" if recipient.startswith("functions") else "analysis"
    theirs = oh.Message.from_author_and_content(oh.Author.new(oh.Role.TOOL, recipient), "a result")
    theirs = theirs.with_recipient("assistant").with_channel(channel)
    ours = Message("tool", "a result", channel=channel, recipient="assistant", name=recipient)
    assert render_message(ours) == encoding().render(theirs)


def test_names_and_functions_are_those_of_the_published_descriptions(tmp_path):
    (tmp_path / "note.md").write_text("# Note\n")
    assert BROWSER.name == "browser" and [tool.name for tool in BROWSER.tools] == ["search", "open", "find"]
    assert PYTHON.name == "python" and PYTHON.tools == ()
    assert BrowserTool(tmp_path).namespace is BROWSER
    assert patch_tool(tmp_path).name == "apply_patch"
