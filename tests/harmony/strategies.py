"""Hypothesis strategies for messages, tools and JSON schemas, and the number of examples for each test."""

import os

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st

from mlx_oss.harmony import (
    BROWSER,
    CHANNELS,
    PYTHON,
    DeveloperContent,
    Message,
    ResponseFormat,
    SystemContent,
    ToolDescription,
    ToolNamespace,
)

CONVERSATIONS = int(os.environ.get("HARMONY_CONVERSATIONS", "100"))


def examples(count: int) -> settings:
    return settings(max_examples=count, deadline=None, database=None, suppress_health_check=[HealthCheck.too_slow])


CONTROL_LIKE = ("<|start|>", "<|end|>", "<|channel|>final", "<|constrain|>json", "<|message|>", "<|reserved_200013|>")
PHRASES = ("a\nb\n", "two\r\nlines", " 😀é ", "🫠", "to=functions.x", "// not a comment", "}", '"quoted"', "\t", "null")
letters = st.text(st.characters(exclude_categories=["Cs"]), max_size=12)
texts = st.lists(st.one_of(letters, st.sampled_from(CONTROL_LIKE + PHRASES)), max_size=4).map("".join)
lines = texts.filter(bool)
words = st.from_regex(r"[a-z][a-z_.0-9-]{0,12}", fullmatch=True)
function_names = words.map("functions.{}".format)

numbers = st.one_of(
    st.integers(-(2**63), 2**64 - 1),
    st.sampled_from(
        [2**64, -(2**63) - 1, 2**70, 10**20, -(10**25)]
    ),  # openai-harmony reads some other numbers wrongly: see mlx_oss.harmony
    st.sampled_from([0.5, -1.25, 1e-5, -3.75e-5, 1e-6, 1e15, 1e16, 2.5e22, -0.0]),
)
json_values = st.recursive(
    st.one_of(st.none(), st.booleans(), numbers, texts),
    lambda children: st.one_of(st.lists(children, max_size=3), st.dictionaries(letters, children, max_size=3)),
    max_leaves=4,
)
TYPES = ("string", "number", "integer", "boolean", "null", "array", "object", "date")


def _described(schema: st.SearchStrategy) -> st.SearchStrategy:
    extras = st.fixed_dictionaries(
        {},
        optional={
            "description": texts | st.just(3),
            "title": texts,
            "default": json_values,
            "nullable": st.booleans(),
            "examples": st.lists(texts | st.integers(0, 9), max_size=3),
            "enum": st.lists(texts | st.integers(0, 9), max_size=3),
        },
    )
    return st.builds(lambda schema, extra: {**extra, **schema} if isinstance(schema, dict) else schema, schema, extras)


def _nested(children: st.SearchStrategy) -> st.SearchStrategy:
    names = letters | words
    return st.one_of(
        st.builds(lambda items: {"type": "array", "items": items}, children),
        st.builds(
            lambda properties, required: {"type": "object", "properties": properties, "required": required},
            st.dictionaries(names, children, max_size=4),
            st.lists(names, max_size=2),
        ),
        st.builds(
            lambda properties: {"type": "object", "properties": properties, "required": list(properties)[::2]},
            st.dictionaries(names, children, max_size=4),
        ),
        st.builds(
            lambda key, variants, extra: {key: variants, **extra},
            st.sampled_from(["oneOf", "oneOf", "anyOf", "allOf"]),
            st.lists(children, max_size=3),
            st.fixed_dictionaries({}, optional={"description": st.just("same"), "type": st.sampled_from(TYPES)}),
        ),
    )


_same = st.just(
    {"type": "string", "description": "same"}
)  # a variant with the same description as the union is a special case
_leaves = st.one_of(
    st.builds(lambda kind: {"type": kind}, st.sampled_from(TYPES)),
    st.builds(lambda kinds: {"type": kinds}, st.lists(st.sampled_from(TYPES), max_size=3)),
    st.sampled_from([{}, {"$ref": "#/$defs/a"}, {"const": 1}, {"oneOf": "no list"}, {"type": 7}, True, False, "text"]),
)
_leaves_of_unions = st.builds(
    lambda kind, values: {"type": kind, **({"enum": values} if values else {})},
    st.sampled_from(["string", "string", "object", "null"]),
    st.sampled_from([None, ["a", "b"], []]),
)
schemas = st.recursive(_described(_leaves) | _same, lambda children: _described(_nested(children)), max_leaves=8)

# Unions have the most special cases: their comments depend on the comments of the first variant and the property.
_said = st.sampled_from([{}, {"description": "same"}, {"description": "other"}, {"default": "a"}, {"default": 1e-5}])
_variants = st.lists(
    st.builds(
        lambda *parts: {key: part[key] for part in parts for key in part}, _described(_leaves_of_unions), _said, _said
    ),
    max_size=3,
)
_unions = st.builds(lambda variants, *parts: {"oneOf": variants, **parts[0], **parts[1]}, _variants, _said, _said)
union_schemas = st.one_of(
    _unions,
    st.builds(lambda union: {"type": "object", "properties": {"a": union}, "required": ["a"]}, _unions),
    st.builds(lambda union: {"type": "array", "items": {"oneOf": [union, {"type": "object"}]}}, _unions),
)
object_schemas = st.builds(
    lambda properties: {"type": "object", "description": "about", "properties": properties},
    st.dictionaries(words, schemas, min_size=1, max_size=4),
)

# Schemas as people write them: each keyword occurs often, and at a place where it belongs.
_prose = st.sampled_from(["A place.", "What it is.\nOver two lines.", "Units:\r\n- C\n\n- F\n", "Größe 📏", "same"])
_facts = st.fixed_dictionaries(
    {}, optional={"description": _prose, "title": _prose, "nullable": st.booleans(), "examples": st.lists(_prose)}
)


def _everyday(kind: str, values: st.SearchStrategy) -> st.SearchStrategy:
    keys = {"default": values, "enum": st.lists(values, min_size=1, max_size=3)}
    return st.fixed_dictionaries({"type": st.just(kind) | st.just([kind, "null"])}, optional=keys)


_everyday_leaves = st.one_of(
    _everyday("string", _prose),
    _everyday("integer", st.integers(-9, 9)),
    # Few digits: openai-harmony reads some numbers of 16 and 17 digits wrongly, by one in the last digit.
    _everyday(
        "number", st.builds(lambda digits, places: digits / 10**places, st.integers(-(10**6), 10**6), st.integers(0, 9))
    ),
    _everyday("boolean", st.booleans()),
    st.just({"$ref": "#/$defs/place"}),
)


def _everyday_nest(children: st.SearchStrategy) -> st.SearchStrategy:
    properties = st.dictionaries(words, children, min_size=1, max_size=4)
    union = st.builds(
        lambda key, some: {key: some}, st.sampled_from(["oneOf", "anyOf"]), st.lists(children, min_size=2)
    )
    array = st.fixed_dictionaries({"type": st.just("array"), "items": children}, optional={"default": st.just([])})
    object_ = properties.map(lambda some: {"type": "object", "properties": some, "required": list(some)[::2]})
    return st.builds(lambda schema, facts: schema | facts, union | array | object_, _facts)


everyday_schemas = st.recursive(
    st.builds(lambda schema, facts: schema | facts, _everyday_leaves, _facts), _everyday_nest, max_leaves=5
)
everyday_parameters = st.dictionaries(words, everyday_schemas, min_size=1, max_size=4).map(
    lambda some: {"type": "object", "properties": some, "required": list(some)[1:]}
)

_parameters = st.none() | schemas.filter(lambda schema: isinstance(schema, dict)) | everyday_parameters
tools = st.builds(ToolDescription, words, texts, _parameters)
namespaces = st.one_of(
    st.sampled_from([PYTHON, BROWSER]),
    st.builds(ToolNamespace, st.just("functions"), st.none(), st.lists(tools, min_size=1, max_size=3).map(tuple)),
    st.builds(ToolNamespace, words | st.just("functions"), st.none() | texts, st.lists(tools, max_size=3).map(tuple)),
)
namespace_sets = st.lists(namespaces, max_size=3, unique_by=lambda namespace: namespace.name).map(tuple)
system_contents = st.builds(
    SystemContent,
    st.none() | lines,
    st.sampled_from([None, "low", "medium", "high"]),
    st.none() | lines,
    st.none() | lines,
    st.sampled_from([CHANNELS, (), ("final",)]),
    namespace_sets,
)
developer_contents = st.builds(DeveloperContent, st.none() | lines, namespace_sets)

formats = st.builds(ResponseFormat, words, schemas.filter(lambda schema: isinstance(schema, dict)), st.none() | texts)
response_formats = st.lists(formats, max_size=3, unique_by=lambda format_: format_.name).map(tuple)
developers_with_formats = st.builds(DeveloperContent, st.none() | lines, namespace_sets, response_formats)

_maybe_channel = st.none() | st.sampled_from(CHANNELS) | texts
_maybe_recipient = st.none() | st.just("all") | function_names | texts
_maybe_type = st.none() | st.sampled_from(["json", "code", "<|constrain|>json", "<|constrain|>"]) | texts
_roles = st.sampled_from(["system", "developer", "user", "assistant", "tool"])


def _with_tool_name(message: Message) -> Message:
    if message.role != "tool" or message.name:
        return message
    return Message("tool", message.content, message.channel, message.recipient, message.content_type, "functions.x")


def _one_or_several(content: st.SearchStrategy) -> st.SearchStrategy:
    return content | st.lists(content | texts, max_size=3).map(tuple)


messages = st.one_of(
    st.builds(Message, st.just("system"), _one_or_several(system_contents)),
    st.builds(Message, st.just("developer"), _one_or_several(developer_contents)),
    st.builds(
        Message, _roles, _one_or_several(texts), _maybe_channel, _maybe_recipient, _maybe_type, st.none() | texts
    ).map(_with_tool_name),
)
conversations = st.lists(messages, max_size=6)

# Messages with unambiguous headers. A parser must return them unchanged.
_plain = st.sampled_from([*CHANNELS, None])
parsable_messages = st.one_of(
    st.builds(Message, st.sampled_from(["system", "developer", "user"]), texts),
    st.builds(Message, st.just("assistant"), texts, _plain),
    st.builds(
        Message,
        st.just("assistant"),
        texts,
        _plain,
        function_names,
        st.sampled_from([None, "json", "<|constrain|>json"]),
    ),
    st.builds(Message, st.just("tool"), texts, _plain, st.just("assistant"), st.none(), function_names),
)
parsable_conversations = st.lists(parsable_messages, max_size=6)
