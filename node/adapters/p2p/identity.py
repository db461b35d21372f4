"""A node's key, PeerID and Ethereum address are one thing: the same secp256k1 key."""

import base58
from coincurve import PrivateKey, PublicKey

from node.errors import PeerError
from node.protocol.fields import Address
from node.protocol.signing import address_of_public

# A PeerID of a short key is the key itself: identity multihash of the protobuf
# {type: secp256k1, data: 33 bytes} (libp2p specs, peer-ids.md).
_PREFIX = bytes.fromhex("002508021221")
_SIZE = len(_PREFIX) + 33


def peer_id_of_key(key: bytes) -> bytes:
    """PeerID, as bytes, of a 32-byte private key."""
    return _PREFIX + PrivateKey(key).public_key.format(compressed=True)


def address_of_peer_id(peer_id: bytes) -> Address:
    """The Ethereum address of the key inside a PeerID.

    Raises:
        PeerError: The PeerID holds no secp256k1 key.
    """
    if len(peer_id) != _SIZE or not peer_id.startswith(_PREFIX):
        raise PeerError("the peer's key is not secp256k1")
    try:
        public = PublicKey(peer_id[len(_PREFIX) :])
    except ValueError:
        raise PeerError("the peer's key is not a point of the curve") from None
    return address_of_public(public.format(compressed=False))


def address_of_peer_id_text(peer_id: str) -> Address:
    """The same for a PeerID in base58, as in multiaddrs.

    Raises:
        PeerError: Not base58, or no secp256k1 key.
    """
    return address_of_peer_id(peer_id_bytes(peer_id))


def peer_id_bytes(peer_id: str) -> bytes:
    """A PeerID's bytes from base58.

    Raises:
        PeerError: Not base58.
    """
    try:
        return bytes(base58.b58decode(peer_id))
    except ValueError:
        raise PeerError("the PeerID is not base58") from None


def peer_id_text(peer_id: bytes) -> str:
    """A PeerID in base58."""
    return str(base58.b58encode(peer_id), "ascii")
