"""Model servers that an operator has running already: found on the usual ports, and named."""

import pytest

from devnet.homes import free_port
from node.app import local_servers
from tests.adapters.openai.process import backend_up

KIND = "some server"


@pytest.fixture(autouse=True)
def port(monkeypatch: pytest.MonkeyPatch) -> int:
    """The only usual port: this machine may have anything on the real ones."""
    port = free_port()
    monkeypatch.setattr(local_servers, "PORTS", {port: KIND})
    return port


def test_no_server(port: int) -> None:
    [line] = local_servers.advice("")
    assert line.startswith("engine   onnx, in process, the small model inside the package")
    assert f"no server is on port {port}" in line
    assert "/models/mine" in local_servers.advice("/models/mine")[0]


def test_a_server(port: int) -> None:
    with backend_up(port=port):
        found, how, sold = local_servers.advice("")
    assert found == f"found    a model server at http://127.0.0.1:{port} ({KIND}?): tiny-served"
    assert f"--engine openai --url http://127.0.0.1:{port} --model tiny-served=PATH;" in how
    assert "the server is not sold by itself" in sold


def test_a_server_that_wants_a_key(port: int) -> None:
    with backend_up("--key", "sesame", port=port):
        found, how, _ = local_servers.advice("")
    assert "it wants an API key" in found
    assert "--key-file FILE" in how
