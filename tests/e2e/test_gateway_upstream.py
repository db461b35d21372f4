"""The gateway's last resort: a server of the owner's own, and no worker left."""

import os
import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import openai
import pytest
import trio

from tests.adapters.openai.server import NAME, Habits, Server, running
from tests.e2e.conftest import Devnet, devnet_up
from tests.e2e.gateway_process import Gateway, gateway_up

pytestmark = [pytest.mark.devnet, pytest.mark.timeout(600)]
KEY = "the-owner's-key"
ASKED: dict[str, Any] = {"messages": [{"role": "user", "content": "What is a voucher?"}]}
LONG: dict[str, Any] = {"max_tokens": 600, "extra_body": {"ignore_eos": True}}


@contextmanager
def upstream() -> Iterator[tuple[Server, str]]:
    """A real server over our small model, in a thread of its own."""
    started, found = threading.Event(), []
    stop: list[trio.Event] = []

    async def serve() -> None:
        async with running(Habits(key=KEY)) as (server, url):
            stop.append(trio.Event())
            found.append((server, url, trio.lowlevel.current_trio_token()))
            started.set()
            await stop[0].wait()

    thread = threading.Thread(target=trio.run, args=(serve,))
    thread.start()
    try:
        assert started.wait(60)
        [(server, url, token)] = found
        yield server, url
    finally:
        trio.from_thread.run_sync(stop[0].set, trio_token=token)
        thread.join(30)


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    file = tmp_path / "key"
    file.write_text(KEY)
    file.chmod(0o600)
    return file


@contextmanager
def client_of(gateway: Gateway, key: str = "any") -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=gateway.base_url, api_key=key, max_retries=0) as made:
        yield made


def kill(devnet: Devnet) -> None:
    for worker in devnet.ready["workers"]:
        os.kill(worker["pid"], signal.SIGKILL)


def test_it_takes_over_when_the_last_worker_dies(tmp_path: Path, key_file: Path) -> None:
    with upstream() as (server, url), devnet_up(tmp_path, "--workers", "1") as devnet:
        made = devnet.node("keys", "create", "k", "--limit", "1000000", "--json").json
        argv = (
            "--upstream", url, "--upstream-key-file", str(key_file), "--upstream-model", NAME,
            "--set", "gateway.upstream_continues=true",
        )  # fmt: skip
        with (
            gateway_up(devnet.ready["client_home"], tmp_path / "log", *argv) as gateway,
            client_of(gateway, made["key"]) as client,
        ):
            [model] = client.models.list().data
            usual = client.chat.completions.create(model=model.id, max_tokens=5, **ASKED)
            assert "x_upstream" not in (usual.model_extra or {})
            assert server.bodies == []
            before, after = _cut_in_mid_stream(devnet, client, model.id)
            spent_micro = _spent(devnet)
            [body] = server.bodies
            assert body["messages"][-1]["content"] == "".join(before)
            assert after
            whole = client.chat.completions.create(model=model.id, max_tokens=8, **ASKED)
            assert whole.choices[0].message.content
            told = whole.model_extra or {}
            assert (whole.model, told["provider"]) == (NAME, "upstream")
            assert told["x_upstream"]["after_tokens"] == 0
            assert told["x_receipt"] is None
            assert whole.usage is not None
            assert (whole.usage.model_extra or {})["cost_micro"] == 0
            assert _spent(devnet) == spent_micro
            log = (tmp_path / "log").read_text()
            assert log.count("the upstream takes over") == 2
            assert KEY not in log
            assert "What is a voucher" not in log


def _cut_in_mid_stream(
    devnet: Devnet, client: openai.OpenAI, model: str
) -> tuple[list[str], list[str]]:
    """What came from the worker, and from the upstream after its death."""
    stream = client.chat.completions.create(model=model, stream=True, **ASKED, **LONG)
    parts: tuple[list[str], list[str]] = [], []
    last: Any = None
    for chunk in stream:
        last = chunk
        marked = "x_upstream" in (chunk.model_extra or {})
        text = chunk.choices[0].delta.content or ""
        parts[marked].append(text)
        if len(parts[0]) == 5 and not marked:
            kill(devnet)
    assert last.choices[0].finish_reason in ("stop", "length")
    assert last.model_extra["provider"] == "upstream"
    assert last.model_extra["x_upstream"]["after_tokens"] > 0
    assert last.model_extra["x_receipt"], "the worker's part is proven"
    return parts


def _spent(devnet: Devnet) -> int:
    [row] = devnet.node("keys", "list", "--json").json
    return int(row["spent_micro"])


def test_what_it_cannot_go_on_with_ends_plainly(tmp_path: Path, key_file: Path) -> None:
    with upstream() as (server, url), devnet_up(tmp_path, "--workers", "1") as devnet:
        argv = ("--upstream", url, "--upstream-key-file", str(key_file), "--upstream-model", NAME)
        with (
            gateway_up(devnet.ready["client_home"], tmp_path / "log", *argv) as gateway,
            client_of(gateway) as client,
        ):
            [model] = client.models.list().data
            stream = client.chat.completions.create(model=model.id, stream=True, **ASKED, **LONG)
            chunks = iter(stream)
            assert next(chunks).choices[0].delta.content
            kill(devnet)
            with pytest.raises(openai.APIError, match="can't go on with an answer that has begun"):
                list(chunks)
            assert server.bodies == []
