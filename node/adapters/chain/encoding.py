"""Contract calls into intents, and events out of outcomes, off the event loop.

The first use imports web3, which takes a second: in a thread, and only where something is sent.
"""

import json
from functools import partial
from typing import Any

import trio

from node.protocol.fields import Address
from node.roles.transactions import Intent, Outcome


async def intent(
    kind: str,
    note: dict[str, Any],
    to: Address,
    contract: str,
    function: str,
    *args: Any,
    gas: int | None = None,
) -> Intent:
    """The transaction that makes this call.

    Args:
        kind: What it is for; with `note` it names the intent.
        note: For people; JSON values.
        to: The contract's address.
        contract: Its name, for the ABI.
        function: What to call.
        args: Its arguments (`contracts.encode_call`).
        gas: Limit; None to have it estimated.
    """
    data = await trio.to_thread.run_sync(partial(_encode, contract, function, *args))
    return Intent(kind=kind, note=json.dumps(note, sort_keys=True), to=to, data=data, gas=gas)


async def events(outcome: Outcome, event: str) -> list[dict[str, Any]]:
    """Arguments of the escrow's events of this name, in their order."""
    from node.adapters.chain import contracts

    return await trio.to_thread.run_sync(contracts.decode_events, "Escrow", event, outcome.logs)


def _encode(contract: str, function: str, *args: Any) -> bytes:
    from node.adapters.chain import contracts

    return contracts.encode_call(contract, function, *args)
