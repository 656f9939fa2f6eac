"""Reads what several APIs ask in the same words: how to sample, how much to reason, which functions there are.

Knows nothing of messages and responses.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping, Sequence
from typing import Any

from mlx_oss.constrain import Guards, grammar
from mlx_oss.errors import OptionError, quoted
from mlx_oss.generation.options import SamplingOptions
from mlx_oss.harmony import ToolDescription
from mlx_oss.server.fields import Fields, RequestError

_NAME = re.compile(r"[a-zA-Z0-9_-]{1,128}")
_EFFORTS = {"none": "none", "minimal": "low", "low": "low", "medium": "medium", "high": "high"}
_EFFORTS |= {"xhigh": "high", "max": "high"}  # no more than high is known to the model


def sampling(fields: Fields, names: Collection[str], **more: Any) -> SamplingOptions:
    """How to sample.

    Args:
        fields: The request.
        names: Which of its fields are options of `SamplingOptions`.
        more: Options that are called otherwise there.
    """
    given = {name: fields.get(name) for name in names if fields.get(name) is not None}
    for name in ("seed", "top_k", "top_logprobs"):
        if isinstance(value := given.get(name), float) and value.is_integer():
            given[name] = int(value)
    if type(given.get("seed")) is int and -(2**63) <= given["seed"] < 0:  # OpenAI's seeds have a sign
        given["seed"] += 2**64
    if type(given.get("top_k")) is int and given["top_k"] == -1:  # as other servers say it
        given["top_k"] = 0
    if given.get("top_p") == 0:  # the likeliest token only
        given |= {"top_p": 1.0, "temperature": 0.0}
    if "logit_bias" in given:
        given["logit_bias"] = _logit_bias(given["logit_bias"])
    try:
        return SamplingOptions(**{**given, **more})
    except OptionError as error:
        name = str(error).split(maxsplit=1)[0].partition("[")[0]
        raise RequestError(str(error), fields.where(name) if name in given else None) from None


def _logit_bias(biases: Any) -> dict[int, Any]:
    if not isinstance(biases, Mapping) or not all(key.isdecimal() and len(key) < 8 for key in biases):
        raise RequestError(
            f'logit_bias is {quoted(biases)}: give an object from token ids to biases, such as {{"1234": -5}}',
            "logit_bias",
        )
    return {int(key): bias for key, bias in biases.items()}


def stop_texts(fields: Fields, name: str) -> Sequence[str]:
    """Texts that end the answer: one, or a list of them."""
    value = fields.get(name)
    texts = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise fields.wrong(name, "a text, or a list of texts")
    return [text for text in texts if text]


def effort(fields: Fields, name: str, *, has_tools: bool) -> dict[str, Any]:
    """The arguments of `Settings` for how much to reason; none if nothing is said.

    Without reasoning, a prompt opens the answer, and nothing can be called. So with tools, the model is kept from
    reasoning in another way.
    """
    if fields.get(name) is None:
        return {}
    wanted = _EFFORTS[fields.one_of(name, [*_EFFORTS], "medium")]
    if wanted == "none" and has_tools:
        return {"reasoning_effort": "low", "max_reasoning_tokens": 0}
    return {"reasoning_effort": wanted}


def function(fields: Fields, *, parameters: str = "parameters") -> ToolDescription:
    """A function that may be called.

    Args:
        fields: Its name, description and parameters.
        parameters: The field of the schema of its arguments.
    """
    name, schema = fields.get("name"), fields.get(parameters)
    if not isinstance(name, str) or not _NAME.fullmatch(name):
        raise fields.wrong("name", "up to 128 letters, digits, _ and -")
    if not isinstance(schema, Mapping | None):
        raise fields.wrong(parameters, "a JSON schema, which is an object")
    return ToolDescription(name, fields.optional_text("description") or "", schema)


def strict_arguments(are_strict: bool) -> dict[str, Any]:
    """The arguments of `Settings` for functions whose schemas have to be followed.

    Without the extra `constrain`, nothing is enforced, as for other functions: many clients ask for it always.
    """
    return {"guards": Guards(strict_arguments=True)} if are_strict and grammar.is_installed() else {}
