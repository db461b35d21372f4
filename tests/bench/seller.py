"""A worker of the bench: the roles, network, store, chain and money of `node serve`.

Only the engine may be another, and its control socket answers what the bench asks.
"""

import secrets
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

import structlog
import trio

from node import config as configs
from node.adapters import model_folder
from node.adapters.clock import SystemClock
from node.adapters.files import FolderFiles
from node.adapters.onnx.engine import OnnxEngine, OnnxModel
from node.adapters.p2p.discovery import open_discovery
from node.adapters.p2p.transport import open_transport
from node.adapters.store import open_stores
from node.adapters.text.chat import ChatText
from node.app import logs
from node.app.control import Handler, serve_control
from node.app.domain import domain_of
from node.app.hello import hello_of
from node.app.home import Home
from node.app.redeem import open_till
from node.app.selling import ShopPorts, payee_account, selling
from node.app.unlock import session_key
from node.protocol import signing
from node.protocol.sampling import Sampling
from node.roles.generation import Engine, GenerationRequest
from tests.bench.paced_engine import PacedEngine

PROMPT: Final = tuple(range(5, 21))
"""Of every job in the bench."""


async def serve(home: Path, tokens_per_s: float | None, send: Callable[[Any], None]) -> None:
    """Sell until killed.

    Args:
        home: Made by `devnet.homes.make_worker`.
        tokens_per_s: Rate of the paced engine; None for the real one, with the shipped model.
        send: Is told the worker's addresses once it sells.
    """
    quiet()
    config = configs.load(home)
    key, domain = session_key(config), domain_of(config)
    engine: Engine = (
        _onnx(config) if tokens_per_s is None else PacedEngine(tokens_per_s=tokens_per_s)
    )
    account = payee_account(config, key)
    hello = hello_of(domain, payer=signing.address_of_key(key), payee=account, sells=True)
    async with (
        trio.open_nursery() as nursery,
        open_stores(Home(home).store, domain=domain) as stores,
        open_till(config, key, stores) as till,
        open_transport(config.network, key, hello) as transport,
        open_discovery(transport, config.network, accept=lambda _: True, eager=True) as discovery,
    ):
        await nursery.start(engine.run)
        ports = ShopPorts(
            transport=transport,
            discovery=discovery,
            engine=engine,
            stores=stores,
            files=FolderFiles(Home(home).files),
            clock=SystemClock(),
            rng=secrets.SystemRandom(),
        )
        async with selling(config, key, ports, till.cashier):
            await nursery.start(serve_control, Home(home), _methods(engine))
            send({"addrs": list(transport.addrs), "address": transport.address})
            await trio.sleep_forever()


def quiet() -> None:
    """Log what is worth a look only: a line per session is no part of what is measured."""
    logs.configure("warning")
    structlog.configure(cache_logger_on_first_use=True)
    sys.stdin.close()


def _onnx(config: configs.Config) -> OnnxEngine:
    folder = model_folder.load(model_folder.shipped())
    model = OnnxModel(
        manifest=folder.manifest,
        graph=folder.graph,
        decode=ChatText.of(folder.client_files()).decode,
    )
    return OnnxEngine([model], slots=config.engine.slots, threads=config.engine.threads)


def _methods(engine: Engine) -> Mapping[str, Handler]:
    async def first_token(_parameters: Mapping[str, Any]) -> float:
        """Seconds from the request to the first token, in this process, without the market."""
        request = GenerationRequest(
            model=engine.models()[0].manifest.model_id,
            prompt_ids=PROMPT,
            max_tokens=2,
            sampling=Sampling(seed=time.monotonic_ns() % 2**64),
            ignore_eos=True,
        )
        started_s = time.perf_counter()
        async with engine.generate(request) as steps:
            async for _ in steps:
                return time.perf_counter() - started_s
        raise AssertionError("no token")

    async def rate(parameters: Mapping[str, Any]) -> None:
        assert isinstance(engine, PacedEngine)
        engine.tokens_per_s = parameters["tokens_per_s"]

    return {"first_token": first_token, "rate": rate}
