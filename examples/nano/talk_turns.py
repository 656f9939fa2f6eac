"""Turns about the project, small talk, what users say about themselves, and reactions to the last answer."""

from __future__ import annotations

import facts
import phrasings as say
from knowledge import ALL_CITIES
from scenes import Scene, Turn, any_word, expand, filled, made_up_name, sentence, speak
from words import PETS


def talk(scene: Scene, intents: list[str]) -> Turn:
    """A turn with one of `intents`, which are keys of `phrasings.TALK`."""
    rng = scene.rng
    intent = rng.choice(intents)
    gist, answers, templates = say.TALK[intent]
    template = filled(scene, expand(rng.choice(templates), rng))
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


def tell(scene: Scene) -> Turn:
    """The user says something about themselves, which is stored in `scene.told`."""
    rng = scene.rng
    what = rng.choice(["name", "name", "name", "city_home", "dog", "age", "favourite", "favourite"])
    kind, pet = (rng.choice(list(facts.FAVOURITES)), rng.choice(["dog", "cat", "horse", "bird", "rabbit", "fish"]))
    value = {
        "name": lambda: rng.choice(facts.NAMES) if rng.random() < 0.6 else made_up_name(scene),
        "city_home": lambda: rng.choice(ALL_CITIES) if rng.random() < 0.8 else made_up_name(scene),
        "dog": lambda: rng.choice([*facts.NAMES, *PETS, *PETS]) if rng.random() < 0.7 else made_up_name(scene),
        "age": lambda: str(rng.randint(4, 99)),
        "favourite": lambda: rng.choice(facts.FAVOURITES[kind]) if rng.random() < 0.8 else any_word(scene),
    }[what]()
    says, reply, _, _, _ = say.TELL[what]
    template = expand(rng.choice(says), rng).replace("{kind}", kind).replace("{pet}", pet)
    if what == "favourite" and kind not in template and rng.random() < 0.5:
        template = f"my favourite {kind} is {{v}}"
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


def echo(scene: Scene) -> Turn:
    """The user wants some words repeated. Any known word can occur, so that nano learns to copy all of them."""
    rng = scene.rng
    sources = [lambda: any_word(scene)] * 5 + [lambda: rng.choice(facts.NAMES), lambda: rng.choice(ALL_CITIES)]
    sources += [lambda: str(rng.randint(0, 9999)), lambda: made_up_name(scene)]
    text = " ".join(rng.choice(sources)() for _ in range(rng.randint(1, rng.choice([2, 4, 12]))))
    return Turn(
        "echo",
        f"{rng.choice(say.ECHO)} {text}",
        "wants me to repeat some words",
        text,
        topic="echo",
        plan="I repeat them.",
    )


def recall(scene: Scene, told: bool = True) -> Turn | None:
    """The user asks about something they said about themselves.

    Args:
        scene: The scene of the conversation.
        told: True for something that the user did say, False for something that they did not.

    Returns:
        The turn, or None if the scene has nothing that fits.
    """
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
    """The user asks why, asks whether nano is sure, or wants the last answer again (None if that is long)."""
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
    """The user wants a joke or a fun fact. None if nano has already used all of them in this conversation."""
    rng = scene.rng
    last = scene.turns[-1].topic if scene.turns else ""
    kind, asks, texts = rng.choice(
        [("joke", say.JOKE, facts.JOKES), ("joke", say.JOKE, facts.JOKES), ("fun_fact", say.FUN_FACT, facts.FUN_FACTS)]
    )
    asks = list(asks)
    if last in {"joke", "fun_fact"} and rng.random() < 0.8:
        kind, asks, texts = (last, list(say.ANOTHER), facts.JOKES if last == "joke" else facts.FUN_FACTS)
        asks += [f"another {'joke' if last == 'joke' else 'fact'}", f"one more {'joke' if last == 'joke' else 'fact'}"]
    used = {turn.final for turn in scene.turns}
    # Always the next one in the list, so that a greedy answer differs from the previous one.
    text = next((row[0] for row in texts if row[0] not in used), None)
    if text is None:
        return None
    gist = "wants to hear a joke" if kind == "joke" else "wants to hear a fun fact"
    return Turn(kind, speak(scene, rng.choice(asks), 0.12), gist, text, topic=kind, plan="I know a few.")


def settings(scene: Scene) -> Turn:
    """The user asks for the date, the year, the time or the reasoning effort."""
    rng = scene.rng
    which = rng.choice(["date", "date", "date", "effort", "year", "time"])
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
