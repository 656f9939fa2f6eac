"""Generated dialogues: scenes (what the app says and offers) and the turns users take in them.

Knows the data tables, the harmony messages and how the model writes; nothing of training.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from random import Random

import facts
import phrasings as say
import tools
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
        system = SystemContent(
            reasoning_effort=self.effort, conversation_start_date=self.date, tools=(PYTHON,) if self.python else ()
        )
        messages = [Message("system", system)]
        if self.instructions or self.functions:
            descriptions = tuple(function.description for function in self.functions)
            messages.append(Message("developer", DeveloperContent.with_functions(self.instructions, descriptions)))
        return messages


# ---- words ----


def expand(template: str, rng: Random) -> str:
    """`[a|b]` to a or b, innermost first."""
    while match := re.search(r"\[([^\[\]]*)\]", template):
        template = template[: match.start()] + rng.choice(match[1].split("|")) + template[match.end() :]
    return re.sub(r" +", " ", template).replace(" ,", ",").strip()


BEFORE = [
    "please ",
    "please, ",
    "hey, ",
    "hi, ",
    "ok, ",
    "so ",
    "well, ",
    "um, ",
    "hello, ",
    "nano, ",
    "hey nano, ",
    "quick question: ",
    "i have a question: ",
    "just curious, ",
    "now ",
    "tell me, ",
    "next question: ",
    "and ",
    "hi! ",
    "hello! ",
    "say, ",
    "i was wondering, ",
    "one more question: ",
    "excuse me, ",
    "sorry, ",
    "question: ",
    "thanks. ",
    "great. ",
    "cool, ",
    "alright, ",
    "oh, ",
    "hmm, ",
    "good morning, ",
    "one thing: ",
    "can you help me? ",
    "i'd like to know, ",
]
AFTER = [
    " please",
    ", please",
    " thanks",
    ", thank you",
    " nano",
    " now",
    " for me",
    " if you know",
    "?",
    "??",
    " :)",
    "!",
    ", nano",
    " exactly",
    ", can you tell me",
    " again",
    " then",
    " actually",
    ", any idea",
]
QUESTION = re.compile(
    r"(what|who|which|how|where|when|why|is|are|do|does|did|can|could|will|should|whose|am|was|were|has|have|may|in which|on which|to which|of which|at what|any)\b|.*\b(which|whom|how many|what)\b"
)


def speak(scene: Scene, template: str, polite: float = 0.2, **slots: str) -> str:
    """A phrasing as a user types it: more or less tidy, polite and right; slot values stay as they are, or lower-cased."""
    rng = scene.rng
    text = expand(template, rng)
    if rng.random() < polite:
        text = rng.choice(BEFORE) + text
    if rng.random() < polite / 2:
        text += rng.choice(AFTER)
    text = _mistype(text, rng)
    tidy = scene.tidiness + 0.2 * rng.random()
    if tidy > 0.5 and not text.startswith("{"):
        text = re.sub(r"\bi\b", "I", text[0].upper() + text[1:])
    if text[-1:] not in "?!)." and (tidy > 0.4 or rng.random() < 0.3):
        text += "?" if QUESTION.match(text.lower()) else rng.choice([".", "", "!" if rng.random() < 0.4 else "."])
    lower = tidy < 0.3
    for key, value in slots.items():
        if lower and rng.random() < 0.85 and any(value == known for known in scene_known(value)):
            value = value.lower()
        text = text.replace("{" + key + "}", value)
    if rng.random() < 0.02:
        text = text.replace(" ", "  ", 1)
    return text[:1].upper() + text[1:] if tidy > 0.6 else text


def scene_known(value: str) -> tuple[str, ...]:
    """Values whose lower-case spelling nano can put right: the names in its tables."""
    return (value,) if value in KNOWN_NAMES else ()


def _mistype(text: str, rng: Random) -> str:
    if rng.random() > 0.1:
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


def with_article(word: str) -> str:
    return f"an {word}" if word[0] in "aeio" else f"a {word}"


def sentence(text: str) -> str:
    text = text[:1].upper() + text[1:]
    return text[:-1] if text.endswith("..") else text


# ---- facts ----


@dataclass(frozen=True)
class Fact:
    """One fact: the words a user may have for it, the words nano uses for it, and the answer."""

    asked: tuple[str, ...]
    shown: str
    answer: str


def _country(name: str) -> str:
    return f"the {name}" if name in facts.WITH_ARTICLE else name


def _country_facts(column: int) -> list[Fact]:
    rows = []
    for row in facts.COUNTRIES:
        name = row[0]
        if row[column]:
            short = [short for short, long in facts.SHORT_NAMES if long == name]
            asked = (
                *([_country(name)] * (4 - bool(short) * 2)),
                *(short and [*short, *(f"the {s}" for s in short if s.isupper())]),
                *([name] if name in facts.WITH_ARTICLE else []),
            )
            rows.append(Fact(asked, _country(name), row[column]))
    return rows


def _plain(
    pairs: list[tuple[str, str]], shown: Callable[[str], str] = str, answer: Callable[[str], str] = str
) -> list[Fact]:
    return [Fact((key,), shown(key), answer(value)) for key, value in pairs]


def _both_ways(pairs: list[tuple[str, str]]) -> list[tuple[str, str]]:
    known = dict(pairs)
    for left, right in pairs:
        known.setdefault(right, left)
    return list(known.items())


def _coloured(word: str) -> str:
    if word in {"sky", "night sky", "sun", "sea"}:
        return f"the {word}"
    return (
        word if word in {"grass", "snow", "blood", "coal", "milk", "chocolate", "sugar", "salt"} else with_article(word)
    )


def _named(pairs: list[tuple[str, str]]) -> list[Fact]:
    return [
        Fact(tuple({key, key, key.removeprefix("The "), key.replace("The ", "the ", 1)} - {""}), key, value)
        for key, value in pairs
    ]


_CAPITALS = {
    capital: _country(name) for name, capital, *_ in reversed(facts.COUNTRIES) if name not in {capital, "England"}
}
_MONTHS_AFTER = list(zip(facts.MONTHS, facts.MONTHS[1:] + facts.MONTHS[:1], strict=True))
_DAYS_AFTER = list(zip(facts.DAYS, facts.DAYS[1:] + facts.DAYS[:1], strict=True))
FACTS: dict[str, list[Fact]] = {
    "capital": _country_facts(1),
    "capital_of": [Fact((capital,), capital, country) for capital, country in _CAPITALS.items()],
    "continent": _country_facts(2),
    "currency": _country_facts(3),
    "language": _country_facts(4),
    "symbol": _plain(facts.ELEMENTS),
    "element": _plain([(symbol, name) for name, symbol in facts.ELEMENTS]),
    "opposite": _plain(_both_ways(facts.OPPOSITES)),
    "sound": _plain(facts.SOUNDS),
    "baby": _plain(facts.BABIES),
    "legs": _plain(facts.LEGS),
    "kind": _plain(facts.KINDS, answer=with_article),
    "colour": [Fact((_coloured(key), _coloured(key), key), _coloured(key), value) for key, value in facts.COLOURS],
    "author": _named(facts.AUTHORS),
    "inventor": _plain(facts.INVENTORS),
    "discoverer": _plain(facts.DISCOVERERS),
    "artist": _named(facts.ARTISTS),
    "composer": _named(facts.COMPOSERS),
    "day_after": _plain(_DAYS_AFTER),
    "day_before": _plain([(after, before) for before, after in _DAYS_AFTER]),
    "month_after": _plain(_MONTHS_AFTER),
    "month_before": _plain([(after, before) for before, after in _MONTHS_AFTER]),
    "month_days": _plain(list(zip(facts.MONTHS, facts.MONTH_DAYS, strict=True))),
    "month_number": _plain(list(zip(facts.ORDINALS, facts.MONTHS, strict=True))),
    "planet_number": _plain(list(zip(facts.ORDINALS[:8], facts.PLANETS, strict=True))),
    "mix": [Fact((f"{a} and {b}", f"{b} and {a}", f"{a} with {b}"), f"{a} and {b}", c) for a, b, c in facts.MIXES],
}
FACT_WEIGHTS = {
    "capital": 22,
    "capital_of": 10,
    "continent": 8,
    "currency": 10,
    "language": 9,
    "symbol": 7,
    "element": 5,
    "opposite": 10,
    "sound": 3,
    "baby": 3,
    "legs": 3,
    "kind": 4,
    "colour": 4,
    "author": 8,
    "inventor": 4,
    "discoverer": 2,
    "artist": 2,
    "composer": 2,
    "day_after": 2,
    "day_before": 2,
    "month_after": 2,
    "month_before": 2,
    "month_days": 2,
    "month_number": 2,
    "planet_number": 2,
    "mix": 2,
    "translate": 8,
}
KNOWN_NAMES = (
    {text for kind in FACTS for fact in FACTS[kind] for text in (*fact.asked, fact.shown) if kind not in {"element"}}
    | set(facts.NAMES)
    | set(facts.CITIES)
    | set(facts.LANGUAGES)
)
ALL_CITIES = sorted({*facts.CITIES, *(row[1] for row in facts.COUNTRIES)} - {"Washington, D.C."})


def fact(scene: Scene, kind: str | None = None, template: str | None = None) -> Turn:
    rng = scene.rng
    kind = kind or rng.choices(list(FACT_WEIGHTS), list(FACT_WEIGHTS.values()))[0]
    if kind == "translate":
        return translation(scene, template)
    gist, answer, templates = say.FACT[kind]
    row = rng.choice(FACTS[kind])
    user = speak(scene, template or rng.choice(templates), x=rng.choice(row.asked))
    if rng.random() < 0.9:
        user = re.sub(r"\b([Aa]) (?=[aeio])", r"\1n ", user)
    final = sentence(re.sub(r"\bA (?=[aeio])", "An ", answer.format(x=row.shown, y=row.answer)))
    final = sentence(final)
    return Turn(
        kind,
        user,
        re.sub(r"\ba (?=[aeio])", "an ", gist.format(x=row.shown)),
        final,
        topic=kind,
        plan="I know this fact.",
    )


def translation(
    scene: Scene, template: str | None = None, word: str | None = None, language: str | None = None
) -> Turn:
    rng = scene.rng
    row = next((row for row in facts.TRANSLATIONS if row[0] == word), None) or rng.choice(facts.TRANSLATIONS)
    language = language or rng.choice(facts.LANGUAGES)
    quoted = rng.choice([row[0], row[0], f'"{row[0]}"', f"'{row[0]}'"])
    user = speak(
        scene, (template or rng.choice(say.FACT["translate"][2])).replace("{x}", "{w} in {l}"), w=quoted, l=language
    )
    final = f'In {language}, "{row[0]}" is "{row[1 + facts.LANGUAGES.index(language)]}".'
    return Turn(
        "translate",
        user,
        f'asks for "{row[0]}" in {language}',
        final,
        topic=f"translate:{row[0]}:{language}",
        plan="I know this word.",
    )


def translation_follow_up(scene: Scene, topic: str) -> Turn:
    _, word, language = topic.split(":")
    if scene.rng.random() < 0.5:
        other = scene.rng.choice([name for name in facts.LANGUAGES if name != language])
        turn = translation(scene, word=word, language=other)
        template = scene.rng.choice(
            ["and in {x}", "in {x}", "what about {x}", "how about {x}", "and {x}", "what about in {x}", "now in {x}"]
        )
        return _with_user(turn, speak(scene, template, x=other))
    turn = translation(scene, language=language)
    template = scene.rng.choice(["and {x}", "what about {x}", "how about {x}", "now {x}", "and the word {x}"])
    return _with_user(turn, speak(scene, template, x=turn.topic.split(":")[1]))


def _with_user(turn: Turn, user: str) -> Turn:
    return Turn(turn.intent + "_follow_up", user, turn.gist, turn.final, turn.call, turn.topic, turn.plan)


def general(scene: Scene) -> Turn:
    templates, answer = scene.rng.choice(facts.GENERAL)
    user = speak(scene, scene.rng.choice(templates.split(";;")))
    return Turn(
        "general", user, "asks a question of general knowledge", answer, topic="general", plan="I know this fact."
    )


def follow_up(scene: Scene) -> Turn | None:
    topic = scene.turns[-1].topic
    if topic.startswith("translate:"):
        return translation_follow_up(scene, topic)
    if topic not in FACTS:
        return None
    if scene.rng.random() < 0.06:
        user = speak(
            scene, scene.rng.choice(say.FOLLOW_UP), x=made_up_name(scene) if scene.rng.random() < 0.5 else junk(scene)
        )
        return _unknown(scene, user, topic)
    turn = fact(scene, topic, scene.rng.choice(say.FOLLOW_UP))
    return _with_user(turn, turn.user)


# ---- talk ----


def talk(scene: Scene, intents: list[str]) -> Turn:
    rng = scene.rng
    intent = rng.choice(intents)
    gist, answers, templates = say.TALK[intent]
    template = expand(rng.choice(templates), rng)
    while "{junk}" in template:
        template = template.replace("{junk}", junk(scene), 1)
    template = template.replace(
        "{thing}",
        rng.choice(
            [*facts.FAVOURITES, "film", "book", "song", "music", "game", "language", "word", "day", "planet", "country"]
        ),
    )
    polite = 0.2 if intents is PROJECT_TALK else 0.06
    user = speak(
        scene,
        template,
        polite,
        project=rng.choice(say.PROJECT),
        model20=rng.choice(say.MODEL_20B),
        model120=rng.choice(say.MODEL_120B),
    )
    return Turn(
        intent,
        user,
        gist,
        rng.choice(answers),
        topic=intent,
        plan="I know the answer from the project." if intents is PROJECT_TALK else "I will be friendly.",
    )


_TALK = list(say.TALK)
PROJECT_TALK = _TALK[: _TALK.index("hello")]
SMALL_TALK = _TALK[_TALK.index("hello") :]


def unscoped(scene: Scene) -> Turn:
    rng = scene.rng
    if rng.random() < 0.3:
        kind = rng.choice(say.UNKNOWN_SLOT)
        name = rng.choice([made_up_name(scene), junk(scene, 2), UNKNOWN, UNKNOWN])
        template = rng.choice(say.FACT[kind][2])
        return _unknown(
            scene,
            speak(scene, template, x=f"{name} in {rng.choice(facts.LANGUAGES)}" if kind == "translate" else name),
            kind,
        )
    template = expand(rng.choice(say.UNSCOPED), rng)
    while "{junk}" in template:
        template = template.replace("{junk}", junk(scene), 1)
    return _unknown(scene, speak(scene, template))


def _unknown(scene: Scene, user: str, topic: str = "") -> Turn:
    return Turn(
        "unscoped",
        user,
        "asks something I do not know",
        scene.rng.choice(say.UNKNOWN),
        topic=topic,
        plan="I am too small for this.",
    )


def tell(scene: Scene) -> Turn:
    rng = scene.rng
    what = rng.choice(["name", "name", "name", "city_home", "dog", "age", "favourite", "favourite"])
    kind, pet = rng.choice(list(facts.FAVOURITES)), rng.choice(["dog", "cat", "horse", "bird", "rabbit", "fish"])
    value = {
        "name": lambda: rng.choice(facts.NAMES) if rng.random() < 0.7 else made_up_name(scene),
        "city_home": lambda: rng.choice(ALL_CITIES) if rng.random() < 0.8 else made_up_name(scene),
        "dog": lambda: (
            rng.choice(
                [*facts.NAMES, "Rex", "Bella", "Luna", "Rocky", "Coco", "Simba", "Milo", "Daisy", "Max", "Snowy"]
            )
            if rng.random() < 0.7
            else made_up_name(scene)
        ),
        "age": lambda: str(rng.randint(4, 99)),
        "favourite": lambda: rng.choice(facts.FAVOURITES[kind]) if rng.random() < 0.8 else any_word(scene),
    }[what]()
    says, reply, _, _, _ = say.TELL[what]
    template = rng.choice(says).replace("{kind}", kind).replace("{pet}", pet)
    if "{v}" in template and what == "favourite" and "kind" not in rng.choice(says):
        template = template if kind in template else f"my favourite {kind} is {{v}}"
    key = f"{what}:{kind if what == 'favourite' else pet if what == 'dog' else ''}"
    scene.told[key] = value
    final = sentence(reply.format(v=value, pet=pet))
    return Turn(
        f"tell_{what}",
        speak(scene, template, 0.1, v=value),
        "tells me something about themselves",
        final,
        topic="tell",
        plan="I will remember it.",
    )


def recall(scene: Scene, told: bool = True) -> Turn | None:
    rng = scene.rng
    if told and not scene.told:
        return None
    if told:
        key = rng.choice(list(scene.told))
    else:
        key = rng.choice(
            [
                "name:",
                "name:",
                "city_home:",
                "age:",
                *(f"favourite:{kind}" for kind in facts.FAVOURITES),
                "dog:dog",
                "dog:cat",
            ]
        )
        if key in scene.told:
            return None
    what, _, which = key.partition(":")
    _, _, asks, known, unknown = say.TELL[what]
    final = sentence(known.format(v=scene.told[key], kind=which, pet=which)) if told else unknown
    template = rng.choice(asks).replace("{kind}", which).replace("{pet}", which)
    return Turn(
        "recall" if told else "recall_nothing",
        speak(scene, template, 0.12),
        "asks about something they told me" if told else "asks about something they have not told me",
        final,
        topic="recall",
        plan="I look it up in our chat.",
    )


def react(scene: Scene) -> Turn | None:
    """Why, really, again: turns that refer to the last answer."""
    rng, last = scene.rng, scene.turns[-1]
    intent = rng.choice(["why", "sure", "again"])
    if intent == "again":
        return (
            Turn(
                intent,
                speak(scene, rng.choice(say.AGAIN), 0.1),
                "wants my last answer again",
                last.final,
                topic=last.topic,
                plan="I repeat it.",
            )
            if len(last.final) < 120
            else None
        )
    if intent == "why":
        final = (
            "Explained jokes are not funny any more."
            if last.topic == "joke"
            else "I cannot say why: I am a tiny model and only learned the answer."
        )
        return Turn(
            intent,
            speak(scene, rng.choice(say.WHY), 0.1),
            "asks why",
            final,
            topic=last.topic,
            plan="I do not know the reason.",
        )
    return Turn(
        intent,
        speak(scene, rng.choice(say.SURE), 0.1),
        "asks whether I am sure",
        "Yes, that is what I learned; but I am tiny, so check what matters.",
        topic=last.topic,
        plan="I will be honest.",
    )


def joke(scene: Scene) -> Turn | None:
    rng = scene.rng
    last = scene.turns[-1].topic if scene.turns else ""
    kind, asks, texts = rng.choice(
        [("joke", say.JOKE, facts.JOKES), ("joke", say.JOKE, facts.JOKES), ("fun_fact", say.FUN_FACT, facts.FUN_FACTS)]
    )
    asks = list(asks)
    if last in {"joke", "fun_fact"} and rng.random() < 0.8:
        kind, asks, texts = last, list(say.ANOTHER), facts.JOKES if last == "joke" else facts.FUN_FACTS
        asks += [f"another {'joke' if last == 'joke' else 'fact'}", f"one more {'joke' if last == 'joke' else 'fact'}"]
    heard = {turn.final for turn in scene.turns}
    # always the next one of the list: a greedy answer then differs from the last
    text = next((row[0] for row in texts if row[0] not in heard), None)
    if text is None:
        return None
    gist = "wants to hear a joke" if kind == "joke" else "wants to hear a fun fact"
    return Turn(kind, speak(scene, rng.choice(asks), 0.12), gist, text, topic=kind, plan="I know a few.")


def settings(scene: Scene) -> Turn:
    rng = scene.rng
    which = rng.choice(["date", "effort", "year", "time"])
    if which == "time":
        return Turn(
            "time_here",
            speak(scene, rng.choice(say.TIME_HERE)),
            "asks for the time",
            say.NO_TIME,
            topic="time_here",
            plan="I have no clock.",
        )
    if which == "effort":
        return Turn(
            "effort_now",
            speak(scene, rng.choice(say.EFFORT_ASK)),
            "asks for my reasoning effort",
            f"My reasoning effort is {scene.effort}.",
            topic="effort_now",
            plan="It is in the system message.",
        )
    asks, gist = (say.DATE_ASK, "asks for the date") if which == "date" else (say.YEAR_ASK, "asks for the year")
    known = scene.date and (f"Today is {scene.date}." if which == "date" else f"It is {scene.date[:4]}.")
    return Turn(
        which,
        speak(scene, rng.choice(asks)),
        gist,
        known or "Nobody told me the date.",
        topic=which,
        plan="It is in the system message.",
    )


# ---- arithmetic ----

SIGNS = {"+": "+", "-": "-", "*": "×", "/": "÷"}


@dataclass(frozen=True)
class Sum:
    """Two numbers as written and a sign."""

    a: str
    b: str
    sign: str

    def code(self, blank: str = "") -> str:
        b = f"({self.b})" if self.b.startswith("-") else self.b
        return f"{self.a}{blank}{self.sign}{blank}{b}"

    def value(self) -> str:
        a, b = float(self.a), float(self.b)
        exact = {"+": a + b, "-": a - b, "*": a * b, "/": a / b if b else 0.0}[self.sign]
        value = round(exact, 4)
        return str(int(value)) if value == int(value) else str(value)

    def shown(self) -> str:
        return f"{self.a} {SIGNS[self.sign]} {self.b}"


def any_sum(rng: Random, small: bool) -> Sum:
    sign = rng.choice("++--**/")
    if small:
        a, b = rng.randint(0, 12), rng.randint(0, 12)
        if sign == "/":
            b = max(b, 1)
            a *= b
        return Sum(str(a), str(b), sign)
    numbers = [_number(rng) for _ in range(2)]
    if sign == "/":
        numbers[1] = str(
            rng.choice(
                [2, 3, 4, 5, 6, 7, 8, 9, 10, 12, 15, 16, 20, 25, 48, 100, rng.randint(2, 99), rng.randint(2, 999)]
            )
        )
        if rng.random() < 0.6:
            numbers[0] = str(int(numbers[1]) * rng.randint(2, 120))
    return Sum(*numbers, sign)


def _number(rng: Random) -> str:
    if rng.random() < 0.07:
        return f"{rng.randint(0, 99)}.{rng.randint(1, 99):0{rng.choice([1, 2])}}".rstrip("0").removesuffix(".")
    size = rng.choice([10, 100, 100, 1000, 1000, 10000])
    number = str(rng.randrange(size))
    return f"-{number}" if rng.random() < 0.08 and number != "0" else number


def arithmetic(scene: Scene, follow: bool = False) -> Turn:
    rng = scene.rng
    calculator = scene.function("calculator")
    helped = scene.python or calculator is not None
    what = any_sum(rng, small=rng.random() < (0.25 if helped else 0.7))
    slots = {"a": what.a, "b": what.b}
    if rng.random() < 0.08 and all(part.isdigit() and int(part) <= 12 for part in slots.values()):
        slots = {key: facts.NUMBER_WORDS[int(value)] for key, value in slots.items()}
    if not follow and rng.random() < 0.15:
        template = rng.choice(say.IMPERATIVES[what.sign])
    else:
        template = rng.choice(say.SUM_FOLLOW_UP if follow else say.SUMS).replace(
            "{e}", rng.choice(say.EXPRESSIONS[what.sign])
        )
    user = speak(scene, template, **slots)
    gist = f"wants {what.code(' ')}"
    final = f"{what.shown()} = {what.value()}."
    if calculator:
        call = Call(
            f"functions.{calculator.name}",
            calculator.call(expression=what.code(" ")),
            tools.number_result(rng, what.value()),
        )
    elif scene.python:
        float_ = what.sign == "/" or "." in what.a + what.b
        code = f"print(round({what.code()}, 4))" if float_ else f"print({what.code()})"
        result = what.value()
        call = Call("python", code, f"{result}.0" if float_ and "." not in result else result)
    else:
        known = (
            all(part.isdigit() for part in (what.a, what.b))
            and max(int(what.b), int(what.a) if what.sign != "/" else 0) <= 12
            and (what.sign != "/" or (int(what.b) > 0 and int(what.a) <= 144 and int(what.a) % int(what.b) == 0))
        )
        return Turn(
            "sum_by_heart" if known else "sum_too_big",
            user,
            gist,
            final if known else say.NEED_TOOL,
            topic="sum",
            plan="I know it by heart." if known else "I have no tool for this.",
        )
    return Turn(
        f"sum_{'calculator' if calculator else 'python'}", user, gist, final, call, topic="sum", plan="I use the tool."
    )


# ---- developer functions ----


def _city(scene: Scene) -> str:
    return scene.rng.choice(ALL_CITIES) if scene.rng.random() < 0.72 else made_up_name(scene)


def weather(scene: Scene, follow: bool = False) -> Turn:
    rng, function, city = scene.rng, scene.function("weather"), _city(scene)
    template = rng.choice(say.WEATHER_FOLLOW_UP if follow else say.WEATHER_ASK)
    unit = rng.choice(tools.UNITS) if function and function.unit and rng.random() < 0.4 else None
    if unit:
        template += rng.choice(say.UNIT_ASK[unit])
    user, gist = speak(scene, template, x=city), f"asks for the weather in {city}"
    if function is None:
        return Turn(
            "weather_without", user, gist, say.NO_WEATHER, topic="weather_without", plan="I have no function for it."
        )
    arguments = function.call(city=city, unit=unit)
    return _called(scene, "weather", user, gist, function, arguments, *_weather_result(rng, unit, city))


def _weather_result(rng: Random, unit: str | None, city: str) -> tuple[str, str]:
    result, shown = tools.weather_result(rng, unit)
    return result, f"The weather in {city}: {shown}."


def _called(
    scene: Scene, intent: str, user: str, gist: str, function: tools.Function, arguments: str, result: str, final: str
) -> Turn:
    if scene.rng.random() < 0.06:
        result, text = tools.error_result(scene.rng)
        final = f"Sorry, that did not work: {text}."
    return Turn(
        intent,
        user,
        gist,
        final,
        Call(f"functions.{function.name}", arguments, result),
        topic=intent,
        plan="I call the function.",
    )


def weather_where(scene: Scene) -> Turn | None:
    """A question without a city, and its answer when the last turn asked for the city."""
    rng, function = scene.rng, scene.function("weather")
    if function is None:
        return None
    if scene.turns and scene.turns[-1].topic == "where":
        city = _city(scene)
        user = speak(
            scene,
            rng.choice(
                [
                    "{x}",
                    "in {x}",
                    "{x} please",
                    "for {x}",
                    "i mean {x}",
                    "i am in {x}",
                    "{x} of course",
                    "let's say {x}",
                ]
            ),
            0.05,
            x=city,
        )
        return _called(
            scene,
            "weather_city",
            user,
            f"asks for the weather in {city}",
            function,
            function.call(city=city),
            *_weather_result(rng, None, city),
        )
    asks = [
        "what is the weather [like|today|]",
        "how is the weather [today|]",
        "weather",
        "what's the temperature",
        "will it rain [today|tomorrow|]",
        "is it [cold|warm|sunny] outside",
        "do i need an umbrella",
        "tell me the weather",
        "give me the forecast",
        "weather please",
        "what's it like outside",
    ]
    return Turn(
        "weather_where",
        speak(scene, rng.choice(asks)),
        "asks for the weather without a city",
        "Which city do you mean?",
        topic="where",
        plan="I need a city.",
    )


def time(scene: Scene) -> Turn:
    rng, function, city = scene.rng, scene.function("time"), _city(scene)
    user, gist = speak(scene, rng.choice(say.TIME_ASK), x=city), f"asks for the time in {city}"
    if function is None:
        return Turn("time_without", user, gist, say.NO_TIME, topic="time_without", plan="I have no function for it.")
    result, clock = tools.time_result(rng)
    return _called(scene, "time", user, gist, function, function.call(city=city), result, f"It is {clock} in {city}.")


def message(scene: Scene) -> Turn:
    rng, function = scene.rng, scene.function("message")
    to = rng.choice(facts.NAMES) if rng.random() < 0.7 else made_up_name(scene)
    text = (
        rng.choice(say.MESSAGES) if rng.random() < 0.6 else " ".join(any_word(scene) for _ in range(rng.randint(2, 5)))
    )
    user = speak(scene, rng.choice(say.MESSAGE_ASK), 0.12, to=to, text=text)
    if text not in user:  # typing errors stay out of what is to be copied
        user = speak(scene, "send {to} a message: {text}", 0.0, to=to, text=text)
    if function is None:
        return Turn(
            "message_without",
            user,
            "wants to send a message",
            say.NO_MESSAGE,
            topic="message_without",
            plan="I have no function for it.",
        )
    return _called(
        scene,
        "message",
        user,
        f"wants to send a message to {to}",
        function,
        function.call(to=to, text=text),
        tools.done_result(rng),
        f"Your message to {to} was sent.",
    )


def timer(scene: Scene) -> Turn:
    rng, function = scene.rng, scene.function("timer")
    minutes = rng.choice([1, 2, 3, 5, 10, 15, 20, 25, 30, 45, 60, 90, rng.randint(1, 120), rng.randint(1, 999)])
    user = speak(scene, rng.choice(say.TIMER_ASK), n=str(minutes))
    if function is None:
        return Turn(
            "timer_without",
            user,
            "wants a timer",
            say.NO_TIMER,
            topic="timer_without",
            plan="I have no function for it.",
        )
    return _called(
        scene,
        "timer",
        user,
        f"wants a timer for {minutes} minutes",
        function,
        function.call(minutes=minutes),
        tools.done_result(rng),
        f"Done: a timer for {minutes} minutes.",
    )


# ---- scenes and conversations ----


def any_scene(rng: Random, words: list[str]) -> Scene:
    effort = rng.choice(["low", "medium", "medium", "high"])
    date = f"{rng.randint(2024, 2029)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}" if rng.random() < 0.85 else None
    kinds: list[str] = []
    offer = rng.random()
    if offer > 0.5:
        kinds = rng.sample(list(tools.KINDS), rng.choice([1, 1, 1, 2, 2, 3]))
        if "weather" not in kinds and rng.random() < 0.3:
            kinds[0] = "weather"
    functions = [tools.any_function(kind, rng) for kind in kinds]
    if offer > 0.42 and rng.random() < 0.3:
        functions.append(tools.idle_function(rng))
    rng.shuffle(functions)
    instructions = rng.choice(say.INSTRUCTIONS) if rng.random() < 0.35 else None
    python = rng.random() < (0.4 if not functions else 0.15)
    return Scene(rng, words, effort, date, instructions, tuple(functions), python)


def next_turn(scene: Scene) -> Turn:
    """One more turn: about something new, or about what was said before."""
    rng = scene.rng
    if scene.turns and scene.turns[-1].topic == "where" and rng.random() < 0.9:
        return weather_where(scene) or general(scene)
    turn = _referring(scene) if scene.turns and rng.random() < 0.5 else None
    return turn or _fresh(scene)


def _referring(scene: Scene) -> Turn | None:
    rng, last = scene.rng, scene.turns[-1]
    options: list[Callable[[Scene], Turn | None]] = []
    if last.topic in FACTS or last.topic.startswith("translate:"):
        options += [follow_up] * 5
    if last.topic == "sum":
        options += [lambda scene: arithmetic(scene, follow=True)] * 3
    if last.topic == "weather":
        options += [lambda scene: weather(scene, follow=True)] * 4
    if last.topic in {"joke", "fun_fact"}:
        options += [joke] * 4
    if scene.told:
        options += [recall] * 5
    if last.intent not in {"why", "sure", "again"} and rng.random() < (0.2 if options else 0.3):
        return react(scene)
    return rng.choice(options)(scene) if options else None


def _fresh(scene: Scene) -> Turn:
    rng = scene.rng
    kinds = [function.kind for function in scene.functions]
    weights = {
        "fact": 26.0, "general": 9.0, "project": 17.0, "small": 13.0, "unscoped": 11.0, "tell": 6.0, "nothing": 1.5, "joke": 2.5, "settings": 2.5,
        "sum": 16.0 if scene.python or "calculator" in kinds else 9.0, "weather": 16.0 if "weather" in kinds else 2.0, "where": 2.0,
        "time": 9.0 if "time" in kinds else 0.7, "message": 9.0 if "message" in kinds else 0.7, "timer": 8.0 if "timer" in kinds else 0.7,
    }  # fmt: skip
    make: dict[str, Callable[[], Turn | None]] = {
        "fact": lambda: fact(scene), "general": lambda: general(scene), "project": lambda: talk(scene, PROJECT_TALK), "small": lambda: talk(scene, SMALL_TALK), "unscoped": lambda: unscoped(scene), "tell": lambda: tell(scene),
        "nothing": lambda: recall(scene, told=False), "joke": lambda: joke(scene), "settings": lambda: settings(scene), "sum": lambda: arithmetic(scene), "weather": lambda: weather(scene), "where": lambda: weather_where(scene),
        "time": lambda: time(scene), "message": lambda: message(scene), "timer": lambda: timer(scene),
    }  # fmt: skip
    return make[rng.choices(list(weights), list(weights.values()))[0]]() or fact(scene)


def conversation(scene: Scene, length: int) -> list[Turn]:
    """`length` turns in a scene; the last one is the one to be answered."""
    scene.restart()
    for _ in range(length):
        scene.turns.append(next_turn(scene))
    return scene.turns
