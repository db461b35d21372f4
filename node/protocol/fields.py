"""Field types of messages and statements: one declaration gives the wire codec its bounds and
EIP-712 its type string."""

from dataclasses import dataclass, fields, is_dataclass
from typing import Annotated, Any, Generic, TypeVar, get_args, get_origin, get_type_hints

from node.units import MICRO_MAX


@dataclass(frozen=True, slots=True)
class UInt:
    """An unsigned integer; `ceiling` is the largest value on the wire, `bits` its EIP-712 width."""

    bits: int
    ceiling: int

    @property
    def solidity(self) -> str:
        """The type's name in EIP-712."""
        return f"uint{self.bits}"


@dataclass(frozen=True, slots=True)
class Int:
    """A signed integer of `bits` bits."""

    bits: int

    @property
    def solidity(self) -> str:
        """The type's name in EIP-712."""
        return f"int{self.bits}"


@dataclass(frozen=True, slots=True)
class Flag:
    """A boolean."""

    solidity: str = "bool"


@dataclass(frozen=True, slots=True)
class Fixed:
    """Exactly `size` bytes."""

    size: int
    solidity: str


@dataclass(frozen=True, slots=True)
class Blob:
    """At most `size_max` bytes."""

    size_max: int
    solidity: str = "bytes"


@dataclass(frozen=True, slots=True)
class Text:
    """At most `size_max` bytes of UTF-8."""

    size_max: int
    solidity: str = "string"


@dataclass(frozen=True, slots=True)
class Many:
    """A tuple of at most `count_max` items."""

    count_max: int


@dataclass(frozen=True, slots=True)
class Nested:
    """Another dataclass of fields."""

    cls: type[Any]


@dataclass(frozen=True, slots=True)
class ListOf:
    """Resolved form of a tuple field: the kind of an item, and how many there may be."""

    item: "Kind"
    count_max: int


@dataclass(frozen=True, slots=True)
class Maybe:
    """Resolved form of an optional field; None is msgpack nil."""

    item: "Kind"


@dataclass(frozen=True, slots=True)
class SignedOf:
    """Resolved form of `Signed[T]`: the statement and a 64-byte signature over it."""

    cls: type[Any]


Kind = UInt | Int | Flag | Fixed | Blob | Text | Nested | ListOf | Maybe | SignedOf

U8 = Annotated[int, UInt(8, 2**8 - 1)]
U16 = Annotated[int, UInt(16, 2**16 - 1)]
U32 = Annotated[int, UInt(32, 2**32 - 1)]
U64 = Annotated[int, UInt(64, 2**64 - 1)]
I32 = Annotated[int, Int(32)]
Micro = Annotated[int, UInt(128, MICRO_MAX)]
Price = Annotated[int, UInt(64, 2**53)]
Bool = Annotated[bool, Flag()]
Address = Annotated[bytes, Fixed(20, "address")]
Hash = Annotated[bytes, Fixed(32, "bytes32")]
JobId = Annotated[bytes, Fixed(16, "bytes16")]

T = TypeVar("T")

ZERO_ADDRESS = bytes(20)
ZERO_HASH = bytes(32)
SIGNATURE_SIZE = 64


@dataclass(frozen=True, slots=True)
class Signed(Generic[T]):
    """A statement with its compact signature (EIP-2098: r ‖ yParityAndS).

    Who signed it is what `signing.recover` says, never a field of the message.
    """

    statement: T
    signature: bytes


@dataclass(frozen=True, slots=True)
class Field:
    """One resolved field of a message class."""

    name: str
    kind: Kind


_SCHEMAS: dict[type[Any], tuple[Field, ...]] = {}


def schema(cls: type[Any]) -> tuple[Field, ...]:
    """The resolved fields of a message class, in wire order."""
    found = _SCHEMAS.get(cls)
    if found is None:
        hints = get_type_hints(cls, include_extras=True)
        found = tuple(Field(f.name, _kind(hints[f.name])) for f in fields(cls))
        _SCHEMAS[cls] = found
    return found


def _kind(hint: Any) -> Kind:
    if get_origin(hint) is Annotated:
        base, *marks = get_args(hint)
        mark = marks[0]
        if isinstance(mark, Many):
            return ListOf(_kind(get_args(base)[0]), mark.count_max)
        assert isinstance(mark, UInt | Int | Flag | Fixed | Blob | Text), hint
        return mark
    if get_origin(hint) is Signed:
        return SignedOf(get_args(hint)[0])
    options = [arg for arg in get_args(hint) if arg is not type(None)]
    if len(options) == 1 and len(get_args(hint)) == 2:
        return Maybe(_kind(options[0]))
    assert is_dataclass(hint), hint
    assert isinstance(hint, type), hint
    return Nested(hint)
