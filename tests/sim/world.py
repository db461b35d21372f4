"""One run: a market made of a seed's plan, its faults, its end, and what the witness says."""

import hashlib
import random
from collections.abc import Callable
from functools import partial

import trio
import trio.testing

from node.errors import CorruptState, NodeError
from node.protocol.fields import Address
from node.protocol.statements import CutoffReason
from node.roles.answer import Answer
from node.roles.client import Outcome
from node.roles.stores import StoreFailed
from tests.roles.fakes import UNIX_MS_START
from tests.sim.audit import Audit
from tests.sim.chain import Chain
from tests.sim.disk import DiskWriter
from tests.sim.engine import MODEL, written
from tests.sim.escrow import Escrow
from tests.sim.faults import Faults
from tests.sim.gossip import Gossip
from tests.sim.network import Net
from tests.sim.nodes import ClientNode, Life, Node, WorkerNode
from tests.sim.orders import Watch, order_of
from tests.sim.plan import DOMAIN, FAULTS_S, Job, Plan
from tests.sim.trace import Trace
from tests.sim.witness import Witness

JOBS_END_S = 60.0
"""After the last fault every job has ended by then."""
SETTLED_S = 60.0
"""And after that everything is redeemed, and known on both sides, by then."""
EXIT_DELAY_S = 60
SOON_S = 0.2
"""Between blocks once nothing but their finality is waited for."""
Echo = Callable[[str], None]


class World:
    """Everything of one run."""

    def __init__(
        self, plan: Plan, writer: type[DiskWriter], echo: Callable[[str], None] | None
    ) -> None:
        self.plan = plan
        self.seed = plan.seed
        self.rng = random.Random(f"world {plan.seed}")
        self.trace = Trace(trio.current_time, echo=echo)
        self.net = Net(self.trace, random.Random(f"net {plan.seed}"), latency_s=plan.latency_s)
        self.gossip = Gossip(self.net)
        self.chain = Chain(DOMAIN, self.trace, UNIX_MS_START // 1000)
        self.chain.head.escrow.exit_delay_s = EXIT_DELAY_S
        self.witness = Witness(DOMAIN, self.fail)
        self.audit = Audit(self.chain, self.witness)
        self.writer = writer
        self.nodes: dict[str, Node] = {}
        self.jobs_left = dict.fromkeys(plan.jobs, False)
        """Whether a process has begun it."""
        self.block_s: float = plan.block_s
        """Time between blocks; what they say of it is another thing."""
        self.leaving: set[str] = set()
        """Clients that asked to exit from the escrow."""
        self.jobs_open = 0
        self.outcomes: dict[str, int] = {}
        self.broken: tuple[str, str] | None = None
        self.scope = trio.CancelScope()
        self.quiet = False
        self.net.watch = self.witness.frame
        self.net.boundary = self._boundary
        self.chain.changed.append(self.audit.chain_changed)
        self._make_nodes()

    # ------------------------------------------------------------------- what nodes tell (World)

    def fail(self, rule: str, what: str) -> None:
        """A rule is broken: the run ends."""
        if self.broken is None:
            self.broken = (rule, what)
            self.trace.note("witness", "BROKEN", f"{rule}: {what}"[:300])
        self._stop()

    def _stop(self) -> None:
        """The end.  Processes first: one that waits for its disk does not hear of anything else."""
        for node in self.nodes.values():
            if node.life is not None:
                node.life.die("end", "the run is over")
        self.scope.cancel()

    def committed(self, name: str, kinds: list[str]) -> None:
        """A node has saved something."""
        self.trace.note(name, "saved", ", ".join(kinds))
        self.audit.saved(name)

    def _boundary(self, name: str, kind: str) -> None:
        life = self.nodes[name].life
        if life is not None:
            life.boundary(kind)

    # ------------------------------------------------------------------------------- the run

    async def run(self) -> None:
        """From the first block to the last check."""
        with self.scope:
            async with trio.open_nursery() as nursery:
                self.gossip.nursery = nursery
                nursery.start_soon(self._blocks)
                for name in self.plan.clients:
                    self._deposit(name, self.plan.deposit_micro)
                for node in self.nodes.values():
                    nursery.start_soon(self._keep, node, nursery)
                faults = Faults(self, nursery)
                nursery.start_soon(faults.run)
                await trio.sleep(FAULTS_S)
                self.quiet = True
                faults.stop()
                await self._end()
                self._stop()

    def deposit(self, name: str, amount_micro: int) -> None:
        """A client's owner puts more into the escrow."""
        self._deposit(name, amount_micro)

    def _deposit(self, name: str, amount_micro: int) -> None:
        address = self.nodes[name].address
        self.chain.do("deposit", lambda escrow: escrow.deposit(address, amount_micro))

    async def _blocks(self) -> None:
        while True:
            self.chain.mine(seconds=self.plan.block_s)
            await trio.sleep(self.block_s)

    async def _keep(self, node: Node, nursery: trio.Nursery) -> None:
        """Start a node whenever it has ended."""
        pause_s = self.rng.uniform(0.0, 1.0)
        while True:
            await trio.sleep(pause_s)
            node.disk.full = False
            await node.start(nursery)
            life = node.life
            if life is not None:
                if isinstance(node, ClientNode):
                    nursery.start_soon(self._drive, node, life)
                await life.ended.wait()
            pause_s = 0.2 if self.quiet else self.rng.choice((0.1, 0.5, 3.0))

    # ------------------------------------------------------------------------------ what is bought

    async def _drive(self, node: ClientNode, life: Life) -> None:
        """Let a client's process do its jobs, each at its time."""
        async with trio.open_nursery() as nursery:
            for job, begun in self.jobs_left.items():
                if job.client == node.name and not begun:
                    nursery.start_soon(self._buy, node, life, job)

    async def _buy(self, node: ClientNode, life: Life, job: Job) -> None:
        await trio.sleep(max(0.0, job.at_s - trio.current_time()))
        if life.dead or self.jobs_left[job]:
            return
        self.jobs_left[job] = True
        self.jobs_open += 1
        how = "crashed"
        try:
            with life.scope_of_job():
                how = await self._bought(node, job)
        except (StoreFailed, CorruptState) as error:
            how = "store failed"
            life.die("end", str(error))
        except NodeError as error:
            how = type(error).__name__
            self.trace.note(node.name, "job failed", str(error))
        finally:
            self.jobs_open -= 1
            self.outcomes[how] = self.outcomes.get(how, 0) + 1
            self.trace.note(node.name, "job over", how)

    async def _bought(self, node: ClientNode, job: Job) -> str:
        assert node.buyer is not None
        (order, answer), watch = order_of(job), Watch()
        await node.buyer.catalog.load(MODEL)
        outcome = await node.buyer.client.run(order, answer, watch)
        self._judge(node, job, outcome, answer)
        if watch.hedges:
            self.outcomes["hedged"] = self.outcomes.get("hedged", 0) + 1
        if len(outcome.segments) > 1:
            self.outcomes["continued"] = self.outcomes.get("continued", 0) + 1
        return "failed" if outcome.failure else "done"

    def _judge(self, node: ClientNode, job: Job, outcome: Outcome, answer: Answer) -> None:
        """However many workers took part, the answer is the one that a single one would give."""
        whole = written(job.length, 0, job.output_max)
        cancelled = outcome.attempt.job.complete is None and not outcome.failure
        given = tuple(answer.ids)
        right = whole[: len(given)] if outcome.failure or cancelled else whole
        if given != right:
            what = f"{node.name} has {given} where {right} was written"
            self.fail("an answer is the undisturbed one", what)
        self.witness.sealed(node.name, outcome.transcript, outcome.disclosure)

    async def cancel_jobs(self, node: ClientNode) -> None:
        """The user of a client changes their mind."""
        if node.life is not None and node.buyer is not None and node.life.ready.is_set():
            with node.life.scope_of_job():
                await node.buyer.client.cancel(CutoffReason.CANCELLED, "cancelled by the user")

    # ------------------------------------------------------------------------------------ the end

    async def _end(self) -> None:
        """After the last fault: jobs end, all is redeemed, both sides and the chain agree."""
        self.trace.note("world", "quiet")
        with trio.move_on_after(JOBS_END_S):
            await self._until(self._jobs_over)
        if not self._jobs_over():
            self.fail("every job ends", f"{self.jobs_open} have not")
        await self._exits_end()
        self.block_s = SOON_S
        await self._restart_clients()
        with trio.move_on_after(SETTLED_S) as patience:
            await self._reconnect()
            await self._redeem_all()
            await self._clients_know()
        if patience.cancelled_caught:
            self.trace.note("world", "not settled", "in time")
        self.audit.settled()

    async def _exits_end(self) -> None:
        """Who asked to leave leaves: by then the workers have redeemed what it owes."""
        for name in sorted(self.leaving):
            address = self.nodes[name].address
            await self._until(partial(self._leaving, address))
            ready_s = self.chain.head.escrow.of(address).exit_ready_s
            await trio.sleep(max(0, ready_s - self.chain.head.escrow.time_s))
            self.chain.do("exit", partial(self._exit, address))
            await trio.sleep(2 * self.plan.block_s)

    def _leaving(self, address: Address) -> bool:
        return bool(self.chain.head.escrow.of(address).exit_ready_s)

    def _exit(self, address: Address, escrow: Escrow) -> None:
        escrow.exit(address, address)
        self.audit.exited(address, escrow)

    async def _restart_clients(self) -> None:
        """Each command of a client's home is a process of its own."""
        for node in self.nodes.values():
            if isinstance(node, ClientNode):
                await node.close()
        with trio.move_on_after(5.0):
            await self._until(self._all_ready)

    async def _reconnect(self) -> None:
        """Until every client has met its workers, and has sent them what they miss."""
        await self._until(self._all_connected)
        await trio.sleep(1.5)

    def _jobs_over(self) -> bool:
        return not self.jobs_open and all(self.jobs_left.values())

    def _all_ready(self) -> bool:
        return all(n.life is not None and n.life.ready.is_set() for n in self.nodes.values())

    def _all_connected(self) -> bool:
        clients = [n for n in self.nodes.values() if isinstance(n, ClientNode)]
        workers = {n.address for n in self.nodes.values() if isinstance(n, WorkerNode)}
        return all(
            client.life is not None and workers <= client.life.transport.sessions().keys()
            for client in clients
        )

    async def _redeem_all(self) -> None:
        workers = [n for n in self.nodes.values() if isinstance(n, WorkerNode)]
        for _ in range(10):
            for worker in workers:
                await self.redeem(worker)
            if not any(w.cashier and w.cashier.payee.vouchers_to_redeem() for w in workers):
                return
            await trio.sleep(1.0)

    async def redeem(self, worker: WorkerNode) -> None:
        """The operator's command, at a running worker."""
        life, cashier = worker.life, worker.cashier
        if life is None or cashier is None or not life.ready.is_set():
            return
        try:
            with life.scope_of_job():
                to = hashlib.sha256(worker.address).digest()[:20]
                report = await cashier.redeemer.redeem_now(
                    claim_to=to if self.rng.random() < 0.5 else None
                )
                self.trace.note(worker.name, "redeemed", str(report.amount_micro))
        except StoreFailed as error:
            life.die("end", str(error))
        except NodeError as error:
            self.trace.note(worker.name, "not redeemed", str(error))

    async def _clients_know(self) -> None:
        """What was redeemed is final, and read by the clients."""
        await trio.sleep(self.block_s * (self.plan.chain_config.finality_blocks + 2) + 1.0)
        for node in self.nodes.values():
            if isinstance(node, ClientNode) and node.life is not None and node.buyer is not None:
                with node.life.scope_of_job():
                    await node.buyer.payer.refresh()

    async def _until(self, true: Callable[[], bool]) -> None:
        while not true():  # noqa: ASYNC110  # of many things at once, and time costs nothing here
            await trio.sleep(0.25)

    # ------------------------------------------------------------------------------- the making

    def _make_nodes(self) -> None:
        plan = self.plan
        keys = {
            name: hashlib.sha256(f"{plan.seed} {name}".encode()).digest()
            for name in (*plan.workers, *plan.clients)
        }
        addrs: list[str] = []
        for name in plan.workers:
            node = WorkerNode(
                name=name,
                key=keys[name],
                config=plan.config(name, tuple(addrs[:1])),
                world=self,
                pace=plan.pace,
                make_writer=self.writer,
            )
            addrs.append(self.net.addr_of(name, node.address))
            self.nodes[name] = node
            self.audit.workers[name] = (node.address, plan.worker_config.credit_micro)
        for name in plan.clients:
            self.nodes[name] = ClientNode(
                name=name,
                key=keys[name],
                config=plan.config(name, tuple(addrs)),
                world=self,
                make_writer=self.writer,
            )
            self.audit.clients[name] = self.nodes[name].address
        self.witness.disks = {n.name: n.disk.connection for n in self.nodes.values()}
