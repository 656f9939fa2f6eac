"""Programs that ask a library for the weather in Paris, answer the call of `get_weather`, and print the answer.

For each name, what it imports and its text; BASE and MODEL are defined before it.
"""

from __future__ import annotations

PYTHON: dict[str, tuple[tuple[str, ...], str]] = {
    "openai-agents, Responses": (
        ("agents",),
        """
from agents import *
from openai import AsyncOpenAI

@function_tool
def get_weather(city: str) -> str:
    return f"sunny in {city}"

set_tracing_disabled(True)
client = AsyncOpenAI(base_url=BASE + "/v1", api_key="none")
model = OpenAIResponsesModel(MODEL, client)
print(Runner.run_sync(Agent(name="w", model=model, tools=[get_weather]), "Weather in Paris?").final_output)
""",
    ),
    "openai-agents, Chat Completions": (
        ("agents",),
        """
from agents import *
from openai import AsyncOpenAI
import asyncio

@function_tool
def get_weather(city: str) -> str:
    return f"sunny in {city}"

async def main():
    set_tracing_disabled(True)
    model = OpenAIChatCompletionsModel(MODEL, AsyncOpenAI(base_url=BASE + "/v1", api_key="none"))
    result = Runner.run_streamed(Agent(name="w", model=model, tools=[get_weather]), "Weather in Paris?")
    async for event in result.stream_events():
        pass
    print(result.final_output)

asyncio.run(main())
""",
    ),
    "litellm, Chat Completions": (
        ("litellm",),
        """
import litellm
function = {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
messages = [{"role": "user", "content": "Weather in Paris?"}]
while True:
    answer = litellm.completion(
        model="openai/" + MODEL, api_base=BASE + "/v1", api_key="none", messages=messages,
        tools=[{"type": "function", "function": function}],
    ).choices[0].message
    if not answer.tool_calls:
        break
    messages.append(answer)
    for call in answer.tool_calls:
        messages.append({"role": "tool", "tool_call_id": call.id, "content": "sunny in Paris"})
print(answer.content)
""",
    ),
    "litellm, Messages": (
        ("litellm",),
        """
import litellm
function = {"name": "get_weather", "parameters": {"type": "object", "properties": {"city": {"type": "string"}}}}
messages = [{"role": "user", "content": "Weather in Paris?"}]
while True:
    answer = litellm.completion(
        model="anthropic/" + MODEL, api_base=BASE, api_key="none", messages=messages,
        tools=[{"type": "function", "function": function}],
    ).choices[0].message
    if not answer.tool_calls:
        break
    messages.append(answer)
    for call in answer.tool_calls:
        messages.append({"role": "tool", "tool_call_id": call.id, "content": "sunny in Paris"})
print(answer.content)
""",
    ),
    "llm, Chat Completions": (
        ("llm",),
        """
import os
from pathlib import Path
home = Path(os.environ["HOME"])
os.environ["LLM_USER_PATH"] = str(home)
model = {"model_id": "m", "model_name": MODEL, "api_base": BASE + "/v1", "supports_tools": True}
(home / "extra-openai-models.yaml").write_text("- " + "\\n  ".join(f"{k}: {v}" for k, v in model.items()) + "\\n")
import llm

def get_weather(city: str) -> str:
    return f"sunny in {city}"

print(llm.get_model("m").chain("Weather in Paris?", tools=[get_weather], key="none").text())
""",
    ),
    "openai, Responses": (
        ("openai",),
        """
from openai import OpenAI
client = OpenAI(base_url=BASE + "/v1", api_key="none")
tool = {"type": "function", "name": "get_weather", "strict": True, "parameters": {
    "type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"], "additionalProperties": False}}
history = [{"role": "user", "content": "Weather in Paris?"}]
while True:
    with client.responses.stream(model=MODEL, input=history, tools=[tool], store=False) as stream:
        for event in stream:
            pass
        response = stream.get_final_response()
    history += response.output
    calls = [item for item in response.output if item.type == "function_call"]
    if not calls:
        break
    history += [{"type": "function_call_output", "call_id": c.call_id, "output": "sunny in Paris"} for c in calls]
print(response.output_text)
""",
    ),
    "anthropic, Messages": (
        ("anthropic",),
        """
from anthropic import Anthropic, beta_tool

@beta_tool
def get_weather(city: str) -> str:
    '''The weather.

    Args:
        city: Where.
    '''
    return f"sunny in {city}"

client = Anthropic(base_url=BASE, api_key="none")
runner = client.beta.messages.tool_runner(
    model=MODEL, max_tokens=4096, tools=[get_weather], messages=[{"role": "user", "content": "Weather in Paris?"}],
    thinking={"type": "adaptive"},
)
print([block.text for block in runner.until_done().content if block.type == "text"][0])
""",
    ),
}
JAVASCRIPT: dict[str, tuple[tuple[str, ...], str]] = {
    "@openai/agents, Responses": (
        ("@openai/agents", "openai", "zod"),
        """
import { Agent, OpenAIResponsesModel, run, setTracingDisabled, tool } from "@openai/agents";
import OpenAI from "openai";
import { z } from "zod";
setTracingDisabled(true);
const parameters = z.object({ city: z.string() });
const execute = async ({ city }) => `sunny in ${city}`;
const getWeather = tool({ name: "get_weather", description: "w", parameters, execute });
const model = new OpenAIResponsesModel(new OpenAI({ baseURL: BASE + "/v1", apiKey: "none" }), MODEL);
const agent = new Agent({ name: "w", model, tools: [getWeather] });
const result = await run(agent, "Weather in Paris?", { stream: true });
for await (const event of result) ;
console.log(result.finalOutput);
""",
    ),
    "@openai/agents, Chat Completions": (
        ("@openai/agents", "openai", "zod"),
        """
import { Agent, OpenAIChatCompletionsModel, run, setTracingDisabled, tool } from "@openai/agents";
import OpenAI from "openai";
import { z } from "zod";
setTracingDisabled(true);
const parameters = z.object({ city: z.string() });
const execute = async ({ city }) => `sunny in ${city}`;
const getWeather = tool({ name: "get_weather", description: "w", parameters, execute });
const model = new OpenAIChatCompletionsModel(new OpenAI({ baseURL: BASE + "/v1", apiKey: "none" }), MODEL);
const agent = new Agent({ name: "w", model, tools: [getWeather] });
console.log((await run(agent, "Weather in Paris?")).finalOutput);
""",
    ),
    "openai, Chat Completions": (
        ("openai",),
        """
import OpenAI from "openai";
const client = new OpenAI({ baseURL: BASE + "/v1", apiKey: "none" });
const parameters = { type: "object", properties: { city: { type: "string" } } };
const getWeather = ({ city }) => `sunny in ${city}`;
const runner = client.chat.completions.runTools({
  model: MODEL,
  stream: true,
  messages: [{ role: "user", content: "Weather in Paris?" }],
  tools: [{ type: "function", function: { function: getWeather, name: "get_weather", parse: JSON.parse, parameters } }],
});
console.log(await runner.finalContent());
""",
    ),
    "openai, Responses": (
        ("openai",),
        """
import OpenAI from "openai";
const client = new OpenAI({ baseURL: BASE + "/v1", apiKey: "none" });
const parameters = { type: "object", properties: { city: { type: "string" } } };
const tools = [{ type: "function", name: "get_weather", strict: false, parameters }];
const input = [{ role: "user", content: "Weather in Paris?" }];
for (;;) {
  const response = await client.responses.create({ model: MODEL, input, tools, store: false });
  input.push(...response.output);
  const calls = response.output.filter((item) => item.type === "function_call");
  if (!calls.length) {
    console.log(response.output_text);
    break;
  }
  for (const { call_id } of calls) input.push({ type: "function_call_output", call_id, output: "sunny in Paris" });
}
""",
    ),
    "@anthropic-ai/sdk, Messages": (
        ("@anthropic-ai/sdk",),
        """
import Anthropic from "@anthropic-ai/sdk";
const client = new Anthropic({ baseURL: BASE, apiKey: "none" });
const input_schema = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const messages = [{ role: "user", content: "Weather in Paris?" }];
for (;;) {
  const tools = [{ name: "get_weather", description: "w", input_schema }];
  const message = await client.messages.stream({ model: MODEL, max_tokens: 4096, messages, tools }).finalMessage();
  messages.push({ role: "assistant", content: message.content });
  const calls = message.content.filter((block) => block.type === "tool_use");
  if (!calls.length) {
    console.log(message.content.find((block) => block.type === "text").text);
    break;
  }
  const results = calls.map(({ id }) => ({ type: "tool_result", tool_use_id: id, content: "sunny in Paris" }));
  messages.push({ role: "user", content: results });
}
""",
    ),
    "@anthropic-ai/sdk, Messages, tool runner": (
        ("@anthropic-ai/sdk",),
        """
import Anthropic from "@anthropic-ai/sdk";
const client = new Anthropic({ baseURL: BASE, apiKey: "none" });
const input_schema = { type: "object", properties: { city: { type: "string" } }, required: ["city"] };
const run = async ({ city }) => `sunny in ${city}`;
const messages = [{ role: "user", content: "Weather in Paris?" }];
const tools = [{ name: "get_weather", description: "w", input_schema, run, parse: (input) => input }];
const message = await client.beta.messages.toolRunner({ model: MODEL, max_tokens: 4096, messages, tools });
console.log(message.content.find((block) => block.type === "text").text);
""",
    ),
}
