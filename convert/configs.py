"""The config files of an MLX folder, made from those of a checkpoint. Pure functions over parsed JSON."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

RELEASED_GENERATION = {
    "bos_token_id": 199998,
    "do_sample": True,
    "eos_token_id": [200002, 199999, 200012],
    "pad_token_id": 199999,
}


def for_mlx(raw: Mapping[str, Any], layer_types: Sequence[str], quantization: Mapping[str, Any]) -> dict[str, Any]:
    """The config.json of an MLX folder.

    `quantization` replaces the release's `quantization_config`, which describes the release's own layout.
    `rope_parameters`, as transformers 5 writes it, becomes the two keys of transformers 4 (`rope_theta` and
    `rope_scaling`), which every reader of MLX folders knows.

    Args:
        raw: A checked config with Hugging Face's keys.
        layer_types: The attention type of each layer.
        quantization: The `quantization` entry to write; empty for none.
    """
    config = {key: value for key, value in raw.items() if key not in ("quantization_config", "rope_parameters")}
    config["layer_types"] = list(layer_types)
    if (rope := raw.get("rope_parameters")) is not None:
        rope = dict(rope)
        config["rope_theta"] = rope.pop("rope_theta", config.get("rope_theta"))
        config["rope_scaling"] = None if rope.get("rope_type") == "default" else rope
        if config["rope_theta"] is None:
            del config["rope_theta"]
    config.pop("quantization", None)
    return dict(sorted(config.items())) | ({"quantization": dict(quantization)} if quantization else {})
