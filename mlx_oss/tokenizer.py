"""o200k_harmony, the tokenizer of gpt-oss: text to ids and ids to text, with the vocabulary bundled in the package.

Builds a `tiktoken.Encoding` without network access. Tokens that a fine-tune has added are read and written beside it
(`tokenizer_json` finds them). Knows nothing of messages, channels or models. The vocabulary and the splitting pattern
are those of o200k_base in openai/tiktoken (MIT).
"""

from __future__ import annotations

import codecs
import hashlib
import itertools
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_oss.errors import OptionError, TokenizerError, quoted

if TYPE_CHECKING:
    import tiktoken

STARTOFTEXT = 199998
ENDOFTEXT = 199999
RETURN = 200002
CONSTRAIN = 200003
CHANNEL = 200005
START = 200006
END = 200007
MESSAGE = 200008
CALL = 200012
ENDOFPROMPT = 200018

N_RANKS = 199998  # ids below this are byte-pair ranks, all others are control tokens
N_VOCAB = 201088
LONGEST_TOKEN = 128  # characters: the longest token consists of this many spaces
LAST_TEXT_ID = ENDOFPROMPT  # higher ids only pad the embedding and were never trained
STOP_IDS = (RETURN, CALL, ENDOFTEXT)

NAMED = {
    STARTOFTEXT: "startoftext",
    ENDOFTEXT: "endoftext",
    RETURN: "return",
    CONSTRAIN: "constrain",
    CHANNEL: "channel",
    START: "start",
    END: "end",
    MESSAGE: "message",
    CALL: "call",
    ENDOFPROMPT: "endofprompt",
}
SPECIAL_TOKENS: Mapping[str, int] = {f"<|{NAMED.get(id_, f'reserved_{id_}')}|>": id_ for id_ in range(N_RANKS, N_VOCAB)}

VOCABULARY = Path(__file__).parent / "data" / "o200k_base.zlib"
PACKED_SHA256 = "440741350e7cfa1c0f4869ce742d1b043550adbda5187adcac9e787edac6fba9"
# SHA-256 of the same tokens in the published format: one line per token, with base64, a space and the rank
TIKTOKEN_SHA256 = "446a9538cb6c348e3516120d7c08b09f57c36495e2acfffe59a5bf8b0cfb1a2d"

_LETTERS_UPPER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]"
_LETTERS_LOWER = r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
_PATTERN = "|".join(
    (
        rf"[^\r\n\p{{L}}\p{{N}}]?{_LETTERS_UPPER}*{_LETTERS_LOWER}+(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        rf"[^\r\n\p{{L}}\p{{N}}]?{_LETTERS_UPPER}+{_LETTERS_LOWER}*(?i:'s|'t|'re|'ve|'m|'ll|'d)?",
        r"\p{N}{1,3}",
        r" ?[^\s\p{L}\p{N}]+[\r\n/]*",
        r"\s*[\r\n]+",
        r"\s+(?!\S)",
        r"\s+",
    )
)

# `\s+(?!\S)` keeps a backtracking state for every whitespace character, and tiktoken aborts on a run of a million. So
# longer runs than this are cut into pieces.
_LONGEST_BLANK_RUN = 1 << 16
_BLANKS = re.compile(r"\s+")

REPLACEMENT = "\N{REPLACEMENT CHARACTER}"
MOST_IDS = 1 << 20  # of any fine-tune's vocabulary; a larger id is no id


@dataclass(frozen=True, slots=True)
class AddedToken:
    """A token that a fine-tune has in place of an unused id of gpt-oss, or behind its vocabulary.

    Attributes:
        id: Its id.
        text: What it stands for.
        special: True for a control token of the fine-tune's own: no text is encoded to it, and it is no text.
        single_word: True if text is encoded to it only where it is a word of its own.
        strips: True if Hugging Face's tokenizers takes the blanks beside it away, which is not done here.
    """

    id: int
    text: str
    special: bool = False
    single_word: bool = False
    strips: bool = False


class StreamDecoder:
    """Decodes ids one at a time, and holds back the bytes of an incomplete UTF-8 character."""

    __slots__ = ("_decoder", "_token_bytes")

    def __init__(self, tokenizer: Tokenizer):
        self._token_bytes = tokenizer.token_bytes
        self._decoder = codecs.getincrementaldecoder("utf-8")("replace")

    def feed(self, id_: int) -> str:
        """Returns the text that is complete after this id; may be empty."""
        return self._decoder.decode(self._token_bytes(id_))

    def finish(self) -> str:
        """Ends the stream. Returns a replacement character if a character is incomplete, else an empty string."""
        return self._decoder.decode(b"", final=True)


class Tokenizer:
    """Converts text to ids and back. `load` returns that of a model, `load_tokenizer()` that of the releases.

    Args:
        encoding: The `tiktoken.Encoding`.
        added: The tokens that a fine-tune has added.

    Attributes:
        encoding: The `tiktoken.Encoding`.
        n_vocab: Number of ids.
        stop_ids: The ids that end a turn of the model: `<|return|>`, `<|call|>` and `<|endoftext|>`.
        added_text_ids: The ids of added tokens that are text.
    """

    stop_ids = STOP_IDS

    def __init__(self, encoding: tiktoken.Encoding, added: Iterable[AddedToken] = ()):
        self.encoding = encoding
        self._added = {token.id: token for token in added}
        self.n_vocab = max(N_VOCAB, *(id_ + 1 for id_ in self._added), 0)
        self.added_text_ids = frozenset(token.id for token in self._added.values() if not token.special)
        self._names = {token.id: token.text.encode(errors="replace") for token in self._added.values()}
        self._text_tokens = _AddedTexts([token for token in self._added.values() if not token.special])
        self._all_tokens = _AddedTexts(self._added.values())

    def encode(self, text: str) -> list[int]:
        """The ids of `text`. Text that looks like a control token is encoded as ordinary text.

        Raises OptionError if it is not a str; so does `decode` for what are not ids.
        """
        if not isinstance(text, str):
            raise OptionError(f"the text is {quoted(text)}, expected a str")
        ids: list[int] = []
        for piece in self._text_tokens.split(text):
            if isinstance(piece, int):
                ids.append(piece)
            else:
                ids += (id_ for part in _cut_blank_runs(piece) for id_ in self.encoding.encode_ordinary(part))
        return ids

    def encode_with_specials(self, text: str) -> list[int]:
        """The ids of `text`, with `<|start|>` and the like as control tokens. Use it only for text that you trust."""
        ids: list[int] = []
        for piece in self._all_tokens.split(text):
            if isinstance(piece, int):
                ids.append(piece)
            else:
                parts = _cut_blank_runs(piece)
                ids += (id_ for part in parts for id_ in self.encoding.encode(part, allowed_special="all"))
        return ids

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`. Bytes that are not UTF-8 and ids outside the vocabulary become replacement characters."""
        if isinstance(ids, str | bytes | int):
            raise OptionError(f"the ids are {quoted(ids)}, expected a list of ids")
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def token_bytes(self, id_: int) -> bytes:
        """The bytes of one id. For a control token this is its name, for example `<|start|>`."""
        if (name := self._names.get(id_)) is not None:
            return name
        if 0 <= id_ < N_VOCAB:
            return self.encoding.decode_single_token_bytes(id_)
        return REPLACEMENT.encode()

    def knows(self, id_: int) -> bool:
        """True for the ids of the vocabulary, whether tokens or unused ones."""
        return 0 <= id_ < N_VOCAB or id_ in self._added

    def is_control(self, id_: int) -> bool:
        """True for the ids that are no text: control tokens, and ids that no token has."""
        return id_ >= N_RANKS and id_ not in self.added_text_ids and self.knows(id_)

    def stream_decoder(self) -> StreamDecoder:
        """Returns a new decoder for one stream of ids."""
        return StreamDecoder(self)


class _AddedTexts:
    """Finds added tokens in a text: at each place the longest, from left to right, in linear time."""

    def __init__(self, tokens: Iterable[AddedToken]):
        found = [token for token in tokens if len(token.text) <= LONGEST_TOKEN]  # so that the time has a bound
        self._by_text = {token.text: token for token in reversed(found)}  # of two with one text, the first
        self._lengths = sorted({len(text) for text in self._by_text}, reverse=True)
        first = "".join(sorted({re.escape(text[0]) for text in self._by_text}))
        self._first = re.compile(f"[{first}]") if first else None

    def split(self, text: str) -> Iterator[str | int]:
        """Yields the ids of the tokens in a text, and the texts between them."""
        start, at = 0, self._search(text, 0)
        while at is not None:
            token = self._token_at(text, at)
            if token is None:
                at = self._search(text, at + 1)
                continue
            if at > start:
                yield text[start:at]
            yield token.id
            start = at + len(token.text)
            at = self._search(text, start)
        if start < len(text):
            yield text[start:] if start else text

    def _search(self, text: str, start: int) -> int | None:
        found = self._first.search(text, start) if self._first is not None else None
        return found.start() if found else None

    def _token_at(self, text: str, at: int) -> AddedToken | None:
        for length in self._lengths:
            token = self._by_text.get(text[at : at + length])
            if token is not None and not (token.single_word and _is_in_a_word(text, at, at + length)):
                return token
        return None


def _is_in_a_word(text: str, start: int, end: int) -> bool:
    """True if a word goes on before or after this part of a text."""
    return bool(re.search(r"\w\Z", text[max(start - 1, 0) : start]) or re.match(r"\w", text[end : end + 1]))


def _cut_blank_runs(text: str) -> Iterator[str]:
    """Yields `text` in parts, so that no part has a longer run of whitespace than tiktoken can process."""
    start = 0
    runs = _BLANKS.finditer(text) if len(text) > _LONGEST_BLANK_RUN else ()
    for run in runs:
        for cut in range(run.start() + _LONGEST_BLANK_RUN, run.end(), _LONGEST_BLANK_RUN):
            yield text[start:cut]
            start = cut
    yield text[start:]


@lru_cache(maxsize=1)
def load_tokenizer() -> Tokenizer:
    """Returns the tokenizer of gpt-oss. It is built once per process, which takes 0.3 s.

    Raises:
        TokenizerError: If the bundled vocabulary is missing or damaged.
    """
    import tiktoken

    ranks = {token: rank for rank, token in enumerate(bundled_tokens())}
    return Tokenizer(
        tiktoken.Encoding("o200k_harmony", pat_str=_PATTERN, mergeable_ranks=ranks, special_tokens=dict(SPECIAL_TOKENS))
    )


def bundled_tokens() -> list[bytes]:
    """All 199,998 byte-pair tokens in the order of their ranks."""
    try:
        return _unpack(VOCABULARY.read_bytes())
    except (OSError, ValueError, zlib.error) as error:
        raise TokenizerError(
            f"{VOCABULARY}: the bundled vocabulary is missing or damaged ({error}): reinstall mlx-oss"
        ) from error


def byte_letters() -> list[str]:
    """The character that stands for each byte in `tokenizer.json` (byte-level BPE, openai/gpt-2 `encoder.py`)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    replacements = itertools.count(0x100)
    return [chr(byte if byte in printable else next(replacements)) for byte in range(256)]


def pack_tokens(tokens: Sequence[bytes]) -> bytes:
    """Creates the content of the bundled file: the length of each token, then all tokens joined, compressed."""
    return zlib.compress(bytes(map(len, tokens)) + b"".join(tokens), 9)


def _unpack(file: bytes) -> list[bytes]:
    packed = zlib.decompress(file)
    if hashlib.sha256(packed).hexdigest() != PACKED_SHA256:
        raise ValueError("its SHA-256 differs")
    ends = itertools.accumulate(packed[:N_RANKS], initial=N_RANKS)
    return [packed[start:end] for start, end in itertools.pairwise(ends)]
