"""Random JSON schemas that are meaningful, unlike those of the rendering tests, and random walks through a grammar."""

from __future__ import annotations

import random

import numpy as np
from hypothesis import strategies as st

from mlx_oss import load_tokenizer
from mlx_oss.constrain.grammar import Matcher

names = st.sampled_from(["city", "days", "a", "b c", "größe", "$ref", "type", '"quoted"', "x-1", "items"])
_bounds, _few = st.integers(-1000, 1000), st.integers(0, 3)


def _between(kind: str, low: str, high: str, lows: st.SearchStrategy, spans: st.SearchStrategy) -> st.SearchStrategy:
    return st.builds(lambda start, span: {"type": kind, low: start, high: start + span}, lows, spans)


_leaves = st.one_of(
    st.sampled_from([{}, {"type": "null"}, {"type": "boolean"}, {"type": "number"}, {"type": ["integer", "null"]}]),
    _between("integer", "minimum", "maximum", _bounds, st.integers(0, 99)),
    _between("string", "minLength", "maxLength", _few, st.integers(0, 9)),
    st.builds(lambda low: {"type": "number", "exclusiveMinimum": low}, _bounds),
    st.sampled_from([{"type": "string", "pattern": p} for p in ("^[a-z]{2,5}$", r"^\d+-\d+$", "x", "^(yes|no)$")]),
    st.sampled_from([{"type": "string", "format": f} for f in ("date", "time", "email", "uuid")]),
    st.builds(
        lambda values: {"enum": values},
        st.lists(
            st.sampled_from(["low", "high", "", "ä😀", 0, -1.5, True, None, {"a": [1]}]),
            min_size=1,
            max_size=4,
            unique_by=repr,
        ),
    ),
    st.sampled_from([{"const": 7}, {"const": "fixed"}, {"type": "integer", "multipleOf": 3}, {"$ref": "#/$defs/tree"}]),
)


def _nested(children: st.SearchStrategy) -> st.SearchStrategy:
    return st.one_of(
        st.builds(
            lambda bounds, items: {**bounds, "items": items},
            _between("array", "minItems", "maxItems", _few, _few),
            children,
        ),
        st.builds(
            lambda first, rest: {"type": "array", "prefixItems": first, "items": rest},
            st.lists(children, min_size=1, max_size=3),
            children | st.just(False),
        ),
        objects(children),
        _in_parts(children),
        st.builds(lambda variants: {"anyOf": variants}, st.lists(children, min_size=1, max_size=3)),
        st.builds(
            lambda name, values: {"type": "object", "patternProperties": {"^p": values}, "properties": {name: values}},
            names,
            children,
        ),
    )


def _in_parts(children: st.SearchStrategy) -> st.SearchStrategy:
    """Objects that several schemas describe, each naming some of the properties."""

    def one(name: str, values: object, more: str, key: str, apart: bool) -> dict:
        part = {"$ref": "#/$defs/named"} if apart or key == "$ref" else NAMED
        applied = {"$ref": "#/$defs/named"} if key == "$ref" else {key: [part]}
        return {"type": "object", "properties": {name: values}, "required": [name, more], **applied}

    keys = st.sampled_from(["$ref", "anyOf", "oneOf", "allOf"])
    return st.builds(one, names, children, st.sampled_from(["more", "n"]), keys, st.booleans())


def objects(children: st.SearchStrategy) -> st.SearchStrategy:
    return st.builds(
        lambda properties, count, more: {
            "type": "object",
            "properties": properties,
            "required": list(properties)[:count],
            **more,
        },
        st.dictionaries(names, children, max_size=4),
        st.integers(0, 4),
        st.sampled_from([{}, {"additionalProperties": False}, {"additionalProperties": {"type": "integer"}}]),
    )


TREE = {
    "type": "object",
    "properties": {"leaf": {"type": "integer"}, "below": {"type": "array", "items": {"$ref": "#/$defs/tree"}}},
    "additionalProperties": False,
}
NAMED = {"type": "object", "properties": {"n": {"type": "integer"}}, "required": ["n"]}
schemas = objects(st.recursive(_leaves, _nested, max_leaves=6)).map(
    lambda schema: {**schema, "$defs": {"tree": TREE, "named": NAMED}}
)


def closing_ids() -> list[int]:
    """Text tokens that help JSON to end."""
    texts = ['"', '"}', "}", "]", '"]', "]}", "}}", '",', ",", "0", "1", "}\n", '":', '":"']
    return [ids[0] for ids in map(load_tokenizer().encode, texts) if len(ids) == 1]


def walk(matcher: Matcher, end: int, draw: random.Random, most: int = 400) -> str | None:
    """A random text that the matcher accepts to its end; None if it did not end within `most` tokens.

    Draws from the allowed ids. Half of the time it draws only from `closing_ids`, because strings would never end.
    """
    ids: list[int] = []
    closing = np.array([end, *closing_ids()])
    while len(ids) < most:
        allowed = matcher.allowed()
        if isinstance(allowed, int):
            token = allowed
        else:
            near = closing[allowed[closing]]
            choices = near if len(near) and draw.random() < 0.5 else np.flatnonzero(allowed)
            token = int(choices[draw.randrange(len(choices))])
        if token == end:
            return load_tokenizer().decode(ids)
        ids.append(token)
        matcher.accept(token)
    return None
