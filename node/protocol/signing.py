"""EIP-712: digests with a cached domain separator, compact signatures, recovery.

`eth_account` is the oracle of this module's tests; it takes seven times as long.
"""

from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any, TypeVar

from coincurve import PrivateKey, PublicKey
from Crypto.Hash import keccak

from node.errors import SignatureError
from node.protocol.fields import (
    Address,
    Blob,
    Fixed,
    Flag,
    Int,
    Kind,
    ListOf,
    Nested,
    Signed,
    Text,
    UInt,
    schema,
)

T = TypeVar("T")
NAME = "GPU Market"
VERSION = "1"
_ORDER_HALF = 0x7FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF5D576E7357A4501DDFE92F46681B20A0
_PARITY = 1 << 255


def keccak256(data: bytes) -> bytes:
    """Ethereum's hash, 32 bytes."""
    return keccak.new(digest_bits=256, data=data).digest()


@dataclass(frozen=True)
class Domain:
    """The chain and contract that every statement is bound to."""

    chain_id: int
    escrow: Address

    @cached_property
    def separator(self) -> bytes:
        """EIP-712 domain separator, 32 bytes."""
        kind = b"EIP712Domain(string name,string version,uint256 chainId,address verifyingContract)"
        return keccak256(
            keccak256(kind)
            + keccak256(NAME.encode())
            + keccak256(VERSION.encode())
            + self.chain_id.to_bytes(32, "big")
            + self.escrow.rjust(32, b"\0")
        )


def type_string(cls: type[Any]) -> str:
    """EIP-712 `encodeType`: the struct, then what it refers to, in alphabetical order."""
    others = sorted(_referred(cls), key=lambda other: other.__name__)
    return "".join(_own_type(each) for each in (cls, *others))


def digest(statement: Any, domain: Domain) -> bytes:
    """What is signed: EIP-712 digest, 32 bytes."""
    return keccak256(b"\x19\x01" + domain.separator + _hash_struct(statement))


def sign(statement: T, domain: Domain, key: bytes) -> Signed[T]:
    """Sign with a 32-byte private key.  Deterministic (RFC 6979), low-s."""
    raw = PrivateKey(key).sign_recoverable(digest(statement, domain), hasher=None)
    vs = int.from_bytes(raw[32:64], "big") | (raw[64] << 255)
    return Signed(statement, raw[:32] + vs.to_bytes(32, "big"))


def recover(signed: Signed[Any], domain: Domain) -> Address:
    """The address whose key made the signature.

    Raises:
        SignatureError: No key made it, or s is high (a second form of the same signature).
    """
    r, vs = signed.signature[:32], int.from_bytes(signed.signature[32:], "big")
    s = vs & (_PARITY - 1)
    if s > _ORDER_HALF:
        raise SignatureError("signature with high s")
    raw = r + s.to_bytes(32, "big") + bytes([vs >> 255])
    try:
        public = PublicKey.from_signature_and_message(
            raw, digest(signed.statement, domain), hasher=None
        )
    except Exception as error:  # coincurve raises bare Exception and ValueError
        raise SignatureError("not a signature") from error
    return address_of_public(public.format(compressed=False))


def verify(signed: Signed[T], domain: Domain, signer: Address) -> T:
    """The statement, if `signer` signed it.

    Raises:
        SignatureError: Somebody else did, or nobody.
    """
    if recover(signed, domain) != signer:
        name = type(signed.statement).__name__
        raise SignatureError(f"{name} is not signed by {checksum(signer)}")
    return signed.statement


def address_of_public(uncompressed: bytes) -> Address:
    """Ethereum address of a 65-byte uncompressed public key."""
    return keccak256(uncompressed[1:])[12:]


def address_of_key(key: bytes) -> Address:
    """Ethereum address of a 32-byte private key."""
    return address_of_public(PrivateKey(key).public_key.format(compressed=False))


@lru_cache(maxsize=4096)
def checksum(address: Address) -> str:
    """EIP-55 form, for people."""
    text = address.hex()
    mask = keccak256(text.encode()).hex()
    upper = (c.upper() if int(m, 16) > 7 else c for c, m in zip(text, mask, strict=False))
    return "0x" + "".join(upper)


def _referred(cls: type[Any]) -> set[type[Any]]:
    found: set[type[Any]] = set()
    for field in schema(cls):
        kind = field.kind.item if isinstance(field.kind, ListOf) else field.kind
        if isinstance(kind, Nested):
            found |= {kind.cls} | _referred(kind.cls)
    return found


def _own_type(cls: type[Any]) -> str:
    return f"{cls.__name__}({','.join(f'{_name(f.kind)} {f.name}' for f in schema(cls))})"


def _name(kind: Kind) -> str:
    match kind:
        case ListOf():
            return f"{_name(kind.item)}[]"
        case Nested():
            return kind.cls.__name__
        case UInt() | Int() | Flag() | Fixed() | Blob() | Text():
            return kind.solidity
        case _:
            raise AssertionError(f"{kind} can't be part of a statement")


_TYPE_HASHES: dict[type[Any], bytes] = {}


def _type_hash(cls: type[Any]) -> bytes:
    found = _TYPE_HASHES.get(cls)
    if found is None:
        found = _TYPE_HASHES[cls] = keccak256(type_string(cls).encode())
    return found


def _hash_struct(value: Any) -> bytes:
    cls = type(value)
    words = [_word(field.kind, getattr(value, field.name)) for field in schema(cls)]
    return keccak256(_type_hash(cls) + b"".join(words))


def _word(kind: Kind, value: Any) -> bytes:
    match kind:
        case UInt() | Flag():
            return int(value).to_bytes(32, "big")
        case Int():
            return int(value).to_bytes(32, "big", signed=True)
        case Fixed(solidity="address"):
            return bytes(value).rjust(32, b"\0")
        case Fixed():
            return bytes(value).ljust(32, b"\0")
        case Text():
            return keccak256(value.encode())
        case Blob():
            return keccak256(value)
        case ListOf():
            return keccak256(b"".join(_word(kind.item, item) for item in value))
        case Nested():
            return _hash_struct(value)
        case _:
            raise AssertionError(f"{kind} can't be part of a statement")
