"""A peer in a process of its own, for tests that kill or freeze it: prints its address."""

import trio

from tests.adapters.p2p.peers import chunk, transport


async def main() -> None:
    async with transport() as peer:
        print(peer.addrs[0], flush=True)
        async for session in peer.inbound():
            channel = (await session.receive()).channel
            assert channel is not None
            position = 0
            while True:
                await channel.send(chunk(channel.job, position))
                position += 1


if __name__ == "__main__":
    trio.run(main)
