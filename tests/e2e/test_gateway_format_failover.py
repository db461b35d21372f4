"""A worker that dies within an answer that has to fit: another one goes on, and it still fits."""

import os
import signal
from pathlib import Path
from typing import Any

import openai
import pytest
from pydantic import BaseModel, Field

from devnet.network import Options, up
from tests.e2e.gateway_process import gateway_up

pytestmark = [pytest.mark.devnet, pytest.mark.timeout(600)]
MESSAGES: list[Any] = [{"role": "user", "content": "Tell me about a fox."}]


class Animal(BaseModel):
    """Long enough to be interrupted."""

    name: str = Field(min_length=30, max_length=60)
    legs: int = Field(ge=0, le=8)
    friends: list[bool] = Field(min_length=20, max_length=20)


def test_the_answer_is_the_undisturbed_one(tmp_path: Path) -> None:
    asked: Any = {"messages": MESSAGES, "response_format": Animal, "seed": 5, "max_tokens": 300}
    settings = {"engine.tokens_per_s_max": 40.0}
    with (
        up(Options(workers=3, worker_settings=settings)) as net,
        gateway_up(str(net.client_home), tmp_path / "log") as gateway,
        openai.OpenAI(base_url=gateway.base_url, api_key="any", max_retries=0) as client,
    ):
        asked["model"] = next(iter(client.models.list())).id
        whole = client.chat.completions.parse(**asked)
        killed = ""
        with client.chat.completions.stream(**asked) as stream:
            for event in stream:
                if event.type != "content.delta" or killed or len(event.snapshot) < 25:
                    continue
                killed = str(stream.current_completion_snapshot.provider)  # type: ignore[attr-defined]
                address = bytes.fromhex(killed[2:])
                [worker] = [w for w in net.workers if w.identity.address == address]
                os.kill(worker.process.pid, signal.SIGKILL)
            final = stream.get_final_completion()
        assert killed
        assert final.choices[0].finish_reason == "stop"
        assert final.choices[0].message.content == whole.choices[0].message.content
        assert isinstance(final.choices[0].message.parsed, Animal)
