"""Real clients that are cut off in mid-job, one after the other, each with a deposit of its own.

Each is a process (a fork of this one, which has imported everything) and is gone after its cut: it
never comes back to pay.
"""

import os
import shutil
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import structlog
import trio

from node.adapters.store import open_stores
from node.app.domain import domain_of
from node.app.home import Home
from node.app.unlock import session_key
from node.config import Config, load
from node.protocol import signing
from tests.attack.accounts import PAYMENT_S
from tests.attack.attackers.peer import Target, say
from tests.attack.buying import Bought, buy
from tests.attack.clients import CutTransport, open_client
from tests.attack.cutting import MODES

NEVER = 10**6
TOKENS = 14
SILENT_S = 2 * PAYMENT_S + 1
"""How long a silent client stays connected: longer than its worker has patience."""
AFTER_RESET_S = 0.2
UNCUT_S = 0.2
CLIENT_S = 60.0


def main(target: Target) -> None:
    """Cut at every place; one JSON line for each cut."""
    orders = target.orders
    keys = [bytes.fromhex(key) for key in orders["keys"]]
    scratch = Path(orders["scratch"])
    template = load(Path(orders["home"]))
    _fork(template, target, session_key(template), template.home, "reset", NEVER, None)
    frames = int((template.home / "cut.txt").read_text().split()[-1])
    cases = [(mode, at) for at in range(0, 2 * frames, orders["step"]) for mode in MODES]
    for start in range(0, len(cases), orders["parallel"]):
        pids: list[int] = []
        for mode, at in cases[start : start + orders["parallel"]]:
            key = keys.pop()
            home = scratch / f"{mode}-{at}"
            shutil.copytree(Home(template.home).files, Home(home).files)
            _fork(template, target, key, home, mode, at, pids)
            say(client=signing.address_of_key(key).hex(), home=str(home), mode=mode, at=at)
        for pid in pids:
            os.waitpid(pid, 0)
    say(done=True, frames=frames, cuts=len(cases))


def _fork(
    template: Config, target: Target, key: bytes, home: Path, mode: str, at: int,
    pids: list[int] | None,
) -> None:  # fmt: skip
    """Run one client to its end: now, or beside others whose numbers are collected."""
    pid = os.fork()
    if pid == 0:
        _client(replace(template, home=home), target, key, mode, at)
    if pids is None:
        _, status = os.waitpid(pid, 0)
        assert status == 0, f"the uncut job ended with {status}"
    else:
        pids.append(pid)


def _client(config: Config, target: Target, key: bytes, mode: str, at: int) -> NoReturn:
    code = 1
    try:
        trio.run(_buy, config, target, key, mode, at)
        code = 0
    except BaseException as error:
        sys.stderr.write(f"{mode} {at}: {error!r}\n")
    finally:
        sys.stderr.flush()
        os._exit(code)


async def _buy(config: Config, target: Target, key: bytes, mode: str, at: int) -> None:
    made: list[CutTransport] = []
    cut = trio.Event()

    def note(frame: str) -> None:
        _write(config.home, f"{time.time()} {frame}")
        cut.set()

    def around(transport: Any) -> Any:
        made.append(CutTransport(transport, mode=mode, at=at, note=note))
        return made[0]

    async def job() -> None:
        bought: Bought = await buy(buyer, config, worker="0x" + target.worker.hex(), tokens=TOKENS)
        if at != NEVER:
            await trio.sleep(UNCUT_S)  # the last frame is cut off a moment after it came
            if not cut.is_set():
                os._exit(0)  # a job of fewer frames than the first: nothing to cut
        else:
            await buyer.payer.flush()
            cutter = made[0].cutter
            assert cutter is not None
            assert not bought.error, bought.error
            _write(config.home, f"{time.time()} none {cutter.frames}")

    with trio.move_on_after(CLIENT_S):
        async with (
            open_stores(Home(config.home).store, domain=domain_of(config)) as stores,
            open_client(config, key, stores, transport_as=around) as buyer,
            trio.open_nursery() as nursery,
        ):
            nursery.start_soon(job)
            if at == NEVER:
                return
            await cut.wait()
            await trio.sleep(SILENT_S if mode == "silent" else AFTER_RESET_S)
            os._exit(0)  # without a goodbye, and without the vouchers that are still due


def _write(home: Path, line: str) -> None:
    descriptor = os.open(home / "cut.txt", os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
    os.write(descriptor, (line + "\n").encode())
    os.close(descriptor)


if __name__ == "__main__":
    import json

    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(50))
    main(Target(orders=json.loads(sys.stdin.readline())))
