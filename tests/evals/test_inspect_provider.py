"""The models in inspect-ai: on scripted answers what it gets and what the model reads, and a whole task on nano."""

from __future__ import annotations

import asyncio
import importlib
import json
import subprocess
import sys
import tomllib
import warnings
from pathlib import Path
from typing import Any

import pytest

from mlx_oss import ContextError, DeviceError, OptionError, Request, ScriptedEngine, load_tokenizer

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # of what inspect-ai imports
    pytest.importorskip("inspect_ai")
    from inspect_ai.model import (
        ChatMessage,
        ChatMessageAssistant,
        ChatMessageSystem,
        ChatMessageTool,
        ChatMessageUser,
        ContentImage,
        ContentReasoning,
        ContentText,
        GenerateConfig,
        ModelOutput,
        ResponseSchema,
        get_model,
    )
    from inspect_ai.tool import ToolCallError, ToolFunction, ToolInfo, ToolParams
    from inspect_ai.util import JSONSchema

    from mlx_oss.evals.inspect_provider import MlxOss

from tests.evals.answering import Answering

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # of what inspect-ai uses

ROOT = Path(__file__).parents[2]
WEATHER = ToolInfo(
    name="get_weather",
    description="Tells the weather.",
    parameters=ToolParams(properties={"city": JSONSchema(type="string")}, required=["city"]),
)
REASONED = "<|channel|>analysis<|message|>{}<|end|><|start|>assistant<|channel|>final<|message|>{}<|return|>"
CALL = (
    "<|channel|>analysis<|message|>I look.<|end|><|start|>assistant<|channel|>commentary to=functions.get_weather "
    '<|constrain|>json<|message|>{"city":  "Oslo"}<|call|>'
)


def provider(engine: ScriptedEngine, **options: Any) -> MlxOss:
    return MlxOss("scripted", engine=engine, tokenizer=load_tokenizer(), **options)


def generate(
    api: MlxOss, *messages: ChatMessage | str, tools: Any = (), choice: Any = "auto", **config: Any
) -> ModelOutput:
    said = [ChatMessageUser(content=each) if isinstance(each, str) else each for each in messages]
    return asyncio.run(api.generate(said, list(tools), choice, GenerateConfig(**config)))


def read_by(request: Request) -> str:
    return load_tokenizer().decode(list(request.prompt))


def test_an_answer_has_its_reasoning_its_stop_reason_and_what_it_cost():
    out = generate(provider(ScriptedEngine(REASONED.format("Easy.", "Four."))), "2 + 2?")
    reasoning, text = out.message.content
    assert isinstance(reasoning, ContentReasoning) and reasoning.reasoning == "Easy."
    assert isinstance(text, ContentText) and text.text == out.completion.strip() == "Four."
    assert out.stop_reason == "stop" and out.model == "scripted" and out.message.tool_calls is None
    usage = out.usage
    assert usage is not None and usage.reasoning_tokens == 2 and usage.output_tokens == 14
    assert usage.total_tokens == usage.input_tokens + (usage.input_tokens_cache_read or 0) + usage.output_tokens


def test_the_options_of_inspect_are_those_of_the_session():
    engine = ScriptedEngine("a")
    config = {"temperature": 0.5, "top_p": 0.9, "top_k": 7, "seed": 3, "max_tokens": 50, "frequency_penalty": 0.1}
    config |= {"presence_penalty": 0.2, "logit_bias": {5: -1.0}, "reasoning_effort": "xhigh", "stop_seqs": ["x"]}
    generate(provider(engine, date="2026-01-02"), ChatMessageSystem(content="Be brief."), "Hi", **config)
    (request,) = engine.requests
    options = request.options
    assert (options.temperature, options.top_p, options.top_k, options.seed) == (0.5, 0.9, 7, 3)
    assert (options.frequency_penalty, options.presence_penalty, options.logit_bias) == (0.1, 0.2, {5: -1.0})
    assert request.max_tokens == 50
    for text in ("Reasoning: high", "Current date: 2026-01-02", "# Instructions\n\nBe brief.", "<|message|>Hi<|end|>"):
        assert text in read_by(request)


def test_without_options_the_defaults_are_those_of_the_model_card():
    engine = ScriptedEngine("a")
    generate(provider(engine), "Hi")
    options = engine.requests[0].options
    assert (options.temperature, options.top_p, options.top_k, options.min_p, options.seed) == (1, 1, 0, 0, None)
    assert "Reasoning: medium" in read_by(engine.requests[0])


@pytest.mark.parametrize(
    ("effort", "tools", "told", "opened"),
    [
        ("minimal", False, "low", False),
        ("low", False, "low", False),
        ("max", False, "high", False),
        ("none", False, "low", True),
        ("none", True, "low", False),
    ],
)
def test_every_effort_of_inspect_is_one_of_the_models(effort, tools, told, opened):
    engine = ScriptedEngine("a")
    generate(provider(engine), "Hi", tools=[WEATHER] if tools else [], reasoning_effort=effort)
    prompt = read_by(engine.requests[0])
    assert f"Reasoning: {told}" in prompt and prompt.endswith("final<|message|>") == opened


def test_a_call_and_its_result_come_back_to_the_model_as_it_wrote_them():
    engine = ScriptedEngine(CALL, "It has 4 degrees.")
    api = provider(engine)
    out = generate(api, "Oslo?", tools=[WEATHER])
    (call,) = out.message.tool_calls or []
    assert (call.function, call.arguments, call.parse_error, out.stop_reason) == (
        "get_weather",
        {"city": "Oslo"},
        None,
        "tool_calls",
    )
    assert "type get_weather = (_: {\ncity: string" in read_by(engine.requests[0])
    result = ChatMessageTool(content="4 degrees", tool_call_id=call.id, function="get_weather")
    stored = ChatMessageAssistant.model_validate_json(out.message.model_dump_json())  # as it is in a log
    out = generate(api, "Oslo?", stored, result, tools=[WEATHER])
    assert out.completion.strip() == "It has 4 degrees."
    first, second = (list(request.prompt) for request in engine.requests)
    said = load_tokenizer().encode_with_specials(CALL)
    assert second[: len(first) + len(said)] == first + said
    assert read_by(engine.requests[1]).endswith(
        "<|start|>functions.get_weather to=assistant<|channel|>commentary<|message|>4 degrees<|end|><|start|>assistant"
    )


def test_reasoning_of_answered_turns_is_left_out_as_harmony_wants_it():
    engine = ScriptedEngine("b")
    before = ChatMessageAssistant(content=[ContentReasoning(reasoning="Secret."), ContentText(text="Yes.")])
    generate(provider(engine), "Hi", before, "And?")
    assert "Yes." in read_by(engine.requests[0]) and "Secret." not in read_by(engine.requests[0])


def test_an_error_of_a_tool_is_told_to_the_model():
    engine = ScriptedEngine(CALL, "Sorry.")
    api = provider(engine)
    call = (generate(api, "Oslo?", tools=[WEATHER]).message.tool_calls or [])[0]
    failed = ChatMessageTool(content="", tool_call_id=call.id, error=ToolCallError("timeout", "it took too long"))
    generate(api, "Oslo?", ChatMessageAssistant(content="", tool_calls=[call]), failed, tools=[WEATHER])
    assert "<|message|>Error: it took too long<|end|>" in read_by(engine.requests[1])


@pytest.mark.parametrize("arguments", ["{", "[]", '"a"', "nothing"])
def test_arguments_that_are_no_object_are_a_parse_error_of_the_call(arguments):
    out = generate(provider(ScriptedEngine(CALL.replace('{"city":  "Oslo"}', arguments))), "Oslo?", tools=[WEATHER])
    (call,) = out.message.tool_calls or []
    assert call.arguments == {} and call.parse_error and "cannot be read" in call.parse_error


@pytest.mark.parametrize("choice", ["any", ToolFunction("get_weather")])
def test_a_call_can_be_demanded(choice):
    engine = ScriptedEngine(CALL)
    generate(provider(engine), "Oslo?", tools=[WEATHER], choice=choice)
    constraint = engine.requests[0].constraint
    assert constraint is not None
    engine.says("a")
    generate(provider(engine), "Oslo?", choice="none")


def test_several_choices_have_seeds_one_after_the_other():
    engine = ScriptedEngine("a", "b", "c")
    out = generate(provider(engine), "Hi", num_choices=3, seed=2**64 - 1)
    assert sorted(choice.message.text.strip() for choice in out.choices) == ["a", "b", "c"]
    assert {request.options.seed for request in engine.requests} == {2**64 - 1, 0, 1}
    assert out.usage is not None and out.usage.output_tokens == 3 * 5


@pytest.mark.parametrize(("most", "reason"), [(3, "max_tokens"), (None, "model_length")])
def test_an_answer_that_was_cut_off_says_by_what(most, reason):
    engine = ScriptedEngine("word " * 400, context=300)
    assert generate(provider(engine), "Hi", max_tokens=most).stop_reason == reason


def test_a_conversation_that_does_not_fit_is_told_as_inspect_expects_it():
    out = generate(provider(ScriptedEngine(ContextError("too long"))), "Hi")
    assert out.stop_reason == "model_length" and out.completion == "too long"


def test_logprobs_are_those_of_the_answer():
    out = generate(provider(ScriptedEngine("Yes")), "Hi", logprobs=True)
    logprobs = out.choices[0].logprobs
    assert logprobs is not None and [token.token for token in logprobs.content] == ["Yes"]


def test_what_the_model_cannot_read_is_refused():
    image = ChatMessageUser(content=[ContentImage(image="data:image/png;base64,AA==")])
    with pytest.raises(OptionError, match="a part of the type image, but gpt-oss reads only text: leave it out"):
        generate(provider(ScriptedEngine("a")), image)
    with pytest.raises(OptionError, match="the conversation ends with an answer"):
        generate(provider(ScriptedEngine("a")), "Hi", ChatMessageAssistant(content="Hello"))
    with pytest.raises(DeviceError):
        generate(provider(ScriptedEngine(DeviceError("no memory"))), "Hi")


def test_as_many_connections_are_open_as_the_engine_computes_together():
    assert provider(Answering(at_once=7)).max_connections() == 7
    assert asyncio.run(provider(Answering()).count_tokens("one two")) == 2


def test_on_nano_a_schema_is_followed_and_requests_are_computed_together():
    pytest.importorskip("llguidance")
    schema = ResponseSchema(name="a", json_schema=JSONSchema(type="object", properties={"sure": JSONSchema(type="boolean")}, required=["sure"]))  # fmt: skip  # noqa: E501

    async def ask() -> list[ModelOutput]:
        async with get_model("mlx-oss/nano", config=GenerateConfig(temperature=0)) as model:
            assert isinstance(model.api, MlxOss) and model.api.max_connections() == 16
            plain = [model.generate(f"What is the capital of {one}?") for one in ("France", "Italy", "Spain")]
            formed = model.generate("Is it so?", config=GenerateConfig(response_schema=schema))
            return list(await asyncio.gather(*plain, formed))

    *plain, formed = asyncio.run(ask())
    assert [word in one.completion for one, word in zip(plain, ("Paris", "Rome", "Madrid"), strict=True)] == [True] * 3
    assert isinstance(json.loads(formed.completion)["sure"], bool)


def test_the_entry_point_leads_to_the_provider():
    points = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["entry-points"]["inspect_ai"]
    assert list(points) == ["mlx_oss"]  # inspect-ai looks for the name of the package
    assert importlib.import_module(points["mlx_oss"]).MlxOss


TASK = """
from inspect_ai import Task, task
from inspect_ai.dataset import Sample
from inspect_ai.scorer import includes
from inspect_ai.solver import generate, use_tools
from inspect_ai.tool import tool

@tool
def get_weather():
    async def execute(location: str) -> str:
        \"\"\"Get the weather of a place.

        Args:
            location: the place
        \"\"\"
        return "sunny, 24 degrees"
    return execute

@task
def tiny():
    questions = {"What is the capital of France?": "Paris", "What's the weather like in Paris today?": "24"}
    samples = [Sample(input=text, target=target) for text, target in questions.items()]
    return Task(dataset=samples, solver=[use_tools(get_weather()), generate()], scorer=includes())
"""


@pytest.mark.long
def test_inspect_eval_runs_a_task_with_a_tool_to_its_end(tmp_path):
    (tmp_path / "tiny.py").write_text(TASK)
    start = "import mlx_oss.evals.inspect_provider"  # what the entry point does where the package is installed
    start += "; from inspect_ai._cli.main import main; main()"
    command = [
        sys.executable,
        "-c",
        start,
        "eval",
        "tiny.py",
        "--model",
        "mlx-oss/nano",
        "--temperature",
        "0",
        "--display",
        "plain",
    ]
    done = subprocess.run([*command, "--log-format", "json"], cwd=tmp_path, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stdout + done.stderr
    (log,) = (tmp_path / "logs").glob("*.json")
    found = json.loads(log.read_text())
    assert found["status"] == "success"
    assert found["results"]["scores"][0]["metrics"]["accuracy"]["value"] == 1.0
