"""What can be done to a signed statement that somebody else, or oneself, has signed before.

A cell of the matrix is a place that takes statements (a running worker, a running client, `receipts
verify`, the escrow), a kind of statement, and a variant.  Each must be refused: it buys nothing.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import Any, Final

from node.protocol import signing
from node.protocol.fields import Address, Signed
from node.protocol.signing import Domain

_ORDER: Final = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
_PARITY: Final = 1 << 255
STRANGER_KEY: Final = signing.keccak256(b"a stranger")
STRANGER: Final = signing.address_of_key(STRANGER_KEY)

OTHER_CHAIN: Final = "other chain"
OTHER_CONTRACT: Final = "other contract"
OTHER_PAYER: Final = "other payer"
OTHER_WORKER: Final = "other worker"
LOWER_AMOUNT: Final = "lower amount"
HIGH_S: Final = "high s"
FLIPPED_V: Final = "flipped v"
OTHER_SIGNER: Final = "other signer"
OLD_NONCE: Final = "old nonce"
SAME_TWICE: Final = "same bytes twice"
COLUMNS: Final = (
    OTHER_CHAIN, OTHER_CONTRACT, OTHER_PAYER, OTHER_WORKER, LOWER_AMOUNT, HIGH_S, FLIPPED_V,
    OTHER_SIGNER, OLD_NONCE, SAME_TWICE,
)  # fmt: skip

_PAYERS: Final = ("payer", "client")
_WORKERS: Final = ("worker", "payee")
_AMOUNTS: Final = ("amount", "cumulative", "total", "cap", "price_out", "position")


@dataclass(frozen=True, slots=True, kw_only=True)
class Cell:
    """One attempt, and what came of it."""

    place: str
    kind: str
    variant: str
    refused: bool
    how: str
    """What the other side said or did; or what it took, if it was not refused."""


class Sample:
    """Which cells of a place are tried: all, or one in `every`, spread over its rows."""

    def __init__(self, every: int) -> None:
        self._every = every
        self._count = -1

    def __call__(self) -> bool:
        """Whether the next cell is one of them."""
        self._count += 1
        return self._count % self._every == 0


def forged(
    signed: Signed[Any], *, domain: Domain, key: bytes, names: Mapping[str, Address] | None = None
) -> dict[str, Signed[Any]]:
    """The variants that need no knowledge of what was sent before, by column.

    Args:
        signed: Genuine, of `key`.
        domain: Where it is valid.
        key: Whose it is; what is signed anew for another chain or in another's name is signed
            with it, since the attacker may well be the one who signed it.
        names: Another's address to put in, by field; a stranger's otherwise.
    """
    statement, names = signed.statement, names or {}

    def renamed(fields: Iterable[str]) -> Signed[Any] | None:
        own = [name for name in fields if hasattr(statement, name)]
        if not own:
            return None
        changed = replace(statement, **{name: names.get(name, STRANGER) for name in own[:1]})
        return signing.sign(changed, domain, key)

    found = {
        OTHER_CHAIN: signing.sign(
            statement, Domain(domain.chain_id + 1, domain.escrow), key
        ),
        OTHER_CONTRACT: signing.sign(statement, Domain(domain.chain_id, STRANGER), key),
        OTHER_PAYER: renamed(_PAYERS),
        OTHER_WORKER: renamed(_WORKERS),
        LOWER_AMOUNT: _lower(signed),
        HIGH_S: Signed(statement, high_s(signed.signature)),
        FLIPPED_V: Signed(statement, flipped_v(signed.signature)),
        OTHER_SIGNER: signing.sign(statement, domain, STRANGER_KEY),
    }  # fmt: skip
    return {name: each for name, each in found.items() if each is not None}


def high_s(signature: bytes) -> bytes:
    """The malleable twin, as far as 64 bytes can say it: s of the upper half, v the other one."""
    vs = int.from_bytes(signature[32:], "big")
    s = _ORDER - (vs & (_PARITY - 1))
    return signature[:32] + (s | ((vs & _PARITY) ^ _PARITY)).to_bytes(32, "big")


def flipped_v(signature: bytes) -> bytes:
    """The other parity: it recovers to another key, or to none."""
    vs = int.from_bytes(signature[32:], "big") ^ _PARITY
    return signature[:32] + vs.to_bytes(32, "big")


def _lower(signed: Signed[Any]) -> Signed[Any] | None:
    """One micro (or position) less under the old signature."""
    for name in _AMOUNTS:
        value = getattr(signed.statement, name, 0)
        if value > 0:
            return Signed(replace(signed.statement, **{name: value - 1}), signed.signature)
    return None


def table(cells: Iterable[Cell]) -> list[str]:
    """The matrix for people: a line per place and kind, a letter per column."""
    rows: dict[tuple[str, str], dict[str, bool]] = {}
    for cell in cells:
        rows.setdefault((cell.place, cell.kind), {})[cell.variant] = cell.refused
    lines = ["  ".join(f"{number}: {name}" for number, name in enumerate(COLUMNS))]
    for (place, kind), row in rows.items():
        marks = "".join("." if name not in row else "r" if row[name] else "!" for name in COLUMNS)
        lines.append(f"{place:<10} {kind:<24} {marks}")
    return lines
