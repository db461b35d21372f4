"""Chat templates are programs that a stranger wrote: run them with bounded work and memory.

Jinja's sandbox keeps a template from Python's internals, but not from using up the machine
(`'x' * 10**9`, nested loops, a string that doubles in a loop).  So here every loop turn, call,
operator, filter, comparison and piece of output spends from one budget, and what can't be priced
(other filters, methods, imports) is not there.  What comes out depends on the template and the
conversation alone, not on a clock.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from typing import Any, Final, cast

from jinja2 import TemplateError, nodes
from jinja2.exceptions import SecurityError
from jinja2.ext import Extension, LoopControlExtension
from jinja2.filters import do_round
from jinja2.parser import Parser
from jinja2.runtime import LoopContext, Macro
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.utils import Namespace

from node.adapters.text.budget import STEP, Budget, check_size, size
from node.errors import PeerError

TEMPLATE_CHARS_MAX: Final = 64 * 1024
WORK_MAX: Final = 10_000_000
"""What one rendering may spend, besides `WORK_PER_CHAR` for each character of the conversation."""
WORK_PER_CHAR: Final = 64
NUMBER_MAX: Final = 2**63
DIGITS_MAX: Final = 16
IDLE_MAX: Final = 4
"""Compiled copies of one template that are kept: as many as threads render at a time."""


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


METHODS: Final[Mapping[type, frozenset[str]]] = {
    str: _words(
        "strip lstrip rstrip split rsplit splitlines startswith endswith lower upper title "
        "capitalize replace find rfind index count join isdigit isspace isalpha "
        "removeprefix removesuffix"
    ),
    dict: _words("get items keys values"),
    list: _words("index count"),
    tuple: _words("index count"),
}
FILTERS_CHEAP: Final = _words("abs count d default first float int last length")
FILTERS: Final = _words(
    "capitalize dictsort items join list lower map max min reject rejectattr replace reverse "
    "select selectattr sort string title trim unique upper"
)
TESTS_CHEAP: Final = _words(
    "boolean callable defined divisibleby even false float integer iterable mapping none number "
    "odd sameas sequence string true undefined"
)
TESTS: Final = _words(
    "eq equalto ge gt greaterthan in le lessthan lower lt ne upper == != > >= < <="
)
CALLS_NESTED_MAX: Final = 64
LOADERS: Final = (nodes.Include, nodes.Import, nodes.FromImport, nodes.Extends)
BODIES: Final = (nodes.For, nodes.Macro, nodes.CallBlock, nodes.FilterBlock)


class _Generation(Extension):
    """`{% generation %}` marks the assistant's words for training; here it shows its body."""

    tags = {"generation"}  # noqa: RUF012  # as every Jinja extension has it

    def parse(self, parser: Parser) -> list[nodes.Node]:
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)


class _Environment(ImmutableSandboxedEnvironment):
    """One template's environment: everything that it does spends from one budget."""

    intercepted_binops = frozenset(("+", "-", "*", "/", "//", "%", "**"))

    def __init__(self, budget: Budget) -> None:
        super().__init__(
            trim_blocks=True,
            lstrip_blocks=True,
            extensions=(LoopControlExtension, _Generation),
            cache_size=0,
            # What the compiler computed, each rendering would have for nothing.
            optimized=False,
        )
        self.budget = budget
        self._depth = 0
        """Calls inside each other now."""
        usual, tests = self.filters, self.tests
        self.filters = {name: usual[name] for name in FILTERS_CHEAP}
        self.filters |= {name: _priced(budget, name, usual[name]) for name in FILTERS}
        self.filters |= {
            "tojson": _priced(budget, "tojson", _tojson),
            "indent": _priced(budget, "indent", _indent),
            "round": _round,
            "safe": lambda value: value,
        }
        self.tests = {name: tests[name] for name in TESTS_CHEAP}
        self.tests |= {name: _priced(budget, name, tests[name]) for name in TESTS}
        self.globals = {"range": _range, "namespace": Namespace}

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Methods of plain values by name, and what belongs to templates themselves."""
        if isinstance(obj, LoopContext | Namespace | Macro):
            return bool(super().is_safe_attribute(obj, attr, value))
        return attr in METHODS.get(type(obj), ())

    def getattr(self, obj: Any, attribute: str) -> Any:
        """As usual, paid for."""
        self._check_access(obj, attribute)
        return super().getattr(obj, attribute)

    def getitem(self, obj: Any, argument: Any) -> Any:
        """As usual, paid for; only a slice is a new value."""
        self._check_access(obj, argument)
        found = super().getitem(obj, argument)
        return self.budget.made(found) if isinstance(argument, slice) else found

    def _check_access(self, obj: Any, name: Any) -> None:
        self.budget.spend(STEP)
        if isinstance(obj, str) and name in ("format", "format_map"):
            raise SecurityError("the template formats text")  # '{:999999999}' is a bomb

    def call(self, context: Any, obj: Any, /, *args: Any, **kwargs: Any) -> Any:
        """Call a method or function within the budget."""
        self.budget.spend(STEP + sum(map(size, args)) + sum(map(size, kwargs.values())))
        owner = getattr(obj, "__self__", None)
        if isinstance(owner, str | list | tuple):
            self.budget.walked(owner)
            _check_method(owner, obj.__name__, args)
        if self._depth >= CALLS_NESTED_MAX:
            # Each level takes some of the C stack: Python's own limit may come too late.
            raise SecurityError("the template's macros call each other too deeply")
        self._depth += 1
        try:
            return self.budget.made(super().call(context, obj, *args, **kwargs))
        finally:
            self._depth -= 1

    def call_binop(self, context: Any, operator: str, left: Any, right: Any) -> Any:
        """An operator whose result can't be larger than what a value may be."""
        _check_operator(operator, left, right)
        return self.budget.made(super().call_binop(context, operator, left, right))

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        return _priced_tree(super()._parse(source, name, filename))


def _range(*limits: int) -> range:
    check_size(len(range(*limits)))
    return range(*limits)


def _round(value: Any, precision: int = 0, method: str = "common") -> Any:
    """Jinja computes 10 to the power of the precision, however large."""
    if abs(precision) > DIGITS_MAX:
        raise SecurityError("the template rounds to too many digits")
    return do_round(value, precision, method)  # type: ignore[arg-type]  # it checks that itself


def _tojson(value: Any, indent: int | None = None, ensure_ascii: bool = False, **_: Any) -> str:
    """As the model libraries have it: without the escapes for HTML."""
    if indent is not None and not 0 <= indent <= 16:
        raise SecurityError("tojson with such an indent")
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent)


def _indent(text: str, width: int | str = 4, first: bool = False, blank: bool = False) -> str:
    margin = width if isinstance(width, str) else " " * min(max(int(width), 0), 64)
    check_size(len(margin) * (text.count("\n") + 1) + len(text))
    return "\n".join(
        margin + line if (line or blank) and (first or number) else line
        for number, line in enumerate(text.splitlines())
    )


def _check_operator(operator: str, left: Any, right: Any) -> None:
    numbers = isinstance(left, int | float) and isinstance(right, int | float)
    if numbers and max(abs(left), abs(right)) > NUMBER_MAX:
        raise SecurityError("the template uses too large a number")
    if operator == "**" and not (numbers and abs(right) <= 64 and abs(left) <= 2**32):
        raise SecurityError("the template uses too large a power")
    if operator == "%" and not numbers:
        raise SecurityError("the template formats text")  # '%999999999d' is a bomb
    if operator == "*" and not numbers:
        pairs = ((left, right), (right, left))
        check_size(max((size(a) * b for a, b in pairs if isinstance(b, int)), default=0))


def _check_method(owner: Any, method: str, args: tuple[Any, ...]) -> None:
    """Refuse before the call what would be huge after it."""
    if not isinstance(owner, str) or not args:
        return
    if method == "replace" and len(args) >= 2:
        old, new = str(args[0]), str(args[1])
        check_size(len(owner) + owner.count(old) * len(new))
    if method == "join":
        items = list(args[0])
        check_size(sum(map(size, items)) + len(owner) * len(items))


def _priced(budget: Budget, name: str, function: Any) -> Callable[..., Any]:
    """A filter or test that pays for what it takes and gives; what is lazy becomes a list."""
    passes = getattr(function, "jinja_pass_arg", None)
    skipped = 0 if passes is None else 1

    def priced(*args: Any, **kwargs: Any) -> Any:
        given = tuple(budget.walked(_settled(budget, value)) for value in args[skipped:])
        budget.walked(list(kwargs.values()))
        if name == "replace" and len(given) >= 3:
            _check_method(str(given[0]), "replace", given[1:])
        if name == "join":
            divider = str(given[1]) if len(given) > 1 else str(kwargs.get("d", ""))
            _check_method(divider, "join", (list(map(str, given[0])),))
        return budget.made(_settled(budget, function(*args[:skipped], *given, **kwargs)))

    if passes is not None:
        priced.jinja_pass_arg = passes  # type: ignore[attr-defined]
    return priced


def _settled(budget: Budget, value: Any) -> Any:
    return [budget.made(item) for item in value] if isinstance(value, Iterator) else value


STEP_NAME, SHOWN_NAME, JOINED_NAME, WALKED_NAME = "__step", "__shown", "__joined", "__walked"


def _priced_tree(tree: nodes.Template) -> nodes.Template:
    """The template with a payment in every loop, macro, block, output and comparison."""
    for kind in LOADERS:
        if tree.find(kind):
            raise SecurityError("the template loads another one")
    _check_names(tree)
    _rewrite(tree)
    bodies: list[Any] = list(tree.find_all(BODIES))
    for body in bodies:
        body.body.insert(0, nodes.ExprStmt(_call(STEP_NAME, [], body), lineno=body.lineno))
    return tree


def _check_names(tree: nodes.Template) -> None:
    """A template must not replace our functions, nor write their names in other letters."""
    named: list[Any] = list(tree.find_all((nodes.Name, nodes.Macro, nodes.NSRef)))
    names: list[str] = [node.name for node in named]
    if any(name.startswith("__") or not name.isascii() for name in names):
        raise SecurityError("the template uses a name that is not allowed")
    for table in tree.find_all(nodes.Dict):
        # With other keys, nested tuples could be built whose hash takes for ever.
        if not all(isinstance(pair.key, nodes.Const) for pair in table.items):
            raise SecurityError("the template computes the key of a dict")


def _call(name: str, arguments: list[nodes.Expr], at: nodes.Node) -> nodes.Call:
    function = nodes.Name(name, "load", lineno=at.lineno)
    return nodes.Call(function, arguments, [], None, None, lineno=at.lineno)


def _rewrite(node: nodes.Node) -> None:
    """Replace below a node what the sandbox does not see by calls that pay."""
    for field, value in list(node.iter_fields()):
        if isinstance(value, nodes.Node):
            _rewrite(value)
            setattr(node, field, _replacement(value))
        elif isinstance(value, list):
            for item in value:
                if isinstance(item, nodes.Node):
                    _rewrite(item)
            value[:] = [
                _replacement(item) if isinstance(item, nodes.Node) else item for item in value
            ]
    if isinstance(node, nodes.Output):
        node.nodes = [_shown(child) for child in node.nodes]
    elif isinstance(node, nodes.For):
        node.iter = _call(WALKED_NAME, [cast(nodes.Expr, node.iter)], node)
    elif isinstance(node, nodes.Compare | nodes.Operand):
        node.expr = _call(WALKED_NAME, [node.expr], node)


def _shown(child: nodes.Expr) -> nodes.Expr:
    if isinstance(child, nodes.TemplateData):
        # A literal in a loop costs each time that it is shown.
        return _call(SHOWN_NAME, [nodes.Const(child.data, lineno=child.lineno)], child)
    return _call(SHOWN_NAME, [child], child)


def _replacement(node: nodes.Node) -> nodes.Node:
    if isinstance(node, nodes.Concat):
        return _call(JOINED_NAME, list(node.nodes), node)
    if isinstance(node, nodes.Tuple) and node.ctx == "load":
        return nodes.List(node.items, lineno=node.lineno)  # a list has no hash: see _check_names
    return node


class _Compiled:
    """A template and its budget, for one rendering at a time."""

    def __init__(self, source: str) -> None:
        self._budget = budget = Budget(WORK_MAX)
        names = {
            STEP_NAME: budget.step,
            SHOWN_NAME: budget.shown,
            JOINED_NAME: budget.joined,
            WALKED_NAME: budget.walked,
            "raise_exception": _refuse,
        }
        self._template = _Environment(budget).from_string(source, globals=names)

    def render(self, work: int, variables: Mapping[str, Any]) -> str:
        self._budget.refill(work)
        return self._template.render(**variables)


class ChatTemplate:
    """A chat template.  May be used by several threads at a time."""

    def __init__(self, source: str) -> None:
        """
        Raises:
            PeerError: Too long.
        """
        if len(source) > TEMPLATE_CHARS_MAX:
            raise PeerError("the chat template is too long")
        self._source = source
        self._idle: list[_Compiled] = []
        """Compiling takes forty times as long as rendering a short conversation."""

    def render(self, *, chars: int, **variables: Any) -> str:
        """The text of a conversation.

        Args:
            chars: Size of the conversation; the budget grows with it.
            variables: What the template sees: messages, bos_token, add_generation_prompt, …

        Raises:
            PeerError: It is not a valid template, uses what is not allowed, does too much, or
                refuses the conversation (`raise_exception`).
        """
        try:
            compiled = self._compiled()
            text = compiled.render(WORK_MAX + WORK_PER_CHAR * chars, variables)
        except _Refused as error:
            raise PeerError(f"the chat template refuses: {str(error)[:200]}") from None
        except (TemplateError, SyntaxError, RecursionError, MemoryError) as error:
            raise PeerError(f"chat template: {str(error)[:200]}") from error
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            # Raised by the template's own expressions: its author's fault, not ours.
            raise PeerError(f"chat template: {str(error)[:200]}") from error
        if len(self._idle) < IDLE_MAX:
            self._idle.append(compiled)
        return text

    def _compiled(self) -> _Compiled:
        try:
            return self._idle.pop()
        except IndexError:  # never used before, or another thread has it
            return _Compiled(self._source)


class _Refused(TemplateError):
    """`raise_exception` was called."""


def _refuse(message: object) -> None:
    raise _Refused(str(message))
