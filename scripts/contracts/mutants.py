"""Mutants of the contracts: Slither's operators, and those that Slither lacks.

Slither knows the syntax tree, and its operators are others' choice of what a test must notice. It
has none for modifiers, branches of a conditional expression, `!`, numbers and assembly.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

# Only in the environment that scripts/slither makes.
from slither import Slither  # type: ignore[import-not-found]
from slither.tools.mutator.mutators import all_mutators  # type: ignore[import-not-found]

CONTRACTS = ("Escrow", "Signatures", "VoucherBatch")
# Each comparison in five others, most of them the same program; OPERATORS moves the boundary and
# turns it round, and Slither's MIA forces both outcomes.
LEFT_OUT = "ROR"
# Each arithmetic operator in four others: one is enough.
ONE_IS_ENOUGH = "AOR"

# Applied to code without its comments. Each pair: what is looked for, what takes its place.
OPERATORS: dict[str, tuple[tuple[str, str], ...]] = {
    "modifier": ((r"\bnonReentrant\b", ""),),
    "negation": ((r"!(?=[_a-zA-Z(])", ""),),
    "branches": (
        (r" \? ([^:;?]+) : ([^;,:?]+?)(?=[;,)])", r" ? \2 : \1"),
        (r" \? ([^:;?]+) : ([^;,:?]+?)(?=[;,)])", r" ? \1 : \1"),
        (r" \? ([^:;?]+) : ([^;,:?]+?)(?=[;,)])", r" ? \2 : \2"),
    ),
    "number": (
        (r"(?<![\w.\"])([1-9][\d_]*)(?![\w\"])", "PLUS"),
        (r"(?<![\w.\"])([1-9][\d_]*)(?![\w\"])", "MINUS"),
    ),
    "comparison": (
        (r" <= ", " < "),
        (r" < ", " <= "),
        (r" >= ", " > "),
        (r" > ", " >= "),
        (r" == ", " != "),
        (r" != ", " == "),
    ),
    "shift": ((r" >> ", " << "), (r" << ", " >> "), (r" & ", " | ")),
    "reason": ((r"SkipReason\.(?!None)\w+", "SkipReason.None"),),
    "assembly": (
        (r"\bgt\(", "lt("),
        (r"\beq\(", "gt("),
        (r"\band\(", "or("),
        (r"\badd\(", "sub("),
        (r"\bshl\(", "shr("),
        (r"\b0x1f\b", "0x1e"),
        (r"\b0x1f\b", "0x20"),
        (r", 0x20\)", ", 0x1f)"),
        (r", 0x80\)", ", 0x60)"),
        (r", 0xe0\)", ", 0xc0)"),
        (r"0x1626ba7e", "0x1626ba7f"),
        (r"mstore\(0x00, 0\)", ""),
    ),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Mutant:
    """`file` with the characters from `start` to `end` replaced by `new`."""

    file: str
    line: int
    operator: str
    start: int
    end: int
    old: str
    new: str

    def applied(self, text: str) -> str:
        return text[: self.start] + self.new + text[self.end :]


def of_slither(folder: Path) -> Iterator[Mutant]:
    found: dict[str, Any] = vars(all_mutators)
    operators = [kind for kind in found.values() if getattr(kind, "NAME", "") not in ("", LEFT_OUT)]
    for unit in Slither(str(folder)).compilation_units:
        for contract in unit.contracts:
            if contract.name not in CONTRACTS:
                continue
            for kind in operators:
                mutator = kind(unit, 0, "", "", contract, None, False, Path(), [])
                places: set[tuple[int, int]] = set()
                for patches in mutator._mutate().get("patches", {}).values():
                    for patch in patches:
                        mutant = of_patch(folder, contract, kind.NAME, patch)
                        if kind.NAME != ONE_IS_ENOUGH or (mutant.start, mutant.end) not in places:
                            yield mutant
                        places.add((mutant.start, mutant.end))


def of_patch(folder: Path, contract: Any, operator: str, patch: dict[str, Any]) -> Mutant:
    path = Path(contract.source_mapping.filename.absolute)
    data = path.read_bytes()
    # The compiler counts bytes; whoever edits text counts characters.
    start, end = (len(data[: patch[key]].decode()) for key in ("start", "end"))
    text = data.decode()
    return Mutant(
        file=str(path.relative_to(folder.resolve())),
        line=text.count("\n", 0, start) + 1,
        operator=operator,
        start=start,
        end=end,
        old=text[start:end],
        new=str(patch["new_string"]),
    )


def without_comments(text: str) -> str:
    """The same length, so that positions stay."""
    return re.sub(r"//[^\n]*", lambda found: " " * len(found.group()), text)


def replacement(found: re.Match[str], template: str) -> str:
    if template in ("PLUS", "MINUS"):
        return str(int(found.group(1).replace("_", "")) + (1 if template == "PLUS" else -1))
    return found.expand(template)


def of_ours(folder: Path) -> Iterator[Mutant]:
    for name in CONTRACTS:
        file = f"src/{name}.sol"
        text = (folder / file).read_text()
        code = without_comments(text)
        for operator, pairs in OPERATORS.items():
            for pattern, template in pairs:
                for found in re.finditer(pattern, code):
                    line = text.count("\n", 0, found.start()) + 1
                    if code.splitlines()[line - 1].lstrip().startswith(("pragma", "import")):
                        continue
                    yield Mutant(
                        file=file,
                        line=line,
                        operator=operator,
                        start=found.start(),
                        end=found.end(),
                        old=found.group(),
                        new=replacement(found, template),
                    )


def all_mutants(folder: Path) -> list[Mutant]:
    """Each change once, in the order of the files."""
    found: dict[tuple[str, int, int, str], Mutant] = {}
    for source in (of_slither(folder), of_ours(folder)):
        for mutant in source:
            if mutant.old != mutant.new:
                found.setdefault((mutant.file, mutant.start, mutant.end, mutant.new), mutant)
    return sorted(found.values(), key=lambda mutant: (mutant.file, mutant.start, mutant.new))
