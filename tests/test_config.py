"""config.json: what is read, and that an invalid one always raises ConfigError."""

from __future__ import annotations

import json
import math
import warnings
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mlx_oss.config import (
    FULL,
    MXFP4,
    SLIDING,
    ModelConfig,
    Quantization,
    QuantizationSpec,
    YarnScaling,
)
from mlx_oss.errors import ConfigError
from mlx_oss.model.rope import inverse_frequencies
from mlx_oss.quantization import inferred_spec

# config.json of openai/gpt-oss-20b as released (transformers 4.55), with its 24 layer types written in a shorter way.
RELEASED_20B: dict[str, Any] = {
    "architectures": ["GptOssForCausalLM"],
    "attention_bias": True,
    "attention_dropout": 0.0,
    "eos_token_id": 200002,
    "experts_per_token": 4,
    "head_dim": 64,
    "hidden_act": "silu",
    "hidden_size": 2880,
    "initial_context_length": 4096,
    "initializer_range": 0.02,
    "intermediate_size": 2880,
    "layer_types": ["sliding_attention", "full_attention"] * 12,
    "max_position_embeddings": 131072,
    "model_type": "gpt_oss",
    "num_attention_heads": 64,
    "num_experts_per_tok": 4,
    "num_hidden_layers": 24,
    "num_key_value_heads": 8,
    "num_local_experts": 32,
    "output_router_logits": False,
    "pad_token_id": 199999,
    "quantization_config": {
        "modules_to_not_convert": [
            "model.layers.*.self_attn",
            "model.layers.*.mlp.router",
            "model.embed_tokens",
            "lm_head",
        ],
        "quant_method": "mxfp4",
    },
    "rms_norm_eps": 1e-05,
    "rope_scaling": {
        "beta_fast": 32.0,
        "beta_slow": 1.0,
        "factor": 32.0,
        "original_max_position_embeddings": 4096,
        "rope_type": "yarn",
        "truncate": False,
    },
    "rope_theta": 150000,
    "router_aux_loss_coef": 0.9,
    "sliding_window": 128,
    "swiglu_limit": 7.0,
    "tie_word_embeddings": False,
    "transformers_version": "4.55.0.dev0",
    "use_cache": True,
    "vocab_size": 201088,
}
REQUIRED = (
    "num_hidden_layers num_local_experts num_experts_per_tok vocab_size hidden_size intermediate_size "
    "num_attention_heads num_key_value_heads head_dim sliding_window"
).split()
NUMBERS = [*REQUIRED, "max_position_embeddings", "rms_norm_eps", "swiglu_limit", "rope_theta"]
QUANTIZATION = {"group_size": 32, "bits": 4, "mode": "mxfp4"}


def released(**changes: Any) -> dict[str, Any]:
    """The released config with changed values. `...` removes a key.

    It has two keys for the experts per token. A change of one removes the other.
    """
    raw = RELEASED_20B | changes
    if "num_experts_per_tok" in changes:
        raw["experts_per_token"] = changes.get("experts_per_token", ...)
    return {key: value for key, value in raw.items() if value is not ...}


def yarn(**changes: Any) -> dict[str, Any]:
    raw = RELEASED_20B["rope_scaling"] | changes
    return {key: value for key, value in raw.items() if value is not ...}


def error_of(raw: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        ModelConfig.from_dict(raw)
    return str(caught.value)


def test_the_released_20b_config_reads_as_published():
    """There is no warning either: pytest is configured to turn warnings into errors."""
    c = ModelConfig.from_dict(RELEASED_20B)
    assert (c.num_hidden_layers, c.num_local_experts, c.num_experts_per_tok, c.vocab_size) == (24, 32, 4, 201088)
    assert (c.hidden_size, c.intermediate_size, c.head_dim, c.sliding_window) == (2880, 2880, 64, 128)
    assert (c.num_attention_heads, c.num_key_value_heads, c.qkv_heads) == (64, 8, (64, 8, 8))
    assert (c.rms_norm_eps, c.swiglu_limit, c.swiglu_alpha, c.max_position_embeddings) == (1e-5, 7.0, 1.702, 131072)
    assert c.rope_theta == 150000
    assert c.rope_scaling == YarnScaling(32.0, 4096, 32.0, 1.0, truncate=False)
    assert c.layer_types == (SLIDING, FULL) * 12
    assert [c.is_sliding(n) for n in range(4)] == [True, False, True, False]
    assert c.quantization is None


def test_config_is_the_same_from_a_file_and_from_its_dictionary(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(RELEASED_20B))
    assert ModelConfig.from_file(path) == ModelConfig.from_dict(RELEASED_20B)


def test_both_spellings_of_rope_read_the_same():
    transformers_5 = released(rope_theta=..., rope_scaling=..., rope_parameters=yarn(rope_theta=150000))
    assert ModelConfig.from_dict(transformers_5) == ModelConfig.from_dict(RELEASED_20B)
    both = released(rope_parameters=yarn(rope_theta=150000))
    assert ModelConfig.from_dict(both) == ModelConfig.from_dict(RELEASED_20B)
    theta_outside = released(rope_theta=500, rope_scaling=..., rope_parameters=yarn())
    assert ModelConfig.from_dict(theta_outside).rope_theta == 500


@pytest.mark.parametrize("parameters", [yarn(rope_theta=10000), yarn(rope_theta=150000, factor=16.0)])
def test_spellings_of_rope_that_disagree_are_an_error(parameters):
    assert "rope_parameters disagrees" in error_of(released(rope_parameters=parameters))


def test_plain_rope_has_to_be_asked_for():
    """If the key is absent, transformers uses YaRN and others use plain RoPE, so any guess may be wrong."""
    assert "rope_scaling is missing" in error_of(released(rope_scaling=...))
    assert "rope_scaling is missing" in error_of(released(rope_scaling=..., rope_theta=...))


def test_plain_rope_reads_as_no_scaling():
    for scaling in (None, {"rope_type": "default"}):
        assert ModelConfig.from_dict(released(rope_scaling=scaling)).rope_scaling is None
    parameters = {"rope_type": "default", "rope_theta": 10000}
    plain = ModelConfig.from_dict(released(rope_theta=..., rope_scaling=..., rope_parameters=parameters))
    assert (plain.rope_scaling, plain.rope_theta) == (None, 10000)


def test_the_old_name_of_the_rope_type_is_read():
    old = yarn(rope_type=..., type="yarn")
    assert ModelConfig.from_dict(released(rope_scaling=old)) == ModelConfig.from_dict(RELEASED_20B)


def test_absent_yarn_keys_have_transformers_defaults():
    scaling = {"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 64}
    c = ModelConfig.from_dict(released(rope_scaling=scaling))
    assert c.rope_scaling == YarnScaling(4.0, 64, beta_fast=32.0, beta_slow=1.0, truncate=True)


def test_attention_factor_replaces_the_concentration():
    c = ModelConfig.from_dict(released(rope_scaling=yarn(attention_factor=0.5)))
    assert c.rope_scaling is not None and c.rope_scaling.concentration == 0.5
    default = ModelConfig.from_dict(released(rope_scaling=yarn(attention_factor=None)))
    assert default.rope_scaling is not None and default.rope_scaling.concentration == 0.1 * math.log(32) + 1


def test_absent_layer_types_alternate_beginning_with_the_window():
    for types in (..., None, []):
        raw = released(layer_types=types, num_hidden_layers=3)
        assert ModelConfig.from_dict(raw).layer_types == (SLIDING, FULL, SLIDING)


@pytest.mark.parametrize("key", REQUIRED)
def test_a_missing_key_is_named(key):
    assert f"{key} is missing" in error_of(released(**{"experts_per_token": ..., key: ...}))


def test_either_name_of_the_experts_per_token_is_enough():
    assert ModelConfig.from_dict(released(num_experts_per_tok=..., experts_per_token=3)).num_experts_per_tok == 3
    assert ModelConfig.from_dict(released(num_experts_per_tok=3)).num_experts_per_tok == 3
    stale = RELEASED_20B | {"experts_per_token": 3}  # other programs change only num_experts_per_tok
    assert ModelConfig.from_dict(stale) == ModelConfig.from_dict(RELEASED_20B)


@pytest.mark.parametrize("value", [0, -1, True, "64", math.nan, math.inf, None, [64], {}])
@pytest.mark.parametrize("key", NUMBERS)
def test_an_impossible_number_is_named(key, value):
    assert error_of(released(**{key: value})).startswith(f"config.json: {key} is {value!r}, expected")


@pytest.mark.parametrize("key", [key for key in NUMBERS if key not in ("rms_norm_eps", "swiglu_limit", "rope_theta")])
def test_a_count_is_whole(key):
    assert f"{key} is 64.0, expected a whole number" in error_of(released(**{key: 64.0}))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_key_value_heads": 7}, "num_key_value_heads is 7, expected a divisor of 64"),
        ({"head_dim": 63}, "head_dim is 63, expected even"),
        ({"num_experts_per_tok": 33}, "num_experts_per_tok is 33, expected at most 32"),
        ({"hidden_size": 2870}, "hidden_size is 2870, expected a multiple of 32"),
        ({"intermediate_size": 16}, "intermediate_size is 16, expected a multiple of 32"),
        ({"rope_theta": 1}, "rope_theta is 1, expected"),
        ({"layer_types": [FULL] * 23}, "layer_types is '23 entries', expected 24"),
        ({"layer_types": [FULL] * 23 + ["chunked_attention"]}, "layer_types"),
        ({"layer_types": [[FULL]] * 24}, "layer_types"),
        ({"layer_types": 5}, "layer_types is 5"),
        ({"layer_types": FULL}, f"layer_types is {FULL!r}"),
        ({"rope_scaling": "yarn"}, "rope_scaling is 'yarn', expected an object"),
        ({"rope_scaling": yarn(rope_type="linear")}, "rope_scaling.rope_type is 'linear'"),
        ({"rope_scaling": yarn(rope_type=...)}, "rope_scaling.rope_type is None"),
        ({"rope_scaling": yarn(factor=...)}, "rope_scaling.factor is missing"),
        ({"rope_scaling": yarn(original_max_position_embeddings=...)}, "original_max_position_embeddings is missing"),
        ({"rope_scaling": yarn(factor=math.nan)}, "rope_scaling.factor is nan"),
        ({"rope_scaling": yarn(beta_fast="32")}, "rope_scaling.beta_fast is '32'"),
        ({"rope_scaling": yarn(truncate=0)}, "rope_scaling.truncate is 0, expected true or false"),
        ({"rope_scaling": yarn(attention_factor=True)}, "rope_scaling.attention_factor is True"),
        ({"rope_scaling": yarn(attention_factor=1e300)}, "rope_scaling.attention_factor is 1e+300"),
        ({"quantization": 4}, "quantization is 4, expected an object"),
        ({"quantization": {"group_size": "64"}}, "quantization.group_size is '64'"),
        ({"quantization": QUANTIZATION | {"group_size": 64}}, "mode mxfp4 has group_size 32 and bits 4"),
        ({"quantization": QUANTIZATION | {"mode": "nvfp4"}}, "mode nvfp4 has group_size 16 and bits 4"),
        ({"quantization": QUANTIZATION | {"mode": "nf4"}}, "quantization.mode is 'nf4'"),
        ({"quantization": QUANTIZATION | {"mode": ["affine"]}}, "quantization.mode is ['affine']"),
        ({"quantization": QUANTIZATION | {"lm_head": {"group_size": 64, "bits": True}}}, "quantization.lm_head.bits"),
        ({"quantization": QUANTIZATION | {"lm_head": {"group_size": 64, "bits": 7}}}, "quantization.lm_head.bits is 7"),
        ({"quantization": {"group_size": 48, "bits": 8}}, "quantization.group_size is 48"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_an_impossible_value_is_named(changes, named):
    assert named in error_of(released(**changes))


@pytest.mark.parametrize(
    ("key", "value"),
    [("model_type", "llama"), ("attention_bias", False), ("hidden_act", "gelu"), ("tie_word_embeddings", True)],
)
def test_a_value_this_architecture_does_not_have_is_refused(key, value):
    assert f"{key} is {value!r}" in error_of(released(**{key: value}))


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"rope_scaling": yarn(mscale=1.0)}, "rope_scaling.mscale"),
        ({"rope_scaling": {"rope_type": "default", "factor": 2.0}}, "rope_scaling.factor"),
        ({"rope_scaling": ..., "rope_theta": ..., "rope_parameters": yarn(mscale=1.0)}, "rope_parameters.mscale"),
        ({"quantization": QUANTIZATION | {"scale_dtype": "u8"}}, "quantization.scale_dtype"),
        ({"quantization": QUANTIZATION | {"lm_head": QUANTIZATION | {"zero_point": 1}}}, "quantization.lm_head.zero_"),
        ({"quantization": QUANTIZATION | {"lm_head": 8}}, "quantization.lm_head"),
    ],
)
def test_an_unknown_key_that_may_change_the_mathematics_is_named(changes, named):
    assert f"unknown key {named}" in error_of(released(**changes))


def test_unknown_keys_elsewhere_are_warned_about_in_one_warning():
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        c = ModelConfig.from_dict(released(zebra=1, aardvark=None))
    assert [str(warning.message) for warning in caught] == ["config.json: unknown keys are ignored: aardvark, zebra"]
    assert c == ModelConfig.from_dict(RELEASED_20B)


def quantization_of(entry: dict[str, Any]) -> Quantization:
    quantization = ModelConfig.from_dict(released(quantization=entry)).quantization
    assert quantization is not None
    return quantization


def test_quantization_has_an_entry_for_the_model_and_others_for_single_modules():
    entry = {"group_size": 64, "bits": 8, "mode": "affine"}
    others = {"lm_head": entry, "model.embed_tokens": False, "model.norm": None, "a": True}
    quantization = quantization_of(QUANTIZATION | others)
    assert quantization.default == MXFP4
    assert quantization.modules == {
        "lm_head": QuantizationSpec(64, 8, "affine"),
        "model.embed_tokens": None,
        "model.norm": None,
        "a": MXFP4,
    }


@pytest.mark.parametrize(
    ("mode", "size", "bits"), [("affine", 64, 4), ("mxfp4", 32, 4), ("nvfp4", 16, 4), ("mxfp8", 32, 8), (None, 64, 4)]
)
def test_what_a_quantization_entry_leaves_out_is_the_mode_s_default(mode, size, bits):
    given = {"mode": mode} if mode else {}
    expected = QuantizationSpec(size, bits, mode or "affine")
    for entry in (
        given,
        given | {"group_size": None, "bits": None},
        given | {"group_size": size},
        given | {"bits": bits},
    ):
        assert quantization_of(entry).default == expected
        assert quantization_of(QUANTIZATION | {"lm_head": entry}).modules == {"lm_head": expected}
    assert quantization_of({"group_size": 64, "bits": 8}).default == QuantizationSpec(64, 8)


@pytest.mark.parametrize("spec", [MXFP4, *(QuantizationSpec(g, b) for g in (32, 64, 128) for b in (2, 3, 4, 5, 6, 8))])
def test_a_quantisation_follows_from_its_shapes(spec):
    columns = 384
    shapes = columns * spec.bits // 32, columns // spec.group_size
    assert inferred_spec(columns, *shapes, spec.mode == "affine") == spec
    for words, groups in ((0, 3), (7, 3), (*shapes[:1], 0), (48, 5)):
        assert inferred_spec(columns, words, groups, spec.mode == "affine") is None


def test_the_windows_length_is_needed_only_where_a_layer_has_a_window():
    types = [FULL] * 24
    for window in (..., None):
        c = ModelConfig.from_dict(released(sliding_window=window, layer_types=types))
        assert not any(map(c.is_sliding, range(24)))
    assert "sliding_window is missing" in error_of(released(sliding_window=...))
    assert "sliding_window is None" in error_of(released(sliding_window=None, layer_types=[SLIDING, *types[1:]]))


def test_a_rope_that_rotates_all_of_a_head_is_the_usual_one():
    for key in ("rope_scaling", "rope_parameters"):
        other = {} if key == "rope_scaling" else {"rope_scaling": ...}
        whole = released(**other, **{key: yarn(partial_rotary_factor=1.0, mscale=None)})
        assert ModelConfig.from_dict(whole) == ModelConfig.from_dict(RELEASED_20B)
        assert "partial_rotary_factor" in error_of(released(**other, **{key: yarn(partial_rotary_factor=0.5)}))


def test_what_transformers_writes_into_every_config_is_not_told():
    """With all of transformers 4's keys; pytest is configured to turn warnings into errors."""
    of_every_model = (
        "_name_or_path return_dict output_hidden_states output_attentions torchscript use_bfloat16 tf_legacy_loss "
        "pruned_heads chunk_size_feed_forward is_encoder_decoder is_decoder cross_attention_hidden_size "
        "add_cross_attention tie_encoder_decoder max_length min_length do_sample early_stopping num_beams "
        "num_beam_groups diversity_penalty temperature top_k top_p typical_p repetition_penalty length_penalty "
        "no_repeat_ngram_size encoder_no_repeat_ngram_size bad_words_ids num_return_sequences output_scores "
        "return_dict_in_generate forced_bos_token_id forced_eos_token_id remove_invalid_values "
        "exponential_decay_length_penalty suppress_tokens begin_suppress_tokens finetuning_task id2label label2id "
        "tokenizer_class prefix bos_token_id pad_token_id sep_token_id decoder_start_token_id task_specific_params "
        "problem_type"
    ).split()
    assert ModelConfig.from_dict(released(**dict.fromkeys(of_every_model))) == ModelConfig.from_dict(RELEASED_20B)


@pytest.mark.parity
def test_the_config_of_this_transformers_is_read_without_a_warning(tmp_path):
    transformers = pytest.importorskip("transformers")
    made = transformers.GptOssConfig()
    made.save_pretrained(tmp_path)
    for raw in (
        json.loads(json.dumps(made.to_dict(), default=str)),
        json.loads((tmp_path / "config.json").read_text()),
    ):
        c = ModelConfig.from_dict(raw)
        assert (c.num_hidden_layers, c.swiglu_alpha) == (36, 1.702)
        assert c.rope_scaling == YarnScaling(32.0, 4096, 32.0, 1.0, truncate=False)


def test_a_config_in_any_unicode_with_or_without_a_byte_order_mark_is_read(tmp_path):
    path = tmp_path / "config.json"
    for encoding in ("utf-8", "utf-8-sig", "utf-16"):
        path.write_text(json.dumps(RELEASED_20B), encoding=encoding)
        assert ModelConfig.from_file(path) == ModelConfig.from_dict(RELEASED_20B)


def test_a_config_that_is_a_link_to_nowhere_is_told_as_one(tmp_path):
    (tmp_path / "config.json").symlink_to("../blobs/absent")
    with pytest.raises(ConfigError, match=r"it is a link to '\.\./blobs/absent', which is not there"):
        ModelConfig.from_file(tmp_path / "config.json")


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "\xff", "[" * 100_000, "9" * 5000])
def test_a_file_that_is_no_config_is_an_error_that_names_it(tmp_path, text):
    path = tmp_path / "config.json"
    path.write_bytes(text.encode("latin-1"))
    with pytest.raises(ConfigError, match=str(path)):
        ModelConfig.from_file(path)


def test_an_error_inside_a_file_names_file_and_key(tmp_path):
    path = tmp_path / "config.json"
    path.write_text(json.dumps(released(head_dim=0)))
    with pytest.raises(ConfigError) as caught:
        ModelConfig.from_file(path)
    assert str(caught.value).startswith(f"{path}: head_dim is 0")
    with pytest.raises(ConfigError, match="does not exist"):
        ModelConfig.from_file(tmp_path / "absent.json")
    with pytest.raises(ConfigError, match=str(tmp_path)):
        ModelConfig.from_file(tmp_path)


SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.sampled_from([10**9, 10**30, 10**400, -1]),
    st.floats(),
    st.text(max_size=5),
    st.sampled_from(["yarn", "default", "affine", "mxfp4", "gpt_oss", SLIDING, FULL]),
)
JSON = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=4,
)
WHERE = [
    *((key,) for key in [*RELEASED_20B, "rope_parameters", "quantization", "swiglu_alpha", "other"]),
    *(("rope_scaling", key) for key in ["rope_type", "type", "attention_factor", "other", *yarn()]),
    *(("rope_parameters", key) for key in ["rope_theta", *yarn()]),
    *(("quantization", key) for key in ["group_size", "bits", "mode", "lm_head"]),
    *(("quantization", "lm_head", key) for key in ["group_size", "bits", "mode", "other"]),
]


@settings(max_examples=400, deadline=None, database=None)
@given(st.lists(st.tuples(st.sampled_from(WHERE), st.just(...) | JSON), min_size=1, max_size=4), st.booleans())
def test_a_mutated_config_is_read_or_refused_with_config_error(mutations, quantized):
    """If it is read, it can be used for computations: the rotary frequencies are finite."""
    extra = {"quantization": QUANTIZATION | {"lm_head": QUANTIZATION}} if quantized else {}
    raw = json.loads(json.dumps(RELEASED_20B | extra))
    for path, value in mutations:
        parent = raw
        for key in path[:-1]:
            parent = parent.get(key) if isinstance(parent, dict) else None
        if not isinstance(parent, dict):
            continue
        if value is ...:
            parent.pop(path[-1], None)
        else:
            parent[path[-1]] = value
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)
        try:
            c = ModelConfig.from_dict(raw)
        except ConfigError as error:
            assert str(error).startswith("config.json: ")
            return
    if c.head_dim < 10_000:
        assert np.isfinite(inverse_frequencies(c.head_dim, c.rope_theta, c.rope_scaling)).all()
    assert len(c.layer_types) == c.num_hidden_layers


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("partial_rotary_factor", 0.5),
        ("final_logit_softcapping", 30.0),
        ("num_shared_experts", 1),
        ("use_qk_norm", True),
        ("per_layer_config", {"0": {"head_dim": 128}}),
        ("quantize_activations", True),
    ],
)
def test_a_key_of_other_architectures_that_changes_the_mathematics_is_refused(key, value):
    assert key in error_of(released(**{key: value}))
    ModelConfig.from_dict(released(**{key: None}))
