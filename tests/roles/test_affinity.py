"""Conversations through real roles: where their turns go, what they cost, who loses them."""

import random
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

from node.protocol import prefixes
from node.protocol.prefixes import BLOCK_TOKENS, savable
from node.protocol.scoring import Preferences
from node.protocol.transcript_verify import verify
from node.roles.client import Client, Outcome
from node.roles.generation import GenerationRequest, TokenStep
from tests.roles.job_world import ScriptedEngine, World, bought, world

TURNS = 8


class Remembering(ScriptedEngine):
    """It has what each owner's prompts and answers began with, and says so."""

    def __init__(self, **how: Any) -> None:
        super().__init__(length=50, **how)
        # As fast for several jobs as for one: a job that has just ended makes no difference.
        rates = replace(self._sold.rates, decode_batch_tps=4 * self._sold.rates.decode_tps)
        self._sold = replace(self._sold, rates=rates)
        self.forgets = False
        self._known: dict[bytes, set[bytes]] = {}
        self.owners: list[bytes] = []

    async def _steps(self, request: GenerationRequest) -> AsyncIterator[TokenStep]:
        ids = [*request.prompt_ids, *request.prefix_ids]
        known = self._known.setdefault(request.owner, set())
        found = sum(head in known for head in prefixes.heads(ids)) * BLOCK_TOKENS
        cached = 0 if self.forgets else min(found, savable(len(ids)))
        self.owners.append(request.owner)
        async for step in super()._steps(request):
            ids += step.ids
            known.update(prefixes.heads(ids))
            yield replace(step, tokens_cached=cached)


async def sell(w: World, count: int = 3) -> None:
    for number in range(1, count + 1):
        await w.sell(number, engine=Remembering(), price_in=100_000, price_out=400_000)


async def turn(client: Client, history: list[int], rng: random.Random, **changes: Any) -> Outcome:
    """The next question, after which the history has the answer."""
    history += [rng.randrange(1, 1000) for _ in range(70)]
    outcome, reply = await bought(client, prompt=tuple(history), output_max=60, **changes)
    assert outcome.failure == ""
    history += reply.ids
    return outcome


def worker_of(outcome: Outcome) -> bytes:
    return outcome.attempt.job.terms.worker


async def test_a_conversation_stays_and_moves_when_its_worker_is_gone() -> None:
    async with world() as w:
        await sell(w)
        client = await w.buy()
        history: list[int] = []
        rng = random.Random(1)
        outcomes = [await turn(client, history, rng) for _ in range(TURNS)]
        assert len(set(map(worker_of, outcomes))) == 1
        for outcome in outcomes[1:]:
            job = outcome.attempt.job
            assert 4 * job.tokens_cached >= job.award.tokens_in
            assert job.receipt is not None
            assert job.receipt.tokens_in + job.receipt.tokens_cached == job.award.tokens_in
            assert job.accepted_micro == job.receipt.amount
            assert verify(outcome.transcript, outcome.disclosure).passed
        [winner] = [bid for bid in outcomes[-1].auction.record().to_json()["bids"] if bid["won"]]
        assert winner["tokens_cached"] == outcomes[-1].attempt.job.tokens_cached
        assert w.client_transport.address in {owner for e in w.engines for owner in e.owners}  # type: ignore[attr-defined]

        gone = next(t for t in w.transports if t.address == worker_of(outcomes[0]))
        w.net.down.update(gone.addrs)
        w.client_transport.sessions()[gone.address].cut("the peer is gone")
        after = [await turn(client, history, rng) for _ in range(3)]
        assert len(set(map(worker_of, after))) == 1
        assert worker_of(after[0]) != worker_of(outcomes[0])
        assert after[0].attempt.job.tokens_cached == 0
        assert after[1].attempt.job.tokens_cached > 0


async def test_a_short_question_with_a_long_answer_is_enough_to_stay() -> None:
    async with world() as w:
        await sell(w)
        client = await w.buy()
        for seed in range(9):
            rng, history = random.Random(seed), [1, 2, 3 + seed]  # less than a block
            first = Preferences(price_micro_max=1_000_000, worker=w.transports[seed % 3].address)
            _, reply = await bought(client, prompt=tuple(history), output_max=60, preferences=first)
            history += reply.ids
            second = await turn(client, history, rng)
            assert worker_of(second) == first.worker
            assert second.attempt.job.tokens_cached == BLOCK_TOKENS


async def test_a_worker_that_keeps_nothing_is_soon_expected_to_keep_nothing() -> None:
    async with world() as w:
        await sell(w, count=1)
        w.engines[0].forgets = True  # type: ignore[attr-defined]
        client = await w.buy()
        history: list[int] = []
        rng = random.Random(1)
        expected = []
        for _ in range(6):
            record = (await turn(client, history, rng)).auction.record().to_json()
            expected.append(record["bids"][0]["tokens_cached"] / len(history))
        assert expected[0] == 0 < expected[1]
        assert expected[-1] < 0.1


async def test_conversations_stay_where_each_of_them_began() -> None:
    async with world() as w:
        await sell(w)
        client = await w.buy()
        talks: list[tuple[list[int], random.Random, bytes]] = []
        for seed in range(6):
            history: list[int] = []
            rng, first = random.Random(seed), w.transports[seed % 3].address
            wanted = Preferences(price_micro_max=1_000_000, worker=first)
            await turn(client, history, rng, preferences=wanted)
            talks.append((history, rng, first))
        for _ in range(3):
            for history, rng, first in talks:
                assert worker_of(await turn(client, history, rng)) == first


async def test_a_scope_of_its_own_finds_and_expects_nothing_of_others() -> None:
    async with world() as w:
        await sell(w, count=1)
        client = await w.buy()
        cached: dict[bytes, list[tuple[int, int]]] = {}
        for scope in (b"", b"a" * 16, b"b" * 16, b"a" * 16):
            outcome, _ = await bought(client, prompt=tuple(range(1, 101)), scope=scope)
            [bid] = outcome.auction.record().to_json()["bids"]
            cached.setdefault(scope, []).append(
                (bid["tokens_cached"], outcome.attempt.job.tokens_cached)
            )
        assert cached == {b"": [(0, 0)], b"a" * 16: [(0, 0), (96, 96)], b"b" * 16: [(0, 0)]}
        owners = w.engines[0].owners  # type: ignore[attr-defined]
        assert owners[1] == w.client_transport.address + b"a" * 16
