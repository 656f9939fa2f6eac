"""The recipes of examples/clients.md work as they are written, with another port and a scripted model."""

from __future__ import annotations

import io
import plistlib
import re
from collections.abc import Callable
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path
from subprocess import CompletedProcess

import pytest

from mlx_oss.cli import _parsed
from mlx_oss.cli.serve import _greet
from tests.server import installed
from tests.server.agent_engine import AgentEngine
from tests.server.agent_script import Answer, Call, Script
from tests.server.served import MODEL, served

EXAMPLES = Path(__file__).parents[2] / "examples"
ADDRESS = "http://127.0.0.1:8642"
TEXT = (EXAMPLES / "clients.md").read_text()
ANSWER = "It is all there."
VERSION = re.compile(r"\d+\.\d+(?:\.\d+)?")


def blocks(heading: str, language: str) -> list[str]:
    """The code of a section in a language."""
    section = re.split(r"^## ", TEXT, flags=re.MULTILINE)
    found = next(part for part in section if part.startswith(f"{heading}\n"))
    return re.findall(rf"```{language}\n(.*?)```", found, flags=re.DOTALL)


def only(heading: str, language: str, address: str) -> str:
    """The only block of a section in a language, for the server at an address."""
    [block] = blocks(heading, language)
    return block.replace(ADDRESS, address)


def printed(address: str, name: str, *, has_key: bool = False) -> str:
    """The command that the server prints when it starts."""
    told = io.StringIO()
    with redirect_stdout(told), redirect_stderr(told):
        _greet(address, MODEL, has_key=has_key)
    [command] = re.findall(rf"^{name}: *(.*)", told.getvalue(), flags=re.MULTILINE)
    return str(command)


def shell(code: str, folder: Path, **variables: str) -> CompletedProcess[str]:
    return installed.run(["bash", "-ec", code], folder, installed.environment(folder, **variables))


def codex(address: str, folder: Path) -> CompletedProcess[str]:
    installed.command("codex")
    (folder / ".codex").mkdir()
    (folder / ".codex" / "config.toml").write_text(only("Codex", "toml", address))
    return shell(blocks("Codex", "sh")[0], folder)


def codex_for_once(address: str, folder: Path) -> CompletedProcess[str]:
    installed.command("codex")
    (folder / ".codex").mkdir()
    return shell(blocks("Codex", "sh")[1].replace(ADDRESS, address), folder)


def codex_as_printed(address: str, folder: Path) -> CompletedProcess[str]:
    installed.command("codex")
    (folder / ".codex").mkdir()
    return shell(printed(address, "Codex") + " exec --skip-git-repo-check 'What is here?'", folder)


def claude_code(address: str, folder: Path) -> CompletedProcess[str]:
    installed.command("claude")
    return shell(only("Claude Code", "sh", address), folder)


def claude_code_as_printed(address: str, folder: Path) -> CompletedProcess[str]:
    installed.command("claude")
    return shell(printed(address, "Claude Code") + " -p 'What is here?'", folder)


def opencode(address: str, folder: Path) -> CompletedProcess[str]:
    installed.command("opencode")
    (folder / ".config" / "opencode").mkdir(parents=True)
    (folder / ".config" / "opencode" / "opencode.json").write_text(only("opencode", "json", address))
    return shell(only("opencode", "sh", address), folder, OPENCODE_DISABLE_MODELS_FETCH="1")


def llm(address: str, folder: Path) -> CompletedProcess[str]:
    installed.command("llm")
    [command, *_] = re.findall(r"`(dirname .*?)`", TEXT)
    place = Path(shell(command, folder).stdout.strip())
    (place / "extra-openai-models.yaml").write_text(only("llm", "yaml", address))
    return shell(only("llm", "sh", address), folder)


def python(heading: str, *modules: str) -> Callable[[str, Path], CompletedProcess[str]]:
    def use(address: str, folder: Path) -> CompletedProcess[str]:
        program = [installed.python_with(*modules), "-c", only(heading, "python", address)]
        return installed.run(program, folder, installed.environment(folder))

    return use


def javascript(heading: str, *packages: str) -> Callable[[str, Path], CompletedProcess[str]]:
    def use(address: str, folder: Path) -> CompletedProcess[str]:
        node = installed.node_with(folder, *packages)
        (folder / "recipe.mjs").write_text(only(heading, "js", address))
        return installed.run([node, "recipe.mjs"], folder, installed.environment(folder))

    return use


ANSWERED = Script(Answer(ANSWER))
WEATHER = Script(Call("get_weather", {"city": "Paris"}), Answer(ANSWER))
TIME = Script(Call("llm_time", {}), Answer(ANSWER))
RECIPES: dict[str, tuple[Script, Callable[[str, Path], CompletedProcess[str]]]] = {
    "Codex": (ANSWERED, codex),
    "Codex, without its file": (ANSWERED, codex_for_once),
    "Codex, as the server prints it": (ANSWERED, codex_as_printed),
    "Claude Code": (ANSWERED, claude_code),
    "Claude Code, as the server prints it": (ANSWERED, claude_code_as_printed),
    "opencode": (ANSWERED, opencode),
    "llm": (TIME, llm),
    "OpenAI, Python": (ANSWERED, python("OpenAI's SDKs", "openai")),
    "OpenAI, JavaScript": (ANSWERED, javascript("OpenAI's SDKs", "openai")),
    "Anthropic, Python": (ANSWERED, python("Anthropic's SDKs", "anthropic")),
    "Anthropic, JavaScript": (ANSWERED, javascript("Anthropic's SDKs", "@anthropic-ai/sdk")),
    "Agents, Python": (WEATHER, python("OpenAI's Agents SDK", "agents")),
    "Agents, JavaScript": (WEATHER, javascript("OpenAI's Agents SDK", "@openai/agents", "openai", "zod")),
    "LiteLLM": (ANSWERED, python("LiteLLM", "litellm")),
}


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_prints_the_answer_of_the_model(name, tmp_path):
    script, use = RECIPES[name]
    engine = AgentEngine(script)
    with served(engine) as address:
        done = use(address, tmp_path)
    assert done.returncode == 0, done.stderr
    assert ANSWER in done.stdout and engine.turns


@pytest.mark.parametrize(
    ("command", "name", "question"),
    [
        ("codex", "Codex", " exec --skip-git-repo-check 'What is here?'"),
        ("claude", "Claude Code", " -p 'What is here?'"),
    ],
)
def test_the_command_that_is_printed_takes_the_key_from_the_environment(command, name, question, tmp_path):
    installed.command(command)
    (tmp_path / ".codex").mkdir()
    with served(AgentEngine(ANSWERED), key="secret") as address:
        code = printed(address, name, has_key=True) + question
        done = shell(code, tmp_path, MLX_OSS_API_KEY="secret")
        assert done.returncode == 0 and ANSWER in done.stdout, done.stderr
        assert shell(code, tmp_path, MLX_OSS_API_KEY="wrong").returncode != 0


def test_every_block_of_code_is_of_a_recipe_or_starts_the_server():
    tested = [
        "Codex",
        "Claude Code",
        "opencode",
        "OpenAI's SDKs",
        "Anthropic's SDKs",
        "OpenAI's Agents SDK",
        "llm",
        "LiteLLM",
    ]
    headings = re.findall(r"^## (.*)", TEXT, flags=re.MULTILINE)
    assert headings == [*tested, "Others, not tried", "Starting at login"]
    with_code = [heading for heading in headings if blocks(heading, r"\w+")]
    assert with_code == [*tested, "Starting at login"]


def test_the_commands_that_start_the_server_are_understood():
    [in_text] = re.findall(r"^mlx-oss (serve .*)", TEXT, flags=re.MULTILINE)
    service = plistlib.loads((EXAMPLES / "mlx-oss.plist").read_bytes())
    name, *at_login = service["ProgramArguments"]
    assert Path(name).is_absolute() and service["RunAtLoad"]
    for command in (in_text.split(), at_login):
        arguments = _parsed(command)
        assert f"http://{arguments.host}:{arguments.port}" == ADDRESS
    assert TEXT.count(service["Label"]) == 4


def test_ci_installs_the_versions_that_are_named():
    named = [version for line in re.findall(r"^\| \[.*", TEXT, flags=re.MULTILINE) for version in VERSION.findall(line)]
    installed_by_ci = (EXAMPLES.parent / ".ci" / "clients").read_text()
    assert len(named) == 11
    assert all(re.search(rf"(@|==){re.escape(version)}\s", installed_by_ci) for version in named)
