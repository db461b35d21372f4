"""What makes a run cheaper and changes nothing: signatures that were made here need no proof."""

from typing import Any

from node.errors import SignatureError
from node.protocol import signing
from node.protocol.fields import Address, Signed
from node.protocol.signing import Domain

REMEMBERED_MAX = 20_000


def remember_signatures() -> None:
    """Have `signing` answer from memory what it has computed before: its functions are pure."""
    real_digest, real_recover, real_address = (
        signing.digest,
        signing.recover,
        signing.address_of_key,
    )
    digests: dict[tuple[type[Any], Any], bytes] = {}
    signers: dict[tuple[bytes, bytes], Address | None] = {}
    addresses: dict[bytes, Address] = {}

    def digest(statement: Any, domain: Domain) -> bytes:
        key = (type(statement), statement)
        found = digests.get(key)
        if found is None:
            if len(digests) > REMEMBERED_MAX:
                digests.clear()
            found = digests[key] = real_digest(statement, domain)
        return found

    def recover(signed: Signed[Any], domain: Domain) -> Address:
        key = (digest(signed.statement, domain), signed.signature)
        if key not in signers:
            if len(signers) > REMEMBERED_MAX:
                signers.clear()
            try:
                signers[key] = real_recover(signed, domain)
            except SignatureError:
                signers[key] = None
        found = signers[key]
        return found if found is not None else real_recover(signed, domain)

    def sign(statement: Any, domain: Domain, key: bytes) -> Signed[Any]:
        signed = real_sign(statement, domain, key)
        signers[digest(statement, domain), signed.signature] = address_of_key(key)
        return signed

    def address_of_key(key: bytes) -> Address:
        if key not in addresses:
            addresses[key] = real_address(key)
        return addresses[key]

    real_sign = signing.sign
    signing.digest = digest
    signing.recover = recover
    signing.sign = sign
    signing.address_of_key = address_of_key
