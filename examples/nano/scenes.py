"""Scenes (what the app says and offers), turns, and how users type. Knows nothing of what they talk about."""

from __future__ import annotations

import re
import string
from dataclasses import dataclass, field
from random import Random

import phrasings
import tools
from knowledge import KNOWN_NAMES
from manners import rephrase
from vocabulary import UNKNOWN

from mlx_oss.harmony import PYTHON, DeveloperContent, Message, SystemContent


@dataclass(frozen=True)
class Call:
    """A tool call and what came back. `tool` is `python` or `functions.<name>`."""

    tool: str
    arguments: str
    result: str


@dataclass(frozen=True)
class Turn:
    """What a user says and nano answers; `gist` tells what the user does, `topic` lets the next turn refer back."""

    intent: str
    user: str
    gist: str
    final: str
    call: Call | None = None
    topic: str = ""
    plan: str = ""


@dataclass
class Scene:
    """What stays the same in a conversation, and what nano has been told in it."""

    rng: Random
    words: list[str]
    effort: str
    date: str | None
    instructions: str | None
    functions: tuple[tools.Function, ...]
    python: bool
    tidiness: float = 0.5
    turns: list[Turn] = field(default_factory=list)
    told: dict[str, str] = field(default_factory=dict)

    def restart(self) -> None:
        self.tidiness = self.rng.random()
        self.turns, self.told = [], {}

    def function(self, kind: str) -> tools.Function | None:
        return next((function for function in self.functions if function.kind == kind), None)

    def prefix(self) -> list[Message]:
        built_in = (PYTHON,) if self.python else ()
        system = SystemContent(reasoning_effort=self.effort, conversation_start_date=self.date, tools=built_in)
        messages = [Message("system", system)]
        if self.instructions or self.functions:
            descriptions = tuple(function.description for function in self.functions)
            content = DeveloperContent.with_functions(self.instructions, descriptions)
            messages.append(Message("developer", content))
        return messages


def expand(template: str, rng: Random) -> str:
    """`[a|b]` to a or b, innermost first."""
    while match := re.search(r"\[([^\[\]]*)\]", template):
        template = template[: match.start()] + rng.choice(match[1].split("|")) + template[match.end() :]
    return re.sub(r" +", " ", template).replace(" ,", ",").strip()


QUESTION = re.compile(
    r"(what|who|which|how|where|when|why|is|are|do|does|did|can|could|will|should|whose|am|was|were|has|have|may)\b"
    r"|(in|on|to|of|at) (what|which)\b|any\b|.*\b(which|whom|how many|what)\b"
)


def speak(scene: Scene, template: str, polite: float = 0.2, **slots: str) -> str:
    """A phrasing as a user types it: more or less tidy, polite, right; slot values as they are or in lower case."""
    rng = scene.rng
    text = expand(template, rng)
    if polite > 0.15:
        text = rephrase(text, rng)
    if rng.random() < polite:
        text = rng.choice(phrasings.BEFORE) + text
    if rng.random() < polite / 2:
        text += rng.choice(phrasings.AFTER)
    text = _mistype(text, rng)
    tidy = scene.tidiness + 0.2 * rng.random()
    if tidy > 0.5 and not text.startswith("{"):
        text = re.sub(r"\bi\b", "I", text[0].upper() + text[1:])
    if text[-1:] not in "?!)." and (tidy > 0.4 or rng.random() < 0.3):
        text += "?" if QUESTION.match(text.lower()) else rng.choice([".", "", "!" if rng.random() < 0.4 else "."])
    lower = tidy < 0.45
    for key, value in slots.items():
        if lower and rng.random() < 0.85 and value in KNOWN_NAMES:
            value = value.lower()
        text = text.replace("{" + key + "}", value)
    if rng.random() < 0.02:
        text = text.replace(" ", "  ", 1)
    return text[:1].upper() + text[1:] if tidy > 0.6 else text


def _mistype(text: str, rng: Random) -> str:
    if rng.random() > 0.08:
        return text
    words = text.split(" ")
    where = [number for number, word in enumerate(words) if len(word) > 3 and word.isalpha()]
    if not where:
        return text
    number = rng.choice(where)
    word, at = words[number], rng.randrange(1, len(words[number]) - 1)
    words[number] = rng.choice(
        [
            word[:at] + word[at + 1] + word[at] + word[at + 2 :],
            word[:at] + word[at + 1 :],
            word[:at] + word[at] + word[at:],
            word[:at] + rng.choice("abcdeiorst") + word[at + 1 :],
            UNKNOWN,
        ]
    )
    return " ".join(words)


def junk(scene: Scene, most: int = 3) -> str:
    """Random words, some of them unknown."""
    rng = scene.rng
    return " ".join(UNKNOWN if rng.random() < 0.3 else any_word(scene) for _ in range(rng.choice([1, 1, 2, most])))


def filled(scene: Scene, template: str) -> str:
    """`template` with random words for {junk}, and for {gibberish}, {year} and {number} what they say."""
    rng = scene.rng
    fill = {
        "{junk}": lambda: junk(scene),
        "{gibberish}": lambda: "".join(rng.choice(string.ascii_lowercase) for _ in range(rng.randint(3, 9))),
        "{year}": lambda: str(rng.choice([rng.randint(1000, 2030), rng.randint(1850, 2025)])),
        "{number}": lambda: str(rng.randint(10, 9999)),
    }
    return re.sub(r"\{(junk|gibberish|year|number)\}", lambda match: fill[match[0]](), template)


def any_word(scene: Scene) -> str:
    return scene.rng.choice(scene.words) if scene.words else UNKNOWN


def made_up_name(scene: Scene) -> str:
    """A name nano has not seen as a name, of tokens it has."""
    rng = scene.rng
    kind = rng.random() if scene.words else 0.0
    word = any_word(scene)
    if kind < 0.5:
        return word[:1].upper() + word[1:]
    if kind < 0.75:
        return f"{word[:1].upper() + word[1:]} {any_word(scene).capitalize()}"
    syllables = "".join(rng.choice("bcdfghjklmnprstvwz") + rng.choice("aeiou") for _ in range(rng.choice([2, 2, 3])))
    return syllables.capitalize() + rng.choice(
        ["", "", "n", "r", "s", "l", "burg", "ville", "ton", "stad", "polis", "land"]
    )


def sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text[:-1] if text.endswith("..") else text
