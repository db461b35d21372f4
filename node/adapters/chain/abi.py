"""The few words of the contract ABI that reading needs: static arguments in, static words out."""

from functools import cache

from node.adapters.chain.rpc import RpcFault
from node.errors import Unavailable
from node.protocol.signing import keccak256

WORD = 32


@cache
def selector(signature: str) -> bytes:
    """First four bytes of a call, e.g. of ``accounts(address)``."""
    return keccak256(signature.encode())[:4]


@cache
def topic(signature: str) -> str:
    """First topic of an event's logs, as JSON-RPC takes it."""
    return "0x" + keccak256(signature.encode()).hex()


def call_data(signature: str, *args: bytes | int) -> str:
    """Data of a call with static arguments, as JSON-RPC takes it.

    Args:
        signature: Name and argument types.
        args: Addresses (20 bytes), 32-byte values or unsigned integers.
    """
    words = (
        arg.to_bytes(WORD, "big") if isinstance(arg, int) else arg.rjust(WORD, b"\0")
        for arg in args
    )
    return "0x" + (selector(signature) + b"".join(words)).hex()


def words(result: object, count: int) -> list[int]:
    """The static words that a call returned.

    Raises:
        Unavailable: It returned something else: there is no such contract at that block.
    """
    if isinstance(result, RpcFault):
        raise Unavailable(f"the contract refused to be read: {result.message}")
    data = quantity_bytes(result)
    if len(data) != count * WORD:
        raise Unavailable(
            "there is no such contract at that block",
            hint="check chain.escrow and chain.token; a new contract needs some blocks",
        )
    return [int.from_bytes(data[at : at + WORD], "big") for at in range(0, len(data), WORD)]


def quantity_bytes(result: object) -> bytes:
    """Bytes of a JSON-RPC data string.

    Raises:
        Unavailable: It is none.
    """
    if isinstance(result, str) and result.startswith("0x"):
        try:
            return bytes.fromhex(result[2:])
        except ValueError:
            pass
    raise Unavailable("the chain's RPC answered with something that is not data")


def quantity(result: object) -> int:
    """Value of a JSON-RPC quantity.

    Raises:
        Unavailable: It is none.
    """
    if isinstance(result, str) and result.startswith("0x"):
        try:
            return int(result, 16)
        except ValueError:
            pass
    raise Unavailable("the chain's RPC answered with something that is not a number")
