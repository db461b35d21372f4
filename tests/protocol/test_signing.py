"""`eth_account` is the oracle: it makes the same digests and recovers the same signers."""

from typing import Any

import pytest
from coincurve import PrivateKey
from eth_account import Account
from eth_account.messages import encode_typed_data
from eth_utils.address import to_checksum_address
from eth_utils.crypto import keccak
from hypothesis import given, settings
from hypothesis import strategies as st

from node.errors import SignatureError
from node.protocol import signing
from node.protocol.fields import Kind, ListOf, Maybe, Nested, Signed, SignedOf, schema
from node.protocol.signing import Domain
from node.protocol.statements import Cutoff, Lock, LockRelease, Terms, Voucher
from tests.protocol import strategies

KEY = bytes([7]) * 32
DOMAIN = Domain(31337, bytes(range(20)))
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
CUTOFF = Cutoff(award=bytes(32), position=3, chain=bytes([1]) * 32, reason=1)
keys = st.integers(1, ORDER - 1).map(lambda number: number.to_bytes(32, "big"))


def typed_data(statement: Any, domain: Domain) -> dict[str, Any]:
    """The statement as wallets take it (eth_signTypedData_v4), derived without `signing`."""
    types: dict[str, Any] = {
        "EIP712Domain": [
            {"name": "name", "type": "string"},
            {"name": "version", "type": "string"},
            {"name": "chainId", "type": "uint256"},
            {"name": "verifyingContract", "type": "address"},
        ]
    }
    add_types(type(statement), types)
    return {
        "types": types,
        "primaryType": type(statement).__name__,
        "domain": {
            "name": "GPU Market",
            "version": "1",
            "chainId": domain.chain_id,
            "verifyingContract": "0x" + domain.escrow.hex(),
        },
        "message": plain(statement),
    }


def add_types(cls: type[Any], types: dict[str, Any]) -> None:
    types[cls.__name__] = []
    for field in schema(cls):
        types[cls.__name__].append({"name": field.name, "type": type_name(field.kind, types)})


def type_name(kind: Kind, types: dict[str, Any]) -> str:
    if isinstance(kind, ListOf):
        return type_name(kind.item, types) + "[]"
    if isinstance(kind, Nested):
        add_types(kind.cls, types)
        return kind.cls.__name__
    assert not isinstance(kind, Maybe | SignedOf), "these are in no statement"
    return kind.solidity


def plain(value: Any) -> Any:
    if hasattr(value, "__dataclass_fields__"):
        return {field.name: plain(getattr(value, field.name)) for field in schema(type(value))}
    if isinstance(value, tuple):
        return [plain(item) for item in value]
    if isinstance(value, bytes) and len(value) == 20:
        return "0x" + value.hex()
    return int(value) if isinstance(value, int) else value


@pytest.mark.parametrize("cls", strategies.STATEMENTS, ids=lambda cls: cls.__name__)
@settings(max_examples=15, deadline=None)
@given(data=st.data(), key=keys, chain_id=st.integers(1, 2**64 - 1))
def test_every_statement_is_signed_as_eth_account_signs_it(
    cls: type[Any], data: st.DataObject, key: bytes, chain_id: int
) -> None:
    statement = data.draw(strategies.messages(cls))
    domain = Domain(chain_id, data.draw(st.binary(min_size=20, max_size=20)))
    message = encode_typed_data(full_message=typed_data(statement, domain))
    theirs = Account.sign_message(message, key)
    ours = signing.sign(statement, domain, key)

    assert signing.digest(statement, domain) == theirs.message_hash
    assert signing.address_of_key(key) == bytes.fromhex(Account.from_key(key).address[2:])
    assert ours.signature[:32] == theirs.r.to_bytes(32, "big")
    vs = theirs.s | (theirs.v - 27) << 255
    assert ours.signature[32:] == vs.to_bytes(32, "big")
    assert signing.recover(ours, domain) == signing.address_of_key(key)
    assert signing.verify(ours, domain, signing.address_of_key(key)) == statement


def test_type_strings_that_the_contract_has_too() -> None:
    assert signing.type_string(Voucher) == (
        "Voucher(address payer,address payee,bytes32 model,bytes32 splits,"
        "uint128 cumulative,bytes32 receipts)"
    )
    assert signing.type_string(Lock) == (
        "Lock(address payer,address payee,uint128 total,uint64 nonce,uint64 expiry)"
    )
    assert signing.type_string(LockRelease) == (
        "LockRelease(address payer,address payee,uint128 total,uint64 nonce)"
    )
    assert signing.type_string(Terms).endswith("bytes32 ask)Split(address payee,uint16 bps)")


@settings(deadline=None)
@given(data=st.binary(max_size=300))
def test_keccak_is_ethereums(data: bytes) -> None:
    assert signing.keccak256(data) == keccak(data)


def test_domains_separate() -> None:
    signed = signing.sign(CUTOFF, DOMAIN, KEY)
    for other in (Domain(31338, DOMAIN.escrow), Domain(31337, bytes(20))):
        with pytest.raises(SignatureError, match="Cutoff is not signed by"):
            signing.verify(signed, other, signing.address_of_key(KEY))


def test_a_changed_statement_is_not_signed() -> None:
    signed = signing.sign(CUTOFF, DOMAIN, KEY)
    changed = Cutoff(award=bytes(32), position=4, chain=bytes([1]) * 32, reason=1)
    with pytest.raises(SignatureError):
        signing.verify(Signed(changed, signed.signature), DOMAIN, signing.address_of_key(KEY))


def test_statements_of_equal_fields_and_other_types_differ() -> None:
    lock = Lock(payer=bytes(20), payee=bytes(20), total=1, nonce=2, expiry=0)
    release = LockRelease(payer=bytes(20), payee=bytes(20), total=1, nonce=2)
    assert signing.digest(lock, DOMAIN) != signing.digest(release, DOMAIN)


@settings(deadline=None)
@given(key=keys)
def test_the_high_s_twin_of_a_signature_is_refused(key: bytes) -> None:
    signed = signing.sign(CUTOFF, DOMAIN, key)
    r, vs = signed.signature[:32], int.from_bytes(signed.signature[32:], "big")
    s, parity = vs & (2**255 - 1), vs >> 255
    assert s <= ORDER // 2
    # (r, n - s) with the other parity is the same key's signature; n - s may not even fit 255 bits.
    twin = (ORDER - s) | ((1 - parity) << 255)
    high = Signed(CUTOFF, r + twin.to_bytes(32, "big"))
    if ORDER - s < 2**255:
        with pytest.raises(SignatureError, match="high s"):
            signing.verify(high, DOMAIN, signing.address_of_key(key))
    else:
        with pytest.raises(SignatureError):
            signing.verify(high, DOMAIN, signing.address_of_key(key))


def test_the_border_of_low_s() -> None:
    half = ORDER // 2
    r = signing.sign(CUTOFF, DOMAIN, KEY).signature[:32]
    with pytest.raises(SignatureError, match="high s"):
        signing.recover(Signed(CUTOFF, r + (half + 1).to_bytes(32, "big")), DOMAIN)
    low = signing.recover(Signed(CUTOFF, r + half.to_bytes(32, "big")), DOMAIN)
    assert low != signing.address_of_key(KEY)


@pytest.mark.parametrize("signature", [bytes(64), b"\xff" * 64, bytes(63) + b"\x01"])
def test_what_is_no_signature_is_refused(signature: bytes) -> None:
    with pytest.raises(SignatureError):
        signing.recover(Signed(CUTOFF, signature), DOMAIN)


@settings(deadline=None)
@given(position=st.integers(0, 63), change=st.integers(1, 255))
def test_a_changed_signature_is_not_the_signers(position: int, change: int) -> None:
    signed = signing.sign(CUTOFF, DOMAIN, KEY)
    bad = bytearray(signed.signature)
    bad[position] ^= change
    with pytest.raises(SignatureError):
        signing.verify(Signed(CUTOFF, bytes(bad)), DOMAIN, signing.address_of_key(KEY))


def test_signing_is_deterministic() -> None:
    assert signing.sign(CUTOFF, DOMAIN, KEY) == signing.sign(CUTOFF, DOMAIN, KEY)


@settings(deadline=None)
@given(address=st.binary(min_size=20, max_size=20))
def test_addresses_for_people_have_their_checksum(address: bytes) -> None:
    assert signing.checksum(address) == to_checksum_address(address)


@settings(deadline=None)
@given(key=keys)
def test_the_address_of_a_public_key(key: bytes) -> None:
    public = PrivateKey(key).public_key.format(compressed=False)
    assert signing.address_of_public(public) == signing.address_of_key(key)
