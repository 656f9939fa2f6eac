"""Scenes (the system and developer settings of a conversation), turns, and how users type.

Knows nothing of the subjects of conversations.
"""

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
    """A tool call and its result.

    Attributes:
        tool: `python` or `functions.<name>`.
        arguments: Python code, or JSON.
        result: The text that the tool returned.
    """

    tool: str
    arguments: str
    result: str


@dataclass(frozen=True)
class Turn:
    """What the user says and what nano answers.

    Attributes:
        intent: The kind of the turn; evaluation results are counted by it.
        user: The text of the user.
        gist: What the user does, as a continuation of "The user ..." in the reasoning.
        final: nano's answer.
        call: The tool call before the answer, if there is one.
        topic: What the next turn can refer back to.
        plan: How nano proceeds; a sentence in the reasoning at high effort.
    """

    intent: str
    user: str
    gist: str
    final: str
    call: Call | None = None
    topic: str = ""
    plan: str = ""


@dataclass
class Scene:
    """The settings of a conversation, and what has been said in it so far.

    Attributes:
        rng: Source of all random draws.
        words: Words for random text; may be empty.
        effort: Reasoning effort: "low", "medium" or "high".
        date: Current date in the system message, or None.
        instructions: Instructions of the developer, or None.
        functions: Functions that the developer offers.
        python: Whether the python tool is on.
        tidiness: How carefully the user types, 0 to 1.
        turns: The turns so far.
        told: What the user has said about themselves: `kind:detail` -> value.
    """

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
        """Begins a new conversation in the same scene."""
        self.tidiness = self.rng.random()
        self.turns, self.told = [], {}

    def function(self, kind: str) -> tools.Function | None:
        """The first offered function of this kind, or None."""
        return next((function for function in self.functions if function.kind == kind), None)

    def prefix(self) -> list[Message]:
        """The system message and, if there are instructions or functions, the developer message."""
        built_in = (PYTHON,) if self.python else ()
        system = SystemContent(reasoning_effort=self.effort, conversation_start_date=self.date, tools=built_in)
        messages = [Message("system", system)]
        if self.instructions or self.functions:
            descriptions = tuple(function.description for function in self.functions)
            content = DeveloperContent.with_functions(self.instructions, descriptions)
            messages.append(Message("developer", content))
        return messages


def expand(template: str, rng: Random) -> str:
    """Replaces each choice `[a|b]` by a random one of its options, innermost choices first."""
    while match := re.search(r"\[([^\[\]]*)\]", template):
        template = template[: match.start()] + rng.choice(match[1].split("|")) + template[match.end() :]
    return re.sub(r" +", " ", template).replace(" ,", ",").strip()


QUESTION = re.compile(
    r"(what|who|which|how|where|when|why|is|are|do|does|did|can|could|will|should|whose|am|was|were|has|have|may)\b"
    r"|(in|on|to|of|at) (what|which)\b|any\b|.*\b(which|whom|how many|what)\b"
)


def speak(scene: Scene, template: str, polite: float = 0.2, **slots: str) -> str:
    """Turns a phrasing into text as a user types it: more or less tidy, polite and free of typing errors.

    Args:
        scene: The scene; supplies the random draws and the user's tidiness.
        template: The phrasing, with choices `[a|b]` and slots `{name}`.
        polite: Probability of a polite opening. A polite ending is half as likely. Above 0.15, the question may also be
            rephrased.
        **slots: Values of the slots. Untidy users often write known names in lower case.
    """
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
    """Sometimes puts a typing error or an unknown word in place of one word."""
    if rng.random() > 0.08:
        return text
    words = text.split(" ")
    candidates = [number for number, word in enumerate(words) if len(word) > 3 and word.isalpha()]
    if not candidates:
        return text
    number = rng.choice(candidates)
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
    """Random words, some of them unknown: usually one or two, sometimes `most`."""
    rng = scene.rng
    return " ".join(UNKNOWN if rng.random() < 0.3 else any_word(scene) for _ in range(rng.choice([1, 1, 2, most])))


def filled(scene: Scene, template: str) -> str:
    """Fills the slots {junk} (random words), {gibberish} (random letters), {year} and {number} of a template."""
    rng = scene.rng
    fill = {
        "{junk}": lambda: junk(scene),
        "{gibberish}": lambda: "".join(rng.choice(string.ascii_lowercase) for _ in range(rng.randint(3, 9))),
        "{year}": lambda: str(rng.choice([rng.randint(1000, 2030), rng.randint(1850, 2025)])),
        "{number}": lambda: str(rng.randint(10, 9999)),
    }
    return re.sub(r"\{(junk|gibberish|year|number)\}", lambda match: fill[match[0]](), template)


def any_word(scene: Scene) -> str:
    """A random word of the scene, or an unknown word if the scene has none."""
    return scene.rng.choice(scene.words) if scene.words else UNKNOWN


def made_up_name(scene: Scene) -> str:
    """A name that is not in the tables: capitalised words that nano knows, or random syllables."""
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
    """`text` with a capital at the start and without a doubled full stop at the end."""
    text = text[:1].upper() + text[1:]
    return text[:-1] if text.endswith("..") else text
