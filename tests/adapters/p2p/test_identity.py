"""One key, three names: key, PeerID, Ethereum address."""

import pytest
from eth_account import Account
from hypothesis import given
from hypothesis import strategies as st
from libp2p.crypto.ed25519 import create_new_key_pair as ed25519_keys
from libp2p.crypto.secp256k1 import create_new_key_pair as secp256k1_keys
from libp2p.peer.id import ID

from node.adapters.p2p.budget import Bucket, cost
from node.adapters.p2p.identity import (
    address_of_peer_id,
    address_of_peer_id_text,
    peer_id_of_key,
    peer_id_text,
)
from node.errors import PeerError
from node.protocol.frames import ZERO_HASH, AnnouncementsWanted, Chunk

KEYS = st.integers(1, 2**256 - 2**130).map(lambda number: number.to_bytes(32, "big"))


@given(KEYS)
def test_the_library_and_ethereum_agree(key: bytes) -> None:
    peer_id = ID.from_pubkey(secp256k1_keys(key).public_key)
    assert peer_id_of_key(key) == peer_id.to_bytes()
    assert peer_id_text(peer_id.to_bytes()) == str(peer_id)
    address = bytes.fromhex(Account.from_key(key).address[2:])
    assert address_of_peer_id(peer_id.to_bytes()) == address
    assert address_of_peer_id_text(str(peer_id)) == address


@pytest.mark.parametrize(
    "peer_id",
    [
        b"",
        bytes(39),
        ID.from_pubkey(ed25519_keys(bytes(32)).public_key).to_bytes(),
        peer_id_of_key(b"\1" * 32)[:-1],
        peer_id_of_key(b"\1" * 32) + b"\0",
        peer_id_of_key(b"\1" * 32)[:6] + b"\x02" + b"\xff" * 32,
    ],
)
def test_other_peer_ids_have_no_address(peer_id: bytes) -> None:
    with pytest.raises(PeerError):
        address_of_peer_id(peer_id)


@pytest.mark.parametrize("text", ["", "0OIl", "not base58!"])
def test_other_texts_have_none_either(text: str) -> None:
    with pytest.raises(PeerError):
        address_of_peer_id_text(text)


def test_an_allowance_of_work() -> None:
    bucket = Bucket(units_per_s=10, units_max=20, at_s=0, units=20)
    assert bucket.take(20, 0) == 0
    assert bucket.take(5, 0) == 0.5
    assert bucket.take(0, 0.5) == 0
    assert bucket.take(0, 100) == 0
    assert bucket.units == 20


def test_what_makes_us_work_costs_more() -> None:
    chunk = Chunk(job=bytes(16), position=0, data=b"", logprobs=b"")
    assert cost(chunk, 60) == 1
    assert cost(chunk, 16_384) == 9
    assert cost(AnnouncementsWanted(model=ZERO_HASH, count_max=1), 40) > 50
