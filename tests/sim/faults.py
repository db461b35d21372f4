"""Does to a world what its plan says."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import trio

from tests.sim.chain import GWEI
from tests.sim.nodes import ClientNode, Node, WorkerNode
from tests.sim.plan import FAULTS_S, Fault

if TYPE_CHECKING:
    from tests.sim.world import World


class Faults:
    """The schedule of one run."""

    def __init__(self, world: "World", nursery: trio.Nursery) -> None:
        self._world = world
        self._nursery = nursery

    async def run(self) -> None:
        """Everything at its time."""
        for fault in self._world.plan.faults:
            await trio.sleep(max(0.0, fault.at_s - trio.current_time()))
            self._world.trace.note(fault.node, "fault", f"{fault.kind} {fault.for_s:.2f} s")
            self._nursery.start_soon(self._happen, fault)

    def stop(self) -> None:
        """All is well from now on."""
        world = self._world
        world.net.heal()
        world.gossip.loss = 0.0
        world.chain.base_fee_wei = GWEI
        for node in world.nodes.values():
            node.fuse = None
            node.disk.slow_s = 0.0
            node.disk.full = False
            if isinstance(node, WorkerNode) and node.engine is not None:
                node.engine.stalled_until_s = 0.0
            faults = node.rpc_faults
            faults.away, faults.error_share, faults.lag_blocks = False, 0.0, 0

    async def _happen(self, fault: Fault) -> None:
        node = self._world.nodes[fault.node]
        await KINDS[fault.kind](self, node, fault)

    async def _for(self, fault: Fault) -> bool:
        """Wait for the fault's end; False if all faults ended before."""
        await trio.sleep(fault.for_s)
        return trio.current_time() < FAULTS_S

    async def _strike(self, node: Node, fault: Fault) -> None:
        """A worker ends in mid-answer, in one of several ways."""
        assert isinstance(node, WorkerNode)
        until_s = min(trio.current_time() + 2 * fault.for_s, FAULTS_S)
        while node.engine is None or not node.engine.load().active:
            if trio.current_time() >= until_s:
                return
            await trio.sleep(0.02)
        await trio.sleep(0.2 * fault.share)
        if trio.current_time() >= FAULTS_S:
            return  # nobody would undo it
        how = ("crash", "cut", "freeze", "stall")[int(fault.share * 1000) % 4]
        self._world.trace.note(node.name, "struck", how)
        await KINDS[how](self, node, fault)

    async def _stall(self, node: Node, fault: Fault) -> None:
        """What computes makes no more tokens for a while; the node is well."""
        assert isinstance(node, WorkerNode)
        if node.engine is not None:
            node.engine.stalled_until_s = trio.current_time() + fault.for_s
            await trio.lowlevel.checkpoint()

    async def _crash(self, node: Node, fault: Fault) -> None:
        await node.crash(("silent", "reset", "end")[int(fault.share * 3)])

    async def _fuse(self, node: Node, fault: Fault) -> None:
        node.fuse = 1 + int(fault.share * 60)

    async def _cut(self, node: Node, _fault: Fault) -> None:
        for connection in self._world.net.connections(node.name):
            self._world.net.cut(connection)

    async def _split(self, node: Node, fault: Fault) -> None:
        self._world.net.split(node.name, fault.other)
        if await self._for(fault):
            self._world.net.heal()

    async def _freeze(self, node: Node, fault: Fault) -> None:
        self._world.net.freeze(node.name)
        node.rpc_faults.away = True
        if await self._for(fault):
            self._world.net.heal()
            node.rpc_faults.away = False

    async def _slow_disk(self, node: Node, fault: Fault) -> None:
        node.disk.slow_s = fault.share
        await self._for(fault)
        node.disk.slow_s = 0.0

    async def _full_disk(self, node: Node, _fault: Fault) -> None:
        node.disk.full = True

    async def _rpc_away(self, node: Node, fault: Fault) -> None:
        node.rpc_faults.away = True
        await self._for(fault)
        node.rpc_faults.away = False

    async def _rpc_errors(self, node: Node, fault: Fault) -> None:
        node.rpc_faults.error_share = fault.share
        await self._for(fault)
        node.rpc_faults.error_share = 0.0

    async def _rpc_lags(self, node: Node, fault: Fault) -> None:
        node.rpc_faults.lag_blocks = 1 + int(fault.share * 4)
        await self._for(fault)
        node.rpc_faults.lag_blocks = 0

    async def _reorg(self, _node: Node, fault: Fault) -> None:
        world = self._world
        depth = 1 + int(fault.share * world.plan.chain_config.finality_blocks)
        depth = min(depth, world.plan.chain_config.finality_blocks)
        world.chain.reorg(depth, vanish=lambda _tx: world.rng.random() < 0.5)

    async def _fees(self, _node: Node, fault: Fault) -> None:
        self._world.chain.base_fee_wei = int(GWEI * (2 + 20 * fault.share))
        await self._for(fault)
        self._world.chain.base_fee_wei = GWEI

    async def _redeem(self, node: Node, _fault: Fault) -> None:
        assert isinstance(node, WorkerNode)
        await self._world.redeem(node)

    async def _deposit(self, node: Node, fault: Fault) -> None:
        self._world.deposit(node.name, 1 + int(fault.share * 5_000))

    async def _exit(self, node: Node, _fault: Fault) -> None:
        address, world = node.address, self._world
        world.leaving.add(node.name)
        world.chain.do("request exit", lambda escrow: escrow.request_exit(address))

    async def _cancel(self, node: Node, _fault: Fault) -> None:
        assert isinstance(node, ClientNode)
        await self._world.cancel_jobs(node)


KINDS: dict[str, Callable[[Faults, Node, Fault], Awaitable[None]]] = {
    "strike": Faults._strike,
    "stall": Faults._stall,
    "crash": Faults._crash,
    "fuse": Faults._fuse,
    "cut": Faults._cut,
    "split": Faults._split,
    "freeze": Faults._freeze,
    "slow disk": Faults._slow_disk,
    "full disk": Faults._full_disk,
    "rpc away": Faults._rpc_away,
    "rpc errors": Faults._rpc_errors,
    "rpc lags": Faults._rpc_lags,
    "reorg": Faults._reorg,
    "fees": Faults._fees,
    "redeem": Faults._redeem,
    "deposit": Faults._deposit,
    "exit": Faults._exit,
    "cancel": Faults._cancel,
}
