"""Natural mistakes of programs: each is one of our errors, whose message says what is wrong, where, and what to do.

The command line's mistakes are in `cli/`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

import mlx_oss
from mlx_oss import (
    AnswerDelta,
    ChatSession,
    Guards,
    MlxOssError,
    Request,
    SamplingOptions,
    ScriptedEngine,
    ToolCall,
    ToolDescription,
    collect,
    load_tokenizer,
)
from mlx_oss.convert import ConvertOptions, convert, verify
from mlx_oss.harmony import (
    DeveloperContent,
    Message,
    SystemContent,
    message_from_dict,
    parse_messages,
    render_conversation,
)
from mlx_oss.tools import BrowserTool, PythonTool, Tool, patch_tool, tool_from

TOKENIZER = load_tokenizer()
USER = {"role": "user", "content": "Hello"}
CALLED = ToolCall("functions.weather", "{}")


def chat(*answers: Any, **kwargs: Any) -> ChatSession:
    return ChatSession(ScriptedEngine(*answers), TOKENIZER, **kwargs)


def weather(city: str) -> str:
    """Gets the weather."""
    return "rain"


def both(session: ChatSession) -> None:
    """Runs two turns of a session at the same time."""
    first = session.send("One")
    next(first)
    next(session.send("Two"))


def assign(session: ChatSession, **values: Any) -> None:
    for name, value in values.items():
        setattr(session, name, value)


def many(size: int) -> ChatSession:
    return chat("Hi", context_limit=size)


# What a program does, and how the message goes on: what is wrong, then what to do. PATH is a folder with a text file.
MISTAKES: list[tuple[str, Callable[[Path], object], str, str]] = [
    # Loading
    ("load a number", lambda path: mlx_oss.load(20), "the model is 20", "expected its folder or name"),
    ("load a list", lambda path: mlx_oss.load(["20b"]), "the model is ['20b']", "such as 'openai/gpt-oss-20b'"),
    ("load an empty folder", lambda path: mlx_oss.load(path), "contains no", "folder"),
    ("load a file", lambda path: mlx_oss.load(path / "text"), "text is not a folder", "give"),
    ("load a wrong word", lambda path: mlx_oss.load("30b"), "30b does not exist", "20b, 120b, nano, or a name"),
    ("load gguf", lambda path: mlx_oss.load("model.gguf"), "model.gguf does not exist", "give a folder"),
    ("memory in words", lambda path: mlx_oss.load(memory="lots"), "'lots' is not a size", "give one like 8GB"),
    ("context in words", lambda path: mlx_oss.load(context="8k"), "context is '8k'", "expected 1 to 4,096"),
    ("context too long", lambda path: mlx_oss.load(context=10**6), "context is 1000000", "expected 1 to 4,096"),
    ("dtype", lambda path: mlx_oss.load(dtype="fp16"), "dtype is 'fp16'", "expected auto, float32 or bfloat16"),
    (
        "group",
        lambda path: mlx_oss.load(group="x"),
        "group is 'x'",
        "expected what mlx.core.distributed.init() returns",
    ),
    ("progress", lambda path: mlx_oss.load(progress=True), "progress is True", "expected a function"),
    ("plan a number", lambda path: mlx_oss.plan(7), "the model is 7", "expected its folder or name"),
    # Making a session
    ("model by name", lambda path: ChatSession("20b", TOKENIZER), "model is a str", "= mlx_oss.load("),
    ("both in one", lambda path: ChatSession((1, 2), TOKENIZER), "model is a tuple", "model, tokenizer = mlx_oss.load"),
    ("swapped", lambda path: ChatSession(TOKENIZER, ScriptedEngine()), "model is a Tokenizer", "mlx_oss.load("),
    (
        "tokenizer by name",
        lambda path: ChatSession(ScriptedEngine(), "o200k"),
        "tokenizer is a str",
        "load_tokenizer()",
    ),
    (
        "temperature",
        lambda path: chat(temperature=0),
        "no argument 'temperature'",
        "options=SamplingOptions(temperature",
    ),
    ("system", lambda path: chat(system="Be brief."), "no argument 'system'", "did you mean 'instructions'?"),
    (
        "typo",
        lambda path: chat(reasoning_efort="low"),
        "no argument 'reasoning_efort'",
        "did you mean 'reasoning_effort'",
    ),
    (
        "effort",
        lambda path: chat(reasoning_effort="max"),
        "reasoning_effort is 'max'",
        "one of none, low, medium, high",
    ),
    ("no instructions", lambda path: chat(instructions=None), "instructions is None", "expected a text"),
    ("options as dict", lambda path: chat(options={"top_p": 1}), "options is {'top_p': 1}", "SamplingOptions(...)"),
    ("context policy", lambda path: chat(context_policy="drop"), "context_policy is 'drop'", "refuse or drop_oldest"),
    ("context limit", lambda path: chat(context_limit=0), "context_limit is 0", "expected 1 to 131,072 tokens"),
    ("guards", lambda path: chat(guards=False), "guards is False", "expected Guards(...) or None"),
    ("guard", lambda path: Guards(legal_headers="no"), "legal_headers is 'no'", "expected True or False"),
    ("stop", lambda path: chat(stop=[1]), "stop is [1]", "expected a text or a list of texts"),
    ("date", lambda path: chat(current_date=20250805), "current_date is 20250805", "such as '2025-08-05'"),
    # Sampling
    ("temperature as text", lambda path: SamplingOptions(temperature="0.7"), "temperature is '0.7'", "from 0 to 100"),
    ("top_p", lambda path: SamplingOptions(top_p=0), "top_p is 0", "use temperature=0"),
    ("penalty", lambda path: SamplingOptions(presence_penalty=5), "presence_penalty is 5", "a number from -2 to 2"),
    ("seed", lambda path: SamplingOptions(seed="x"), "seed is 'x'", "a whole number from 0"),
    ("bias of a text", lambda path: SamplingOptions(logit_bias={"a": 1}), "the key 'a'", "expected token ids"),
    # Messages
    ("messages as text", lambda path: chat(messages="Hello"), "messages is 'Hello'", '[{"role": "user"'),
    ("one message", lambda path: chat(messages=USER), "messages is {", "expected a list of messages"),
    (
        "role",
        lambda path: chat(messages=[{"role": "ai", "content": ""}]),
        "messages[0] has the role 'ai'",
        "expected one of",
    ),
    ("no content", lambda path: chat(messages=[{"role": "user"}]), "messages[0] has the content None", 'give ""'),
    (
        "an image",
        lambda path: chat(messages=[{"role": "user", "content": [{"type": "image_url"}]}]),
        "messages[0] has content of the type 'image_url'",
        "gpt-oss reads only text: give",
    ),
    (
        "a name that is no name",
        lambda path: chat(messages=[{**USER, "name": "Ann <|end|>"}]),
        "messages[0] has the name 'Ann <|end|>'",
        "in letters, digits, _ and -",
    ),
    (
        "a result without its call",
        lambda path: chat(messages=[{"role": "tool", "tool_call_id": "1", "content": "x"}]),
        "messages[0] is the result of the call '1'",
        "give the assistant's message with its tool_calls too",
    ),
    (
        "harmony's own",
        lambda path: chat(messages=[Message("system", SystemContent())]),
        "SystemContent",
        "leave it out",
    ),
    ("messages and ask", lambda path: chat().ask([USER]), "must be a str, not list", "`resume` answers"),
    # Turns
    ("no text", lambda path: chat().ask(None), "the user's message must be a str, not NoneType", "session.messages"),
    ("bytes", lambda path: chat().send(b"Hi"), "the user's message must be a str, not bytes", "session.messages"),
    ("stream", lambda path: chat().ask("Hi", stream=True), "no option 'stream'", "`send` returns the events"),
    (
        "tokens",
        lambda path: chat().ask("Hi", max_new_tokens=5),
        "no option 'max_new_tokens'",
        "did you mean 'max_tokens'?",
    ),
    ("limit", lambda path: chat().ask("Hi", max_tokens=0), "max_tokens is 0", "expected at least 1 or None"),
    ("n", lambda path: chat().ask("Hi", n=0), "n is 0", "expected a number of answers from 1"),
    ("choose", lambda path: chat().choose(0), "there are no answers to choose from", "call `choose` right after"),
    ("no turn", lambda path: chat().retry(), "there is no turn -1", "ask something first"),
    ("turn by text", lambda path: chat().edit("Hi", "Ho"), "the turn is 'Hi'", "expected its number"),
    ("two at once", lambda path: both(chat("Hi")), "in the middle of a turn", "read its events to the end"),
    ("too long", lambda path: many(80).ask("word " * 90), "leave no room to answer in a context of 80", "shorten"),
    (
        "not awaited",
        lambda path: collect(chat("Hi").asend("Hi")),
        "events is of the type AsyncIterate",
        "await session.aask",
    ),
    (
        "one event",
        lambda path: collect(AnswerDelta("Hi")),
        "events is of the type AnswerDelta",
        "expected those of `send`",
    ),
    ("half a turn", lambda path: collect([AnswerDelta("Hi")]), "end without Finished", "pass all events of one turn"),
    ("set a typo", lambda path: assign(chat(), max_token=5), "no option 'max_token'", "did you mean 'max_tokens'?"),
    (
        "set a model",
        lambda path: assign(chat(), model=None),
        "session.model cannot be set",
        "messages=session.to_messages",
    ),
    ("set the usage", lambda path: assign(chat(), usage=None), "session.usage cannot be set", "it is read only"),
    ("read a typo", lambda path: chat().mesages, "no attribute 'mesages'", "did you mean 'messages'?"),
    # Tools
    ("a tool alone", lambda path: chat(tools=weather), "tools is <function weather", "tools=[get_weather]"),
    ("a call's result", lambda path: chat(tools=[weather("Oslo")]), "'rain' is not a tool", "give a function"),
    ("a class", lambda path: chat(tools=[PythonTool]), "PythonTool is a class", "give PythonTool(...)"),
    ("a lambda", lambda path: chat(tools=[lambda x: x]), "has no name to call it by", "tool_from(..., name=...)"),
    ("twice", lambda path: chat(tools=[weather, weather]), "two tools are called 'weather'", "give each its own name"),
    ("OpenAI's, wrong", lambda path: chat(tools=[{"type": "function"}]), "is not a tool", '"function": {"name": ...'),
    ("a schema as text", lambda path: chat(tools=[ToolDescription("f", "", "{}")]), "parameters of tool 'f'", "a dict"),
    ("a name", lambda path: chat(tools=[ToolDescription("get weather")]), "'functions.get weather'", "letters, digits"),
    (
        "no handler",
        lambda path: Tool(ToolDescription("f"), "f"),
        "handler of the tool 'f' is 'f'",
        "expected a function",
    ),
    ("not described", lambda path: Tool("f", weather), "the description of a Tool is 'f'", "tool_from(function)"),
    ("positions", lambda path: tool_from(print), "takes `*args`", "give it one"),
    ("timeout", lambda path: tool_from(weather, timeout=0), "timeout of the tool 'weather' is 0", "seconds above 0"),
    (
        "choice",
        lambda path: chat(tools=[weather], tool_choice="wether"),
        "tool_choice is 'wether'",
        "the tools: weather",
    ),
    ("choice of none", lambda path: chat(tool_choice="required"), "there are no tools", "give tools=[...]"),
    ("confirm", lambda path: chat(confirm="yes"), "confirm is 'yes'", "expected a function"),
    ("a result", lambda path: chat().add_tool_result(CALLED, {}), "must be a str, not dict", "pass json.dumps(result)"),
    ("a call by id", lambda path: chat().add_tool_result("c1", ""), "call is a str", "expected a ToolCall"),
    ("browse nothing", lambda path: BrowserTool(path / "none"), "none is not a folder", "give one with Markdown"),
    ("browse a number", lambda path: BrowserTool(5), "the source is 5", "expected a folder, Web(...)"),
    (
        "patch nothing",
        lambda path: patch_tool(path / "none"),
        "none is not a folder",
        "whose files the model may change",
    ),
    ("no files", lambda path: PythonTool(files=["none.csv"]), "none.csv cannot be read", "give a file that can"),
    # Forms of answers
    (
        "json in words",
        lambda path: chat(response_format="json"),
        "response_format is 'json'",
        '{"type": "json_object"}',
    ),
    (
        "schema as text",
        lambda path: chat(response_format='{"type": "object"}'),
        "is no regular expression",
        "as a dict",
    ),
    ("a type", lambda path: chat(response_format=dict), "response_format is <class 'dict'>", "expected a JSON schema"),
    ("a wrong regex", lambda path: chat(response_format="(a"), "unclosed group", "simplify it"),
    ("a wrong schema", lambda path: chat(response_format={"type": "objekt"}), "Invalid type: objekt", "simplify it"),
    (
        "limit of thought",
        lambda path: chat(max_reasoning_tokens=-5),
        "max_reasoning_tokens is -5",
        "at least 0, or None",
    ),
    (
        "free headers",
        lambda path: chat(response_format="a", guards=Guards(legal_headers=False)),
        "response_format needs",
        "Guards(legal_headers=True)",
    ),
    # Files of sessions
    ("save in a folder", lambda path: chat().save(path), "it is a folder, not a file", "choose another path"),
    ("save nowhere", lambda path: chat().save(path / "none" / "chat"), "cannot be written", "choose another path"),
    ("save a number", lambda path: chat().save(5), "the path is 5", "expected a text or a pathlib.Path"),
    (
        "load no session",
        lambda path: ChatSession.load(path / "none", ScriptedEngine(), TOKENIZER),
        "cannot be read",
        "check",
    ),
    (
        "load a text",
        lambda path: ChatSession.load(path / "text", ScriptedEngine(), TOKENIZER),
        "not a saved",
        "text_only",
    ),
    # Below the chat
    ("a prompt as text", lambda path: Request("Hello"), "the prompt is 'Hello'", "encode text first"),
    ("an empty prompt", lambda path: Request([]), "the prompt is empty", "at least one token"),
    ("encode nothing", lambda path: TOKENIZER.encode(None), "the text is None", "expected a str"),
    ("decode an id", lambda path: TOKENIZER.decode(5), "the ids are 5", "expected a list of ids"),
    ("script nothing", lambda path: ScriptedEngine(None), "the answer None", "is not a str"),
    ("script too little", lambda path: chat().ask("Hi"), "request 1 has no answer", "give ScriptedEngine one more"),
    ("render dicts", lambda path: render_conversation([USER]), "is not a message", "message_from_dict"),
    ("render a role", lambda path: render_conversation([Message("bot", "x")]), "the role 'bot'", "expected one of"),
    ("render a number", lambda path: render_conversation([Message("user", 5)]), "the content 5", "expected a text"),
    (
        "render in the wrong place",
        lambda path: render_conversation([Message("user", DeveloperContent("x"))]),
        "DeveloperContent in a message of role 'user'",
        "put it into a message of role 'developer'",
    ),
    ("parse a text", lambda path: parse_messages("Hello"), "the ids are a text", "encode it first"),
    ("a wrong key", lambda path: message_from_dict(USER | {"x": 1}), "the unknown key 'x'", "the known keys are"),
    # Conversion
    ("convert a name", lambda path: convert("20b", path / "made"), "20b does not exist", "give the folder"),
    ("convert nothing", lambda path: convert(None, path / "made"), "the path is None", "expected a text"),
    ("options of a dict", lambda path: convert(path, path / "made", {}), "options is {}", "expected ConvertOptions"),
    ("shards", lambda path: ConvertOptions(shard_bytes="2GB"), "shard_bytes is '2GB'", "a number of bytes"),
    ("verify nothing", lambda path: verify(path / "none"), "none is not a folder", "give the folder of a model"),
]


@pytest.mark.parametrize(("wrong", "what", "remedy"), [row[1:] for row in MISTAKES], ids=[row[0] for row in MISTAKES])
def test_a_mistake_is_one_sentence_that_says_what_is_wrong_and_what_to_do(wrong, what, remedy, tmp_path, monkeypatch):
    pytest.importorskip("llguidance")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "text").write_text("Hello")
    with pytest.raises(MlxOssError) as caught:
        wrong(tmp_path)
    message = str(caught.value)
    assert what in message and remedy in message.split(what, 1)[1]
    assert "\n" not in message and len(message) < 450, message


def test_the_table_has_no_mistake_twice():
    assert len({row[0] for row in MISTAKES}) == len(MISTAKES) >= 100
