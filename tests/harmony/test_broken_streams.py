"""Tests the parser on mutated and random streams: nothing raises, no text is lost, strict mode raises at repairs.

The number of streams is set as in `test_render`.
"""

import itertools
import random
import re
from collections.abc import Iterator, Sequence

from mlx_oss.errors import HarmonyError
from mlx_oss.harmony import (
    HarmonyParser,
    Message,
    MessageFinished,
    MessageStarted,
    ParsedMessage,
    Repair,
    TextDelta,
    parse_messages,
    render_conversation,
)
from mlx_oss.tokenizer import (
    CALL,
    CHANNEL,
    CONSTRAIN,
    END,
    ENDOFTEXT,
    MESSAGE,
    N_RANKS,
    N_VOCAB,
    RETURN,
    START,
    load_tokenizer,
)

from .strategies import CONVERSATIONS

CONTROL = (START, CHANNEL, MESSAGE, CONSTRAIN, END, CALL, RETURN, ENDOFTEXT, 200013, 201087)


def encode(text: str) -> list[int]:
    return load_tokenizer().encode_with_specials(text)


def events_of(ids, role="assistant"):
    parser = HarmonyParser(role)
    return [event for id_ in ids for event in parser.feed(id_)] + list(parser.finish())


def broken_stream(rng: random.Random) -> list[int]:
    """A turn as a model could write it, with ids dropped, doubled, replaced and inserted; or random pieces."""
    pieces = (
        "assistant",
        " to=functions.x",
        "analysis",
        "final",
        "commentary",
        "json",
        " Hello, you",
        "🫠é",
        "\n",
        '{"a": 1}',
    )
    noise = [
        encode(rng.choice(pieces)) if rng.random() < 0.5 else [rng.choice(CONTROL)] for _ in range(rng.randrange(12))
    ]
    if rng.random() < 0.3:
        return [id_ for piece in noise for id_ in piece]
    ids = render_conversation(rng.choices(TURN, k=rng.randrange(1, 4)))
    for _ in range(rng.randrange(1, 5)):
        at = rng.randrange(len(ids))
        random_id = rng.choice((rng.choice(CONTROL), rng.randrange(N_RANKS), rng.choice((-1, N_VOCAB, 300000))))
        other = rng.choice(noise) if noise else []
        ids[at : at + rng.randrange(2)] = rng.choice(([], [random_id], [ids[at]] * 2, other))
        if not ids:
            return [random_id]
    return ids


TURN = (
    Message("assistant", "Think 🫠 twice", "analysis"),
    Message("assistant", '{"city": "Köln"}', "commentary", "functions.get_weather", "<|constrain|>json"),
    Message("tool", "20 °C", "commentary", "assistant", name="functions.get_weather"),
    Message("assistant", "It is warm.\n\nReally.", "final"),
)


def sections_of(ids: Sequence[int]) -> list[str]:
    """The text of all ids except control tokens, split at each `<|channel|>`. `<|constrain|>` is a null character."""
    (null,) = load_tokenizer().encode("\0")
    cuts = [-1, *(at for at, id_ in enumerate(ids) if id_ == CHANNEL), len(ids)]
    parts = (ids[start + 1 : end] for start, end in itertools.pairwise(cuts))
    texts = ([null if id_ == CONSTRAIN else id_ for id_ in part if id_ == CONSTRAIN or is_text(id_)] for part in parts)
    return [*map(load_tokenizer().decode, texts)]


def is_text(id_: int) -> bool:
    return not N_RANKS <= id_ < N_VOCAB


def headers_of(sections: list[str], content: str) -> Iterator[str]:
    """Yields the possible headers: what remains if the content is removed from the ends of the sections."""
    if not sections:
        yield from [] if content else [""]
        return
    *before, last = sections
    for at in range(len(last) + 1):
        end = last[at:].replace("\0", "")
        if content.endswith(end):
            yield from (f"{header} {last[:at]}" for header in headers_of(before, content.removesuffix(end)))


def words(text: str) -> set[str]:
    known = "assistant|analysis|commentary|final|json|functions|[a-zA-Z0-9]+|[^\\W_a-zA-Z0-9]+"
    return {*re.findall(known, text.replace("to=", " "))}


def assert_nothing_is_lost(parsed: ParsedMessage) -> None:
    """Each text token is content, in its place, or a word of the header that is in a field or a note."""
    message, ids = parsed.message, parsed.ids
    if Repair.MISSING_MESSAGE in (note.repair for note in parsed.notes):
        headers = headers_of(sections_of(ids), message.content)
    else:
        at = ids.index(MESSAGE)
        headers = iter([" ".join(sections_of(ids[:at]))])
        assert message.content == load_tokenizer().decode(filter(is_text, ids[at:]))
    fields = (message.role, message.name, message.channel, message.recipient, message.content_type)
    told = " ".join(filter(None, (*fields, *(note.text for note in parsed.notes))))
    assert any(words(header) <= words(told) for header in headers)


def test_broken_streams_never_raise_lose_nothing_and_show_no_control_token():
    for seed in range(CONVERSATIONS * 5 // 2):
        rng = random.Random(seed)
        ids = broken_stream(rng)
        parsed = parse_messages(ids, role=rng.choice(("assistant", None)))
        kept = [id_ for item in parsed for id_ in item.ids]
        assert kept == ids[: len(kept)], seed
        assert not load_tokenizer().decode(id_ for id_ in ids[len(kept) :] if id_ not in CONTROL).strip(), seed
        for item in parsed:
            assert_nothing_is_lost(item)
        assert not any("<|" in item.message.content for item in parsed), seed


def test_deltas_are_the_text_of_their_message():
    for seed in range(CONVERSATIONS * 2):
        text = None
        for event in events_of(broken_stream(random.Random(seed))):
            if isinstance(event, MessageStarted):
                assert text is None
                text, header = "", event.header
            elif isinstance(event, TextDelta):
                assert event.text
                text += event.text
            elif isinstance(event, MessageFinished):
                message = event.message.message
                assert message.content == text
                assert (message.role, message.channel, message.recipient) == (
                    header.role,
                    header.channel,
                    header.recipient,
                )
                text = None
        assert text is None


def test_strict_raises_exactly_where_something_is_repaired_or_left_over():
    for seed in range(CONVERSATIONS):
        ids = broken_stream(random.Random(seed))
        parsed = parse_messages(ids)
        repaired = any(item.notes for item in parsed) or len(ids) > sum(len(item.ids) for item in parsed)
        try:
            parse_messages(ids, strict=True)
        except HarmonyError:
            assert repaired, seed
        else:
            assert not any(item.notes for item in parsed), seed
