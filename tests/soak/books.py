"""Clients' stores, workers' stores and the chain, tab by tab."""

import json
import sqlite3
import subprocess
import sys
import time
from contextlib import closing
from pathlib import Path
from typing import Final

from devnet.network import DEPOSIT_MICRO, Devnet
from node.app.home import Home
from node.protocol.signing import checksum

SETTLE_S: Final = 60.0
REDEEM_S: Final = 180.0

Books = dict[bytes, int]
"""Micro by tab; tabs on which nothing stands are left out."""


def settle(net: Devnet) -> tuple[dict[str, int], list[str]]:
    """Sums in micro after everything was redeemed, and what does not add up."""
    deadline_s = time.monotonic() + SETTLE_S
    while _promised(net) != _held(net) and time.monotonic() < deadline_s:
        time.sleep(1.0)
    for worker in net.workers:
        command = [sys.executable, "-m", "node", "--home", str(worker.identity.home), "redeem"]
        done = subprocess.run(
            [*command, "--json"], capture_output=True, text=True, timeout=REDEEM_S, check=False
        )
        if done.returncode != 0:
            return {}, [f"redeem of {worker.identity.home.name} failed: {done.stderr}"]
        left_micro = json.loads(done.stdout)["left_micro"]
        if left_micro:
            return {}, [f"{worker.identity.home.name} could not redeem {left_micro} micro"]
    return _compare(net)


def _compare(net: Devnet) -> tuple[dict[str, int], list[str]]:
    escrow = net.chain.contract("Escrow", net.contracts.escrow).functions
    promised, held = _promised(net), _held(net)
    paid = {tab: escrow.tabPaid(tab).call() for tab in promised | held}
    credits = sum(escrow.credits(checksum(w.identity.address)).call() for w in net.workers)
    left = sum(sum(escrow.accounts(checksum(c.address)).call()[:2]) for c in net.clients)
    sums = {
        "clients promised": sum(promised.values()),
        "workers hold": sum(held.values()),
        "the chain paid": sum(paid.values()),
        "workers were credited": credits,
        "deposits fell by": DEPOSIT_MICRO * len(net.clients) - left,
    }
    problems = [] if promised == held == paid else ["tabs differ between clients, workers, chain"]
    if len(set(sums.values())) != 1:
        problems.append("sums differ")
    return sums, problems


def _promised(net: Devnet) -> Books:
    return _read([client.home for client in net.clients], "SELECT id, cumulative FROM payer_tabs")


def _held(net: Devnet) -> Books:
    homes = [worker.identity.home for worker in net.workers]
    return _read(homes, "SELECT id, best FROM payee_tabs")


def _read(homes: list[Path], query: str) -> Books:
    found: Books = {}
    for home in homes:
        uri = f"file:{Home(home).store}?mode=ro"
        with closing(sqlite3.connect(uri, uri=True, timeout=10.0)) as store:
            found |= {tab: micro for tab, micro in store.execute(query) if micro}
    return found
