"""What the attacks on money share: their devnet, and adversaries' keys with a deposit."""

import os
from dataclasses import replace

from devnet.chain import Funding
from node.protocol.signing import address_of_key
from tests.attack.harness import OPTIONS, World

QUANTUM_MICRO = 12
PAYMENT_S = 5.0
"""How long the worker waits for a client that has gone silent."""
MONEY = replace(
    OPTIONS,
    workers=3,
    worker_settings={
        **OPTIONS.worker_settings,
        # Small steps: even a short job is paid in several vouchers, one for three tokens.
        "worker.quantum_micro": QUANTUM_MICRO,
        "worker.price_out": 1_000_000,
        # Clients that are gone hold a slot for a while: honest ones must not queue for that.
        "engine.slots": 8,
        "worker.payment_s": PAYMENT_S,
        "worker.reservation_s": PAYMENT_S,
    },
)

FINALITY_BLOCKS = 2
DEPOSIT_MICRO = 1_000_000


def funded(world: World, count: int, *, deposit_micro: int = DEPOSIT_MICRO) -> list[bytes]:
    """Keys whose accounts have a deposit, at a final block, and coins for gas."""
    keys = [os.urandom(32) for _ in range(count)]
    world.net.chain.fund(
        [Funding(address=address_of_key(key), deposit_micro=deposit_micro) for key in keys]
    )
    world.net.chain.mine(FINALITY_BLOCKS)
    return keys
