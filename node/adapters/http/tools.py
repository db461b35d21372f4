"""Tools of a request: what may be called, whether it must be, and calls of earlier answers."""

import json
from typing import Any, Final

from node.adapters.http.errors import bad_field, unsupported
from node.adapters.http.fields import Fields, name_of
from node.protocol import limits
from node.protocol.chat import CALL_ID, NAME, Call, Tool, Toolbox
from node.protocol.json_depth import DEPTH_MAX, is_shallow

TOOLS: Final = "tools"
CHOICE: Final = "tool_choice"


def read_tools(fields: Fields) -> Toolbox:
    """The tools of a request that the model may call; none if it may call none.

    Raises:
        ApiError: A field is wrong, or asks for what no worker does.
    """
    fields.only("functions", [], why="send them as tools")
    fields.only("function_call", "none", "auto", why="send it as tool_choice")
    listed = fields.list_of(TOOLS, limits.TOOLS_MAX, _tool) or ()
    if len({tool.name for tool in listed}) < len(listed):
        raise bad_field(TOOLS, "two of them have one name")
    parallel = fields.flag("parallel_tool_calls", default=True)
    choice = fields.take(CHOICE)
    if choice == "none" or (choice in ("auto", None) and not listed):
        return Toolbox()
    if choice in ("auto", None):
        return Toolbox(tools=listed, parallel=parallel)
    if not listed:
        raise bad_field(CHOICE, "there are no tools to choose from")
    if choice != "required":
        named = _chosen(choice)
        listed = tuple(tool for tool in listed if tool.name == named)
        if not listed:
            raise bad_field(CHOICE, "names none of the tools")
    return Toolbox(tools=listed, required=True, parallel=parallel)


def read_calls(message: Fields) -> tuple[Call, ...]:
    """Calls in an earlier answer.

    Raises:
        ApiError: They are none.
    """
    return message.list_of("tool_calls", limits.TOOL_CALLS_MAX, _call) or ()


def read_call_id(message: Fields) -> str:
    """Which call a tool's message is the result of.

    Raises:
        ApiError: It does not say.
    """
    return _id_of(message.take("tool_call_id"), message.name("tool_call_id"))


def _tool(value: Any, path: str) -> Tool:
    fields = Fields(value, path)
    if fields.take("type") != "function":
        raise unsupported(fields.name("type"), "functions are all that a model here can call")
    function = fields.object("function")
    fields.done()
    if function is None:
        raise bad_field(fields.name("function"), "is missing")
    name = _name_of(function.take("name"), function.name("name"))
    description = function.text("description") or ""
    schema = function.take("parameters")
    function.flag("strict")  # a call that is forced always fits
    function.done()
    if schema is not None and not isinstance(schema, dict):
        raise bad_field(function.name("parameters"), "must be an object")
    parameters = "" if schema is None else _compact(schema, function.name("parameters"))
    return Tool(name=name, description=description, parameters=parameters)


def _chosen(choice: Any) -> str:
    fields = Fields(choice, CHOICE)
    if fields.take("type") != "function":
        raise unsupported(CHOICE, "only none, auto, required and a function are known")
    function = fields.object("function")
    fields.done()
    if function is None:
        raise bad_field(fields.name("function"), "is missing")
    name = _name_of(function.take("name"), function.name("name"))
    function.done()
    return name


def _call(value: Any, path: str) -> Call:
    fields = Fields(value, path)
    if fields.take("type") != "function":
        raise unsupported(fields.name("type"), "functions are all that a model here can call")
    called = _id_of(fields.take("id"), fields.name("id"))
    fields.take("index")  # some clients send back what a stream said
    function = fields.object("function")
    fields.done()
    if function is None:
        raise bad_field(fields.name("function"), "is missing")
    name = _name_of(function.take("name"), function.name("name"))
    arguments = function.text("arguments") or "{}"
    function.done()
    return Call(id=called, name=name, arguments=arguments)


def _name_of(value: Any, path: str) -> str:
    name = name_of(value, path)
    if not NAME.fullmatch(name):
        raise bad_field(path, "must be 1 to 64 letters, digits, _ and -")
    return name


def _id_of(value: Any, path: str) -> str:
    text = name_of(value, path)
    if not CALL_ID.fullmatch(text):
        raise bad_field(path, "must be 1 to 64 visible characters of ASCII")
    return text


def _compact(schema: dict[str, Any], path: str) -> str:
    if not is_shallow(schema):
        raise bad_field(path, f"is nested more than {DEPTH_MAX} deep")
    return json.dumps(schema, separators=(",", ":"), ensure_ascii=False)
