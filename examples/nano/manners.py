# ruff: noqa: E501
"""Rephrases questions: indirect, short or chatty. Works on templates; slots such as `{x}` stay as they are."""

from __future__ import annotations

import re
from random import Random

OPENERS = (
    "can you tell me|could you tell me|would you tell me|can you please tell me|could you please tell me|please tell me|tell me|"
    "do you know|do you happen to know|do you also know|do you by any chance know|you know|any idea|any clue|have you got an idea|"
    "i want to know|i'd like to know|i would like to know|i'd love to know|i need to know|i have to know|i wonder|i was wondering|"
    "i'm wondering|i am curious|i'm trying to find out|i don't know|i forgot|i can't remember|i never know|may i ask|can i ask|"
    "could i ask|let me ask|can you say|could you say|please say|can you explain|would you know|would you happen to know|"
    "maybe you know|perhaps you know|you surely know|remind me|can you remind me|help me remember|my son asks|someone asked me|"
    "tell us|please explain|i'd be happy to know|show me that you know|i should know|it would be nice to know"
).split("|")
NOUN_OPENERS = (
    "what is the|what's the|whats the|tell me the|please tell me the|can you tell me the|could you give me the|give me the|please give me the|i need the|"
    "i need to know the|i want to know the|i'd like to know the|i'm looking for the|do you know the|do you happen to know the|i forgot the|"
    "name the|please name the|can you name the|the|and the|so the|so what's the|and what is the|what would be the|say the|remind me of the"
).split("|")
NOUN = re.compile(r"(the )?(capital|currency|language|opposite|antonym|symbol|chemical symbol|author|writer|inventor|painter|composer|continent|colour|color|sound|number|result|translation|license|license|requirements|discoverer)\b(?!:)")  # fmt: skip
CHATTY = (
    ("you", "u"), ("are", "r"), ("please", "pls"), ("please", "plz"), ("thanks", "thx"), ("what is", "what's"), ("what is", "whats"), ("what's", "what is"),
    ("what's", "whats"), ("who is", "who's"), ("who is", "whos"), ("who's", "who is"), ("do not", "don't"), ("don't", "dont"), ("can't", "cant"), ("i am", "im"), ("i'm", "im"), ("it's", "its"),
    ("want to", "wanna"), ("tell me", "tell us"), ("how is", "how's"), ("where is", "where's"), ("for", "4"), ("what", "wat"), ("what", "wht"), ("the", "teh"),
    ("the", ""), ("a", ""), ("is", ""), ("of", "for"), ("in", "for"), ("going to", "gonna"), ("i would", "i'd"), ("you are", "you're"), ("you're", "ur"), ("your", "ur"),
)  # fmt: skip
CLOSERS = ", do you know;, i forgot;, i can't remember;, tell me;, please tell me;, by the way; by the way; btw; again;, again;, i need it for school;, for a quiz;, if i may ask;, if you don't mind;, or not;, quickly; exactly; really;, my friend;, dear nano".split(";")  # fmt: skip


def rephrase(text: str, rng: Random) -> str:
    """Returns `text` as it is or rephrased."""
    if rng.random() < 0.3:
        text = _indirect(text, rng)
    if rng.random() < 0.07:
        text = re.sub(
            r"^(what|who|where|how|which)( is| are|'s|s)\b",
            rf"\1{rng.choice([' exactly', ' actually', ' really'])}\2",
            text,
        )
        text = (
            text.replace("actually's", "actually is")
            .replace("exactly's", "exactly is")
            .replace("really's", "really is")
        )
    if rng.random() < 0.04:
        text += rng.choice(CLOSERS)
    for _ in range(rng.choice([0] * 12 + [1, 2])):
        before, after = rng.choice(CHATTY)
        text = re.sub(rf"(?<![{{\w]){before}(?![}}\w])", after, text, count=1).replace("  ", " ").strip() or text
    return text


def _indirect(text: str, rng: Random) -> str:
    """Makes a question indirect ("do you know what ... is"); returns text that is no known question unchanged."""
    opener = rng.choice(OPENERS)
    if NOUN.match(text):
        return f"{rng.choice(NOUN_OPENERS)} {text.removeprefix('the ')}"
    if match := re.match(r"(what|who|where)('s|s| is| are) ([^,]+)$", text):
        verb = "are" if match[2] == " are" else "is"
        verb_first = f"{opener} {match[1]} {verb} {match[3]}"
        return (
            verb_first
            if rng.random() < 0.3 or re.search(r"\b(for|in|from|on|called|about|like)$", match[3])
            else f"{opener} {match[1]} {match[3]} {verb}"
        )
    if match := re.match(
        r"(what|which [a-z]+|what [a-z]+) (do|does) (.+) (mean|do|stand for|use|have|speak|need|make|say)$", text
    ):
        return (
            f"{opener} {match[1]} {match[3]} {match[4]}"
            if match[2] == "do"
            else f"{opener} {match[1]} {match[3]} {_third(match[4])}"
        )
    if match := re.match(r"how (do|can|could|would|should|does) (i|you|we|one) (.+)$", text):
        return f"{opener} how {rng.choice([f'{match[2]} {match[1]}', f'{match[2]} can', 'to', 'to', match[2]])} {match[3]}".replace(
            " do ", " ", 1
        )
    if re.match(r"(who|which|what|how|where|when|why|in which|on which|of which)\b", text):
        return f"{opener} {text}"
    if re.match(r"(is|are|do|does|can|will|did)\b", text):
        return f"{opener}, {text}" if rng.random() < 0.5 else text
    return text


def _third(verb: str) -> str:
    """The third person singular of a verb."""
    return {"do": "does", "have": "has", "stand for": "stands for"}.get(verb, f"{verb}s")


ARTICLE = r"(?:a|an|the|one)"
# pattern of a question -> forms of the same question; {0}, {1} are the groups of the pattern, {a} is an article
QUESTION_FORMS: list[tuple[str, list[str]]] = [
    (rf"how many ([a-z ]+?) (?:are there in|are in|does|do|are on) {ARTICLE} (.+?)(?: have)?$", [
        "how many {0} does {a} {1} have", "how many {0} has {a} {1}", "how many {0} has {a} {1} got", "how many {0} are there in {a} {1}", "how many {0} are in {a} {1}", "{a} {1} has how many {0}",
        "the number of {0} in {a} {1}", "what is the number of {0} in {a} {1}", "how many {0} do you find in {a} {1}", "how many {0} make {a} {1}", "how many {0} in {a} {1}", "number of {0} in {a} {1}", "count the {0} in {a} {1}", "{0} in {a} {1}, how many"]),
    (r"what does ([a-z]+) (?:stand for|mean)$", [
        "what does {0} stand for", "what does {0} mean", "{0} stands for what", "{0} is short for what", "what is the meaning of {0}", "what do the letters {0} stand for", "what does the abbreviation {0} mean", "explain {0}", "what is {0} short for", "what {0} stands for",
        "the full form of {0}", "{0} means what", "define {0}", "what's {0}", "what do you mean by {0}", "what is meant by {0}"]),
    (r"where (is|are) (.+)$", ["where {0} {1}", "where do i find {1}", "where can i see {1}", "where can one find {1}", "where would i find {1}", "where can i visit {1}", "{1} {0} where", "{1}, where is that", "where do you find {1}", "in which place {0} {1}", "where exactly {0} {1}", "which place has {1}", "to see {1}, where must i go", "where {0} {1} located"]),
    (r"where do (.+) live$", ["where do {0} live", "where can i find {0}", "where do you find {0}", "where can i see {0}", "{0} live where", "what is the home of {0}", "in which place do {0} live", "where does one find {0}", "where are {0} at home"]),
    (r"when did (.+) (\w+)$", ["when did {0} {1}", "in which year did {0} {1}", "in what year did {0} {1}", "what year did {0} {1}", "which year did {0} {1}", "{0} did {1} when", "the year {0} did {1}"]),
    (r"what is the (\w+est) (\w+)$", ["what is the {0} {1}", "which is the {0} {1}", "which {1} is the {0}", "what {1} is the {0}", "name the {0} {1}", "the {0} {1}", "the {0} {1} is what", "the {0} of all {1}s", "what's the {0} {1} of all", "what is the world's {0} {1}", "which is the world's {0} {1}", "what {1} is {0}", "the world's {0} {1}", "tell me the {0} {1}", "{0} {1}"]),
    (r"what is the (\w+est) (\w+) (?:on earth|in the world|in the solar system)$", ["what is the {0} {1} of the world", "which is the {0} {1} on the planet", "which {1} is the {0} in the world", "what is the world's {0} {1}", "name the {0} {1} on earth", "the {0} {1} we know", "which is the {0} {1} there is", "what is the {0} {1} you know"]),
    (r"who (was|first|discovered|founded|flew|sailed|started) (.+)$", ["who {0} {1}", "which person {0} {1}", "what man {0} {1}", "do you know who {0} {1}", "what is the name of the person who {0} {1}", "name the one who {0} {1}", "it was who that {0} {1}"]),
    (r"how (big|far|fast|hot|cold|old|long|high) (is|does) (.+)$", ["how {0} {1} {2}", "how {0} exactly {1} {2}", "and how {0} {1} {2}", "about how {0} {1} {2}"]),
]  # fmt: skip


def other_words(question: str, rng: Random) -> str:
    """Returns a question of general knowledge, often with another sentence structure."""
    question = re.sub(r"^what's\b", "what is", question) if rng.random() < 0.8 else question
    for pattern, forms in QUESTION_FORMS:
        if (match := re.match(pattern, question)) and rng.random() < 0.6:
            article = rng.choice(["a", "a", "a", "one", "the", "each", "every", "a single"])
            article = (
                "an"
                if (article == "a" and match.groups()[-1][0] in "aeio")
                or (match.groups()[-1].startswith("hour") and article == "a")
                else article
            )
            return rng.choice(forms).format(*match.groups(), a=article)
    return question
