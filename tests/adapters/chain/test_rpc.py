import json
import socket
import threading
import time
from typing import Any

import pytest
import trio

from devnet.chain import DevChain
from node.adapters.chain.rpc import BATCH_MAX, Call, Rpc, RpcFault
from node.errors import ConfigError, Unavailable
from tests.adapters.chain.proxy import every, faulty, forward
from tests.adapters.chain.world import World


def quiet(urls: str, chain: DevChain, **kwargs: Any) -> Rpc:
    return Rpc(urls, chain_id=chain.chain_id, sleep=lambda _: None, **kwargs)


def closed_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


async def test_a_batch_answers_in_order_and_in_one_request(chain: DevChain) -> None:
    requests = []

    def watch(_number: int, calls: list[dict[str, Any]]) -> None:
        requests.append([call["method"] for call in calls])

    with faulty(chain.anvil.port, watch) as url:
        rpc = quiet(url, chain)
        calls = [Call("eth_getBlockByNumber", (hex(n), False)) for n in (2, 0, 1)]
        results = await rpc.batch(calls)
        assert [int(block["number"], 16) for block in results] == [2, 0, 1]
        # The first request to a URL also asks of which chain it is.
        assert requests == [["eth_chainId", *["eth_getBlockByNumber"] * 3]]
        await rpc.batch(calls)
        assert len(requests[1]) == 3
        rpc.close()


async def test_more_than_a_batch_is_divided(world: World) -> None:
    calls = [Call("eth_chainId")] * (2 * BATCH_MAX + 1)
    assert await world.rpc.batch(calls) == [hex(world.chain.chain_id)] * len(calls)
    assert world.rpc.health()[0].calls == 3


async def test_thirty_percent_errors_are_survived(chain: DevChain) -> None:
    with faulty(chain.anvil.port, every(10, 3)) as url:
        rpc = quiet(url, chain)
        for _ in range(60):
            assert await rpc.batch((Call("eth_chainId"),)) == [hex(chain.chain_id)]
        (health,) = rpc.health()
        assert health.failures >= 15
        rpc.close()


async def test_a_dead_url_is_passed_over(chain: DevChain) -> None:
    rpc = quiet(f"http://127.0.0.1:{closed_port()}, {chain.anvil.url}", chain)
    for _ in range(5):
        assert await rpc.batch((Call("eth_chainId"),)) == [hex(chain.chain_id)]
    dead, alive = rpc.health()
    assert dead.failures == 1, "one that just failed is asked last"
    assert "ConnectionRefusedError" in dead.error
    assert (alive.calls, alive.failures, alive.error) == (5, 0, "")
    assert alive.latency_ms > 0
    assert alive.answered_ago_s is not None
    rpc.close()


async def test_when_all_are_dead_it_says_so(chain: DevChain) -> None:
    port = closed_port()
    rpc = quiet(f"http://127.0.0.1:{port}", chain)
    with pytest.raises(Unavailable, match=f"127.0.0.1:{port}: ConnectionRefusedError"):
        await rpc.batch((Call("eth_chainId"),))


async def test_a_silent_url_costs_no_more_than_the_timeout(chain: DevChain) -> None:
    with socket.socket() as server:
        server.bind(("127.0.0.1", 0))
        server.listen()
        rpc = Rpc(
            f"http://127.0.0.1:{server.getsockname()[1]}",
            chain_id=chain.chain_id,
            call_timeout_s=0.2,
            total_timeout_s=0.3,
        )
        started_s = time.monotonic()
        with pytest.raises(Unavailable):
            await rpc.batch((Call("eth_chainId"),))
        assert time.monotonic() - started_s < 1.5


async def test_a_url_of_another_chain_is_never_believed(chain: DevChain) -> None:
    def lie(_number: int, calls: list[dict[str, Any]]) -> bytes | None:
        answers = json.loads(forward(chain.anvil.port, json.dumps(calls).encode()))
        for call, answer in zip(calls, answers, strict=True):
            answer["result"] = "0x1" if call["method"] == "eth_chainId" else "0x99"
        return json.dumps(answers).encode()

    with faulty(chain.anvil.port, lie) as url:
        both = quiet(f"{url},{chain.anvil.url}", chain)
        (head,) = await both.batch((Call("eth_blockNumber"),))
        assert head != "0x99"
        assert "chain 1, not 31337" in both.health()[0].error
        alone = quiet(url, chain)
        with pytest.raises(ConfigError, match="is of chain 1"):
            await alone.batch((Call("eth_blockNumber"),))
        both.close()
        alone.close()


async def test_a_revert_is_an_answer_and_other_errors_are_not(world: World) -> None:
    exit_now = {"to": world.chain.contracts.escrow, "data": "0x3bcfc4b8"}
    (fault,) = await world.rpc.batch((Call("eth_call", (exit_now, "latest")),))
    assert isinstance(fault, RpcFault)
    assert fault.reverted
    with pytest.raises(Unavailable, match="Method not found"):
        await world.rpc.batch((Call("no_such_method"),))


async def test_keys_in_urls_are_not_shown(chain: DevChain) -> None:
    port = closed_port()
    rpc = quiet(f"http://user:secret@127.0.0.1:{port}/v2/SECRET?key=SECRET", chain)
    with pytest.raises(Unavailable) as caught:
        await rpc.batch((Call("eth_chainId"),))
    assert "secret" not in (str(caught.value) + str(rpc.health())).lower()
    with pytest.raises(ConfigError) as refused:
        quiet("ftp://host/SECRET", chain)
    assert "secret" not in str(refused.value).lower()


async def test_many_tasks_at_once(world: World) -> None:
    done = []

    async def ask() -> None:
        done.extend(await world.rpc.batch((Call("eth_chainId"),)))

    async with trio.open_nursery() as nursery:
        for _ in range(40):
            nursery.start_soon(ask)
    assert done == [hex(world.chain.chain_id)] * 40
    assert threading.active_count() < 40
