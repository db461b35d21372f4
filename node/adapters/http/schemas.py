"""Formats that answers are to have: from a request's JSON to what a worker is asked for."""

from typing import Any

from node.adapters.http.errors import bad_field, unsupported
from node.adapters.http.fields import Fields, name_of
from node.protocol import formats
from node.protocol.formats import FormatError

FORMAT = "response_format"


def read_format(fields: Fields) -> str:
    """The schema that the answer has to fit; empty for none.

    Raises:
        ApiError: The field is wrong, or asks for what nobody forces.
    """
    wanted = fields.object(FORMAT)
    if wanted is None:
        return ""
    kind = wanted.take("type")
    if kind not in ("text", "json_object", "json_schema"):
        raise unsupported(FORMAT, "only text, json_object and json_schema are known")
    named = wanted.object("json_schema") if kind == "json_schema" else None
    wanted.done()
    if kind != "json_schema":
        return formats.ANY_OBJECT if kind == "json_object" else ""
    if named is None:
        raise bad_field(wanted.name("json_schema"), "is missing")
    name_of(named.take("name"), named.name("name"))
    named.text("description")
    named.flag("strict")  # an answer is kept to its schema either way
    schema = named.take("schema")
    named.done()
    return schema_of(schema, FORMAT)


def schema_of(value: Any, param: str) -> str:
    """A JSON Schema as a format.

    Args:
        value: What the JSON decoder made of it.
        param: The field that a refusal names.

    Raises:
        ApiError: It is none, or has what nobody forces.
    """
    if not isinstance(value, dict):
        raise bad_field(param, "a schema must be an object")
    try:
        return formats.written(value)
    except FormatError as error:
        raise unsupported(param, str(error)) from error
