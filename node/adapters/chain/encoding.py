"""Contract calls into intents, and events out of outcomes, off the event loop.

The first use imports web3, which takes a second: in a thread, and only where something is sent.
"""

import json
from collections.abc import Awaitable, Callable
from functools import partial
from typing import Any

from node.protocol.fields import Address
from node.roles.transactions import Intent, Outcome

Aside = Callable[[Callable[[], Any]], Awaitable[Any]]
"""Runs blocking work off the loop: `Rpc.run_sync`."""


async def intent(
    kind: str,
    note: dict[str, Any],
    to: Address,
    contract: str,
    function: str,
    *args: Any,
    aside: Aside,
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
        aside: Runs blocking work off the loop.
        gas: Limit; None to have it estimated.
    """
    data = await aside(partial(_encode, contract, function, *args))
    return Intent(kind=kind, note=json.dumps(note, sort_keys=True), to=to, data=data, gas=gas)


async def events(outcome: Outcome, event: str, *, aside: Aside) -> list[dict[str, Any]]:
    """Arguments of the escrow's events of this name, in their order."""
    from node.adapters.chain import contracts

    found: list[dict[str, Any]] = await aside(
        partial(contracts.decode_events, "Escrow", event, outcome.logs)
    )
    return found


def _encode(contract: str, function: str, *args: Any) -> bytes:
    from node.adapters.chain import contracts

    return contracts.encode_call(contract, function, *args)
