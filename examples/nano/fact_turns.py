"""Turns about facts, follow-up questions to them, and questions that nano cannot answer."""

from __future__ import annotations

import re

import facts
import phrasings as say
from knowledge import FACT_WEIGHTS, FACTS
from manners import other_words
from scenes import Scene, Turn, expand, filled, junk, made_up_name, sentence, speak
from vocabulary import UNKNOWN


def fact(scene: Scene, kind: str | None = None, template: str | None = None) -> Turn:
    """A question about a random fact.

    Args:
        scene: The scene of the conversation.
        kind: Kind of fact: a key of `knowledge.FACT_WEIGHTS`. None draws one by weight.
        template: Phrasing of the question. None draws one.
    """
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
    """Asks for a word in another language. Random, except for the parts that are passed."""
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
    """The same word in another language, or another word in the same language."""
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
    """A question of general knowledge."""
    templates, answer = scene.rng.choice(facts.GENERAL)
    question = expand(scene.rng.choice(templates.split(";;")), scene.rng)
    user = speak(scene, other_words(question, scene.rng))
    return Turn(
        "general", user, "asks a question of general knowledge", answer, topic="general", plan="I know this fact."
    )


def follow_up(scene: Scene) -> Turn | None:
    """Asks the last fact question about something else. None if the last turn was not about a fact."""
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


def unscoped(scene: Scene) -> Turn:
    """A question that nano cannot answer: about an unknown name, or outside its knowledge."""
    rng = scene.rng
    if rng.random() < 0.35:
        kind = rng.choice(list(say.UNKNOWN_SLOT))
        names = say.UNKNOWN_NAMES.get(say.UNKNOWN_SLOT[kind], [])
        name = rng.choice([made_up_name(scene), junk(scene, 2), UNKNOWN])
        if names and rng.random() < 0.5:
            name = rng.choice(names)
            name = name.lower() if rng.random() < 0.4 else name
        template = rng.choice(say.FACT[kind][2])
        return _unknown(
            scene,
            speak(scene, template, x=f"{name} in {rng.choice(facts.LANGUAGES)}" if kind == "translate" else name),
            kind,
        )
    return _unknown(scene, speak(scene, filled(scene, expand(rng.choice(say.UNSCOPED), rng))))


def _unknown(scene: Scene, user: str, topic: str = "") -> Turn:
    return Turn(
        "unscoped",
        user,
        "asks something I do not know",
        scene.rng.choice(say.UNKNOWN),
        topic=topic,
        plan="I am too small for this.",
    )
