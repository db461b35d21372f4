"""The tables of docs/protocol.md, made from the classes: `scripts/make-protocol-tables`.

A table stands between `<!-- table: NAME -->` and `<!-- end -->`.  Meanings come from the docstrings
under the fields; what those leave to the reader of the code is said here.
"""

import ast
import inspect
import re
from collections.abc import Callable, Iterator
from enum import IntEnum, IntFlag
from itertools import pairwise
from pathlib import Path
from typing import Any

from node.protocol import frames, limits, signing, statements, transcript
from node.protocol.fields import (
    Blob,
    Fixed,
    Flag,
    Int,
    Kind,
    ListOf,
    Maybe,
    Nested,
    SignedOf,
    Text,
    UInt,
    schema,
)
from node.units import MICRO_MAX
from tests.protocol.protocol_meanings import MEANINGS
from tests.protocol.strategies import STATEMENTS

PAGE = Path(__file__).parents[2] / "docs" / "protocol.md"
MARK = re.compile(r"(<!-- table: ([\w ]+) -->\n).*?(<!-- end -->)", re.DOTALL)
ENUMS: tuple[type[IntEnum | IntFlag], ...] = (
    statements.Tier,
    statements.Skill,
    statements.Finish,
    statements.CutoffReason,
    frames.Refused,
    frames.Fault,
)
STRUCTS: tuple[type[Any], ...] = (
    *frames.FRAMES.values(),
    frames.Request,
    frames.SamplingFields,
    frames.Rise,
    *STATEMENTS,
    statements.Split,
    statements.AnnouncedModel,
    transcript.SealedTranscript,
    transcript.Transcript,
    transcript.Segment,
    transcript.Payment,
    transcript.AuctionSummary,
    transcript.Disclosure,
)


def names() -> set[str]:
    """Every table that the page must have."""
    return {cls.__name__ for cls in (*STRUCTS, *ENUMS)} | {"frames", "types", "limits"}


def table(name: str) -> str:
    """One table, as Markdown."""
    found = {cls.__name__: cls for cls in STRUCTS}
    if name in found:
        return _lines(_struct(found[name]))
    enums = {cls.__name__: cls for cls in ENUMS}
    if name in enums:
        return _lines(_enum(enums[name]))
    made: dict[str, Callable[[], Iterator[str]]] = {
        "frames": _frames,
        "types": _types,
        "limits": _limits,
    }
    return _lines(made[name]())


def filled(page: str) -> str:
    """The page with every table made anew."""
    return MARK.sub(lambda found: found[1] + table(found[2]) + found[3], page)


def _lines(lines: Iterator[str]) -> str:
    return "".join(line + "\n" for line in lines)


def _struct(cls: type[Any]) -> Iterator[str]:
    notes = _docstrings(cls)
    yield "| # | field | type | meaning |"
    yield "|---|---|---|---|"
    first = 1 if hasattr(cls, "kind") else 0
    if first:
        yield f"| 0 | kind | u8 | {cls.kind} |"
    for at, field in enumerate(schema(cls), first):
        meaning = MEANINGS.get((cls.__name__, field.name)) or notes.get(field.name)
        assert meaning, f"protocol_meanings: {cls.__name__}.{field.name}"
        yield f"| {at} | {field.name} | {type_name(field.kind)} | {meaning} |"


def _enum(cls: type[IntEnum | IntFlag]) -> Iterator[str]:
    notes = _docstrings(cls)
    yield "| code | name | meaning |"
    yield "|---|---|---|"
    for name, code in cls.__members__.items():
        meaning = MEANINGS.get((cls.__name__, name)) or notes.get(name)
        assert meaning, f"protocol_meanings: {cls.__name__}.{name}"
        yield f"| {int(code)} | {name} | {meaning} |"


def _frames() -> Iterator[str]:
    yield "| kind | frame | from | under credit | meaning |"
    yield "|---|---|---|---|---|"
    for kind, cls in sorted(frames.FRAMES.items()):
        sender, meaning = MEANINGS[(cls.__name__, "")].split(": ", 1)
        has_job = any(field.name == "job" for field in schema(cls))
        exempt = cls in (frames.Credit, frames.ErrorFrame)
        credit = "yes" if has_job and not exempt else "no"
        if cls is frames.Refusal:
            credit = "of an award"
        name = f"[{cls.__name__}](#{cls.__name__.lower()})"
        yield f"| {kind} | {name} | {sender} | {credit} | {meaning} |"


def _types() -> Iterator[str]:
    yield "```"
    for cls in STATEMENTS:
        yield signing.type_string(cls)
    yield "```"


def _limits() -> Iterator[str]:
    notes = _docstrings(limits)
    yield "| limit | value | of |"
    yield "|---|---|---|"
    for name, value in vars(limits).items():
        if name.isupper():
            meaning = MEANINGS.get(("limits", name)) or notes.get(name)
            assert meaning, f"protocol_meanings: limits.{name}"
            shown = f"{value:,}".replace(",", " ") if isinstance(value, int) else f"{value:g}"
            yield f"| {name} | {shown} | {meaning} |"


def type_name(kind: Kind) -> str:
    """A field's type, as the page explains it."""
    match kind:
        case UInt(bits=128, ceiling=ceiling):
            assert ceiling == MICRO_MAX
            return "micro"
        case UInt(ceiling=ceiling) if ceiling == 2**53:
            return "price"
        case UInt():
            return f"u{kind.bits}"
        case Int():
            return f"i{kind.bits}"
        case Flag():
            return "bool"
        case Fixed(solidity="address"):
            return "address"
        case Fixed():
            return {32: "hash", 16: "job", 64: "signature"}[kind.size]
        case Blob():
            return f"bytes ≤ {kind.size_max}"
        case Text():
            return f"text ≤ {kind.size_max}"
        case Nested():
            return f"[{kind.cls.__name__}](#{kind.cls.__name__.lower()})"
        case SignedOf():
            return f"signed [{kind.cls.__name__}](#{kind.cls.__name__.lower()})"
        case ListOf():
            return f"list ≤ {kind.count_max} of {type_name(kind.item)}"
        case Maybe():
            return f"{type_name(kind.item)}, or nil"


def _docstrings(source: Any) -> dict[str, str]:
    """Docstrings under the assignments of a class or module, each as one line."""
    body: list[ast.stmt] = ast.parse(inspect.getsource(source)).body
    if isinstance(body[0], ast.ClassDef):
        body = body[0].body
    found = {}
    for before, after in pairwise(body):
        if not isinstance(after, ast.Expr) or not isinstance(after.value, ast.Constant):
            continue
        targets = [before.target] if isinstance(before, ast.AnnAssign) else []
        names = [each.id for each in targets if isinstance(each, ast.Name)]
        if isinstance(before, ast.Assign):
            names = [each.id for each in before.targets if isinstance(each, ast.Name)]
        for name in names:
            found[name] = " ".join(str(after.value.value).split()).rstrip(".")
    return found


def main() -> None:
    """Fill the page's tables."""
    PAGE.write_text(filled(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
