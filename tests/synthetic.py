"""Random checkpoints in every released format, for tests and benchmarks. A seed gives the same model in each format.

The code follows the description of the formats and does not use the converter's tables, so the two check each other. A
tensor is a random block that is repeated while it is written, so even the full 20b size needs little memory and time.

    write_checkpoint(folder, RELEASED_20B, layout="original")
"""

from __future__ import annotations

import json
import math
import zlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from itertools import chain
from pathlib import Path

import numpy as np

from mlx_oss.tokenizer import LAST_TEXT_ID, N_RANKS, SPECIAL_TOKENS, load_tokenizer
from mlx_oss.weights import mxfp4

TINY = {
    "num_hidden_layers": 3,
    "num_local_experts": 5,
    "num_experts_per_tok": 3,
    "vocab_size": 300,
    "hidden_size": 96,
    "intermediate_size": 160,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 40,
    "sliding_window": 11,
}
RELEASED_20B = {
    "num_hidden_layers": 24,
    "num_local_experts": 32,
    "num_experts_per_tok": 4,
    "vocab_size": 201088,
    "hidden_size": 2880,
    "intermediate_size": 2880,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "head_dim": 64,
    "sliding_window": 128,
}
LAYOUTS = ("hf", "hf_sharded", "original", "original_sharded", "bf16", "metal")
_BLOCK_VALUES = 250_007  # a prime number, so rows and experts start at different places in the repeated block

Tensor = tuple[str, tuple[int, ...], Callable[[], Iterator[bytes | memoryview]]]  # dtype, shape, function for the bytes


@dataclass(frozen=True)
class Draw:
    """Plausible random weights, without infinity or NaN."""

    seed: int
    deviation: float  # standard deviation of the bfloat16 weights

    def tiled(self, name: str, nbytes: int) -> Iterator[memoryview]:
        """Yields the bytes of a tensor: a random block, repeated up to `nbytes`."""
        block = memoryview(self._block(name, nbytes))
        while nbytes > 0:
            yield block[:nbytes]
            nbytes -= len(block)

    def _block(self, name: str, nbytes: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, zlib.crc32(name.encode())])
        if name.endswith("_blocks"):
            blocks = rng.integers(0, 256, (min(nbytes // 16, _BLOCK_VALUES), 16), np.uint8)
            blocks[:, 0] |= 0x06  # each block contains a 4 or 6, so quantising its values gives the same bits again
            return blocks.reshape(-1)
        if name.endswith("_scales"):
            return rng.integers(117, 123, min(nbytes, _BLOCK_VALUES), np.uint8)
        mean, deviation = (1.0, 0.2) if name.endswith("norm.weight") else (0.0, self.deviation)
        values = rng.normal(mean, deviation, min(nbytes // 2, _BLOCK_VALUES)).astype(np.float32)
        return (values.view(np.uint32) >> 16).astype("<u2").view(np.uint8)


def write_checkpoint(
    folder: Path,
    dims: Mapping[str, int] = TINY,
    seed: int = 0,
    layout: str = "hf",
    shards: int = 3,
    unused_rows: int = 0,
    deviation: float = 0.05,
) -> Path:
    """Writes config.json and the weights into `folder`, creating it if needed.

    Args:
        folder: The folder.
        dims: Dimensions of the model.
        seed: Seed of the random weights.
        layout: Format, one of LAYOUTS.
        shards: Number of files, for the sharded layouts.
        unused_rows: Number of rows at the end of the embedding and the unembedding that are zeros.
        deviation: Standard deviation of the bfloat16 weights. At full size, rounding differences stay small through all
            layers with 0.02, a usual value for initialisation. With 0.05, attention concentrates on single keys, and
            the differences grow tenfold every four layers.

    Returns:
        The folder.
    """
    assert layout in LAYOUTS, layout
    draw = Draw(seed, deviation)
    folder.mkdir(parents=True, exist_ok=True)
    if layout == "metal":
        from tests.metal import write_metal

        write_metal(folder / "model.bin", openai_config(dims), dict(_openai_tensors(dims, draw, unused_rows)))
        return folder
    if layout.startswith("original"):
        config, first = openai_config(dims), 1
        tensors = dict(_openai_tensors(dims, draw, unused_rows))
    else:
        config, first = hf_config(dims), 0
        tensors = dict(_hf_tensors(dims, draw, unused_rows, dense=layout == "bf16"))
    (folder / "config.json").write_text(json.dumps(config, indent=2))
    if not layout.endswith("_sharded"):
        write_safetensors(folder / "model.safetensors", tensors)
        return folder
    names = [f"model-{first + n:05}-of-{shards - 1 + first:05}.safetensors" for n in range(shards)]
    chosen = {name: names[n * shards // len(tensors)] for n, name in enumerate(tensors)}
    for file in names:
        write_safetensors(folder / file, {name: tensors[name] for name in tensors if chosen[name] == file})
    size = sum(_nbytes(dtype, shape) for dtype, shape, _ in tensors.values())
    index = {"metadata": {"total_size": size}, "weight_map": chosen}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    return folder


def hf_config(dims: Mapping[str, int]) -> dict[str, object]:
    layers = [("full_attention" if n % 2 else "sliding_attention") for n in range(dims["num_hidden_layers"])]
    yarn = {"rope_type": "yarn", "factor": 32.0, "beta_fast": 32.0, "beta_slow": 1.0, "truncate": False}
    return {
        **dims,
        "architectures": ["GptOssForCausalLM"],
        "attention_bias": True,
        "eos_token_id": 200002,
        "hidden_act": "silu",
        "initial_context_length": 4096,
        "layer_types": layers,
        "max_position_embeddings": 131072,
        "model_type": "gpt_oss",
        "pad_token_id": 199999,
        "quantization_config": {"quant_method": "mxfp4", "modules_to_not_convert": ["model.layers.*.self_attn"]},
        "rms_norm_eps": 1e-05,
        "rope_scaling": {**yarn, "original_max_position_embeddings": 4096},
        "rope_theta": 150000,
        "swiglu_limit": 7.0,
        "tie_word_embeddings": False,
    }


def openai_config(dims: Mapping[str, int]) -> dict[str, object]:
    config: dict[str, object] = dict(dims)
    config["num_experts"] = config.pop("num_local_experts")
    config["experts_per_token"] = config.pop("num_experts_per_tok")
    rope = {"rope_theta": 150000, "rope_scaling_factor": 32.0, "rope_ntk_alpha": 1, "rope_ntk_beta": 32}
    return {**config, "swiglu_limit": 7.0, "initial_context_length": 4096, **rope}


def tokenizer_json() -> dict[str, object]:
    """The parts of a release's `tokenizer.json` that are checked: all tokens, and the control tokens."""
    tokenizer, letters = load_tokenizer(), gpt2_letters()
    tokens = map(tokenizer.token_bytes, range(N_RANKS))
    vocab = {"".join(letters[byte] for byte in token): rank for rank, token in enumerate(tokens)}
    added = [{"id": id_, "content": name} for name, id_ in SPECIAL_TOKENS.items() if id_ <= LAST_TEXT_ID]
    return {"model": {"type": "BPE", "vocab": vocab}, "added_tokens": added}


def gpt2_letters() -> dict[int, str]:
    """The character for each byte: printable Latin-1 characters stand for themselves, others start at U+0100."""
    own = [byte for byte in range(256) if chr(byte).isprintable() and chr(byte) != " "]
    others = [byte for byte in range(256) if byte not in own]
    return {byte: chr(byte) for byte in own} | {byte: chr(256 + n) for n, byte in enumerate(others)}


@cache
def released_tokenizer_json() -> bytes:
    """The `tokenizer.json` of openai/gpt-oss-20b and -120b, byte for byte, made of the bundled vocabulary.

    As transformers makes it of a tiktoken vocabulary: each token has one merge for each pair of tokens that it consists
    of, in the order of the tokens, and then of the left parts.
    """
    tokenizer, letters = load_tokenizer(), gpt2_letters()
    ranks = {tokenizer.token_bytes(rank): rank for rank in range(N_RANKS)}

    def spelled(token: bytes) -> str:
        return "".join(letters[byte] for byte in token)

    def merges(token: bytes) -> list[tuple[bytes, bytes]]:
        cuts = [(token[:at], token[at:]) for at in range(1, len(token))]
        return sorted(
            ((left, right) for left, right in cuts if left in ranks and right in ranks), key=lambda pair: ranks[pair[0]]
        )

    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    names = {id_: name for name, id_ in SPECIAL_TOKENS.items()}
    added = [{"id": id_, "content": names[id_], **flags} for id_ in range(N_RANKS, LAST_TEXT_ID + 1)]
    split = {"type": "Split", "pattern": {"Regex": tokenizer.encoding._pat_str}, "behavior": "Isolated"}
    byte_level = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
    both = {"type": "ByteLevel", "add_prefix_space": True, "trim_offsets": True, "use_regex": True}
    nothing = dict.fromkeys(("dropout", "unk_token", "continuing_subword_prefix", "end_of_word_suffix"))
    model = {"type": "BPE", **nothing, "fuse_unk": False, "byte_fallback": False, "ignore_merges": True}
    model["vocab"] = {spelled(token): rank for token, rank in ranks.items()}
    model["merges"] = [list(map(spelled, pair)) for token in ranks for pair in merges(token)]
    data = {
        **{"version": "1.0", "truncation": None, "padding": None, "added_tokens": added, "normalizer": None},
        "pre_tokenizer": {"type": "Sequence", "pretokenizers": [split | {"invert": False}, byte_level]},
        **{"post_processor": both | {"trim_offsets": False}, "decoder": both, "model": model},
    }
    return json.dumps(data, ensure_ascii=False, indent=2).encode()


def write_safetensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    """Writes the tensors in their order. The format is documented in huggingface/safetensors."""
    header, position = {}, 0
    for name, (dtype, shape, _) in tensors.items():
        end = position + _nbytes(dtype, shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [position, end]}
        position = end
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        for _, _, chunks in tensors.values():
            for chunk in chunks():
                file.write(chunk)


def _nbytes(dtype: str, shape: tuple[int, ...]) -> int:
    return math.prod(shape) * {"BF16": 2, "U8": 1}[dtype]


def _hf_tensors(
    dims: Mapping[str, int], draw: Draw, unused_rows: int = 0, dense: bool = False
) -> Iterator[tuple[str, Tensor]]:
    hidden, inner, experts = dims["hidden_size"], dims["intermediate_size"], dims["num_local_experts"]
    heads, kv, head = dims["num_attention_heads"], dims["num_key_value_heads"], dims["head_dim"]

    def bf16(name: str, *shape: int) -> tuple[str, Tensor]:
        return name, ("BF16", shape, lambda: draw.tiled(name, 2 * math.prod(shape)))

    def by_token(name: str) -> tuple[str, Tensor]:
        unused, rows = 2 * unused_rows * hidden, dims["vocab_size"]
        used = 2 * rows * hidden - unused
        return name, ("BF16", (rows, hidden), lambda: chain(draw.tiled(name, used), [bytes(unused)]))

    def expert(name: str, rows: int, columns: int) -> Iterator[tuple[str, Tensor]]:
        shapes = (experts, rows, columns // 32, 16), (experts, rows, columns // 32)
        parts = [(f"{name}_{part}", shape) for part, shape in zip(("blocks", "scales"), shapes, strict=True)]
        if dense:
            yield name, ("BF16", (experts, columns, rows), lambda: _dense(parts, draw))
            return
        for part, shape in parts:
            yield part, ("U8", shape, lambda p=part, s=shape: draw.tiled(p, math.prod(s)))

    yield by_token("model.embed_tokens.weight")
    for layer in range(dims["num_hidden_layers"]):
        p = f"model.layers.{layer}."
        yield bf16(p + "input_layernorm.weight", hidden)
        for name, rows, columns in (
            ("q", heads * head, hidden),
            ("k", kv * head, hidden),
            ("v", kv * head, hidden),
            ("o", hidden, heads * head),
        ):
            yield bf16(f"{p}self_attn.{name}_proj.weight", rows, columns)
            yield bf16(f"{p}self_attn.{name}_proj.bias", rows)
        yield bf16(p + "self_attn.sinks", heads)
        yield bf16(p + "post_attention_layernorm.weight", hidden)
        yield bf16(p + "mlp.router.weight", experts, hidden)
        yield bf16(p + "mlp.router.bias", experts)
        yield from expert(p + "mlp.experts.gate_up_proj", 2 * inner, hidden)
        yield bf16(p + "mlp.experts.gate_up_proj_bias", experts, 2 * inner)
        yield from expert(p + "mlp.experts.down_proj", hidden, inner)
        yield bf16(p + "mlp.experts.down_proj_bias", experts, hidden)
    yield bf16("model.norm.weight", hidden)
    yield by_token("lm_head.weight")


_OPENAI_PARTS = (
    ("input_layernorm.weight", "attn.norm.scale"),
    ("self_attn.o_proj.", "attn.out."),
    ("self_attn.", "attn."),
    ("post_attention_layernorm.weight", "mlp.norm.scale"),
    ("mlp.router.", "mlp.gate."),
    ("mlp.experts.gate_up_proj_bias", "mlp.mlp1_bias"),
    ("mlp.experts.down_proj_bias", "mlp.mlp2_bias"),
    ("mlp.experts.gate_up_proj_", "mlp.mlp1_weight."),
    ("mlp.experts.down_proj_", "mlp.mlp2_weight."),
    ("model.layers.", "block."),
    ("model.embed_tokens", "embedding"),
    ("lm_head", "unembedding"),
    ("model.norm.weight", "norm.scale"),
)


def _openai_tensors(dims: Mapping[str, int], draw: Draw, unused_rows: int = 0) -> Iterator[tuple[str, Tensor]]:
    tensors = dict(_hf_tensors(dims, draw, unused_rows))
    for name, (dtype, shape, chunks) in tensors.items():
        if ".k_proj." in name or ".v_proj." in name:
            continue
        if ".q_proj." in name:
            joined = [tensors[name.replace("q_proj", f"{letter}_proj")] for letter in "qkv"]
            shape = (sum(part[1][0] for part in joined), *shape[1:])

            def chunks(joined=joined):
                for _, _, part in joined:
                    yield from part()

            name = name.replace("q_proj", "qkv")
        for ours, theirs in _OPENAI_PARTS:
            name = name.replace(ours, theirs)
        yield name, (dtype, shape, chunks)


def _dense(parts: list[tuple[str, tuple[int, ...]]], draw: Draw) -> Iterator[bytes]:
    """Yields expert weights as bfloat16, which is exact, transposed to (experts, columns, rows)."""
    blocks, scales = (
        np.frombuffer(b"".join(draw.tiled(name, math.prod(shape))), np.uint8).reshape(shape) for name, shape in parts
    )
    values = mxfp4.dequantize(blocks, scales).swapaxes(1, 2)
    yield (np.ascontiguousarray(values).view(np.uint32) >> 16).astype("<u2").tobytes()
