"""Sends a worker requests that are none, each with the canary in it: what does it say of them?"""

import os
from contextlib import suppress
from dataclasses import replace

from node.errors import SessionLost
from node.protocol import codec, signing
from node.protocol.frames import Request
from tests.attack.attackers.hand import GREEDY, PROMPT, Hand, open_hand
from tests.attack.attackers.peer import Target, run, say


async def main(target: Target) -> None:
    """One job per malformed body."""
    canary = str(target.orders["canary"]).encode()
    bodies = {
        "not msgpack": canary,
        "canary as prompt ids": _body(prompt=canary[: len(canary) // 4 * 4]),
        "prompt of broken length": _body(prompt=canary + b"1"),
        "canary as a stop": _body(stop=(canary.decode(),)),
        "canary after the end": _body() + canary,
        "another hash": _body(stop=(canary.decode(),)),
    }
    answers = {}
    async with open_hand(target, key=bytes.fromhex(target.orders["key"])) as hand:
        for name, body in bodies.items():
            answers[name] = await _send(hand, body, right_hash=name != "another hash")
    say(answers=answers)


def _body(*, prompt: bytes = codec.pack_ids(PROMPT), stop: tuple[str, ...] = ()) -> bytes:
    return codec.encode(
        Request(
            salt=os.urandom(32), prompt=prompt, prefix=b"", sampling=GREEDY, stop=stop,
            ignore_eos=True,
        )
    )  # fmt: skip


async def _send(hand: Hand, body: bytes, *, right_hash: bool) -> str:
    draft = await hand.draft(tokens=4)
    draft.channel.close()
    award = replace(
        draft.award.statement,
        job=os.urandom(16),
        request=signing.keccak256(body if right_hash else b""),
        request_bytes=len(body),
    )
    session = await hand.connect()
    job = hand.job_of(award, draft.terms, body, session)
    with suppress(SessionLost):
        await hand.send(job)
    await hand.read(job, lambda _: False, within_s=0.3)
    return session.lost or "still there"


if __name__ == "__main__":
    run(main)
