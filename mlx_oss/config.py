"""ModelConfig: the checked contents of a gpt-oss model's `config.json`.

Reads both spellings of Hugging Face: transformers 4 writes `rope_theta` and `rope_scaling`, transformers 5 writes
`rope_parameters`. It is strict where a key changes the computation: an unknown key in the rope or quantisation settings
is an error, while all unknown keys at the top level are reported in one warning. Knows nothing of weights, or of files
other than `config.json`.
"""

from __future__ import annotations

import json
import math
import warnings
from collections.abc import Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any

from mlx_oss.config_checks import MAY_MATTER, is_positive, mapping, require
from mlx_oss.errors import ConfigError, quoted, shortened
from mlx_oss.files import CONFIG_BYTES, expanded, read_bytes
from mlx_oss.quantization import MXFP4, Quantization, QuantizationSpec, read_quantization

__all__ = ["FULL", "MXFP4", "SLIDING", "ModelConfig", "Quantization", "QuantizationSpec", "YarnScaling", "read_json"]

SLIDING, FULL = "sliding_attention", "full_attention"

# Keys that describe training, serving or file formats and do not change the computation.
_NO_EFFECT = frozenset(
    "architectures attention_dropout bos_token_id dtype eos_token_id initial_context_length initializer_range "
    "output_router_logits pad_token_id quantization_config router_aux_loss_coef torch_dtype transformers_version "
    "use_cache".split()
)
# What transformers 4 and 5, and trainers built on them, write into the config of any model: settings of tasks, of
# generation and of the classes, which no gpt-oss model computes with.
_OF_EVERY_MODEL = frozenset(
    "_attn_implementation _attn_implementation_autoset _experts_implementation _name_or_path add_cross_attention "
    "auto_map bad_words_ids begin_suppress_tokens chunk_size_feed_forward cross_attention_hidden_size "
    "decoder_start_token_id diversity_penalty do_sample early_stopping encoder_no_repeat_ngram_size "
    "exponential_decay_length_penalty finetuning_task forced_bos_token_id forced_eos_token_id id2label is_decoder "
    "is_encoder_decoder label2id length_penalty max_length max_new_tokens min_length model_name no_repeat_ngram_size "
    "num_beam_groups num_beams num_return_sequences output_attentions output_hidden_states output_scores prefix "
    "problem_type pruned_heads remove_invalid_values repetition_penalty return_dict return_dict_in_generate "
    "sep_token_id suppress_tokens task_specific_params temperature tf_legacy_loss tie_encoder_decoder "
    "tokenizer_class top_k top_p torchscript typical_p unsloth_fixed unsloth_version use_bfloat16".split()
)
# Keys of related architectures that change the computation, each with the value that leaves it unchanged.
_NEUTRAL = {
    "partial_rotary_factor": 1,
    "attn_logit_softcapping": 0,
    "final_logit_softcapping": 0,
    "logit_scale": 1,
    "logits_scaling": 1,
    "embedding_multiplier": 1,
    "residual_multiplier": 1,
    "attention_multiplier": 0,
    "query_pre_attn_scalar": 0,
    "use_qk_norm": False,
    "qk_layernorm": False,
    "norm_topk_prob": True,
    "routed_scaling_factor": 1,
    "num_shared_experts": 0,
    "n_shared_experts": 0,
    "rope_local_base_freq": 0,
    "use_sliding_window": True,
    "per_layer_config": None,
    "quantize_activations": False,
}
# Keys for which this architecture implements one value only.
_FIXED = {"model_type": "gpt_oss", "attention_bias": True, "hidden_act": "silu", "tie_word_embeddings": False}


_COPY = "download config.json, or copy it from the model that this one was made from"


@dataclass(frozen=True, slots=True)
class YarnScaling:
    """YaRN context extension (arXiv 2309.00071) as the checkpoints configure it.

    Attributes:
        factor: Factor by which the context is extended.
        original_max_position_embeddings: Tokens of context before the extension.
        beta_fast: Frequencies with more rotations than this within the original context are kept.
        beta_slow: Frequencies with fewer rotations than this are interpolated; in between, the two are blended.
        truncate: True rounds the ends of the blended range to whole frequencies. The releases do not.
        attention_factor: Factor on cos and sin. None: 0.1 ln(factor) + 1.
    """

    factor: float
    original_max_position_embeddings: int
    beta_fast: float = 32.0
    beta_slow: float = 1.0
    truncate: bool = True  # transformers' default where the key is absent
    attention_factor: float | None = None

    @property
    def concentration(self) -> float:
        """The factor on cos and sin."""
        if self.attention_factor is not None:
            return self.attention_factor
        return 0.1 * math.log(self.factor) + 1.0 if self.factor > 1 else 1.0


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """Dimensions and constants of a gpt-oss model of any size, named as in Hugging Face's `config.json`.

    Usually created with `from_file` or `from_dict`.

    Attributes:
        num_hidden_layers: Number of layers.
        num_local_experts: Experts in each layer.
        num_experts_per_tok: Experts that compute each token.
        vocab_size: Rows of the embedding and the unembedding.
        hidden_size: Width of the residual stream.
        intermediate_size: Width inside an expert.
        num_attention_heads: Query heads.
        num_key_value_heads: Key and value heads; a divisor of the number of query heads.
        head_dim: Width of a head.
        sliding_window: Tokens that a sliding-window layer attends to.
        rms_norm_eps: Epsilon of RMSNorm.
        swiglu_limit: Clamp of the SwiGLU inputs.
        swiglu_alpha: Factor inside the sigmoid of SwiGLU.
        rope_theta: Base of the RoPE frequencies.
        rope_scaling: YaRN settings; may be passed as the mapping in `config.json`. None: plain RoPE.
        max_position_embeddings: Longest context, in tokens.
        layer_types: "sliding_attention" or "full_attention" for each layer. Empty: they alternate, starting with
            "sliding_attention".
        quantization: How the weights of an MLX folder are quantised. None: not at all.

    Raises:
        ConfigError: If a value is impossible.
    """

    num_hidden_layers: int
    num_local_experts: int
    num_experts_per_tok: int
    vocab_size: int
    hidden_size: int
    intermediate_size: int
    num_attention_heads: int
    num_key_value_heads: int
    head_dim: int
    sliding_window: int
    rms_norm_eps: float = 1e-5
    swiglu_limit: float = 7.0
    swiglu_alpha: float = 1.702
    rope_theta: float = 150000.0
    rope_scaling: YarnScaling | None = None
    max_position_embeddings: int = 131072
    layer_types: tuple[str, ...] = ()
    quantization: Quantization | None = None

    def __post_init__(self) -> None:
        if isinstance(self.rope_scaling, Mapping):
            object.__setattr__(self, "rope_scaling", _yarn(self.rope_scaling))
        self._check_numbers()
        types = self.layer_types
        good = isinstance(types, (list, tuple)) and all(kind in (SLIDING, FULL) for kind in types)
        require(good, "layer_types", types, f"a list of {SLIDING!r} and {FULL!r}")
        alternating = (FULL if layer % 2 else SLIDING for layer in range(self.num_hidden_layers))
        object.__setattr__(self, "layer_types", tuple(types or alternating))
        require(
            len(self.layer_types) == self.num_hidden_layers,
            "layer_types",
            f"{len(self.layer_types)} entries",
            f"{self.num_hidden_layers} entries (num_hidden_layers)",
        )

    def _check_numbers(self) -> None:
        for name in _WHOLE:
            value = getattr(self, name)
            require(type(value) is int and 0 < value <= _LARGEST, name, value, f"a whole number from 1 to {_LARGEST}")
        for name in _POSITIVE:
            require(is_positive(getattr(self, name)), name, getattr(self, name), "a number > 0")
        require(self.rope_theta > 1, "rope_theta", self.rope_theta, "a number > 1")
        require(self.num_hidden_layers <= 1000, "num_hidden_layers", self.num_hidden_layers, "at most 1000")
        heads, experts = self.num_attention_heads, self.num_local_experts
        require(
            heads % self.num_key_value_heads == 0,
            "num_key_value_heads",
            self.num_key_value_heads,
            f"a divisor of {heads}",
        )
        require(self.head_dim % 2 == 0, "head_dim", self.head_dim, "even (RoPE rotates pairs)")
        require(
            self.num_experts_per_tok <= experts, "num_experts_per_tok", self.num_experts_per_tok, f"at most {experts}"
        )
        for name in ("hidden_size", "intermediate_size"):
            require(getattr(self, name) % 32 == 0, name, getattr(self, name), "a multiple of 32 (an MXFP4 block)")

    def is_sliding(self, layer: int) -> bool:
        """True if this layer attends to the sliding window only."""
        return self.layer_types[layer] == SLIDING

    @property
    def qkv_heads(self) -> tuple[int, int, int]:
        """Number of heads of q, k and v, in their order in the fused projection."""
        return self.num_attention_heads, self.num_key_value_heads, self.num_key_value_heads

    @classmethod
    def from_dict(cls, raw: Mapping[str, Any]) -> ModelConfig:
        """Creates the config from a parsed `config.json`.

        All unknown keys at the top level are named in one UserWarning.

        Args:
            raw: The JSON object.

        Returns:
            The config.

        Raises:
            ConfigError: If a key is missing, a value is impossible, the model is of another architecture, or the rope
                or quantisation settings have an unknown key.
        """
        raw = dict(raw)
        for key, only in _FIXED.items():
            value = raw.pop(key, only)
            if value != only:
                hint = "this is not a gpt-oss model" if key == "model_type" else "no gpt-oss model has another value"
                raise ConfigError(f"config.json: {key} is {quoted(value)}, but only {only!r} is supported: {hint}")
        if raw.get("layer_types", ()) is None:  # transformers and mlx-lm take it for absent
            del raw["layer_types"]
        theta, scaling = _rope_settings(raw)
        if raw.get("sliding_window") is None and (types := raw.get("layer_types")) and SLIDING not in types:
            raw["sliding_window"] = _LARGEST  # no layer uses it
        quantization = raw.pop("quantization", None)
        values: dict[str, Any] = {"rope_scaling": scaling, "quantization": read_quantization(quantization)}
        if theta is not MISSING:
            values["rope_theta"] = theta
        if "experts_per_token" in raw:  # the releases have both keys, but other programs read and change only the other
            raw.setdefault("num_experts_per_tok", raw.pop("experts_per_token"))
        for f in fields(cls):
            if f.name in raw:
                values[f.name] = raw.pop(f.name)
            elif f.name not in values and f.default is MISSING:
                raise ConfigError(f"config.json: {f.name} is missing: {_COPY}")
        for key in sorted(set(raw) & set(_NEUTRAL)):
            if raw[key] is not None and raw[key] != _NEUTRAL[key]:
                raise ConfigError(
                    f"config.json: {key} is {quoted(raw[key])}, which no gpt-oss model has: this is another "
                    "architecture"
                )
        if unknown := sorted(set(raw) - _NO_EFFECT - _OF_EVERY_MODEL - set(_NEUTRAL) - {"experts_per_token"}):
            warnings.warn(f"config.json: unknown keys are ignored: {shortened(', '.join(unknown), 500)}", stacklevel=2)
        return cls(**values)

    @classmethod
    def from_file(cls, path: str | Path) -> ModelConfig:
        """Reads the config from a `config.json`.

        Args:
            path: The file.

        Returns:
            The config.

        Raises:
            ConfigError: If the file is missing or not JSON, or as in `from_dict`; names the file.
        """
        raw = read_json(path)
        try:
            return cls.from_dict(raw)
        except ConfigError as error:
            raise ConfigError(str(error).replace("config.json", str(path), 1)) from None


def read_json(path: str | Path) -> dict[str, Any]:
    """Parses a `config.json`. Raises ConfigError if it is missing or not a JSON object; names the file."""
    try:
        raw = json.loads(read_bytes(expanded(path), CONFIG_BYTES))  # of bytes, it reads any Unicode, and skips a BOM
    except FileNotFoundError:
        raise ConfigError(f"{path} does not exist: {_COPY}") from None
    except OSError as error:
        raise ConfigError(
            f"{path} cannot be read ({error.strerror}): check its permissions, or download it again"
        ) from None
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"{path} cannot be read as JSON ({error}): download or convert the model again") from None
    if not isinstance(raw, dict):
        raise ConfigError(f"{path} does not contain a JSON object: download or convert the model again")
    return raw


_WHOLE = (
    "num_hidden_layers num_local_experts num_experts_per_tok vocab_size hidden_size intermediate_size "
    "num_attention_heads num_key_value_heads head_dim sliding_window max_position_embeddings"
).split()
_POSITIVE = ("rms_norm_eps", "swiglu_limit", "swiglu_alpha", "rope_theta")
_LARGEST_YARN = 1e9  # larger numbers overflow in the model
_LARGEST = 2**31 - 1  # the largest dimension of an MLX array


def _rope_settings(raw: dict[str, Any]) -> tuple[Any, YarnScaling | None]:
    """Removes the rope settings, in either spelling, from `raw` and returns (theta or MISSING, scaling).

    If both spellings are present, they must agree.
    """
    if "rope_scaling" not in raw and "rope_parameters" not in raw:
        raise ConfigError("config.json: rope_scaling is missing: set it to null for plain RoPE without YaRN")
    old_theta, old = raw.pop("rope_theta", MISSING), raw.pop("rope_scaling", None)
    new = raw.pop("rope_parameters", None)
    if new is None:
        return old_theta, None if old is None else _yarn(old)
    new = dict(mapping("rope_parameters", new))
    theta = new.pop("rope_theta", old_theta)
    scaling = _yarn(new, "rope_parameters")
    if old_theta not in (MISSING, theta) or (old is not None and _yarn(old) != scaling):
        raise ConfigError(
            "config.json: rope_parameters disagrees with rope_theta or rope_scaling: remove the wrong ones"
        )
    return theta, scaling


def _yarn(raw: Mapping[str, Any], key: str = "rope_scaling") -> YarnScaling | None:
    raw = {name: value for name, value in mapping(key, raw).items() if value is not None or name == "rope_type"}
    kind = raw.pop("rope_type", raw.pop("type", None))
    if raw.get("partial_rotary_factor") == 1:  # all of each head is rotated, as always
        del raw["partial_rotary_factor"]
    allowed = {f.name for f in fields(YarnScaling)} if kind == "yarn" else set()
    if kind not in ("yarn", "default"):
        raise ConfigError(
            f"config.json: {key}.rope_type is {quoted(kind)}, but only 'yarn' and 'default' are supported"
        )
    if unknown := sorted(set(raw) - allowed):
        raise ConfigError(f"config.json: unknown key {key}.{unknown[0]}: {MAY_MATTER}")
    if kind == "default":
        return None
    for name in ("factor", "original_max_position_embeddings"):
        if name not in raw:
            raise ConfigError(f"config.json: {key}.{name} is missing: YaRN needs it")
    for name, value in raw.items():
        if name == "truncate":
            require(isinstance(value, bool), f"{key}.{name}", value, "true or false")
        else:
            good = is_positive(value) and value < _LARGEST_YARN
            require(good, f"{key}.{name}", value, f"a number between 0 and {_LARGEST_YARN:.0e}")
    return YarnScaling(**raw)
