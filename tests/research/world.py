"""Five hundred pages with facts in them, and an engine that researches them by simple rules instead of a model.

What the engine says depends on its prompt only, so a run that is stopped and goes on says the same as one that is not.
"""

from __future__ import annotations

import json
import random
import re
import threading
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from mlx_oss import Request, ScriptedEngine, Stream, load_tokenizer

TOKENIZER = load_tokenizer()
QUESTION = "What is known of the lakes Torvan, Belmira and Quosse?"
ASKED = ("Torvan", "Belmira", "Quosse")
_START = re.compile(r"<\|start\|>")


@dataclass(frozen=True)
class Lake:
    """What a page says of a lake."""

    name: str
    area: int
    depth: float
    finder: str
    motto: str

    @property
    def page(self) -> str:
        filler = "The shore is quiet in winter, and ferries run in summer.\n\n" * (self.area % 7)
        return (
            f"# Lake {self.name}\n\n{filler}Lake {self.name} covers {self.area:,} square kilometres.\n\n"
            f"It is {self.depth} metres deep, and was first described by {self.finder}.\n\n"
            f'Its motto is "{self.motto}" to this day.\n'
        )


def lakes(count: int = 500) -> list[Lake]:
    rng = random.Random(29)

    def word() -> str:
        return "".join(rng.choice(["ba", "ko", "ri", "ne", "tu", "sol", "mar", "vey"]) for _ in range(3)).capitalize()

    names = [*ASKED, *(f"{word()}{number}" for number in range(count - len(ASKED)))]
    return [
        Lake(
            name,
            rng.randrange(1000, 99_999),
            round(rng.uniform(2, 400), 1),
            f"{word()} {word()}",
            " ".join(word().lower() for _ in range(4)),
        )
        for name in names
    ]


def write_pages(folder: Path, count: int = 500) -> dict[str, Lake]:
    """Writes a page for each lake; returns the lakes by name."""
    folder.mkdir(parents=True, exist_ok=True)
    made = lakes(count)
    for number, lake in enumerate(made):
        (folder / f"page{number:03}.md").write_text(lake.page)
    return {lake.name: lake for lake in made}


class Answering(ScriptedEngine):
    """Says what a rule makes of the text of the prompt.

    Attributes:
        prompts: The texts of the prompts, in order.
    """

    def __init__(self, rule: Callable[[str], str], context: int = 131_072) -> None:
        super().__init__(context=context)
        self._rule, self._turn = rule, threading.Lock()
        self.prompts: list[str] = []

    def submit(self, request: Request) -> Stream:
        text = TOKENIZER.decode(request.prompt)
        with self._turn:
            self.prompts.append(text)
            self.says(self._rule(text))
            return super().submit(request)


def call(function: str, **arguments: object) -> str:
    return f"<|channel|>analysis to=browser.{function} code<|message|>{json.dumps(arguments)}<|call|>"


def messages(prompt: str) -> list[str]:
    """The messages of a prompt, headers included."""
    return _START.split(prompt)[1:]


def asked(prompt: str) -> str:
    """The last message of the user."""
    return [message for message in messages(prompt) if message.startswith("user")][-1]


class Researcher:
    """The rules of a model that searches for each lake, opens its page, and writes down what stands there.

    Args:
        edit: What it makes of the lines of its report.
        plan: Its plan.
    """

    def __init__(self, edit: Callable[[list[str]], list[str]] = list, plan: str = "") -> None:
        self._edit = edit
        self._plan = plan or "\n".join(f"{n}. What is known of Lake {name}?" for n, name in enumerate(ASKED, 1))

    def __call__(self, prompt: str) -> str:
        said = asked(prompt)
        if "Do not search yet" in said:
            return self._plan
        if "are still open?" in said:
            return "none"
        if "Write the report" in said:
            notes = said.partition("These are the notes, with citations:")[2].partition("Do not search now.")[0]
            return "\n\n".join(self._edit([line for line in notes.splitlines() if "【" in line]))
        after = prompt.rpartition("<|start|>user")[2]
        results = [message for message in messages(after) if message.startswith("browser.")]
        name = re.search(r"Answer this part of it: .*Lake (\w+)", said)
        if name is None or said.startswith("user<|message|>Stop here."):
            return _note(results)
        if not results:
            return call("search", query=f"Lake {name[1]}", topn=5)
        if len(results) == 1:
            found = re.search(rf"【(\d+)†Lake {name[1]}", results[0])
            return "Nothing is found." if found is None else call("open", id=int(found[1]))
        return _note(results)


def _note(results: list[str]) -> str:
    """What stands on the last page, each fact with the lines that it is from."""
    shown = next((each for each in reversed(results) if "Search Results" not in each), "")
    head = re.search(r"\[(\d+)\] (.*) \(", shown)
    facts = re.findall(r"^L(\d+): (.*(?:covers|deep|motto).*)$", shown, flags=re.MULTILINE)
    if head is None:
        return "Nothing is found."
    return "\n".join(f"{text} 【{head[1]}†L{line}】" for line, text in facts)
