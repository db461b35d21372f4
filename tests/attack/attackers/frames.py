"""Malformed frames of every kind, at every stage of a session; one ends each session.

Orders: count, tasks, seed, home (of a funded client, whose award the victim accepts).
"""

import os
import random
import time
from collections import Counter
from itertools import islice

import trio

from node.adapters.p2p.framing import FrameReader, WireStream
from node.adapters.p2p.host import Host
from node.errors import SessionLost
from node.protocol import chain_hash, codec, signing
from node.protocol.fields import ZERO_HASH
from node.protocol.frames import (
    AcceptanceFrame,
    AwardFrame,
    ErrorFrame,
    FileWanted,
    Offer,
    OffersWanted,
    Refusal,
)
from node.protocol.statements import Award
from tests.attack.attackers import peer
from tests.attack.attackers.mutations import malformed
from tests.attack.attackers.peer import Target

ATTEMPT_S = 10.0
TRIES_MAX = 20
PAUSE_S = 0.1
ACCEPTED_EVERY = 10
"""The funded client's every so many-th session gets as far as an accepted award."""


class Frames:
    """Sends its share of malformed frames, one session each."""

    def __init__(self, target: Target, seed: int, key: bytes, *, funded: bool) -> None:
        self.target, self.key, self.funded = target, key, funded
        self.rng = random.Random(seed)
        self.stages: Counter[str] = Counter()
        self.kinds: Counter[int] = Counter()
        self.not_cut = 0
        self.troubles: Counter[str] = Counter()

    async def run(self, count: int) -> None:
        """Until `count` have been sent."""
        async with peer.identity(self.key) as host:
            job = self.rng.randbytes(16)
            for number, (kind, wire) in enumerate(islice(malformed(self.rng, job), count)):
                for _ in range(TRIES_MAX):
                    if await self._one(host, number, kind, wire, job):
                        break
                    await trio.sleep(PAUSE_S)

    async def _one(self, host: Host, number: int, kind: int, wire: bytes, job: bytes) -> bool:
        stage = ("before hello", "after hello", "channel")[number % 3]
        if self.funded and stage == "channel" and number % ACCEPTED_EVERY == 2:
            stage = "accepted job"
        sent = False
        try:
            with trio.fail_after(ATTEMPT_S):
                async with peer.connection(host, self.target) as conn:
                    stream = await peer.session_stream(host, conn)
                    reader = FrameReader(stream)
                    await self._until(stage, stream, reader, job)
                    sent = True
                    self.stages[stage] += 1
                    self.kinds[kind] += 1
                    await stream.write(wire)
                    while True:
                        await stream.read()
        except SessionLost:
            pass
        except trio.TooSlowError:
            self.not_cut += sent
        # The library raises anything; what the attacker suffers is not what is measured.
        except Exception as error:
            self.troubles[f"{type(error).__name__}: {error}"[:80]] += 1
        return sent

    async def _until(self, stage: str, stream: WireStream, reader: FrameReader, job: bytes) -> None:
        if stage == "before hello":
            return
        await stream.write(codec.encode_frame(self.target.hello(key=self.key)))
        await reader.frame()
        if stage == "channel":
            await stream.write(codec.encode_frame(FileWanted(job=job, sha256=bytes(32))))
        elif stage == "accepted job":
            taken = await awarded(self.target, self.key, stream, reader, bytes(32), 100)
            self.stages["acceptances" if taken else "refusals"] += 1


async def awarded(
    target: Target,
    key: bytes,
    stream: WireStream,
    reader: FrameReader,
    request: bytes,
    request_bytes: int,
) -> bytes | None:
    """Get as far as an accepted award; its job, or None if it was refused.

    Args:
        target: The victim.
        key: Of a funded client.
        stream: A session's, after the hellos.
        reader: Of the same.
        request: Hash of the request that is to follow.
        request_bytes: Its size.
    """
    await stream.write(codec.encode_frame(OffersWanted(models=(target.model,))))
    while not isinstance(offer := (await reader.frame())[0], Offer):
        pass
    terms, own, job = offer.terms.statement, signing.address_of_key(key), os.urandom(16)
    award = Award(
        client=own,
        payer=own,
        worker=terms.worker,
        job=job,
        attempt=0,
        terms=signing.digest(terms, target.domain),
        request=request,
        request_bytes=request_bytes,
        tokens_in=10,
        output_max=10,
        cap=1000,
        seed=1,
        position=0,
        chain=chain_hash.start(own, job),
        previous=ZERO_HASH,
        issued_ms=time.time_ns() // 1_000_000,
    )
    frame = AwardFrame(job=job, award=signing.sign(award, target.domain, key), voucher=None)
    await stream.write(codec.encode_frame(frame))
    while True:
        answer = (await reader.frame())[0]
        if isinstance(answer, AcceptanceFrame):
            return job
        if isinstance(answer, Refusal | ErrorFrame):
            return None


async def main(target: Target) -> None:
    """Send the ordered number, from several identities at a time."""
    orders = target.orders
    tasks, count = int(orders["tasks"]), int(orders["count"])
    senders = []
    for number in range(tasks):
        funded = number == 0 and "home" in orders
        key = target.key_of_home() if funded else os.urandom(32)
        senders.append(Frames(target, orders["seed"] + number, key, funded=funded))
    async with trio.open_nursery() as nursery:
        for number, sender in enumerate(senders):
            share = count // tasks + (number < count % tasks)
            nursery.start_soon(sender.run, share)
    peer.say(
        sent=sum(sum(each.kinds.values()) for each in senders),
        kinds=len({kind for each in senders for kind in each.kinds}),
        stages=dict(sum((each.stages for each in senders), Counter())),
        not_cut=sum(each.not_cut for each in senders),
        troubles=dict(sum((each.troubles for each in senders), Counter())),
    )


if __name__ == "__main__":
    peer.run(main)
