"""A conversation through the gateway: its turns stay with one worker until that one is stopped."""

import os
import random
import signal
from collections.abc import Iterator
from itertools import pairwise
from typing import Any

import openai
import pytest

from devnet.network import Devnet, Options, up
from node.protocol.signing import checksum
from tests.bench.conversation_bench import question_of
from tests.e2e.conftest import Devnet as Commands
from tests.e2e.gateway_process import Gateway, gateway_up

pytestmark = [pytest.mark.devnet, pytest.mark.timeout(600)]

TURNS = 10
EQUAL = {
    "engine.tokens_per_s_max": 0.0, "worker.price_in": 100_000, "worker.price_out": 400_000,
}  # fmt: skip


@pytest.fixture(scope="module")
def market(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Devnet]:
    """Three workers that nothing tells apart."""
    folder = tmp_path_factory.mktemp("market") / "d"
    with up(Options(workers=3, folder=folder, worker_settings=EQUAL)) as running:
        yield running


@pytest.fixture(scope="module")
def gateway(market: Devnet, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Gateway]:
    """It has had jobs of each of them: who is known speaks for nobody either."""
    with gateway_up(str(market.client_home), tmp_path_factory.mktemp("gateway") / "log") as running:
        for _ in range(3):
            for worker in market.workers:
                Talk(running, seed=0).turn(only=checksum(worker.identity.address))
        yield running


class Talk:
    """One conversation of OpenAI's own client."""

    def __init__(self, gateway: Gateway, *, seed: int, key: str = "any") -> None:
        self._client = openai.OpenAI(base_url=gateway.base_url, api_key=key, max_retries=0)
        self._model = next(iter(self._client.models.list())).id
        self._messages: list[Any] = []
        self._rng, self._seed = random.Random(seed), seed

    def turn(self, only: str = "") -> Any:
        """The next answer, by whoever is chosen or by this worker."""
        content = question_of(self._rng, self._seed, words=60)
        self._messages.append({"role": "user", "content": content})
        answer = self._client.chat.completions.create(
            model=self._model,
            messages=self._messages,
            max_tokens=40,
            seed=self._seed,
            extra_body={"provider": {"only": [only]}} if only else None,
        )
        text = answer.choices[0].message.content
        self._messages.append({"role": "assistant", "content": text})
        return answer


def test_ten_turns_stay_with_one_worker_until_it_is_stopped(
    market: Devnet, gateway: Gateway
) -> None:
    talk = Talk(gateway, seed=1)
    answers = [talk.turn() for _ in range(TURNS)]
    workers = [answer.provider for answer in answers]
    assert len(set(workers)) == 1, workers
    for before, answer in pairwise(answers):
        usage = answer.usage
        cached = usage.prompt_tokens_details.cached_tokens
        assert before.usage.prompt_tokens // 32 * 32 <= cached < usage.prompt_tokens
        computed = usage.prompt_tokens - cached
        cost = 100_000 * computed + 25_000 * cached + 400_000 * usage.completion_tokens
        assert usage.cost_micro == -(-cost // 10**6)

    [lost] = [w for w in market.workers if "0x" + w.identity.address.hex() == workers[0].lower()]
    os.kill(lost.process.pid, signal.SIGKILL)
    after = [talk.turn() for _ in range(3)]
    [carried_on] = {answer.provider for answer in after}
    assert carried_on != workers[0]
    assert after[0].usage.prompt_tokens_details.cached_tokens == 0
    assert after[-1].usage.prompt_tokens_details.cached_tokens > 0


def test_a_receipt_with_cached_tokens_verifies(gateway: Gateway, market: Devnet) -> None:
    talk = Talk(gateway, seed=2)
    talk.turn()
    answer = talk.turn()
    assert answer.usage.prompt_tokens_details.cached_tokens > 0
    commands = Commands(pid=0, ready={"client_home": str(market.client_home)})
    verified = commands.node("receipts", "verify", str(answer.x_receipt))
    assert verified.code == 0, verified.err


def test_no_key_finds_what_another_one_asked(market: Devnet, gateway: Gateway) -> None:
    """The last of this gateway's tests: from the first key on it takes nobody without."""
    commands = Commands(pid=0, ready={"client_home": str(market.client_home)})
    keys = [commands.node("keys", "create", name, "--json").json for name in ("anna", "bert")]
    cached = [
        Talk(gateway, seed=3, key=key["key"]).turn().usage.prompt_tokens_details.cached_tokens
        for key in (keys[0], keys[1], keys[0])
    ]
    assert cached[:2] == [0, 0]
    assert cached[2] > 0
