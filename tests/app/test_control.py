"""The control socket: what the owner answers reaches the command, errors as their own class."""

import json
import socket
from collections.abc import AsyncIterator, Mapping
from pathlib import Path
from typing import Any

import pytest
import trio

from node.app import control, control_call
from node.app.home import Home
from node.errors import NodeError, Unavailable, WalletError


async def echo(parameters: Mapping[str, Any]) -> Any:
    return dict(parameters)


async def refuse(parameters: Mapping[str, Any]) -> Any:
    raise WalletError("no funds", hint="deposit")


async def refuse_in_a_nursery(parameters: Mapping[str, Any]) -> Any:
    async with trio.open_nursery() as nursery:
        nursery.start_soon(refuse, parameters)


HANDLERS = {"echo": echo, "refuse": refuse, "nursery": refuse_in_a_nursery}


@pytest.fixture(params=["short", "l" * 120])
async def home(
    tmp_path: Path, request: pytest.FixtureRequest, nursery: trio.Nursery
) -> AsyncIterator[Home]:
    path = tmp_path / request.param
    path.mkdir(mode=0o700)
    await nursery.start(control.serve_control, Home(path), HANDLERS)
    yield Home(path)
    nursery.cancel_scope.cancel()


async def call(home: Home, method: str, **parameters: object) -> Any:
    return await trio.to_thread.run_sync(
        lambda: control.call(home, method, parameters, timeout_s=10)
    )


async def test_answer(home: Home) -> None:
    assert await call(home, "echo", amount=7) == {"amount": 7}


async def test_socket_is_private(home: Home) -> None:
    assert home.socket.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("method", ["refuse", "nursery"])
async def test_error_keeps_class_and_hint(home: Home, method: str) -> None:
    with pytest.raises(WalletError, match="no funds") as caught:
        await call(home, method)
    assert caught.value.hint == "deposit"


async def test_unknown_method(home: Home) -> None:
    with pytest.raises(NodeError, match="does not know"):
        await call(home, "fly")


@pytest.mark.parametrize(
    "line",
    [b"\n", b"[]\n", b"{}\n", b'{"method": []}\n', b"\xff\n", b"[" * 5_000 + b"\n"],
    ids=["nothing", "a list", "no method", "no name", "no text", "too deep"],
)
async def test_nonsense_is_answered(home: Home, line: bytes) -> None:
    with control_call.reachable(home.socket) as address:
        stream = await trio.open_unix_socket(address)
    async with stream:
        await stream.send_all(line)
        reply = json.loads(await stream.receive_some(1000))
    assert "does not know" in reply["error"]["message"]
    assert await call(home, "echo") == {}


async def test_long_request_is_cut(home: Home) -> None:
    with pytest.raises(Unavailable, match="hung up"):
        await call(home, "echo", text="x" * 100_000)
    assert await call(home, "echo") == {}


async def test_a_client_that_leaves_disturbs_nobody(home: Home) -> None:
    with control_call.reachable(home.socket) as address, socket.socket(socket.AF_UNIX) as quick:
        quick.connect(address)
        quick.sendall(b'{"method": "echo", "parameters": {}}\n')
    assert await call(home, "echo") == {}


async def test_nobody_listens(tmp_path: Path) -> None:
    with pytest.raises(control.NotRunning):
        control.call(Home(tmp_path), "echo", {}, timeout_s=1)
    socket.socket(socket.AF_UNIX).bind(str(tmp_path / "control.sock"))
    with pytest.raises(control.NotRunning):  # left behind by a kill
        control.call(Home(tmp_path), "echo", {}, timeout_s=1)


async def test_socket_left_behind_is_replaced(tmp_path: Path, nursery: trio.Nursery) -> None:
    socket.socket(socket.AF_UNIX).bind(str(tmp_path / "control.sock"))
    await nursery.start(control.serve_control, Home(tmp_path), HANDLERS)
    assert await call(Home(tmp_path), "echo") == {}
    nursery.cancel_scope.cancel()
