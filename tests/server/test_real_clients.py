"""Programs of others, unmodified, do whole tasks with the server. The model is scripted, the rest is real.

`tests.server.installed` says where the programs are looked for.
"""

from __future__ import annotations

import json
import signal
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import pytest

from tests.engines import wait_until
from tests.server import installed
from tests.server.agent_engine import AgentEngine, Turn
from tests.server.agent_script import Answer, Call, Edit, Read, Run, Script, tools_of
from tests.server.client_programs import JAVASCRIPT, PYTHON
from tests.server.served import MODEL, served

OLD, NEW = "Hello, world!", "Hello, moon!"
DONE = "The greeting is for the moon now."
QUESTION = "Greet the moon instead of the world in greeting.txt."


@dataclass(frozen=True)
class Agent:
    """A coding agent, installed and configured for a server.

    Attributes:
        arguments: The command line that asks it something.
        variables: Its environment.
        folder: Where it works.
        answer: Finds the answer in its standard output.
    """

    arguments: list[str]
    variables: dict[str, str]
    folder: Path
    answer: Callable[[str], str]

    def ask(self) -> str:
        done = installed.run(self.arguments, self.folder, self.variables)
        assert done.returncode == 0, done.stdout + done.stderr
        return self.answer(done.stdout)


def codex(address: str, tmp_path: Path) -> Agent:
    home, folder = tmp_path / "home", tmp_path / "work"
    (home / ".codex").mkdir(parents=True)
    folder.mkdir()
    (home / ".codex" / "config.toml").write_text(
        f'model = "{MODEL}"\nmodel_provider = "m"\n\n'
        f'[model_providers.m]\nname = "m"\nbase_url = "{address}/v1"\nwire_api = "responses"\n'
    )
    options = ["--skip-git-repo-check", "--json", "--sandbox", "workspace-write"]

    def answer(out: str) -> str:
        items = [json.loads(line).get("item", {}) for line in out.splitlines()]
        return str([item["text"] for item in items if item.get("type") == "agent_message"][-1])

    return Agent([installed.command("codex"), "exec", *options, QUESTION], installed.environment(home), folder, answer)


def claude_code(address: str, tmp_path: Path) -> Agent:
    home, folder = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    folder.mkdir()
    variables = installed.environment(
        home,
        ANTHROPIC_BASE_URL=address,
        ANTHROPIC_AUTH_TOKEN="none",
        ANTHROPIC_MODEL=MODEL,
        CLAUDE_CODE_DISABLE_NONESSENTIAL_TRAFFIC="1",
    )
    options = ["--output-format", "json", "--allowedTools", "Read,Bash,Edit"]
    return Agent(
        [installed.command("claude"), "-p", QUESTION, *options],
        variables,
        folder,
        lambda out: str(json.loads(out.splitlines()[-1])["result"]),
    )


def opencode(address: str, tmp_path: Path) -> Agent:
    home, folder = tmp_path / "home", tmp_path / "work"
    home.mkdir()
    folder.mkdir()
    options, models = {"baseURL": f"{address}/v1"}, {MODEL: {"limit": {"context": 131_072, "output": 32_000}}}
    provider = {"npm": "@ai-sdk/openai-compatible", "options": options, "models": models}
    (folder / "opencode.json").write_text(json.dumps({"model": f"m/{MODEL}", "provider": {"m": provider}}))
    variables = installed.environment(home, OPENCODE_DISABLE_AUTOUPDATE="1", OPENCODE_DISABLE_MODELS_FETCH="1")
    return Agent([installed.command("opencode"), "run", QUESTION], variables, folder, str.strip)


AGENTS = pytest.mark.parametrize("make", [codex, claude_code, opencode])


def assert_continued(turns: list[Turn], script: Script) -> None:
    """Each prompt begins with all of the one before and what the model wrote then, to the id."""
    for number, (before, after) in enumerate(pairwise(turns)):
        assert script.reasoning(number) in after.text
        length = len(before.prompt) + len(before.answer)
        assert after.prompt[:length] == before.prompt + before.answer
        assert after.reused >= length


@AGENTS
def test_a_coding_agent_reads_a_file_runs_a_command_edits_the_file_and_answers(make, tmp_path):
    file = tmp_path / "work" / "greeting.txt"
    script = Script(Read(str(file)), Run(f"wc -c {file}"), Edit(str(file), OLD, NEW), Answer(DONE))
    engine = AgentEngine(script)
    with served(engine) as address:
        agent = make(address, tmp_path)
        file.write_text(f"{OLD}\n")
        assert agent.ask() == DONE
    assert file.read_text() == f"{NEW}\n"
    turns = [turn for turn in engine.turns if tools_of(turn.text)]  # others ask for a title
    assert len(turns) == 4 and all(turn.ending == "stop" for turn in turns)
    assert OLD in turns[1].text and "14" in turns[2].text.rpartition("<|start|>functions")[2]
    assert_continued(turns, script)


def test_codex_knows_calls_of_tools_in_a_namespace(tmp_path):
    script = Script(Call("close_agent", {"target": "nobody"}), Answer(DONE))
    engine = AgentEngine(script)
    with served(engine) as address:
        assert codex(address, tmp_path).ask() == DONE
    name = tools_of(engine.turns[0].text)["close_agent"]
    assert not name.startswith("functions.")
    result = engine.turns[1].text.rpartition(f"<|start|>{name} to=assistant")[2]
    assert result and "unsupported call" not in result
    assert_continued(engine.turns, script)


@pytest.mark.long
@AGENTS
def test_a_prompt_that_is_read_for_longer_than_a_minute_is_waited_for(make, tmp_path):
    engine = AgentEngine(Script(Answer(DONE)), chunk=500, pause=6)
    with served(engine) as address:
        assert make(address, tmp_path).ask() == DONE
    assert [turn.ending for turn in engine.turns if tools_of(turn.text)] == ["stop"]


@AGENTS
def test_a_turn_ends_when_its_client_is_interrupted(make, tmp_path):
    engine = AgentEngine(Script(Answer("word " * 5000)), token_pause=0.02)
    with served(engine) as address:
        agent = make(address, tmp_path)
        process = subprocess.Popen(
            agent.arguments,
            cwd=agent.folder,
            env=agent.variables,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
        try:
            wait_until(lambda: any(len(turn.answer) > 50 for turn in engine.turns))
            process.send_signal(signal.SIGINT)
            wait_until(lambda: all(turn.ending == "left" for turn in engine.turns))
        finally:
            process.kill()
            process.communicate()
    assert len(engine.turns[0].answer) < 2000


WEATHER = Script(Call("get_weather", {"city": "Paris"}), Answer("It is sunny in Paris."))


def assert_tool_loop(engine: AgentEngine, done: subprocess.CompletedProcess[str]) -> None:
    assert done.returncode == 0, done.stderr
    assert done.stdout.splitlines()[-1] == "It is sunny in Paris."
    assert len(engine.turns) == 2 and "sunny in Paris" in engine.turns[1].text.rpartition("<|start|>functions")[2]
    assert_continued(engine.turns, WEATHER)


@pytest.mark.parametrize("name", PYTHON)
def test_a_python_library_calls_a_tool_and_its_reasoning_is_kept(name, tmp_path):
    modules, program = PYTHON[name]
    engine, python = AgentEngine(WEATHER), installed.python_with(*modules)
    with served(engine) as address:
        code = f"BASE, MODEL = {address!r}, {MODEL!r}\n{program}"
        assert_tool_loop(engine, installed.run([python, "-c", code], tmp_path, installed.environment(tmp_path)))


@pytest.mark.parametrize("name", JAVASCRIPT)
def test_a_javascript_library_calls_a_tool_and_its_reasoning_is_kept(name, tmp_path):
    packages, program = JAVASCRIPT[name]
    engine, node = AgentEngine(WEATHER), installed.node_with(tmp_path, *packages)
    with served(engine) as address:
        (tmp_path / "program.mjs").write_text(f"const [BASE, MODEL] = {json.dumps([address, MODEL])};\n{program}")
        assert_tool_loop(engine, installed.run([node, "program.mjs"], tmp_path, installed.environment(tmp_path)))
