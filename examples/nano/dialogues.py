"""Generates scenes and conversations: draws the kinds of turns at random, by weight."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

import phrasings as say
import tools
from fact_turns import fact, follow_up, general, unscoped
from knowledge import FACTS
from scenes import Scene, Turn
from talk_turns import PROJECT_TALK, SMALL_TALK, echo, joke, react, recall, settings, talk, tell
from tool_turns import arithmetic, message, time, timer, weather, weather_where


def any_scene(rng: Random, words: list[str]) -> Scene:
    """A random scene: effort, date, developer instructions and tools.

    Args:
        rng: Source of all random draws of the scene and of its conversations.
        words: Words for random text, as returned by `vocabulary.Rows.words`. If empty, unknown words are used.
    """
    effort = rng.choice(["low", "medium", "medium", "high"])
    date = f"{rng.randint(2024, 2029)}-{rng.randint(1, 12):02}-{rng.randint(1, 28):02}" if rng.random() < 0.85 else None
    kinds: list[str] = []
    offer = rng.random()
    if offer > 0.35:
        kinds = rng.sample(list(tools.KINDS), rng.choice([1, 1, 1, 2, 2, 3]))
        if "weather" not in kinds and rng.random() < 0.3:
            kinds[0] = "weather"
    functions = [tools.any_function(kind, rng) for kind in kinds]
    if offer > 0.3 and rng.random() < 0.3:
        functions.append(tools.idle_function(rng))
    rng.shuffle(functions)
    instructions = rng.choice(say.INSTRUCTIONS) if rng.random() < 0.35 else None
    python = rng.random() < (0.4 if not functions else 0.15)
    return Scene(rng, words, effort, date, instructions, tuple(functions), python)


def next_turn(scene: Scene) -> Turn:
    """A turn that continues the conversation: a new subject, or a reference to an earlier turn."""
    rng = scene.rng
    if scene.turns and scene.turns[-1].topic == "where" and rng.random() < 0.9:
        return weather_where(scene) or general(scene)
    turn = _referring(scene) if scene.turns and rng.random() < 0.5 else None
    return turn or _fresh(scene)


def _referring(scene: Scene) -> Turn | None:
    """A turn that refers to the last turn or to something the user said earlier; None if no such turn fits."""
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
    """A turn about a new subject. Weights depend on the offered tools; a kind that does not fit becomes a fact."""
    rng = scene.rng
    kinds = [function.kind for function in scene.functions]
    weights = {
        "fact": 28.0,
        "general": 10.0,
        "project": 17.0,
        "small": 13.0,
        "unscoped": 7.0,
        "tell": 15.0,
        "echo": 18.0,
        "nothing": 1.5,
        "joke": 2.5,
        "settings": 9.0,
        "sum": 32.0 if "calculator" in kinds else 22.0 if scene.python else 15.0,
        "weather": 34.0 if "weather" in kinds else 2.0,
        "where": 2.0,
        "time": 22.0 if "time" in kinds else 0.7,
        "message": 30.0 if "message" in kinds else 0.7,
        "timer": 20.0 if "timer" in kinds else 0.7,
    }
    make: dict[str, Callable[[], Turn | None]] = {
        "fact": lambda: fact(scene),
        "general": lambda: general(scene),
        "project": lambda: talk(scene, PROJECT_TALK),
        "small": lambda: talk(scene, SMALL_TALK),
        "unscoped": lambda: unscoped(scene),
        "tell": lambda: tell(scene),
        "echo": lambda: echo(scene),
        "nothing": lambda: recall(scene, told=False),
        "joke": lambda: joke(scene),
        "settings": lambda: settings(scene),
        "sum": lambda: arithmetic(scene),
        "weather": lambda: weather(scene),
        "where": lambda: weather_where(scene),
        "time": lambda: time(scene),
        "message": lambda: message(scene),
        "timer": lambda: timer(scene),
    }
    return make[rng.choices(list(weights), list(weights.values()))[0]]() or fact(scene)


def conversation(scene: Scene, length: int) -> list[Turn]:
    """Starts a new conversation in `scene` and returns its `length` turns. nano has to answer the last one."""
    scene.restart()
    for _ in range(length):
        scene.turns.append(next_turn(scene))
    return scene.turns
