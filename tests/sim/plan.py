"""What a seed means: how large the market is, what is bought, and what goes wrong when."""

import random
from dataclasses import dataclass
from pathlib import Path

from node.config import ChainConfig, ClientConfig, Config, NetworkConfig, SplitConfig, WorkerConfig
from node.protocol.signing import Domain
from tests.sim.engine import Pace

DOMAIN = Domain(31337, bytes.fromhex("5f" * 20))
FAULTS_S = 12.0
"""Jobs begin, and things go wrong, until then."""
FAULTS = {
    "strike": 8,
    "crash": 4,
    "fuse": 6,
    "cut": 4,
    "split": 2,
    "freeze": 2,
    "slow disk": 2,
    "full disk": 1,
    "rpc away": 2,
    "rpc errors": 2,
    "rpc lags": 2,
    "reorg": 4,
    "fees": 1,
    "redeem": 3,
    "deposit": 1,
    "exit": 1,
    "cancel": 2,
}
"""What may go wrong, or be done by hand, and how often beside the rest."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Job:
    """What a client will buy."""

    client: str
    at_s: float
    length: int
    """Tokens until the model stops by itself."""
    output_max: int
    tokens_in: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """Something that happens to a node, or to all."""

    at_s: float
    kind: str
    node: str
    """Empty where it concerns nobody in particular."""
    other: str = ""
    for_s: float = 0.0
    share: float = 0.0
    """How bad, of what is possible."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A whole run."""

    seed: int
    workers: tuple[str, ...]
    clients: tuple[str, ...]
    jobs: tuple[Job, ...]
    faults: tuple[Fault, ...]
    latency_s: tuple[float, float]
    block_s: int
    deposit_micro: int
    pace: Pace
    worker_config: WorkerConfig
    chain_config: ChainConfig

    def config(self, name: str, bootstrap: tuple[str, ...]) -> Config:
        """A node's."""
        return Config(
            home=Path("/simulated") / name,
            network=NetworkConfig(bootstrap=bootstrap),
            chain=self.chain_config,
            worker=self.worker_config,
            client=ClientConfig(silence_s=3.0, discover_s=3.0),
        )


def plan_of(seed: int, *, faulty: bool = True) -> Plan:
    """The plan of a seed; without faults, the same market in fair weather."""
    rng = random.Random(f"plan {seed}")
    workers = tuple(f"worker{n}" for n in range(rng.choice((1, 2, 3, 3))))
    clients = tuple(f"client{n}" for n in range(rng.choice((1, 1, 2, 2, 3))))
    quantum = rng.choice((20, 60, 60, 200))
    credit = rng.choice((300, 700, 1500, 5000))
    jobs = tuple(
        Job(
            client=client,
            at_s=rng.uniform(0.0, FAULTS_S),
            length=rng.randrange(1, 150),
            output_max=rng.randrange(10, 100),
            tokens_in=rng.randrange(5, 40),
        )
        for client in clients
        for _ in range(rng.randrange(1, 5))
    )
    nodes = (*workers, *clients)
    faults = tuple(_fault(rng, workers, clients, nodes) for _ in range(rng.randrange(2, 10)))
    return Plan(
        seed=seed,
        workers=workers,
        clients=clients,
        jobs=jobs,
        faults=tuple(sorted(faults, key=lambda each: each.at_s)) if faulty else (),
        latency_s=rng.choice(((0.001, 0.003), (0.005, 0.05), (0.02, 0.2))),
        block_s=rng.choice((1, 1, 2)),
        deposit_micro=rng.choice((4_000, 10_000, 50_000)),
        pace=Pace(
            step_s=rng.choice((0.01, 0.03)),
            burst=rng.choice((1, 2, 5)),
            failure_share=rng.choice((0.0, 0.0, 0.2)) if faulty else 0.0,
        ),
        worker_config=WorkerConfig(
            price_in=(price_in := rng.choice((0, 1_000_000))),
            price_cached=price_in // 4,
            price_out=rng.choice((1_000_000, 5_000_000)),
            quantum_micro=quantum,
            prepay_above_micro=rng.choice((0, 10)),
            credit_micro=credit,
            credit_new_micro=rng.choice((credit, 4 * credit)),
            payment_s=3.0,
            reservation_s=5.0,
            splits=rng.choice(((), (), (SplitConfig(payee="0x" + "77" * 20, bps=1_000),))),
        ),
        chain_config=ChainConfig(
            chain_id=DOMAIN.chain_id,
            escrow="0x" + DOMAIN.escrow.hex(),
            exit_margin_s=15,
            finality_blocks=rng.choice((1, 2, 3)),
        ),
    )


def _fault(
    rng: random.Random, workers: tuple[str, ...], clients: tuple[str, ...], nodes: tuple[str, ...]
) -> Fault:
    kind = rng.choices(list(FAULTS), list(FAULTS.values()))[0]
    only = {
        "strike": workers,
        "redeem": workers,
        "deposit": clients,
        "exit": clients,
        "cancel": clients,
    }
    node = rng.choice(only.get(kind, nodes))
    others = [each for each in nodes if each != node]
    return Fault(
        at_s=rng.uniform(0.0, FAULTS_S),
        kind=kind,
        node=node,
        other=rng.choice(others),
        for_s=rng.choice((0.5, 2.0, 6.0)) * rng.uniform(0.5, 1.5),
        share=rng.random(),
    )
