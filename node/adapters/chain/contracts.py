"""Calls, events and errors of the contracts, by their ABI.

Imports web3, which takes a second: only what transacts imports this, when it first does.
"""

import node.adapters.chain.sane_recursion  # noqa: F401  # before what it is about

# isort: split
import json
from functools import cache
from importlib import resources
from typing import Any, cast

from eth_abi.exceptions import DecodingError
from eth_account import Account
from hexbytes import HexBytes
from web3 import Web3
from web3.exceptions import Web3Exception

from node.adapters.chain.fees import Fees
from node.errors import WalletError
from node.protocol.fields import Address, Hash
from node.protocol.signing import checksum, keccak256
from node.roles.transactions import Log


@cache
def _abi(name: str) -> list[dict[str, Any]]:
    text = (resources.files("node") / "data" / "abi" / f"{name}.json").read_text()
    return cast(list[dict[str, Any]], json.loads(text)["abi"])


@cache
def _contract(name: str) -> Any:
    return Web3().eth.contract(abi=_abi(name))


def encode_call(contract: str, function: str, *args: Any) -> bytes:
    """Data of a call.

    Args:
        contract: "Escrow" or "TestToken" (for any ERC-20 with permit).
        function: Its name.
        args: Addresses as 20 bytes, structs as tuples, the rest as their types say.
    """
    encoded = _contract(contract).encode_abi(function, args=args)
    return bytes.fromhex(encoded[2:])


def decode_events(contract: str, event: str, logs: tuple[Log, ...]) -> list[dict[str, Any]]:
    """Arguments of the logs that are this event, in their order; addresses as 20 bytes."""
    shape = getattr(_contract(contract).events, event)()
    found = []
    for log in logs:
        if log.topics and "0x" + log.topics[0].hex() == shape.topic:
            args = shape.process_log(_receipt_log(log))["args"]
            found.append({name: _plain(value) for name, value in args.items()})
    return found


def error_text(data: object) -> str:
    """The custom error in a node's error answer, for people; empty if there is none."""
    try:
        raw = bytes.fromhex(data[2:]) if isinstance(data, str) else b""
    except ValueError:
        raw = b""
    for name in ("Escrow", "TestToken"):
        for entry in _abi(name):
            if entry["type"] == "error" and _selector(entry) == raw[:4]:
                return _error_line(entry, raw[4:])
    return ""


def sign(
    key: bytes,
    *,
    chain_id: int,
    nonce: int,
    to: Address,
    value_wei: int,
    data: bytes,
    gas: int,
    fees: Fees,
) -> tuple[bytes, Hash]:
    """A signed EIP-1559 transaction, raw, and its hash.

    Raises:
        WalletError: The key is none.
    """
    fields = {
        "type": 2,
        "chainId": chain_id,
        "nonce": nonce,
        "to": checksum(to),
        "value": value_wei,
        "data": data,
        "gas": gas,
        "maxFeePerGas": fees.fee_max_wei,
        "maxPriorityFeePerGas": fees.tip_wei,
    }
    try:
        signed = Account.sign_transaction(fields, key)
    except (ValueError, TypeError, Web3Exception) as error:
        raise WalletError("the transaction can't be signed") from error
    return bytes(signed.raw_transaction), bytes(signed.hash)


def _selector(entry: dict[str, Any]) -> bytes:
    types = ",".join(each["type"] for each in entry["inputs"])
    return keccak256(f"{entry['name']}({types})".encode())[:4]


def _error_line(entry: dict[str, Any], data: bytes) -> str:
    inputs = entry["inputs"]
    try:
        values = Web3().codec.decode([each["type"] for each in inputs], data)
    except DecodingError:
        return str(entry["name"])
    named = (f"{each['name']}={value}" for each, value in zip(inputs, values, strict=True))
    return f"{entry['name']}({', '.join(named)})"


def _receipt_log(log: Log) -> dict[str, Any]:
    """In the shape that web3 decodes; what it only passes through is zero."""
    return {
        "address": checksum(log.contract),
        "topics": [HexBytes(topic) for topic in log.topics],
        "data": HexBytes(log.data),
        "logIndex": 0,
        "transactionIndex": 0,
        "transactionHash": HexBytes(bytes(32)),
        "blockHash": HexBytes(bytes(32)),
        "blockNumber": 0,
    }


def _plain(value: Any) -> Any:
    if isinstance(value, str) and Web3.is_address(value):
        return bytes.fromhex(value[2:])
    return bytes(value) if isinstance(value, bytes) else value
