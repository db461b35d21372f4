"""Formats that may be asked for, and what is none: formats.json."""

import json
from typing import Any

from node.protocol import limits


def _text(schema: Any) -> str:
    return json.dumps(schema, separators=(",", ":"), ensure_ascii=False)


def _inside(count: int) -> dict[str, Any]:
    schema: dict[str, Any] = {"type": "string"}
    for _ in range(count):
        schema = {"type": "array", "items": schema}
    return schema


VALID: dict[str, str] = {
    "any object": '{"type":"object"}',
    "anything": "{}",
    "a person": _text(
        {
            "$schema": "https://json-schema.org/draft/2020-12/schema",
            "title": "Person",
            "type": "object",
            "properties": {
                "name": {"type": "string", "minLength": 1, "maxLength": 20},
                "age": {"type": "integer", "minimum": 0, "maximum": 150},
                "mood": {"enum": ["good", "bad", None]},
                "kind": {"const": {"a": [1]}},
            },
            "required": ["name", "age"],
            "additionalProperties": False,
        }
    ),
    "every kind of schema": _text(
        {
            "type": ["object", "null"],
            "properties": {
                "list": {"type": "array", "items": {"type": "number", "exclusiveMaximum": 1.5},
                         "minItems": 1, "maxItems": 3},
                "pair": {"type": "array", "prefixItems": [True, {"type": "boolean"}]},
                "code": {"type": "string", "pattern": "^[A-Z]{3}$"},
                "day": {"type": "string", "format": "date", "default": "2000-01-01"},
                "even": {"type": "integer", "multipleOf": 2},
                "any": {"anyOf": [{"type": "string"}, {"type": "null"}]},
                "one": {"allOf": [{"$ref": "#/$defs/node"}], "description": "a tree"},
            },
            "$defs": {"node": {"type": "object", "properties": {"next": {"$ref": "#/$defs/node"}}}},
        }
    ),
    "nested as deep as may be": _text(_inside(limits.FORMAT_DEPTH_MAX - 1)),
}  # fmt: skip
"""By name."""

INVALID: dict[str, tuple[str, str]] = {
    "no JSON": ("the schema is not JSON", "{"),
    "no bytes": ("the schema is not JSON", ""),
    "not a number of JSON": ("the schema is not JSON", '{"minimum":NaN}'),
    "a key that stands there twice": ("the schema is not JSON", '{"type":"null","type":"null"}'),
    "no object": ("the schema is no object", "true"),
    "an unknown keyword": ("schema: not is", '{"not":{}}'),
    "several schemas at once": ("schema.allOf", _text({"allOf": [{}, {}]})),
    "one of several": ("schema: oneOf is", _text({"oneOf": [{}, {}]})),
    "an unknown type": ("schema.type", '{"type":"text"}'),
    "no type": ("schema.type", '{"type":[]}'),
    "a schema that is a number": ("schema.items", '{"items":5}'),
    "a schema of somewhere else": ("schema.$ref", '{"$ref":"https://example.org/a"}'),
    "a schema that is not there": ("schema.$ref", '{"$ref":"#/$defs/a","$defs":{}}'),
    "a schema that is itself": ("schema: # refers to itself", '{"$ref":"#"}'),
    "schemas that are each other": (
        "schema: #/$defs/a refers to itself",
        _text({"$ref": "#/$defs/a", "$defs": {"a": {"anyOf": [{"$ref": "#/$defs/b"}]},
                                              "b": {"allOf": [{"$ref": "#/$defs/a"}]}}}),
    ),
    "an empty choice": ("schema.anyOf", '{"anyOf":[]}'),
    "an enum of nothing": ("schema.enum", '{"enum":[]}'),
    "too large a count": ("schema.maxItems", _text({"maxItems": limits.FORMAT_COUNT_MAX + 1})),
    "a count that is none": ("schema.minLength", '{"minLength":1.5}'),
    "too large a number": ("schema.minimum", '{"minimum":9007199254740993}'),
    "a limit that is text": ("schema.maximum", '{"maximum":"5"}'),
    "a multiple of a fraction": ("schema.multipleOf", '{"multipleOf":0.1}'),
    "multiples of two numbers": (
        "schema.items.multipleOf", '{"multipleOf":2,"items":{"multipleOf":3}}',
    ),
    "too long a pattern": (
        "schema.pattern", _text({"pattern": "x" * (limits.FORMAT_PATTERN_CHARS_MAX + 1)}),
    ),
    "too many patterns": (
        f"schema.prefixItems[{limits.FORMAT_PATTERNS_MAX}].pattern",
        _text({"prefixItems": [{"pattern": "x"}] * (limits.FORMAT_PATTERNS_MAX + 1)}),
    ),
    "a format that is not listed": ("schema.format", '{"format":"iri"}'),
    "too many branches": (
        "schema.anyOf", _text({"anyOf": [{"type": "array"}] * (limits.FORMAT_BRANCHES_MAX + 1)}),
    ),
    "too many values": ("schema.enum", _text({"enum": list(range(limits.FORMAT_VALUES_MAX + 1))})),
    "too many schemas": (
        "the schema is too large", _text({"prefixItems": [{}] * limits.FORMAT_SCHEMAS_MAX}),
    ),
    "too deep": ("the schema is too large", _text(_inside(limits.FORMAT_DEPTH_MAX))),
    "too deep for a reader": ("the schema is not JSON", '{"a":' * 5000),
    "a note that is too deep": (
        "the schema is too large", '{"default":' + "[" * 70 + "]" * 70 + "}",
    ),
    "too long": (
        "the schema has more than",
        _text({"title": "x" * limits.FORMAT_BYTES_MAX}),
    ),
}  # fmt: skip
"""By what is wrong: the start of the refusal, and the text."""
