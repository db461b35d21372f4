"""Formats: JSON Schemas that an answer is made to fit (protocol.md, "Formats").

A schema is a program that a stranger wrote: what may stand in one is listed here and bounded, so
that making a grammar of it, and asking that grammar for the next token, costs milliseconds.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from itertools import chain
from typing import Any, Final

from node.errors import PeerError
from node.protocol import limits
from node.protocol.json_depth import DEPTH_MAX, is_shallow
from node.protocol.statements import Skill

ANY_OBJECT: Final = '{"type":"object"}'
"""The format of "some JSON object"."""

TYPES: Final = frozenset({"string", "number", "integer", "boolean", "null", "array", "object"})
SCALARS: Final = TYPES - {"array", "object"}
STRING_FORMATS: Final = frozenset(
    {"date-time", "time", "date", "duration", "email", "hostname", "ipv4", "ipv6", "uuid", "uri"}
)
NOTES: Final = frozenset({"title", "description", "default", "examples", "deprecated"}) | {
    "readOnly", "writeOnly", "$schema", "$comment",
}  # fmt: skip
"""Said to people: they change nothing."""
COUNTS: Final = frozenset({"minLength", "maxLength", "minItems", "maxItems"})
NUMBERS: Final = frozenset({"minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum"})
NUMBER_MAX: Final = 2.0**53


class FormatError(PeerError):
    """A format that nobody forces: the message names the place in the schema and the reason."""


def read(text: str) -> dict[str, Any]:
    """The schema of a format.

    Raises:
        FormatError: It is none, too large, or has what is not listed.
    """
    if len(text.encode(errors="replace")) > limits.FORMAT_BYTES_MAX:
        raise FormatError(f"the schema has more than {limits.FORMAT_BYTES_MAX} bytes")
    try:
        text.encode()
        document = json.loads(text, object_pairs_hook=_pairs, parse_constant=_no_number)
    except (ValueError, RecursionError) as error:
        raise FormatError("the schema is not JSON") from error
    if not isinstance(document, dict):
        raise FormatError("the schema is no object")
    if not is_shallow(document):
        raise FormatError(f"the schema is too large: JSON nested more than {DEPTH_MAX} deep")
    _Walk(document).check()
    return document


def written(schema: Mapping[str, Any]) -> str:
    """A schema as a format: JSON without white space, in the order of its keys.

    The order counts: properties are written in it.

    Raises:
        FormatError: As `read`.
    """
    try:
        text = json.dumps(schema, separators=(",", ":"), ensure_ascii=False, allow_nan=False)
    except (ValueError, RecursionError) as error:
        raise FormatError("the schema is not JSON") from error
    read(text)
    return text


def check(text: str, *, ignore_eos: bool) -> None:
    """Whether a request may ask for a format, or none.

    Raises:
        FormatError: As `read`; or the output could not end where the format does.
    """
    if text:
        read(text)
        if ignore_eos:
            raise FormatError("an output that fits a format ends with it: not with ignore_eos")


def skill_of(text: str) -> int:
    """What a worker needs for a format, or for none: bits of `Skill`."""
    if not text:
        return 0
    return Skill.JSON if text == ANY_OBJECT else Skill.SCHEMA


def _pairs(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    made = dict(pairs)
    if len(made) < len(pairs):
        raise ValueError("a key that stands there twice")
    return made


def _no_number(name: str) -> Any:
    raise ValueError(f"{name} is no number")


class _Walk:
    """One schema being looked through."""

    def __init__(self, root: dict[str, Any]) -> None:
        self._root = root
        self._schemas = self._branches = self._values = self._patterns = 0
        self._multiples: set[int] = set()
        self._refs: set[str] = set()
        self._checks: Mapping[str, Callable[[Any, str, int], None]] = {
            "type": self._type,
            "enum": self._enum,
            "const": lambda value, at, _: self._value(value, at),
            "properties": self._table,
            "$defs": self._table,
            "definitions": self._table,
            "required": self._required,
            "additionalProperties": self._inner,
            "items": self._inner,
            "prefixItems": self._list,
            "anyOf": self._any_of,
            "allOf": self._all_of,
            "$ref": self._ref,
            "pattern": self._pattern,
            "format": self._format,
            "multipleOf": self._multiple,
            **dict.fromkeys(COUNTS, self._count),
            **dict.fromkeys(NUMBERS, self._number),
        }

    def check(self) -> None:
        """
        Raises:
            FormatError: Something in it is not listed, or is too much.
        """
        self._schema(self._root, "schema", 1)
        self._check_loops()

    def _schema(self, schema: Any, at: str, depth: int) -> None:
        self._schemas += 1
        if self._schemas > limits.FORMAT_SCHEMAS_MAX or depth > limits.FORMAT_DEPTH_MAX:
            raise FormatError(
                f"the schema is too large: at most {limits.FORMAT_SCHEMAS_MAX} schemas in it, "
                f"{limits.FORMAT_DEPTH_MAX} inside each other"
            )
        if isinstance(schema, bool):
            return
        if not isinstance(schema, dict):
            raise FormatError(f"{at} is no schema")
        for key, value in schema.items():
            if key in NOTES:
                continue
            check = self._checks.get(key)
            if check is None:
                raise FormatError(f"{at}: {key[:60]} is not supported")
            check(value, f"{at}.{key}", depth)

    def _inner(self, schema: Any, at: str, depth: int) -> None:
        self._schema(schema, at, depth + 1)

    def _type(self, value: Any, at: str, _: int) -> None:
        names = value if isinstance(value, list) else [value]
        if not names or not all(isinstance(name, str) and name in TYPES for name in names):
            raise FormatError(f"{at} must be one of {', '.join(sorted(TYPES))}, or a list of them")

    def _enum(self, value: Any, at: str, _: int) -> None:
        if not isinstance(value, list) or not value:
            raise FormatError(f"{at} must be a list of values")
        for each in value:
            self._value(each, at)

    def _value(self, value: Any, at: str) -> None:
        """A constant, counted with everything inside it."""
        waiting = [value]
        while waiting:
            item = waiting.pop()
            self._values += 1
            if self._values > limits.FORMAT_VALUES_MAX:
                raise FormatError(f"{at}: more than {limits.FORMAT_VALUES_MAX} values in a schema")
            if isinstance(item, dict):
                waiting += item.values()
            elif isinstance(item, list):
                waiting += item
            elif isinstance(item, int | float) and not abs(item) <= NUMBER_MAX:
                raise FormatError(f"{at}: a number beyond 2^53")

    def _table(self, value: Any, at: str, depth: int) -> None:
        if not isinstance(value, dict):
            raise FormatError(f"{at} is no object")
        for name, schema in value.items():
            self._schema(schema, f"{at}.{name[:60]}", depth + 1)

    def _list(self, value: Any, at: str, depth: int) -> None:
        if not isinstance(value, list) or not value:
            raise FormatError(f"{at} must be a list of schemas")
        for number, schema in enumerate(value):
            self._schema(schema, f"{at}[{number}]", depth + 1)

    def _required(self, value: Any, at: str, _: int) -> None:
        if not isinstance(value, list) or not all(isinstance(name, str) for name in value):
            raise FormatError(f"{at} must be a list of names")
        if len(value) > limits.FORMAT_SCHEMAS_MAX:
            raise FormatError(f"{at} has too many names")

    def _any_of(self, value: Any, at: str, depth: int) -> None:
        self._list(value, at, depth)
        # What begins alike is followed side by side, and costs the cube of how many they are.
        self._branches += sum(not _is_scalar(schema) for schema in value)
        if self._branches > limits.FORMAT_BRANCHES_MAX:
            raise FormatError(
                f"{at}: more than {limits.FORMAT_BRANCHES_MAX} arrays, objects and references "
                "under the schema's anyOf"
            )

    def _all_of(self, value: Any, at: str, depth: int) -> None:
        self._list(value, at, depth)
        if len(value) > 1:
            raise FormatError(f"{at}: more than one schema at once is not supported")

    def _ref(self, value: Any, at: str, _: int) -> None:
        if not isinstance(value, str) or self._target(value) is None:
            raise FormatError(f"{at} must be #, or name something in $defs")
        self._refs.add(value)

    def _target(self, ref: str) -> Any:
        if ref == "#":
            return self._root
        for place in ("$defs", "definitions"):
            table = self._root.get(place)
            if ref.startswith(f"#/{place}/") and isinstance(table, dict):
                name = ref.removeprefix(f"#/{place}/").replace("~1", "/").replace("~0", "~")
                return table.get(name)
        return None

    def _pattern(self, value: Any, at: str, _: int) -> None:
        self._patterns += 1
        if not isinstance(value, str) or len(value) > limits.FORMAT_PATTERN_CHARS_MAX:
            raise FormatError(f"{at}: at most {limits.FORMAT_PATTERN_CHARS_MAX} characters of text")
        if self._patterns > limits.FORMAT_PATTERNS_MAX:
            raise FormatError(f"{at}: more than {limits.FORMAT_PATTERNS_MAX} patterns in a schema")

    def _format(self, value: Any, at: str, _: int) -> None:
        if not isinstance(value, str) or value not in STRING_FORMATS:
            raise FormatError(f"{at} must be one of {', '.join(sorted(STRING_FORMATS))}")

    def _multiple(self, value: Any, at: str, _: int) -> None:
        # Several of them, or a large one, would be a remainder to be kept for each digit.
        if type(value) is not int or not 1 <= value <= limits.FORMAT_MULTIPLE_MAX:
            raise FormatError(f"{at} must be a whole number to {limits.FORMAT_MULTIPLE_MAX}")
        self._multiples.add(value)
        if len(self._multiples) > 1:
            raise FormatError(f"{at}: another one than elsewhere in the schema is not supported")

    def _count(self, value: Any, at: str, _: int) -> None:
        if type(value) is not int or not 0 <= value <= limits.FORMAT_COUNT_MAX:
            raise FormatError(f"{at} must be a whole number to {limits.FORMAT_COUNT_MAX}")

    def _number(self, value: Any, at: str, _: int) -> None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            raise FormatError(f"{at} must be a number")
        if not abs(value) <= NUMBER_MAX:
            raise FormatError(f"{at}: a number beyond 2^53")

    def _check_loops(self) -> None:
        """References that lead to themselves before anything is written mean nothing."""
        leads = {ref: set(_direct(self._target(ref))) for ref in self._refs}
        while ends := {ref for ref, others in leads.items() if not others & leads.keys()}:
            leads = {ref: others for ref, others in leads.items() if ref not in ends}
        if leads:
            raise FormatError(f"schema: {min(leads)[:60]} refers to itself")


def _direct(schema: Any) -> Iterator[str]:
    """References that have to be followed before the first character can be told."""
    waiting = [schema]
    while waiting:
        item = waiting.pop()
        if not isinstance(item, dict):
            continue
        if "$ref" in item:
            yield item["$ref"]
        waiting += chain(item.get("anyOf", ()), item.get("allOf", ()))


def _is_scalar(schema: Any) -> bool:
    if not isinstance(schema, dict) or schema.keys() & {"$ref", "anyOf", "allOf"}:
        return False
    if "const" in schema:
        return not isinstance(schema["const"], dict | list)
    names = schema.get("type")
    return isinstance(names, str) and names in SCALARS
