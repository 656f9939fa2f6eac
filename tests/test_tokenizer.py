"""The bundled vocabulary, and the tokenizer that uses it."""

import base64
import hashlib
import itertools
import random
import subprocess
import sys

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_oss import tokenizer
from mlx_oss.errors import TokenizerError
from mlx_oss.tokenizer import (
    ENDOFPROMPT,
    LAST_TEXT_ID,
    N_RANKS,
    N_VOCAB,
    SPECIAL_TOKENS,
    START,
    STOP_IDS,
    TIKTOKEN_SHA256,
    AddedToken,
    Tokenizer,
    load_tokenizer,
)
from mlx_oss.tokenizer_json import check_tokenizer_json
from tests.synthetic import gpt2_letters

any_text = st.text(st.characters(exclude_categories=["Cs"]))
control_like = st.sampled_from(["<|start|>", "<|end|>", "<|reserved_200013|>", " ", "\n"])
tricky_text = st.lists(any_text | control_like).map("".join)
quick = settings(max_examples=200, deadline=None, database=None)


@pytest.fixture(scope="module")
def tokens():
    """All tokens below the special ones, in the order of their ranks."""
    return [load_tokenizer().token_bytes(id_) for id_ in range(N_RANKS)]


def test_bundled_vocabulary_is_the_published_one(tokens):
    lines = b"".join(base64.b64encode(token) + b" %d\n" % rank for rank, token in enumerate(tokens))
    assert hashlib.sha256(lines).hexdigest() == TIKTOKEN_SHA256


def test_packing_the_tokens_gives_the_bundled_file_back(tokens):
    assert (
        tokenizer._unpack(tokenizer.pack_tokens(tokens))
        == tokens
        == tokenizer._unpack(tokenizer.VOCABULARY.read_bytes())
    )


def test_special_ids_fill_the_vocabulary_once():
    assert sorted(SPECIAL_TOKENS.values()) == list(range(N_RANKS, N_VOCAB))
    assert load_tokenizer().encoding.n_vocab == load_tokenizer().n_vocab == N_VOCAB
    assert STOP_IDS == (200002, 200012, 199999)
    assert LAST_TEXT_ID == ENDOFPROMPT == 200018


@quick
@given(tricky_text)
def test_text_survives_and_never_becomes_special(text):
    ids = load_tokenizer().encode(text)
    assert all(id_ < N_RANKS for id_ in ids)
    assert load_tokenizer().decode(ids) == text


@quick
@given(st.lists(any_text, min_size=1, max_size=4))
def test_special_text_becomes_special_only_when_asked(texts):
    ids = load_tokenizer().encode_with_specials("<|start|>".join(texts))
    assert load_tokenizer().decode(ids) == "<|start|>".join(texts)
    assert ids.count(START) == len(texts) - 1


@quick
@given(st.lists(st.integers(0, N_RANKS - 1) | st.sampled_from([START, -1, N_VOCAB, 10**9])))
def test_stream_decoder_gives_the_text_of_the_whole(ids):
    decoder = load_tokenizer().stream_decoder()
    pieces = [decoder.feed(id_) for id_ in ids] + [decoder.finish()]
    assert "".join(pieces) == load_tokenizer().decode(ids)


def test_stream_decoder_holds_back_half_a_character():
    decoder = load_tokenizer().stream_decoder()
    assert [decoder.feed(id_) for id_ in load_tokenizer().encode("🫠é")] == ["", "", "🫠", "é"]


@pytest.mark.parametrize("blank", [" ", "\n", "\t "])
def test_a_million_blanks_are_no_trouble(blank):
    text = f"a{blank * 1_000_000}b"
    assert load_tokenizer().decode(load_tokenizer().encode(text)) == text


def test_nothing_but_the_bundled_vocabulary_is_read():
    code = """if True:
        import sys, tiktoken
        from mlx_oss.tokenizer import VOCABULARY, load_tokenizer
        seen = []
        sys.addaudithook(lambda event, args: event == "open" and seen.append(args[0]))
        sys.addaudithook(lambda event, args: event.startswith("socket.") and seen.append(event))
        load_tokenizer().encode("Hi")
        print([str(VOCABULARY)] == list(map(str, seen)) or seen)"""
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "True\n"


def test_damaged_vocabulary_is_named(tmp_path, monkeypatch):
    file = tmp_path / "o200k_base.zlib"
    monkeypatch.setattr(tokenizer, "VOCABULARY", file)
    with pytest.raises(TokenizerError, match=r"o200k_base\.zlib.*reinstall"):
        tokenizer.bundled_tokens()
    file.write_bytes(tokenizer.pack_tokens([b"a", b"b"]))
    with pytest.raises(TokenizerError, match=r"o200k_base\.zlib.*reinstall"):
        tokenizer.bundled_tokens()


ADDED = [
    AddedToken(200013, "<think>"),
    AddedToken(200019, "<|own|>", special=True),
    AddedToken(201088, "<think> "),
    AddedToken(201100, "naïve", single_word=True),
]


@pytest.fixture(scope="module")
def tuned():
    """The tokenizer of a fine-tune with tokens of its own."""
    return Tokenizer(load_tokenizer().encoding, ADDED)


@quick
@given(st.lists(any_text | st.sampled_from(["<think>", "<think> ", "<", "<|own|>", "<|start|>", "naïve"])).map("".join))
def test_text_with_added_tokens_survives_and_never_becomes_special(tuned, text):
    ids = tuned.encode(text)
    assert all(id_ < N_RANKS or id_ in tuned.added_text_ids for id_ in ids)
    assert tuned.decode(ids) == text
    assert (200013 in ids or 201088 in ids) == ("<think>" in text)


def test_added_tokens_are_found_at_their_longest_and_as_words_of_their_own(tuned):
    assert tuned.added_text_ids == {200013, 201088, 201100}
    assert tuned.encode("<think> <think><think") == [201088, 200013, *load_tokenizer().encode("<think")]
    assert tuned.encode("naïve.")[0] == 201100
    assert tuned.encode("naïvely") == load_tokenizer().encode("naïvely")
    assert tuned.encode("xnaïve") == load_tokenizer().encode("xnaïve")
    assert tuned.encode_with_specials("<|own|><|start|>a<think>") == [200019, START, *tuned.encode("a"), 200013]
    assert (tuned.n_vocab, tuned.decode([200019, 201089])) == (201101, "<|own|>\N{REPLACEMENT CHARACTER}")


def test_what_an_added_token_stands_for_is_control_or_text(tuned):
    assert [tuned.is_control(id_) for id_ in (5, START, 200013, 200014, 200019, 201088, 201089)] == [
        *(False, True, False, True, True, False, False)
    ]


def test_a_million_beginnings_of_added_tokens_are_no_trouble(tuned):
    text = "<think" * 200_000
    assert tuned.decode(tuned.encode(text)) == text


@pytest.fixture(scope="module")
def hugging_face(tokens):
    """Hugging Face's tokenizer, built like the release's `tokenizer.json`, with merges derived from the ranks.

    Both sides use our splitting pattern, in two regex engines. The tests in tests/harmony compare it with the one of
    openai-harmony.
    """
    tokenizers = pytest.importorskip("tokenizers", reason="Hugging Face tokenizers is not installed (extra `parity`)")
    letters = gpt2_letters()
    ranks = {token: rank for rank, token in enumerate(tokens)}
    merges = [halves(token, ranks) for token in tokens if len(token) > 1]

    def spelled(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    vocab = {spelled(token): rank for token, rank in ranks.items()}
    theirs = tokenizers.Tokenizer(
        tokenizers.models.BPE(vocab, [(spelled(left), spelled(right)) for left, right in merges])
    )
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.Sequence(
        [
            tokenizers.pre_tokenizers.Split(tokenizers.Regex(tokenizer._PATTERN), behavior="isolated"),
            tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    theirs.decoder = tokenizers.decoders.ByteLevel()
    theirs.add_special_tokens([name for name, id_ in SPECIAL_TOKENS.items() if id_ <= LAST_TEXT_ID])
    return theirs


def halves(token: bytes, ranks: dict[bytes, int]) -> tuple[bytes, bytes]:
    """The two parts that are merged into `token` last, if the pair with the lowest rank is always merged first."""
    parts = [token[at : at + 1] for at in range(len(token))]
    while len(parts) > 2:
        pairs = [ranks.get(left + right, len(ranks)) for left, right in itertools.pairwise(parts)]
        at = min(range(len(pairs)), key=pairs.__getitem__)
        parts[at : at + 2] = [parts[at] + parts[at + 1]]
    left, right = parts
    return left, right


# Texts that the splitting pattern and the merges treat in different ways.
PIECES = (
    *"a I don't WE'VE can'T they'LL 'd '\u017f camelCase HTTPServer naïve Straße ﬁ ǅ İstanbul".split(),
    *"0 42 12345678 3.14 ٣٤٥ ४५६७ Ⅻ ½ 1_000".split(),
    *"日本語 汉字 한국어 русский ΑΒΓδ שלום مرحبا ไทย हिन्दी ქართული \U0001d518\U0001d52b\U0001d526 𓀀𓁐".split(),
    *"e\u0301 \u0300\u0301\u0302 o\u0308\u0304 \u0e49 \u20dd \u200d \ufe0f \u00ad \ufeff".split(" "),
    *"😀 🫠🫠 👩🏽\u200d🚀 👨\u200d👩\u200d👧\u200d👦 🇩🇪🇫🇷 1\ufe0f⃣".split(),
    *'== -> /// //\n ... ?! _ __init__(self): @x {}; </p> \\n #include<a> " ` “” —'.split(" "),
    *(" ", "  ", " " * 9, " " * 70, "\n", "\n\n", "\r\n", " \n ", "\t", "\t\t\t"),
    *("\x0b\x0c", "\x85", "\xa0", "\u2003\u3000", "\x00", "\x7f"),
    *("def f(x):\n    return x\n", "for (i = 0; i < n; ++i) {\r\n\t", "x'=f'(x)"),
)


def random_texts(count: int) -> list[str]:
    """The same texts every time. Each joins up to 23 of the pieces above, repeated pieces, and any characters."""
    pick = random.Random(20250805)

    def any_character() -> str:
        plane = pick.choice((0, 0, 0, 1, 1, 2, 3, 14, pick.randrange(17)))
        return chr(plane << 16 | pick.randrange(0xD800 if plane == 0 else 0x10000))

    def piece() -> str:
        kind = pick.random()
        if kind < 0.7:
            return pick.choice(PIECES)
        if kind < 0.8:
            return pick.choice(PIECES) * pick.randrange(2, 6)
        return "".join(any_character() for _ in range(pick.randrange(1, 6)))

    return ["".join(piece() for _ in range(pick.randrange(1, 24))) for _ in range(count)]


@pytest.mark.parity
def test_ids_are_those_of_hugging_face_tokenizers(hugging_face):
    differing = [
        text for text in random_texts(10_000) if hugging_face.encode(text).ids != load_tokenizer().encode(text)
    ]
    assert not differing


@pytest.mark.parity
def test_every_character_is_split_as_hugging_face_splits_it(hugging_face):
    """Both sides have their own Unicode tables. The characters that are left out are unassigned or private."""
    characters = list(map(chr, itertools.chain(range(0xD800), range(0xE000, 0x34000), range(0xE0000, 0xE0200))))
    lines = [f"a{char}B '{char} 1{char}2 {char}{char}x" for char in characters]
    texts = ["\n".join(lines[start : start + 256]) for start in range(0, len(lines), 256)]
    assert not [text for text in texts if hugging_face.encode(text).ids != load_tokenizer().encode(text)]


@pytest.mark.parity
def test_control_tokens_are_those_of_hugging_face_tokenizers(hugging_face):
    names = [name for name, id_ in SPECIAL_TOKENS.items() if id_ <= LAST_TEXT_ID]
    text = "".join(f" {name}{piece}" for name, piece in zip(names, PIECES, strict=False))
    ids = load_tokenizer().encode_with_specials(text)
    assert hugging_face.encode(text).ids == ids
    assert hugging_face.decode(ids, skip_special_tokens=False) == load_tokenizer().decode(ids) == text


@pytest.mark.parity
def test_tokenizer_json_that_hugging_face_saves_passes(tmp_path, hugging_face):
    path = tmp_path / "tokenizer.json"
    hugging_face.save(str(path))
    assert check_tokenizer_json(path) == ()
