"""Rewrites JSON schemas with the keywords that harmony's TypeScript can say, so that the model is told more of them.

Rendered as they are, `$ref`, `anyOf`, `allOf`, `const`, a missing `type`, values of dicts and items of tuples would be
told as `any`, or not at all. Here references are put in place, unions and merged parts are written out, and a type that
TypeScript has a name for, such as `Record<string, number>`, becomes an entry of a list of types, which the renderer
writes as it stands. Knows nothing of tokens, and of how schemas are checked and enforced.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any
from urllib.parse import unquote

from mlx_oss.harmony.messages import Content, DeveloperContent, Message, SystemContent, ToolNamespace
from mlx_oss.harmony.typescript import compact_json

Schema = Mapping[str, Any]

_MOST_COPIES = 1000  # schemas that references and merging may add; what would be more is `any`
_DEEPEST, _DEEPEST_COPY = 60, 16  # levels of schemas
_FACTS = ("title", "description", "default", "examples", "nullable")  # rendered beside the type
_STRUCTURE = ("properties", "patternProperties", "additionalProperties", "items", "prefixItems")
_SAYING_A_TYPE = {*_STRUCTURE, "type", "enum", "const", "$ref", "anyOf", "oneOf", "allOf"}
_KINDS = {  # by keywords that only values of one type have
    **dict.fromkeys(("properties", "patternProperties", "additionalProperties", "propertyNames"), "object"),
    **dict.fromkeys(("items", "prefixItems", "minItems", "maxItems", "uniqueItems"), "array"),
    **dict.fromkeys(("pattern", "minLength", "maxLength"), "string"),
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"), "number"),
}


def with_simplified_schemas(message: Message) -> Message:
    """A system or developer message with the schemas of its tools simplified; any other message as it is."""
    contents = tuple(map(_with_simplified_schemas, message.contents))
    return replace(message, content=contents if isinstance(message.content, tuple) else contents[0])


def _with_simplified_schemas(content: Content) -> Content:
    if not isinstance(content, SystemContent | DeveloperContent):
        return content
    return replace(content, tools=tuple(map(_simplified_namespace, content.tools)))


def _simplified_namespace(space: ToolNamespace) -> ToolNamespace:
    tools = (replace(tool, parameters=tool.parameters and simplified(tool.parameters)) for tool in space.tools)
    return replace(space, tools=tuple(tools))


def simplified(schema: Schema) -> Schema:
    """The schema in the keywords that `typescript.type_of` renders; a schema that cannot be read as it is."""
    try:
        compact_json(schema)  # fails for one that contains itself
        return _Simplifier(schema).schema(schema)
    except (ArithmeticError, AttributeError, LookupError, RecursionError, TypeError, ValueError):
        return schema


class _Simplifier:
    def __init__(self, root: Schema) -> None:
        self._root, self._copies = root, 0
        self._named = dict(_names(root))

    def schema(self, value: Any, within: tuple[str, ...] = (), depth: int = 0) -> dict[str, Any]:
        """Simplifies a schema; `within` are the references that led to it, "" for one that is copied."""
        self._copies += bool(within)
        too_much = depth > (_DEEPEST_COPY if within else _DEEPEST) or self._copies > _MOST_COPIES
        if not isinstance(value, Mapping) or too_much:
            return {}
        value, within = self._merged(value, within, depth)
        facts = {key: value[key] for key in _FACTS if key in value}
        for key in ("oneOf", "anyOf"):
            if isinstance(value.get(key), list | tuple):
                base = {k: v for k, v in value.items() if k not in (*_FACTS, "oneOf", "anyOf")}
                union = self._union(key, value[key], base, within, depth)
                if union is not None:
                    return facts | union
        return facts | self._typed(value, within, depth)

    def _merged(self, value: Schema, within: tuple[str, ...], depth: int) -> tuple[Schema, tuple[str, ...]]:
        """The schema with its references and `allOf` put in place, and the references that are now within it."""
        while isinstance(reference := value.get("$ref"), str):
            own = {key: entry for key, entry in value.items() if key != "$ref"}
            target = self._target(reference)
            if not isinstance(target, Mapping) or self._copies > _MOST_COPIES:
                return own, within
            if reference in within:
                return ({"type": ["object"]} if _kind(target) == "object" else {}) | own, within
            if target.get("title") == reference.rpartition("/")[2]:  # the name of a class
                target = {key: entry for key, entry in target.items() if key != "title"}
            value, within = {**target, **own}, (*within, reference)
            self._copies += 1
        parts = value.get("allOf")
        if not isinstance(parts, list | tuple) or depth > _DEEPEST:
            return value, within
        whole: Schema = {key: entry for key, entry in value.items() if key != "allOf"}
        for part in parts:
            if isinstance(part, Mapping) and self._copies <= _MOST_COPIES:
                self._copies += 1
                more, within = self._merged(part, within, depth + 1)
                whole = _both(whole, more)
        return whole, within

    def _target(self, reference: str) -> Any:
        """What a reference within the document stands for; None if there is no such thing."""
        document, _, place = reference.partition("#")
        target: Any = self._named.get(document) if document else self._root
        if place and not place.startswith("/"):
            return self._named.get(f"#{place}")
        for step in unquote(place).split("/")[1:]:
            step = step.replace("~1", "/").replace("~0", "~")
            if isinstance(target, list | tuple) and step.isdecimal() and int(step) < len(target):
                target = target[int(step)]
            elif isinstance(target, Mapping) and step in target:
                target = target[step]
            else:
                return None
        return target

    def _union(
        self, key: str, variants: Sequence[Any], base: Schema, within: tuple[str, ...], depth: int
    ) -> dict[str, Any] | None:
        """The union of variants, each together with the keywords beside them; None if the variants say no type."""
        is_structured = any(name in base for name in _STRUCTURE)
        says_type = any(isinstance(variant, Mapping) and _SAYING_A_TYPE & variant.keys() for variant in variants)
        if base.keys() & _SAYING_A_TYPE and not says_type:
            return None  # they only say which properties go together, or the like
        if is_structured:
            within = (*within, "")
        found: list[dict[str, Any]] = []
        for variant in variants:
            if base.keys() & _SAYING_A_TYPE and isinstance(variant, Mapping):
                variant, _ = self._merged(variant, within, depth)
                variant = _both(variant, base)
            one = self.schema(variant, within, depth + 1)
            found += _choices(one) if key == "anyOf" else [one]
        found = _without_repetition(found) if key == "anyOf" else found
        if key == "anyOf" and len(found) == 1:
            return found[0]
        texts = list(map(_inline, found))
        if key == "anyOf" and None not in texts and not any(set(_FACTS) & one.keys() for one in found):
            return {"type": list(dict.fromkeys(text for text in texts if text is not None))}
        return {"oneOf": found}

    def _typed(self, value: Schema, within: tuple[str, ...], depth: int) -> dict[str, Any]:
        kind = _kind(value)
        values = [value["const"]] if "const" in value else value.get("enum")
        if isinstance(values, list | tuple) and values:
            if kind in (None, "string") and all(isinstance(one, str) for one in values):
                return {"type": "string", "enum": list(values)}
            return {"type": list(dict.fromkeys(map(compact_json, values)))}
        if isinstance(kind, list | tuple):
            names = list(dict.fromkeys(name for name in kind if isinstance(name, str)))
            if not ({"object", "array"} & {*names} and any(key in value for key in _STRUCTURE)):
                return {"type": names}
            plain = {key: entry for key, entry in value.items() if key not in _FACTS}
            variants = [{**plain, "type": name} for name in names]
            return self._union("anyOf", variants, {}, (*within, ""), depth) or {}
        if kind == "object":
            return self._object(value, within, depth)
        if kind == "array":
            return self._array(value, within, depth)
        return {"type": ["null"]} if kind == "null" else {} if kind is None else {"type": kind}

    def _object(self, value: Schema, within: tuple[str, ...], depth: int) -> dict[str, Any]:
        given, required = value.get("properties"), value.get("required")
        properties = {}
        for name, one in given.items() if isinstance(given, Mapping) else ():
            properties[name] = self.schema(one, within, depth + 1)
            if _squeezed(properties[name].get("title")) == _squeezed(name):  # pydantic's title for any field
                del properties[name]["title"]
        names = [name for name in required if isinstance(name, str)] if isinstance(required, list | tuple) else []
        patterns, others = value.get("patternProperties"), value.get("additionalProperties")
        entries = [*(patterns.values() if isinstance(patterns, Mapping) else ())]
        entries += [others] if isinstance(others, Mapping) and others else []
        if entries:
            entry = self.schema(entries[0] if len(entries) == 1 else {"anyOf": entries}, within, depth + 1)
        elif others is True and not properties:
            entry = {}
        else:
            return {"type": "object", "properties": properties, "required": names}
        keys = self.schema(value.get("propertyNames"), within, depth + 1)
        key, text = _inline(keys) if "enum" in keys else "string", _inline(entry)
        if text is not None and not properties:
            return {"type": [f"Record<{key}, {text}>"]}
        properties[f"[key: {key}]"] = entry
        return {"type": "object", "properties": properties, "required": [*names, f"[key: {key}]"]}

    def _array(self, value: Schema, within: tuple[str, ...], depth: int) -> dict[str, Any]:
        first, rest = value.get("prefixItems"), value.get("items")
        if isinstance(rest, list | tuple):  # as until draft 2019-09
            first, rest = rest, value.get("additionalItems")
        if isinstance(first, list | tuple) and first:
            return self._tuple(first, rest, value.get("minItems"), within, depth)
        if "items" not in value:
            return {"type": "array"}
        item = self.schema(rest, within, depth + 1)
        text = _inline(item)
        return {"type": [f"Array<{text}>"]} if text and " | " in text else {"type": "array", "items": item}

    def _tuple(
        self, first: Sequence[Any], rest: Any, least: Any, within: tuple[str, ...], depth: int
    ) -> dict[str, Any]:
        items = [self.schema(one, within, depth + 1) for one in first]
        texts = [_inline(item) for item in items]
        others = self.schema(rest, within, depth + 1) if isinstance(rest, Mapping) and rest else None
        more = None if others is None else _inline(others)
        if None in texts or (others is not None and more is None):
            union = _without_repetition([*items, *([others] if others is not None else [])])
            return {"type": "array", "items": union[0] if len(union) == 1 else {"oneOf": union}}
        needed = least if isinstance(least, int) else len(texts)
        parts = [f"{text}{'' if number < needed else '?'}" for number, text in enumerate(texts)]
        return {"type": [f"[{', '.join([*parts, *([f'...Array<{more}>'] if more else [])])}]"]}


def _names(schema: Any) -> Iterator[tuple[str, Schema]]:
    """The schemas within a schema that have a name: as a document of their own, or a place "#name" in one."""
    if isinstance(schema, Mapping):
        for key, before in (("$id", ""), ("id", ""), ("$anchor", "#"), ("$dynamicAnchor", "#")):
            if isinstance(name := schema.get(key), str) and name:
                yield before + name.removesuffix("#"), schema
    if isinstance(schema, Mapping | list | tuple):
        for inner in schema.values() if isinstance(schema, Mapping) else schema:
            yield from _names(inner)


def _kind(value: Schema) -> Any:
    """The type that a schema names, or else that its keywords are for; None if there is none."""
    kind = value.get("type")
    if isinstance(kind, list | tuple) and len(kind) == 1 and any(key in value for key in (*_STRUCTURE, "enum")):
        return kind[0]
    if kind is not None:
        return kind
    return next((found for key, found in _KINDS.items() if key in value), None)


def _both(first: Schema, second: Schema) -> dict[str, Any]:
    """One schema for what is valid by both, as far as the renderer can say it."""
    merged = {**second, **first}
    ours, theirs = first.get("properties"), second.get("properties")
    if isinstance(ours, Mapping) and isinstance(theirs, Mapping):
        same = {name: {"allOf": [ours[name], theirs[name]]} for name in ours.keys() & theirs.keys()}
        merged["properties"] = {**ours, **theirs, **same}
    required = [one.get("required") for one in (first, second)]
    merged["required"] = [name for names in required if isinstance(names, list | tuple) for name in names]
    return merged if merged["required"] else {key: entry for key, entry in merged.items() if key != "required"}


def _choices(schema: dict[str, Any]) -> list[dict[str, Any]]:
    """The variants of a union without facts of its own, or the schema alone."""
    if set(_FACTS) & schema.keys():
        return [schema]
    if isinstance(schema.get("oneOf"), list):
        return list(schema["oneOf"])
    return [{"type": [name]} for name in schema["type"]] if isinstance(schema.get("type"), list) else [schema]


def _without_repetition(schemas: Iterable[dict[str, Any]]) -> list[dict[str, Any]]:
    return list({compact_json(schema): schema for schema in schemas}.values())


def _inline(schema: Schema) -> str | None:
    """The TypeScript of a simplified schema in one line; None if it needs several."""
    text = " | ".join(dict.fromkeys(texts)) if None not in (texts := list(_inline_parts(schema))) else None  # type: ignore[arg-type]
    return f"{text} | null" if text is not None and schema.get("nullable") is True and "null" not in text else text


def _inline_parts(schema: Schema) -> Iterator[str | None]:
    kind = schema.get("type")
    if isinstance(variants := schema.get("oneOf"), list):
        yield from map(_inline, variants)
    elif isinstance(kind, list):
        yield from ("number" if name == "integer" else name for name in kind)
    elif kind == "string" and schema.get("enum"):
        yield from (compact_json(value) for value in schema["enum"])
    elif kind == "object":
        yield None if schema.get("properties") else "object"
    elif kind == "array":
        item = _inline(schema["items"]) if "items" in schema else "any"
        yield None if item is None else f"Array<{item}>" if " | " in item else f"{item}[]"
    else:
        yield {"integer": "number"}.get(kind, kind) if kind in ("string", "number", "integer", "boolean") else "any"


def _squeezed(text: Any) -> Any:
    return re.sub(r"[\W_]", "", text).lower() if isinstance(text, str) else text
