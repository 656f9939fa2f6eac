"""Writes the tokenizer files of gpt-oss that other programs read, from the bundled vocabulary.

`tokenizer_json` gives the releases' file, byte for byte. Knows nothing of folders, weights and messages.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from typing import Any

from mlx_oss.tokenizer import (
    ENDOFTEXT,
    LAST_TEXT_ID,
    N_RANKS,
    RETURN,
    SPECIAL_TOKENS,
    STARTOFTEXT,
    bundled_tokens,
    byte_letters,
    load_tokenizer,
)

_NAMES = {id_: name for name, id_ in SPECIAL_TOKENS.items()}
_ENDS = {"bos_token": _NAMES[STARTOFTEXT], "eos_token": _NAMES[RETURN], "pad_token": _NAMES[ENDOFTEXT]}


def tokenizer_json() -> bytes:
    """The content of `tokenizer.json`, for Hugging Face's tokenizers, transformers and mlx-lm. Takes a few seconds."""
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    whole = byte_level | {"add_prefix_space": True, "use_regex": True}
    split = {"type": "Split", "pattern": {"Regex": load_tokenizer().encoding._pat_str}, "behavior": "Isolated"}
    data = {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [_added(id_) for id_ in range(N_RANKS, LAST_TEXT_ID + 1)],
        "normalizer": None,
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split | {"invert": False}, byte_level]},
        "post_processor": whole | {"trim_offsets": False},
        "decoder": whole,
        "model": _model(),
    }
    return json.dumps(data, ensure_ascii=False, indent=2).encode()


def _added(id_: int) -> dict[str, Any]:
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    return {"id": id_, "content": _NAMES[id_], **flags}


def _model() -> dict[str, Any]:
    """Byte-pair encoding: each token, and each pair of tokens that a token consists of, in the order of their ranks."""
    letters = "".join(byte_letters())
    tokens = bundled_tokens()
    ranks = {token: rank for rank, token in enumerate(tokens)}
    spelled = [token.decode("latin-1").translate(letters) for token in tokens]
    merges = list[list[str]]()
    for token in tokens:
        cuts = ((ranks.get(token[:at]), ranks.get(token[at:])) for at in range(1, len(token)))
        pairs = sorted((left, right) for left, right in cuts if left is not None and right is not None)
        merges += [[spelled[left], spelled[right]] for left, right in pairs]
    nothing = dict.fromkeys(("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"))
    flags = {"fuse_unk": False, "byte_fallback": False, "ignore_merges": True}
    vocab = {text: rank for rank, text in enumerate(spelled)}
    return {"type": "BPE", **nothing, **flags, "vocab": vocab, "merges": merges}


def _tokenizer_config() -> bytes:
    config = {
        **_ENDS,
        "clean_up_tokenization_spaces": False,
        "model_input_names": ["input_ids", "attention_mask"],
        "tokenizer_class": "PreTrainedTokenizerFast",
    }
    return json.dumps(config, indent=2).encode()


# What writes each file.
TOKENIZER_FILES: Mapping[str, Callable[[], bytes]] = {
    "tokenizer.json": tokenizer_json,
    "tokenizer_config.json": _tokenizer_config,
    "special_tokens_map.json": lambda: json.dumps(_ENDS, indent=2).encode(),
}
