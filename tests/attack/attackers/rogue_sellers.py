"""Workers that send malformed frames to the clients that dial them: one, and the session is over.

Orders: identities, seed.  Says their addresses, then each second how many were sent and to how many
connections, and runs until its parent ends it.
"""

import random
from collections import Counter
from contextlib import AsyncExitStack
from functools import partial

import trio
from libp2p.network.stream.net_stream import NetStream

from node.adapters.p2p.framing import FrameReader, WireStream
from node.adapters.p2p.transport import SESSION_PROTOCOL
from node.errors import NodeError
from node.protocol import codec
from tests.attack.attackers import peer
from tests.attack.attackers.mutations import malformed
from tests.attack.attackers.peer import Target

STAGES = ("before hello", "after hello", "among frames")


async def serve(target: Target, key: bytes, rng: random.Random, net: NetStream) -> None:
    """One client's session, ended by one malformed frame."""
    stream = WireStream(net)
    stage = STAGES[SENT.total() % len(STAGES)]
    job = rng.randbytes(16)
    kind, wire = next(each for number, each in enumerate(malformed(rng, job)) if rng.random() < 0.1)
    try:
        with trio.fail_after(10):
            if stage != STAGES[0]:
                await stream.write(codec.encode_frame(target.hello(key=key, sells=True)))
                reader = FrameReader(stream)
                await reader.frame()
                if stage == STAGES[2]:
                    await reader.frames()
            SENT[stage] += 1
            KINDS[kind] += 1
            await stream.write(wire)
            while True:
                await stream.read()
    except (NodeError, trio.TooSlowError):
        return


SENT: Counter[str] = Counter()
KINDS: Counter[int] = Counter()


async def main(target: Target) -> None:
    """Listen under many identities."""
    rng = random.Random(int(target.orders["seed"]))
    async with AsyncExitStack() as stack:
        addrs = []
        for _ in range(int(target.orders["identities"])):
            key = rng.randbytes(32)
            host = await stack.enter_async_context(
                peer.identity(key, listen="/ip4/127.0.0.1/tcp/0")
            )
            host.set_stream_handler(SESSION_PROTOCOL, partial(serve, target, key, rng))
            addrs.append(str(host.get_addrs()[0]))
        peer.say(addrs=addrs)
        while True:
            await trio.sleep(1)
            peer.say(sent=SENT.total(), stages=SENT, kinds=len(KINDS))


if __name__ == "__main__":
    peer.run(main)
