"""o200k_harmony, the tokenizer of gpt-oss: text to ids and ids to text, with the vocabulary bundled in the package.

Builds a `tiktoken.Encoding` without network access. Knows nothing of messages, channels or models. The vocabulary and
the splitting pattern are those of o200k_base in openai/tiktoken (MIT).
"""

from __future__ import annotations

import codecs
import hashlib
import itertools
import json
import re
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING

from mlx_oss.errors import TokenizerError, quoted
from mlx_oss.files import COMPANION_BYTES, expanded, read_bytes

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

_NAMED = {
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
SPECIAL_TOKENS: Mapping[str, int] = {
    f"<|{_NAMED.get(id_, f'reserved_{id_}')}|>": id_ for id_ in range(N_RANKS, N_VOCAB)
}

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
    """Converts text to ids and back. `load_tokenizer()` returns one.

    Attributes:
        encoding: The `tiktoken.Encoding`.
        n_vocab: Number of ids.
        stop_ids: The ids that end a turn of the model: `<|return|>`, `<|call|>` and `<|endoftext|>`.
    """

    n_vocab = N_VOCAB
    stop_ids = STOP_IDS

    def __init__(self, encoding: tiktoken.Encoding):
        self.encoding = encoding

    def encode(self, text: str) -> list[int]:
        """The ids of `text`. Text that looks like a control token is encoded as ordinary text."""
        return [id_ for part in _cut_blank_runs(text) for id_ in self.encoding.encode_ordinary(part)]

    def encode_with_specials(self, text: str) -> list[int]:
        """The ids of `text`, with `<|start|>` and the like as control tokens. Use it only for text that you trust."""
        return [id_ for part in _cut_blank_runs(text) for id_ in self.encoding.encode(part, allowed_special="all")]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of `ids`. Bytes that are not UTF-8 and ids outside the vocabulary become replacement characters."""
        return b"".join(map(self.token_bytes, ids)).decode("utf-8", "replace")

    def token_bytes(self, id_: int) -> bytes:
        """The bytes of one id. For a control token this is its name, for example `<|start|>`."""
        if 0 <= id_ < N_VOCAB:
            return self.encoding.decode_single_token_bytes(id_)
        return REPLACEMENT.encode()

    def stream_decoder(self) -> StreamDecoder:
        """Returns a new decoder for one stream of ids."""
        return StreamDecoder(self)


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

    ranks = {token: rank for rank, token in enumerate(_bundled_tokens())}
    return Tokenizer(
        tiktoken.Encoding("o200k_harmony", pat_str=_PATTERN, mergeable_ranks=ranks, special_tokens=dict(SPECIAL_TOKENS))
    )


def _bundled_tokens() -> list[bytes]:
    """All 199,998 byte-pair tokens in the order of their ranks."""
    try:
        return _unpack(VOCABULARY.read_bytes())
    except (OSError, ValueError, zlib.error) as error:
        raise TokenizerError(
            f"{VOCABULARY}: the bundled vocabulary is missing or damaged ({error}): reinstall mlx-oss"
        ) from error


def pack_tokens(tokens: Sequence[bytes]) -> bytes:
    """Creates the content of the bundled file: the length of each token, then all tokens joined, compressed."""
    return zlib.compress(bytes(map(len, tokens)) + b"".join(tokens), 9)


def _unpack(file: bytes) -> list[bytes]:
    packed = zlib.decompress(file)
    if hashlib.sha256(packed).hexdigest() != PACKED_SHA256:
        raise ValueError("its SHA-256 differs")
    ends = itertools.accumulate(packed[:N_RANKS], initial=N_RANKS)
    return [packed[start:end] for start, end in itertools.pairwise(ends)]


def check_tokenizer_json(path: str | Path) -> None:
    """Checks that a release's `tokenizer.json` assigns the same ids to the same tokens as the bundled vocabulary.

    Raises:
        TokenizerError: If the file cannot be read, or an id differs; names the first one.
    """
    path = expanded(path)
    try:
        data = json.loads(read_bytes(path, COMPANION_BYTES))
        vocab = {int(id_): token for token, id_ in data["model"]["vocab"].items()}
        added = {int(entry["id"]): str(entry["content"]) for entry in data["added_tokens"]}
    except OSError as error:
        raise TokenizerError(f"{path} cannot be read ({error.strerror}): download it again") from error
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError, OverflowError) as error:
        raise TokenizerError(
            f"{path}: not a tokenizer.json with model.vocab and added_tokens ({quoted(error)}): download it again"
        ) from error
    names = {id_: name for name, id_ in SPECIAL_TOKENS.items()}
    byte_letters = _byte_letters()
    named = {id_: names[id_] for id_ in _NAMED}
    ours = {rank: "".join(byte_letters[byte] for byte in token) for rank, token in enumerate(_bundled_tokens())} | named
    theirs = vocab | added
    for id_ in sorted(ours.keys() | theirs.keys()):
        expected = ours.get(id_) or names.get(id_)
        if theirs.get(id_) == expected:
            continue
        if expected is None:
            raise TokenizerError(
                f"{path}: id {id_} is {quoted(theirs[id_])}, a token that gpt-oss does not have: models with "
                "additional tokens are not supported"
            )
        raise TokenizerError(
            f"{path}: id {id_} is {quoted(theirs.get(id_))}, but {quoted(expected)} in the bundled o200k_harmony: "
            "this is not a tokenizer of gpt-oss, and its ids would be misread"
        )


def _byte_letters() -> list[str]:
    """The character that stands for each byte in `tokenizer.json` (byte-level BPE, openai/gpt-2 `encoder.py`)."""
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    replacements = itertools.count(0x100)
    return [chr(byte if byte in printable else next(replacements)) for byte in range(256)]
