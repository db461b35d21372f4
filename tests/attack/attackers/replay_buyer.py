"""A real client that buys from a rogue worker, one job for each falsified statement.

The client is the one who is attacked; the rogue worker's role is set before each job.
"""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import structlog
import trio

from node.adapters.store import open_stores
from node.app import receipts
from node.app.buyer import Buyer, open_buyer
from node.app.domain import domain_of
from node.app.home import Home
from node.app.unlock import session_key
from node.config import Config, load
from node.errors import NodeError
from node.protocol import limits
from tests.attack import replay_matrix as matrix
from tests.attack import saved
from tests.attack.attackers.peer import Target, run, say
from tests.attack.attackers.rogue_worker import FORGED, ROLE
from tests.attack.buying import Bought, buy
from tests.attack.replay_matrix import Cell, Sample

PLACE = "client"
TOKENS = 60
SIGNATURES = (
    matrix.OTHER_CHAIN, matrix.OTHER_CONTRACT, matrix.HIGH_S, matrix.FLIPPED_V,
    matrix.OTHER_SIGNER,
)  # fmt: skip
JOB_STATEMENTS = (*SIGNATURES, matrix.OTHER_WORKER, matrix.OLD_NONCE, matrix.SAME_TWICE)
BILLS = (*JOB_STATEMENTS, matrix.LOWER_AMOUNT)
CELLS: dict[str, Sequence[str]] = {
    "acceptance": JOB_STATEMENTS,
    "progress": BILLS,
    "receipt": BILLS,
    "lock release": (*SIGNATURES, matrix.OTHER_PAYER, matrix.OTHER_WORKER, matrix.LOWER_AMOUNT),
    "resume": SIGNATURES,
    "offer": (*SIGNATURES, matrix.OTHER_WORKER, matrix.LOWER_AMOUNT, matrix.OLD_NONCE),
}


class ClientMatrix:
    """Runs the cells, and judges by what the client kept and paid."""

    def __init__(
        self, buyer: Buyer, config: Config, *, rogue: str, rogue_home: Path, every: int
    ) -> None:
        self._wanted = Sample(every)
        self._buyer = buyer
        self._config = config
        self._rogue = rogue
        self._rogue_home = rogue_home
        self._cells: list[Cell] = []

    async def run(self) -> list[Cell]:
        """All of them, and honest jobs before and after: the client must still be able to buy."""
        await self._honest()
        await self._buyer.payer.make_lock(
            payee=bytes.fromhex(self._rogue[2:]), total_micro=100, expiry_s=2**32
        )
        for kind, variants in CELLS.items():
            for variant in variants:
                if self._wanted():
                    await self._cell(kind, variant)
        await self._honest()
        return self._cells

    async def _cell(self, kind: str, variant: str) -> None:
        forgeries = self._forgeries()
        releases = saved.releases(self._config.home)
        self._play({
            "forge": kind, "variant": variant, "payer": self._buyer.address.hex(),
            "model": self._model(),
        })  # fmt: skip
        if kind == "offer" and variant != matrix.OLD_NONCE:
            await self._nothing_offered()
        bought = await self._buy()
        self._play({})
        fresh = self._forgeries() - forgeries
        assert fresh, f"nothing was forged: {kind}, {variant}: {bought.error}"
        refused = bought.paid_micro <= bought.worth_micro and not self._buyer.payer.halted
        if kind == "offer":
            # Nothing else is on offer; and of what is sent twice, the newer.
            refused &= bought.outcome is None or variant == matrix.OLD_NONCE
        if kind == "lock release":
            refused &= saved.releases(self._config.home) == releases
        if variant != matrix.SAME_TWICE:
            refused &= not self._kept(bought) & fresh
        how = bought.error or f"ignored; paid {bought.paid_micro} for {bought.worth_micro}"
        self._cells.append(Cell(place=PLACE, kind=kind, variant=variant, refused=refused, how=how))

    async def _nothing_offered(self) -> None:
        """Until what the rogue offered before it forged binds no more."""
        with trio.fail_after(2 * limits.OFFER_LIFE_S):
            while self._buyer.market.live_offers(bytes.fromhex(self._model())):  # noqa: ASYNC110
                await trio.sleep(0.1)

    def _kept(self, bought: Bought) -> set[bytes]:
        """Signatures of what the client took as evidence."""
        if bought.outcome is None:
            return set()
        evidence = bought.outcome.attempt.evidence
        parts = (evidence.terms, evidence.acceptance, evidence.progress, evidence.receipt)
        return {part.signature for part in parts if part is not None}

    async def _honest(self) -> None:
        self._play({})
        for _ in range(3):  # offers that were forged just now may still be on their way
            bought = await self._buy()
            if not bought.error:
                return
        raise AssertionError(f"an honest job failed: {bought.error}")

    async def _buy(self) -> Bought:
        bought = await buy(self._buyer, self._config, worker=self._rogue, tokens=TOKENS)
        if bought.outcome is not None:
            outcome, folder = bought.outcome, Home(self._config.home).transcripts
            receipts.save(folder, outcome.job, outcome.transcript, outcome.disclosure)
        return bought

    def _play(self, role: dict[str, Any]) -> None:
        draft = self._rogue_home / f"{ROLE}.draft"
        draft.write_text(json.dumps(role))
        draft.rename(self._rogue_home / ROLE)

    def _forgeries(self) -> set[bytes]:
        path = self._rogue_home / FORGED
        return (
            {bytes.fromhex(line) for line in path.read_text().split()} if path.exists() else set()
        )

    def _model(self) -> str:
        return next(iter(self._buyer.hints.models())).hex()


async def main(target: Target) -> None:
    """The whole row of the running client."""
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    orders = target.orders
    flags = {
        "network.bootstrap": [orders["rogue_addr"]],
        "client.discover_s": 1.0,
        "client.silence_s": 3.0,
    }
    config = load(Path(orders["home"]), flags=flags)
    try:
        async with (
            open_stores(Home(config.home).store, domain=domain_of(config)) as stores,
            open_buyer(config, session_key(config), stores) as buyer,
        ):
            cells = await ClientMatrix(
                buyer,
                config,
                rogue=orders["rogue"],
                rogue_home=Path(orders["rogue_home"]),
                every=orders["every"],
            ).run()
    except NodeError as error:
        raise AssertionError(str(error)) from error
    say(cells=[asdict(cell) for cell in cells])


if __name__ == "__main__":
    run(main)
