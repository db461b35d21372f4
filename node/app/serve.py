"""`node serve`: a worker from its start to the end of its drain."""

import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Mapping
from dataclasses import asdict
from typing import Any

import trio

from node.adapters import gpu
from node.adapters.store import open_stores
from node.app import local_servers, logs, wallet_control
from node.app.control import serve_control
from node.app.domain import domain_of
from node.app.home import Home
from node.app.redeem import parse_claim, redeem_json
from node.app.unlock import session_key
from node.app.vendor import Around, Vendor, open_vendor, unchanged
from node.config import Config
from node.errors import ExitCode
from node.protocol.signing import checksum

LAST_VOUCHERS_S = 3.0
"""How long receipts of segments that the drain ended may take to be paid."""


def run(config: Config, *, around: Around = unchanged) -> int:
    """Serve until told to stop; returns the exit code.

    Raises:
        ConfigError: The home, a setting, the model or the port can't be used.
    """
    logs.configure("info")
    if config.engine.kind == "auto":
        sys.stderr.write("\n".join([*local_servers.advice(config.engine.model_dir), ""]))
    return trio.run(_serve, config, around)


async def _serve(config: Config, around: Around) -> int:
    home = Home(config.home)
    with home.own("serve"):
        key = session_key(config)
        with trio.open_signal_receiver(signal.SIGTERM, signal.SIGINT) as signals:
            async with (
                open_stores(home.store, domain=domain_of(config)) as stores,
                open_vendor(config, key, stores, around=around) as vendor,
                trio.open_nursery() as nursery,
            ):
                await nursery.start(serve_control, home, _methods(vendor))
                _say_ready(vendor)
                await anext(signals)
                await _drain(config, vendor, signals)
                nursery.cancel_scope.cancel()
    return ExitCode.OK


async def _drain(config: Config, vendor: Vendor, signals: AsyncIterator[int]) -> None:
    """Take nothing new; let running segments end, or end them in time; a second signal is final."""
    vendor.seller.drain()
    if not vendor.worker.active:
        return
    sys.stderr.write(
        f"draining: {vendor.worker.active} running, at most {config.worker.drain_s:g} s; "
        "a second signal stops at once\n"
    )

    async def stop_on_signal() -> None:
        await anext(signals)
        nursery.cancel_scope.cancel()

    with trio.move_on_after(config.worker.drain_s) as patience:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(stop_on_signal)
            await vendor.worker.wait_idle()
            nursery.cancel_scope.cancel()
    if patience.cancelled_caught:
        vendor.worker.end_all()
        with trio.move_on_after(LAST_VOUCHERS_S):
            await vendor.worker.wait_idle()


def _say_ready(vendor: Vendor) -> None:
    lines = [f"worker   {checksum(vendor.address)}"]
    lines += [f"listens  {addr}" for addr in vendor.transport.addrs]
    for model in vendor.engine.models():
        lines.append(
            f"sells    {model.manifest.name} (0x{model.manifest.model_id.hex()}), "
            f"tier {model.tier.name.lower()}, {model.slots} at once, "
            f"{model.rates.decode_tps:.0f} tok/s"
        )
    if not vendor.engine.models():
        lines.append("sells    nothing yet: the server is waited for, see node doctor")
    lines += [f"gpu      {each}" for each in gpu.read().gpus]
    sys.stderr.write("\n".join([*lines, "ready", ""]))
    sys.stderr.flush()


def _methods(vendor: Vendor) -> Mapping[str, Any]:
    """What other commands of this home may ask the running node."""
    began_s = time.monotonic()

    async def status(_parameters: Mapping[str, Any]) -> dict[str, Any]:
        return _status(vendor, began_s)

    async def redeem(parameters: Mapping[str, Any]) -> dict[str, Any]:
        to = parse_claim(str(parameters.get("claim_to", "")))
        return redeem_json(await vendor.till.redeemer.redeem_now(claim_to=to))

    return {"status": status, "redeem": redeem, **wallet_control.methods(vendor.till.wallet)}


def _status(vendor: Vendor, began_s: float) -> dict[str, Any]:
    load, sales = vendor.engine.load(), vendor.seller.sales()
    return {
        "process": {
            "pid": os.getpid(),
            "up_s": round(time.monotonic() - began_s),
            "tasks": trio.lowlevel.current_statistics().tasks_living,
        },
        "draining": vendor.seller.draining,
        "addrs": list(vendor.transport.addrs),
        "peers": len(vendor.transport.sessions()),
        "models": [
            {
                "name": model.manifest.name,
                "id": "0x" + model.manifest.model_id.hex(),
                "context": model.context,
                "tier": model.tier.name.lower(),
                "slots": model.slots,
                "rates": asdict(model.rates),
            }
            for model in vendor.engine.models()
        ],
        "gpu": asdict(gpu.read()),
        "jobs": {
            "active": vendor.worker.active,
            "awards": vendor.worker.awards,
            "computing": load.active,
            "slots": load.slots,
            "queued": load.queued,
        },
        "sales": asdict(sales),
        "redeemer": asdict(vendor.till.redeemer.status()),
        "chain": {
            "block": vendor.till.chain.block,
            "age_s": vendor.till.chain.age_s,
            "rpc": [asdict(each) for each in vendor.till.rpc.health()],
        },
    }
