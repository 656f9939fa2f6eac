"""What a scripted agent does: it reads a file, runs a command, edits the file and answers, with the tools it is given.

It looks only at the text of the prompt: which tools the developer message describes, and how many results there are.
So it works for any client whose tools are of a kind that it knows. Each step has its own reasoning, so a test can see
whether the reasoning of earlier steps came back. Knows nothing of engines and HTTP.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from dataclasses import dataclass

TOOLS_OF = re.compile(r"^namespace (\w+) \{\n(.*?)\n\} // namespace \1\b", re.DOTALL | re.MULTILINE)
TOOL = re.compile(r"^type (\S+) = \(", re.MULTILINE)
RESULT = re.compile(r"<\|start\|>(?!assistant|user|system|developer)[\w.-]+ to=assistant")
TITLE = "A greeting for the world"


@dataclass(frozen=True)
class Read:
    """Read a file."""

    path: str


@dataclass(frozen=True)
class Run:
    """Run a command of the shell."""

    command: str


@dataclass(frozen=True)
class Edit:
    """Replace a line of a file by another."""

    path: str
    old: str
    new: str


@dataclass(frozen=True)
class Call:
    """Call a certain tool, whose name is given without its namespace."""

    tool: str
    arguments: Mapping[str, object]


@dataclass(frozen=True)
class Answer:
    """Answer the user."""

    text: str


Step = Read | Run | Edit | Call | Answer


class Script:
    """Decides what to write next.

    Args:
        *steps: What to do, the answer last.
    """

    def __init__(self, *steps: Step) -> None:
        self.steps = steps

    def reasoning(self, number: int) -> str:
        """What the agent thinks before the step with this number, from 0."""
        return f"Step {number} of my plan is to {type(self.steps[number]).__name__.lower()}. It is a good plan."

    def __call__(self, prompt: str) -> str:
        tools = tools_of(prompt)
        if not tools and len(self.steps) > 1:  # the client wants a title, for example
            return f"<|channel|>final<|message|>{TITLE}<|return|>"
        number = len(RESULT.findall(prompt))
        step = self.steps[number] if number < len(self.steps) else Answer("I have nothing left to do.")
        thought = self.reasoning(min(number, len(self.steps) - 1))
        analysis = f"<|channel|>analysis<|message|>{thought}<|end|><|start|>assistant"
        if isinstance(step, Answer):
            return f"{analysis}<|channel|>final<|message|>{step.text}<|return|>"
        name, arguments = call_for(step, tools)
        header = f"<|channel|>commentary to={name} <|constrain|>json"
        return f"{analysis}{header}<|message|>{json.dumps(arguments)}<|call|>"


def tools_of(prompt: str) -> dict[str, str]:
    """The tools that a prompt describes: the full name of each by its bare name."""
    return {
        name: f"{namespace}.{name}"
        for namespace, declared in TOOLS_OF.findall(prompt)
        for name in TOOL.findall(declared)
    }


def call_for(step: Step, tools: Mapping[str, str]) -> tuple[str, Mapping[str, object]]:
    """The full name of the tool that does a step, and its arguments."""
    match step:
        case Call(tool, arguments):
            return tools[tool], arguments
        case Read(path) if "Read" in tools:
            return tools["Read"], {"file_path": path}
        case Edit(path, old, new) if "Edit" in tools:
            return tools["Edit"], {"file_path": path, "old_string": old, "new_string": new}
        case Read(path) if "read" in tools:
            return tools["read"], {"filePath": path}
        case Edit(path, old, new) if "edit" in tools:
            return tools["edit"], {"filePath": path, "oldString": old, "newString": new}
        case Read(path):
            return _shell(f"cat {path}", tools)
        case Edit(path, old, new):
            patch = f"*** Begin Patch\n*** Update File: {path}\n@@\n-{old}\n+{new}\n*** End Patch"
            if "apply_patch" in tools:
                return tools["apply_patch"], {"input": patch}
            return _shell(f"apply_patch <<'END'\n{patch}\nEND", tools)
        case Run(command):
            return _shell(command, tools)
    raise AssertionError(f"{step=} is not done with a tool")


def _shell(command: str, tools: Mapping[str, str]) -> tuple[str, Mapping[str, object]]:
    if bash := tools.get("Bash") or tools.get("bash"):
        return bash, {"command": command, "description": "Runs a command"}
    if "exec_command" in tools:
        return tools["exec_command"], {"cmd": command}
    return tools["shell"], {"command": ["bash", "-lc", command]}
