"""A conversation through a gateway and three equal workers, with and without prefix caches.

Two markets are up at once, the same but for `engine.prefix_mb`; every turn is asked in both, one
after the other, with the same seed, and must be answered the same.  At the end the worker that has
the conversation is killed, and the conversation goes on.
"""

import json as js
import os
import random
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from statistics import linear_regression
from typing import Any, Final

import httpx

from devnet.network import Devnet, Options, up
from devnet.processes import DevnetError
from node.protocol.signing import checksum
from tests.bench.figures import Figure, Report, median
from tests.e2e.gateway_process import gateway_up

TURNS: Final = 10
ROUNDS: Final = 5
ROUNDS_QUICK: Final = 1
AFTER: Final = 2
"""Turns after the worker was killed."""
WORDS: Final = 90
"""Of a question."""
ANSWER_TOKENS: Final = 64
CACHE_MB: Final = 256
WORKERS: Final = 3
CALL_S: Final = 60.0
READY_S: Final = 60.0
MS: Final = 1000
FLAT: Final = 2.0
"""The last turn's first token may take so many times the second turn's: history is then five times
as long."""
GROWTH: Final = 0.15
"""What a token of history adds to the first token may be such a share of what it adds without the
cache: the turn's own tokens still look back at it."""
SUBJECTS: Final = (
    "What is a voucher?", "How do I start a worker?", "Who pays for the prompt?",
    "What does a receipt prove?", "When is a worker paid?", "How is a worker chosen?",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """What one turn showed in one market."""

    first_ms: float
    history: int
    """Prompt tokens."""
    cached: int
    worker: str
    text: str


@dataclass(slots=True, kw_only=True)
class Side:
    """A market, and the conversation in it."""

    name: str
    market: Devnet
    http: httpx.Client
    model: str
    messages: list[dict[str, str]] = field(default_factory=list)
    turns: list[Turn] = field(default_factory=list)

    def begin(self) -> None:
        """Another conversation."""
        self.messages, self.turns = [], []

    def know_all(self) -> None:
        """A few jobs of every worker: who is known better has no advantage."""
        for worker in self.market.workers * 3:
            self.begin()
            self.ask("Hello", seed=0, only=checksum(worker.identity.address))

    def ask(self, question: str, *, seed: int, only: str = "") -> Turn:
        """The next turn, by whoever is chosen or by one worker only.

        Raises:
            RuntimeError: It was not answered.
        """
        self.messages.append({"role": "user", "content": question})
        body = {
            "model": self.model, "messages": self.messages, "max_tokens": ANSWER_TOKENS,
            "seed": seed, "stream": True, "stream_options": {"include_usage": True},
            "ignore_eos": True, **({"provider": {"only": [only]}} if only else {}),
        }  # fmt: skip
        began_s, first_s, text, last = time.monotonic(), 0.0, "", dict[str, Any]()
        with self.http.stream("POST", "/chat/completions", json=body, timeout=CALL_S) as answer:
            if answer.status_code != 200:
                raise RuntimeError(f"{self.name}: {answer.read().decode()}")
            for line in answer.iter_lines():
                if not line.startswith("data: {"):
                    continue
                last = js.loads(line.removeprefix("data: "))
                if "error" in last:
                    raise RuntimeError(f"{self.name}: {last['error']}")
                piece = "".join(c["delta"].get("content") or "" for c in last["choices"])
                if piece and not text:
                    first_s = time.monotonic()
                text += piece
        self.messages.append({"role": "assistant", "content": text})
        usage = last["usage"]
        turn = Turn(
            first_ms=(first_s - began_s) * MS,
            history=usage["prompt_tokens"],
            cached=usage["prompt_tokens_details"]["cached_tokens"],
            worker=last["provider"],
            text=text,
        )
        self.turns.append(turn)
        return turn


def main(*, quick: bool, json: bool) -> int:
    report = Report(json, "Turns of a conversation: first token with and without a prefix cache")
    rounds = ROUNDS_QUICK if quick else ROUNDS
    try:
        with _sides(report) as (kept, plain):
            for side in (kept, plain):
                side.know_all()
            taken: list[tuple[list[Turn], list[Turn]]] = []
            for number in range(1, rounds + 1):
                report.say(f"conversation {number} of {rounds}")
                _converse(kept, plain, number=number)
                taken.append((kept.turns, plain.turns))
            _tell(report, taken)
            _lose_its_worker(report, kept)
    except (OSError, RuntimeError, httpx.HTTPError, DevnetError, subprocess.SubprocessError) as e:
        report.failures.append(str(e) or repr(e))
    return report.end()


def _converse(kept: Side, plain: Side, *, number: int) -> None:
    rng = random.Random(number)
    kept.begin()
    plain.begin()
    for turn in range(1, TURNS + 1):
        question, pair = question_of(rng, number), [kept, plain]
        rng.shuffle(pair)  # whichever is first has colder caches of the machine's own
        for side in pair:
            side.ask(question, seed=turn)
        if kept.turns[-1].text != plain.turns[-1].text:
            raise RuntimeError(f"turn {turn}: another answer with the cache than without it")


def question_of(rng: random.Random, number: int, *, words: int = WORDS) -> str:
    """Some sentences, each conversation's its own from the first word on."""
    text = f"{number}:"
    while len(text.split()) < words:
        text += " " + rng.choice(SUBJECTS)
    return text


def _tell(report: Report, taken: list[tuple[list[Turn], list[Turn]]]) -> None:
    def firsts(turn: int, side: int) -> float:
        return median([pair[side][turn].first_ms for pair in taken])

    for at in range(TURNS):
        kept, plain = taken[-1][0][at], taken[-1][1][at]
        report.add(
            Figure(
                name=f"turn {at + 1}, {kept.history} tokens of history: first token",
                measured=firsts(at, 0), unit="ms",
                note=f"{kept.cached} cached, at {_short(kept.worker)}; "
                f"without {firsts(at, 1):.1f} ms, at {_short(plain.worker)}",
            )
        )  # fmt: skip
    for side, name in enumerate(("with the cache", "without")):
        report.add(
            Figure(
                name=f"first token of turn {TURNS} over turn 2, {name}",
                measured=firsts(TURNS - 1, side) / firsts(1, side), unit="x",
                target=None if side else FLAT,
            )
        )  # fmt: skip
    kept_us, plain_us = (
        _slope_us([(taken[-1][side][at].history, firsts(at, side)) for at in range(1, TURNS)])
        for side in (0, 1)
    )
    report.add(
        Figure(
            name="what a token of history adds, over the same without", unit="x",
            measured=kept_us / plain_us, target=GROWTH,
            note=f"{kept_us:.0f} and {plain_us:.0f} µs",
        )
    )  # fmt: skip
    moves = [sum(a.worker != b.worker for a, b in pairwise(turns[0])) for turns in taken]
    report.add(
        Figure(name="turns that went to another worker, per conversation", measured=max(moves),
               unit="", target=0, note=f"the most of {len(taken)}")
    )  # fmt: skip
    elsewhere = [sum(a.worker != b.worker for a, b in pairwise(turns[1])) for turns in taken]
    report.add(Figure(name="the same without the cache", measured=max(elsewhere), unit=""))


def _slope_us(points: Sequence[tuple[int, float]]) -> float:
    """Of milliseconds over tokens: least squares over all turns that have a history."""
    tokens, times_ms = zip(*points, strict=True)
    return linear_regression(tokens, times_ms).slope * MS


def _lose_its_worker(report: Report, side: Side) -> None:
    """The worker is killed; its conversation goes on elsewhere, and stays there."""
    lost = side.turns[-1].worker
    pid = next(
        each.process.pid
        for each in side.market.workers
        if "0x" + each.identity.address.hex() == lost.lower()
    )
    os.kill(pid, signal.SIGKILL)
    rng = random.Random("after")
    for turn in range(TURNS + 1, TURNS + 1 + AFTER):
        made = side.ask(question_of(rng, 0, words=20), seed=turn)
        report.add(
            Figure(
                name=f"turn {turn}, after its worker was killed: first token",
                measured=made.first_ms, unit="ms",
                note=f"{made.history} tokens of history, {made.cached} cached, "
                f"at {_short(made.worker)} instead of {_short(lost)}",
            )
        )  # fmt: skip


def _short(worker: str) -> str:
    return worker[:8]


@contextmanager
def _sides(report: Report) -> Iterator[tuple[Side, Side]]:
    """Both markets, up for as long as the block runs."""
    report.say(f"starting two markets of {WORKERS} workers and a gateway each")
    with ExitStack() as stack:
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="gpunode-bench-")))
        yield (
            stack.enter_context(_side("with the cache", CACHE_MB, folder)),
            stack.enter_context(_side("without", 0, folder)),
        )


@contextmanager
def _side(name: str, prefix_mb: int, folder: Path) -> Iterator[Side]:
    options = Options(
        workers=WORKERS,
        worker_settings={
            "engine.prefix_mb": prefix_mb,
            # All alike: nothing but what they have read tells them apart.
            "engine.tokens_per_s_max": 0.0,
            # Only one worker is asked at a time: it may have the machine, as on one of its own.
            "engine.threads": 0,
            "worker.price_in": 100_000,
            "worker.price_out": 400_000,
        },
    )
    log = folder / f"gateway-{prefix_mb}.log"
    with (
        up(options) as market,
        gateway_up(str(market.client_home), log) as gateway,
        httpx.Client(base_url=gateway.base_url) as http,
    ):
        yield Side(name=name, market=market, http=http, model=_model(http))


def _model(http: httpx.Client) -> str:
    """The one model on sale, once all workers sell it.

    Raises:
        RuntimeError: They don't in time.
    """
    deadline_s = time.monotonic() + READY_S
    while time.monotonic() < deadline_s:
        models = http.get("/models").json()["data"]
        if models:
            model = str(models[0]["id"])
            data = http.get(f"/models/{model}/endpoints").json()["data"]
            if len(data["endpoints"]) == WORKERS:
                return model
        time.sleep(0.2)
    raise RuntimeError("not all workers sell")
