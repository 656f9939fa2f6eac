"""Converts turns to training sequences: rows of the embedding, in the tokens that harmony renders and nano writes.

A sequence is a prefix (system and developer block) and a continuation (the turns). Its mask marks the tokens that are
learned: everything that nano writes in the last turn, and the contents of some earlier calls and answers.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from random import Random

import dialogues
import facts
import numpy as np
import phrasings as say
from knowledge import FACTS, KNOWN_NAMES
from scenes import Call, Scene, Turn
from vocabulary import Rows, common_ids
from words import COMMON, PETS

from mlx_oss import tokenizer as o200k
from mlx_oss.harmony import render_conversation

EVALUATED = [Path(__file__).with_name(name) for name in ("held_out.txt", "fresh.txt")]
LENGTHS = ([1, 2, 3, 4, 6], [42, 26, 17, 9, 6])  # turns in a conversation, and the weights of these lengths
# Conversations in a group, by their number of turns, so that all groups have about the same number of tokens.
TALKS = {1: 12, 2: 10, 3: 7, 4: 5, 6: 4}


def choose_rows(sample: int = 4000) -> Rows:
    """Chooses the tokens that get their own row.

    These are common tokens, the tokens of every word in the tables, and the tokens that occur more than 12 times in a
    sample of generated groups.

    Args:
        sample: Number of groups to generate.
    """
    everything = Rows(np.arange(o200k.N_VOCAB, dtype=np.int32))
    rng, count = Random(0), np.zeros(o200k.N_VOCAB + 1, np.int64)
    for _ in range(sample):
        group = any_group(everything, [], rng)
        for row in (group.prefix, *group.rows):
            np.add.at(count, np.array(row), 1)
    texts = [form for word in table_words() for form in (f" {word}", f" {word.lower()}", word[:1].upper() + word[1:])]
    texts += [f" {word}" for word in COMMON]
    tables = {id_ for text in texts for id_ in o200k.load_tokenizer().encode(text)}
    return Rows(np.array(sorted(common_ids() | tables | set(np.flatnonzero(count[:-1] > 12).tolist())), np.int32))


def table_words() -> set[str]:
    """All words and names in the tables of phrasings, answers and facts."""
    phrasings = [text for _, answers, asks in (*say.TALK.values(),) for text in (*answers, *asks)]
    phrasings += [text for _, answer, asks in say.FACT.values() for text in (answer, *asks)]
    phrasings += [text for asks, answer in facts.GENERAL for text in (asks, answer)]
    names = {*KNOWN_NAMES, *(fact.answer for kind in FACTS.values() for fact in kind), *PETS}
    names |= {value for values in facts.FAVOURITES.values() for value in values}
    return names | set(re.findall(r"[^\W\d_]+", " ".join([*phrasings, *names])))


@dataclass
class Writer:
    """Appends text and tokens to a sequence of rows and its mask.

    Attributes:
        rows: Maps text and ids to rows.
        out: The sequence so far.
        mask: For each row, whether it is learned.
    """

    rows: Rows
    out: list[int]
    mask: list[bool]

    def add(self, part: str | int, learned: bool) -> None:
        new = self.rows.of_ids([part]) if isinstance(part, int) else self.rows.of_text(part)
        self.out += new
        self.mask += [learned] * len(new)

    def user(self, text: str) -> None:
        for part in (o200k.START, "user", o200k.MESSAGE, text, o200k.END):
            self.add(part, False)

    def assistant_start(self, learned: bool) -> None:
        self.add(o200k.START, learned)
        self.add("assistant", learned)

    def write(self, header: list[str | int], content: str, end: int, learned_header: bool, learned_end: bool) -> None:
        """Writes the rest of a message after `<|start|>assistant`. The content is always learned."""
        for part in (o200k.CHANNEL, *header, o200k.MESSAGE):
            self.add(part, learned_header)
        self.add(content, True)
        self.add(end, learned_end)

    def call(self, call: Call, learned_header: bool) -> None:
        header: list[str | int] = (
            ["analysis", " to=python", " code"]
            if call.tool == "python"
            else ["commentary", f" to={call.tool} ", o200k.CONSTRAIN, "json"]
        )
        self.write(header, call.arguments, o200k.CALL, learned_header, True)

    def result(self, call: Call) -> None:
        channel = "analysis" if call.tool == "python" else "commentary"
        for part in (
            o200k.START,
            f"{call.tool}",
            " to=assistant",
            o200k.CHANNEL,
            channel,
            o200k.MESSAGE,
            call.result,
            o200k.END,
        ):
            self.add(part, False)

    def past(self, turn: Turn, learned: bool) -> None:
        """Writes an earlier turn, without reasoning. Its call and answer are learned only if `learned`."""
        start = len(self.mask)
        self.user(turn.user)
        if turn.call:
            self.assistant_start(False)
            self.call(turn.call, False)
            self.result(turn.call)
        self.assistant_start(False)
        self.write(["final"], turn.final, o200k.END, False, False)
        if not learned:
            self.mask[start:] = [False] * (len(self.mask) - start)

    def last(self, turn: Turn, effort: str) -> None:
        """Writes the turn that nano has to answer, with reasoning of the length that the effort sets."""
        self.user(turn.user)
        self.assistant_start(False)
        thoughts = {
            "low": "",
            "medium": f"The user {turn.gist}.",
            "high": f"The user {turn.gist}. {turn.plan} I will answer briefly.",
        }
        thought = thoughts[effort]
        if turn.call and effort != "low":
            thought = (
                thought.replace("I will answer briefly.", f"I use {turn.call.tool}.")
                if effort == "high"
                else f"{thought} I use {turn.call.tool}."
            )
        if thought:
            self.write(["analysis"], thought, o200k.END, True, True)
            self.assistant_start(True)
        if turn.call:
            self.call(turn.call, True)
            self.result(turn.call)
            self.assistant_start(False)
            if effort == "high":
                self.write(["analysis"], "The tool has answered. I report the result.", o200k.END, True, True)
                self.assistant_start(True)
        self.write(["final"], turn.final, o200k.RETURN, True, True)


def prefix(rows: Rows, scene: Scene) -> list[int]:
    """The rows of the system and developer block of a scene."""
    return rows.of_ids(render_conversation(scene.prefix()))


def continuation(rows: Rows, turns: list[Turn], effort: str, rng: Random) -> tuple[list[int], list[bool]]:
    """Writes a conversation; nano has to answer its last turn.

    Args:
        rows: Maps text and ids to rows.
        turns: The conversation.
        effort: "low", "medium" or "high": how long the reasoning of the last turn is.
        rng: Selects the earlier turns whose contents are learned; turns with calls always are.

    Returns:
        The rows of the conversation, and for each row whether it is learned.
    """
    writer = Writer(rows, [], [])
    for turn in turns[:-1]:
        writer.past(turn, learned=turn.call is not None or rng.random() < 0.4)
    writer.last(turns[-1], effort)
    return writer.out, writer.mask


@dataclass(frozen=True)
class Group:
    """Conversations of one scene, which share its prefix.

    Attributes:
        prefix: Rows of the system and developer block.
        rows: Rows of each conversation, after the prefix.
        masks: For each conversation, which of its rows are learned.
        intents: The intent of the last turn of each conversation.
    """

    prefix: list[int]
    rows: list[list[int]]
    masks: list[list[bool]]
    intents: list[str]


def plain(text: str) -> str:
    """`text` in lower case, with single spaces."""
    return " ".join(text.lower().split())


@cache
def asked_in_evaluation() -> frozenset[str]:
    """Everything that users say in the evaluation dialogues, as `plain` text; training excludes all of it."""
    lines = "\n".join(path.read_text(encoding="utf-8") for path in EVALUATED)
    turns = (turn for line in lines.splitlines() if not line.startswith("#") for turn in line.split("|")[2:])
    return frozenset(plain(turn.partition("->")[0]) for turn in turns)


def any_group(rows: Rows, words: list[str], rng: Random) -> Group:
    """Generates a scene and its conversations.

    Conversations that contain a line of the evaluation dialogues are dropped. If `words` is given, conversations in
    which nano would have to write an unknown word are dropped too.

    Args:
        rows: Maps text and ids to rows.
        words: Words for random text, usually `rows.words()`.
        rng: Source of all random draws.
    """
    scene = dialogues.any_scene(rng, words)
    length = rng.choices(*LENGTHS)[0]
    talks = []
    while len(talks) < TALKS[length]:
        turns = dialogues.conversation(scene, length)
        if any(plain(turn.user) in asked_in_evaluation() for turn in turns):
            continue
        out, mask = continuation(rows, turns, scene.effort, rng)
        if not words or not any(row == rows.unknown and learned for row, learned in zip(out, mask, strict=True)):
            talks.append((out, mask, turns[-1].intent))
    return Group(prefix(rows, scene), *(list(column) for column in zip(*talks, strict=True)))
