"""No attacker: an honest newcomer who connects, says hello and leaves, again and again.

Orders: every_s.  One line per connect; ends when its parent does.
"""

import os
import time
from functools import partial

import trio

from node.adapters.p2p.transport import open_transport
from node.config import NetworkConfig
from node.errors import NodeError
from tests.attack.attackers import peer
from tests.attack.attackers.peer import Target


async def main(target: Target) -> None:
    """Connect anew each time, as somebody else: nothing is warm."""
    while True:
        key, failure = os.urandom(32), ""
        hello = partial(target.hello, key=key)
        async with open_transport(NetworkConfig(listen=()), key, hello) as own:
            began_s = time.monotonic()
            try:
                await own.connect((target.addr,))
            except NodeError as error:
                failure = str(error)
            took_s = time.monotonic() - began_s
        peer.say(began_s=began_s, took_s=took_s, failure=failure)
        await trio.sleep(float(target.orders["every_s"]))


if __name__ == "__main__":
    peer.run(main)
