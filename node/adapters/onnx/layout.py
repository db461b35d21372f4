"""What an exported decoder's graph takes and gives, read off its inputs and outputs.

The convention is the one of Optimum and of thousands of public exports: `input_ids`,
`attention_mask` and perhaps `position_ids`, with `past_key_values.N.key/value` in, `logits` and
`present.N.key/value` out.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from node.errors import ConfigError

PAST = re.compile(r"past_key_values\.(\d+)\.(key|value)")
TYPES: Final[Mapping[str, type[np.generic]]] = {
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
}


@dataclass(frozen=True, slots=True, kw_only=True)
class CachePart:
    """One tensor of the cache: keys or values of one layer, [batch, heads, past, width]."""

    past: str
    present: str
    heads: int
    width: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Layout:
    """How to call a decoder."""

    ids: type[np.generic]
    mask: type[np.generic]
    positions: type[np.generic] | None
    """None if the graph derives positions from the length of the cache."""
    cache: type[np.generic]
    parts: tuple[CachePart, ...]

    @property
    def pads(self) -> bool:
        """Whether rows of different lengths can share a batch.

        Padding shifts a row, and only explicit positions can shift it back.
        """
        return self.positions is not None

    @property
    def token_bytes(self) -> int:
        """What the cache takes for one token."""
        return sum(part.heads * part.width for part in self.parts) * np.dtype(self.cache).itemsize


def detect(inputs: Sequence[Any], outputs: Sequence[Any]) -> Layout:
    """The layout of a session's inputs and outputs (objects with name, type and shape).

    Raises:
        ConfigError: Not this convention; the message names what is missing or not known.
    """
    named = {node.name: node for node in inputs}
    given = {node.name for node in outputs}
    past = {name: match for name in named if (match := PAST.fullmatch(name))}
    unknown = named.keys() - past.keys() - {"input_ids", "attention_mask", "position_ids"}
    if unknown:
        raise ConfigError(f"the graph has inputs that are not known: {', '.join(sorted(unknown))}")
    missing = {"input_ids", "attention_mask"} - named.keys()
    if missing or not past or "logits" not in given:
        raise ConfigError(
            "the graph is not an exported decoder with a cache",
            hint="optimum-cli export onnx --task text-generation-with-past",
        )
    ordered = sorted(past.items(), key=lambda item: (int(item[1][1]), item[1][2]))
    parts = tuple(_part(named[name], f"present.{m[1]}.{m[2]}", given) for name, m in ordered)
    kinds = {named[part.past].type for part in parts}
    if len(kinds) != 1:
        raise ConfigError("the graph's cache has more than one type")
    return Layout(
        ids=_type(named["input_ids"]),
        mask=_type(named["attention_mask"]),
        positions=_type(named["position_ids"]) if "position_ids" in named else None,
        cache=_type(named[parts[0].past]),
        parts=parts,
    )


def _part(past: Any, present: str, given: set[str]) -> CachePart:
    if present not in given:
        raise ConfigError(f"the graph has no output {present}")
    shape = tuple(past.shape)
    if len(shape) != 4 or not isinstance(shape[1], int) or not isinstance(shape[3], int):
        raise ConfigError(f"{past.name} is not [batch, heads, past, width] with fixed heads, width")
    return CachePart(past=past.name, present=present, heads=shape[1], width=shape[3])


def _type(node: Any) -> type[np.generic]:
    if node.type not in TYPES:
        raise ConfigError(f"{node.name} has a type that is not supported: {node.type}")
    return TYPES[node.type]
