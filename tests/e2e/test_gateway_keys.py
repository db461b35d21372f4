"""The gateway with API keys and with an empty deposit."""

from pathlib import Path
from typing import Any

import openai
import pytest

from node.errors import ExitCode
from tests.e2e.conftest import Devnet, devnet_up
from tests.e2e.gateway_process import gateway_up

pytestmark = [pytest.mark.devnet, pytest.mark.timeout(600)]
ASKED: dict[str, Any] = {"messages": [{"role": "user", "content": "What is a voucher?"}]}


def test_keys_open_and_limit(tmp_path: Path) -> None:
    with devnet_up(tmp_path, "--workers", "1", "--clients", "1") as devnet:
        home = devnet.ready["client_home"]
        refused = devnet.node("gateway", "--host", "0.0.0.0", "--port", "0")
        assert refused.code == ExitCode.CONFIG
        assert "no API key" in refused.err
        made = devnet.node("keys", "create", "first", "--json").json
        with gateway_up(home, tmp_path / "log", "--host", "0.0.0.0") as gateway:

            def client(key: str) -> openai.OpenAI:
                return openai.OpenAI(base_url=gateway.base_url, api_key=key, max_retries=0)

            with pytest.raises(openai.AuthenticationError):
                client("wrong").models.list()
            [model] = client(made["key"]).models.list().data
            # Beside the running gateway, by its socket.
            small = devnet.node("keys", "create", "small", "--limit", "30", "--json").json
            for _ in range(10):
                try:
                    client(small["key"]).chat.completions.create(
                        model=model.id, max_tokens=10, **ASKED
                    )
                except openai.APIStatusError as error:
                    refusal = error
                    break
            assert (refusal.status_code, refusal.code) == (402, "key_limit_reached")
            listed = {row["id"]: row for row in devnet.node("keys", "list", "--json").json}
            assert 0 < listed[small["id"]]["spent_micro"] <= 30
            assert client(made["key"]).chat.completions.create(
                model=model.id, max_tokens=5, **ASKED
            )
            assert devnet.node("keys", "revoke", made["id"]).code == 0
            with pytest.raises(openai.AuthenticationError):
                client(made["key"]).models.list()
            assert made["key"] not in gateway.log.read_text()
        _an_empty_deposit_is_402(devnet, tmp_path)


def _an_empty_deposit_is_402(devnet: Devnet, tmp_path: Path) -> None:
    contracts = devnet.ready["contracts"]
    poor = str(tmp_path / "poor")
    made = devnet.node(
        "--home", poor, "init", "--light", "--generate-password",
        "--rpc", devnet.ready["rpc_url"], "--chain-id", str(devnet.ready["chain_id"]),
        "--escrow", contracts["escrow"], "--token", contracts["token"],
        "--bootstrap", devnet.ready["bootstrap"][0],
    )  # fmt: skip
    assert made.code == ExitCode.OK, made.err
    with gateway_up(poor, tmp_path / "poor.log") as gateway:
        client = openai.OpenAI(base_url=gateway.base_url, api_key="any")
        [model] = client.models.list().data
        for stream in (False, True):
            with pytest.raises(openai.APIStatusError) as caught:
                client.chat.completions.create(model=model.id, stream=stream, **ASKED)
            assert (caught.value.status_code, caught.value.code) == (402, "insufficient_quota")
