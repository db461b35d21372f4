"""A market whose processes are killed: a real chain, real nodes, and what they must keep."""

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from devnet import homes
from devnet.chain import Anvil, DevChain, Funding
from devnet.spawner import Child, Spawner
from node.app import control
from node.app.home import Home
from node.app.init import Identity
from node.errors import NodeError
from node.protocol.signing import checksum
from tests.crash import audit
from tests.crash.statements import Said

JOB = ("submit", "--json", "--ignore-eos", "--max-tokens", "24", "--timeout", "30", "Hello")
QUANTUM_MICRO = 20
READY_S = 60.0
COMMAND_S = 90.0
SETTLE_S = 60.0
BLOCK_S = 0.1
TOP_UP_MICRO = 600
"""Deposits are kept at a few jobs' worth, so that a promise too many would show."""
LOW_MICRO = 350
WORKER_SETTINGS = {
    "engine.tokens_per_s_max": 0.0,
    "engine.slots": 4,
    "worker.price_in": 100_000,
    "worker.price_out": 4_000_000,
    "worker.quantum_micro": QUANTUM_MICRO,
    "worker.payment_s": 4.0,
    "worker.drain_s": 0.5,
}
CLIENT_SETTINGS = {"client.silence_s": 8.0, "client.discover_s": 8.0}


@dataclass(slots=True, eq=False)
class Party:
    """A home, its record, and what is known of its money."""

    identity: Identity
    record: Path
    log: Path
    deposited_micro: int = 0

    @property
    def home(self) -> Path:
        return self.identity.home

    @property
    def store(self) -> Path:
        return self.identity.home / "node.sqlite"

    def probe(self, point: str = "", count: int = 1, trace: Path | None = None) -> dict[str, Any]:
        """What `Spawner.start` wants: the record is always kept."""
        found: dict[str, Any] = {"record": str(self.record)}
        if trace is not None:
            found["trace"] = str(trace)
        return found | ({"point": point, "count": count} if point else {})


@dataclass(slots=True, eq=False)
class World:
    """One worker and some clients on a chain of their own."""

    folder: Path
    chain: DevChain
    spawner: Spawner
    worker: Party
    clients: list[Party]
    rng: random.Random
    make_client: Callable[[int], Party]
    """Numbered from 1."""
    retired: list[Party] = field(default_factory=list)
    """Clients that died so often that the worker sells them nothing for an hour."""
    said: Said = field(default_factory=Said)
    violations: list[str] = field(default_factory=list)
    jobs_done: int = 0
    kills: int = 0
    ready_s: float = 1.0
    """How long a worker took to come up, lately; likewise the others.  Kills come within these."""
    job_s: float = 1.5
    redeem_s: float = 1.5
    _funding: threading.Lock = field(default_factory=threading.Lock)
    _seen_micro: dict[bytes, int] = field(default_factory=dict)
    """Highest voucher that the worker's store was ever seen to hold, by tab."""

    # ------------------------------------------------------------------------------ processes

    def serve(self, *, file_bytes_max: int = 0, **probe: Any) -> Child:
        """Start the worker."""
        return self.spawner.start(
            "serve",
            home=self.worker.home,
            err=self.worker.log,
            probe=self.worker.probe(**probe),
            file_bytes_max=file_bytes_max,
        )

    def ready(self, child: Child, within_s: float = READY_S) -> bool:
        """Wait until the worker answers; False if it ended."""
        started_s = time.monotonic()
        while child.running and time.monotonic() < started_s + within_s:
            with suppress(NodeError):
                control.call(Home(self.worker.home), "status", {}, timeout_s=10.0)
                self.ready_s = _lately(self.ready_s, time.monotonic() - started_s)
                return True
            time.sleep(0.02)
        return False

    def submit(self, client: Party, *, file_bytes_max: int = 0, **probe: Any) -> Child:
        """Start a job, with a deposit that covers it and little more."""
        self.top_up(client)
        return self.spawner.start(
            *JOB,
            home=client.home,
            out=client.home.with_suffix(".out"),
            err=client.log,
            probe=client.probe(**probe),
            file_bytes_max=file_bytes_max,
        )

    def redeem(self, *argv: str, file_bytes_max: int = 0, **probe: Any) -> Child:
        """Start `node redeem`: by the running worker, or by itself."""
        return self.spawner.start(
            "redeem", "--json", *argv,
            home=self.worker.home,
            out=self.worker.home.with_suffix(".redeemed"),
            err=self.worker.log,
            probe=self.worker.probe(**probe),
            file_bytes_max=file_bytes_max,
        )  # fmt: skip

    def kill(self, child: Child) -> None:
        """As the kernel or a power cut would."""
        child.kill()
        child.wait(COMMAND_S)
        self.kills += 1

    def job(self, client: Party) -> bool:
        """One job to its end; whether it ended well."""
        child, started_s = self.submit(client), time.monotonic()
        done = child.wait(COMMAND_S) == 0
        if done:
            self.job_s = _lately(self.job_s, time.monotonic() - started_s)
        self.jobs_done += done
        return done

    def renew(self, client: Party) -> None:
        """Replace a client that is refused for what its deaths left unpaid (it counts as owed)."""
        text = client.log.read_text() if client.log.exists() else ""
        if "UNPAID" in text or "DEPOSIT_TOO_LOW" in text:
            self._replace(client)

    def newcomer(self) -> Party:
        """A client without a past, in the place of another."""
        return self._replace(self.clients[0])

    def _replace(self, client: Party) -> Party:
        self.retired.append(client)
        fresh = self.make_client(len(self.clients) + len(self.retired))
        self.clients[self.clients.index(client)] = fresh
        self.top_up(fresh)
        self.chain.mine(3)
        return fresh

    # ----------------------------------------------------------------------------------- money

    def top_up(self, client: Party) -> None:
        """Deposit more if what is left would not cover some jobs."""
        promised = 0
        if client.store.exists():
            with suppress(Exception), audit.reading(client.store) as store:
                promised = audit.promised_micro(store)
        if client.deposited_micro - promised < LOW_MICRO:
            funding = Funding(address=client.identity.address, deposit_micro=TOP_UP_MICRO)
            # Counted first: from here on it may be seen.
            client.deposited_micro += TOP_UP_MICRO
            with self._funding:
                self.chain.fund([funding])

    def transactions(self) -> int:
        """How many the worker has sent, those that wait for a block included."""
        account = self.chain.web3.to_checksum_address(self.worker.identity.address)
        return self.chain.web3.eth.get_transaction_count(account, "pending")

    # ---------------------------------------------------------------------------------- checks

    def check(self, *parties: Party) -> None:
        """What must hold at every moment, of the homes named."""
        for party in parties:
            self.violations += audit.look(self.said, party.store, party.record)
            if party.store.exists():
                self._check_money(party)

    def _check_money(self, party: Party) -> None:
        with audit.reading(party.store) as store:
            if not store.execute("SELECT 1 FROM sqlite_master WHERE name = 'bought'").fetchone():
                return
            promised = audit.promised_micro(store)
            held = dict(store.execute("SELECT id, best FROM payee_tabs").fetchall())
            unpaid = audit.unpaid_micro(store)
        if promised > party.deposited_micro:
            self.violations.append(
                f"{party.home.name} promised {promised} of {party.deposited_micro} micro"
            )
        for tab, best in held.items():
            if best < self._seen_micro.get(tab, 0):
                self.violations.append("the worker forgot a voucher that it had saved")
            self._seen_micro[tab] = max(best, self._seen_micro.get(tab, 0))
        if unpaid.worst > QUANTUM_MICRO:
            self.violations.append(f"{unpaid.worst} micro of a segment are not vouchered")
        # A client pays for what reached it, also where the running total over it never came.
        if unpaid.overpaid > QUANTUM_MICRO:
            self.violations.append(f"a segment was paid {unpaid.overpaid} micro too much")

    def settle(self) -> dict[str, int]:
        """Bring everything up, let it catch up and redeem: then all books say the same."""
        child = self.serve()
        if not self.ready(child):
            self.violations.append("the worker did not come up again")
            return {}
        for client in self.retired:
            if client.store.exists():
                self.job(client)  # if it is refused, it has said first which vouchers it gave
        for client in list(self.clients):
            self.renew(client)
        for client in self.clients:
            if not any(self.job(client) for _ in range(5)):
                self.violations.append(f"no job of {client.home.name} ended well any more")
        self._await_books()
        code = self.redeem().wait(COMMAND_S)
        if code != 0:
            self.violations.append(f"redeem failed with {code}")
        child.kill(15)
        child.wait(COMMAND_S)
        self.check(self.worker, *self.clients, *self.retired)
        for party in (self.worker, *self.clients, *self.retired):
            if party.log.exists() and "Traceback" in party.log.read_text():
                self.violations.append(f"a traceback in {party.log}")
        return self._compare()

    def _await_books(self) -> None:
        deadline_s = time.monotonic() + SETTLE_S
        while time.monotonic() < deadline_s and self._given() != self._held():
            time.sleep(0.1)

    def _given(self) -> dict[bytes, int]:
        given: dict[bytes, int] = {}
        parties = (*self.clients, *self.retired)
        for client in (each for each in parties if each.store.exists()):
            with audit.reading(client.store) as store:
                given |= dict(store.execute("SELECT id, cumulative FROM payer_tabs"))
        return {tab: micro for tab, micro in given.items() if micro}

    def _held(self) -> dict[bytes, int]:
        with audit.reading(self.worker.store) as store:
            held = dict(store.execute("SELECT id, best FROM payee_tabs"))
        return {tab: micro for tab, micro in held.items() if micro}

    def _compare(self) -> dict[str, int]:
        """Both stores, everything that was ever sent, and the chain, to the unit."""
        given, held = self._given(), self._held()
        escrow = self.chain.contract("Escrow", self.chain.contracts.escrow)
        paid = {tab: escrow.functions.tabPaid(tab).call() for tab in given | held}
        events = escrow.events.VoucherRedeemed().get_logs(from_block=0)
        redeemed: dict[bytes, int] = {}
        for event in events:
            tab = event["args"]["tab"]
            redeemed[tab] = redeemed.get(tab, 0) + event["args"]["amount"]
        for name, other in (("worker holds", held), ("chain paid", paid), ("events say", redeemed)):
            if other != given:
                self.violations.append(f"clients promised {_sums(given)}, {name} {_sums(other)}")
        if any(micro > paid.get(tab, 0) for tab, micro in self.said.promised.items()):
            self.violations.append("a voucher that was sent is not redeemed")
        self._check_journal()
        with audit.reading(self.worker.store) as store:
            segments = store.execute("SELECT count(*) FROM segments").fetchone()[0]
        return {
            "segments": segments,
            "vouchered_micro": sum(given.values()),
            "redeemed_micro": sum(paid.values()),
            "redemptions": len(events),
        }

    def _check_journal(self) -> None:
        """Every transaction of the worker is in its journal, each once, with the chain's word."""
        with audit.reading(self.worker.store) as store:
            rows = store.execute("SELECT nonce, state FROM transactions ORDER BY nonce").fetchall()
            hashes = dict(store.execute("SELECT hash, nonce FROM attempts").fetchall())
        account = checksum(self.worker.identity.address)
        count = self.chain.web3.eth.get_transaction_count(account)  # type: ignore[arg-type]
        if [row[0] for row in rows] != list(range(count)):
            self.violations.append(f"the journal has nonces {rows}, the chain {count} transactions")
        if any(state != "final" for _, state in rows):
            self.violations.append(f"the journal ends with {rows[-1:]}")
        # Each nonce was used by one of the attempts under it, and by nothing else.
        mined = {
            nonce
            for tx_hash, nonce in hashes.items()
            if self.chain.rpc("eth_getTransactionReceipt", "0x" + tx_hash.hex()) is not None
        }
        if mined != set(range(count)):
            self.violations.append("a transaction was mined that the journal does not know")


def _lately(before_s: float, now_s: float) -> float:
    return 0.8 * before_s + 0.2 * now_s


def _sums(books: dict[bytes, int]) -> str:
    return f"{sum(books.values())} micro on {len(books)} tabs"


@contextmanager
def world(folder: Path, *, clients: int, seed: int) -> Iterator[World]:
    """Bring it up; nothing is left of it after.  Call it from the main thread."""
    with ExitStack() as stack:
        spawner = Spawner()
        stack.callback(spawner.close)
        anvil = Anvil.start()
        stack.callback(anvil.stop)
        chain = DevChain(anvil)
        chain.deploy()
        settings = homes.chain_settings(anvil.url, chain.contracts)
        settings["chain.native_price_micro"] = 0
        port = homes.free_port()
        worker = homes.make_worker(
            folder / "worker", number=0, chain=settings, port=port, bootstrap=(),
            settings=WORKER_SETTINGS,
        )  # fmt: skip
        address = (homes.multiaddr(worker, port),)

        def party(identity: Identity) -> Party:
            name = identity.home.name
            return Party(
                identity=identity, record=folder / f"{name}.record", log=folder / f"{name}.log"
            )

        def make_client(number: int) -> Party:
            home = folder / f"client-{number}"
            return party(
                homes.make_client(home, chain=settings, bootstrap=address, settings=CLIENT_SETTINGS)
            )

        chain.fund([Funding(address=worker.address)])
        made = World(
            folder=folder,
            chain=chain,
            spawner=spawner,
            worker=party(worker),
            clients=[make_client(number + 1) for number in range(clients)],
            rng=random.Random(seed),
            make_client=make_client,
        )
        for client in made.clients:
            made.top_up(client)
        chain.mine(3)
        stack.enter_context(_blocks(anvil))
        yield made


@contextmanager
def _blocks(anvil: Anvil) -> Iterator[None]:
    """A block every `BLOCK_S`: finality is near, and a point costs little time."""
    chain, stopped = DevChain(anvil), threading.Event()

    def mine() -> None:
        while not stopped.wait(BLOCK_S):
            with suppress(Exception):
                chain.mine()

    thread = threading.Thread(target=mine, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stopped.set()
        thread.join()


def to_json(path: Path) -> Any:
    """A command's only line of output."""
    return json.loads(path.read_text())
