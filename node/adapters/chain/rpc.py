"""JSON-RPC over pooled HTTP connections: batches, fallback URLs, limits, health.

The standard library's client, in threads: importing web3 would take a `node submit` more time than
the rest of its work (docs/adr/0002-chain-reads.md).
"""

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import trio

from node.adapters.chain.endpoint import (
    IDLE_MAX,
    Endpoint,
    EndpointFailure,
    EndpointHealth,
)
from node.errors import ConfigError, Unavailable

CALL_TIMEOUT_S = 5.0
TOTAL_TIMEOUT_S = 10.0
BACKOFF_S = (0.05, 0.1, 0.2, 0.4)
"""Pauses between passes over the URLs: one of 30 % errors fails a read once in 400."""
BATCH_MAX = 100
REVERTED = (3, -32015)
"""Codes with which a node says that a call reverted: an answer, not a failure."""


@dataclass(frozen=True, slots=True)
class Call:
    """One request of a batch."""

    method: str
    params: tuple[Any, ...] = ()


class RpcFault(Exception):
    """A node's error answer to one call."""

    def __init__(self, code: int, message: str, data: Any = None) -> None:
        super().__init__(f"{message} ({code})")
        self.code = code
        self.message = message
        self.data = data

    @property
    def reverted(self) -> bool:
        """Whether the call itself failed on the chain."""
        return self.code in REVERTED


Check = Callable[[list[Any]], None]


class Rpc:
    """The chain's JSON-RPC, by whichever of the configured URLs answers.

    A URL is believed only after it has named the right chain.
    """

    def __init__(
        self,
        urls: str,
        *,
        chain_id: int,
        call_timeout_s: float = CALL_TIMEOUT_S,
        total_timeout_s: float = TOTAL_TIMEOUT_S,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        """
        Args:
            urls: One or more URLs, separated by commas, best first.
            chain_id: The chain that they must be of.
            call_timeout_s: For one HTTP exchange.
            total_timeout_s: For a batch, all attempts together.
            sleep: Blocks the calling thread between attempts.

        Raises:
            ConfigError: Not http(s) URLs.
        """
        self.chain_id = chain_id
        self._endpoints = [
            Endpoint(url.strip(), timeout_s=call_timeout_s)
            for url in urls.split(",")
            if url.strip()
        ]
        if not self._endpoints:
            raise ConfigError("chain.rpc_url is empty", hint="set chain.rpc_url in config.toml")
        self._total_timeout_s = total_timeout_s
        self._sleep = sleep
        self._limiter = trio.CapacityLimiter(IDLE_MAX)

    async def batch(self, calls: Sequence[Call], *, check: Check | None = None) -> list[Any]:
        """`batch_sync` in a thread, given up after the total timeout."""
        work = partial(self.batch_sync, calls, check=check)
        with trio.move_on_after(self._total_timeout_s + 1.0):
            return await trio.to_thread.run_sync(
                work, limiter=self._limiter, abandon_on_cancel=True
            )
        raise Unavailable(f"the chain's RPC took over {self._total_timeout_s:.0f} s")

    async def run_sync(self, work: Callable[[], Any]) -> Any:
        """Run blocking work that uses `call_sync`, in a thread under this RPC's limit."""
        return await trio.to_thread.run_sync(work, limiter=self._limiter, abandon_on_cancel=True)

    def batch_sync(
        self, calls: Sequence[Call], *, check: Check | None = None, faults: bool = False
    ) -> list[Any]:
        """Results of the calls, in their order, all from one URL.

        Blocks; for use in threads.  More than `BATCH_MAX` calls take more than one round trip.

        Args:
            calls: What to ask.
            check: Raises `EndpointFailure` for results with which the next URL should be asked.
            faults: Return every error answer as an `RpcFault` among the results.  Otherwise only
                reverts are, and any other error makes the next URL be asked.

        Raises:
            Unavailable: No URL gave an answer in time.
            ConfigError: All of them are of other chains.
        """
        deadline_s = time.monotonic() + self._total_timeout_s
        why = ""
        for pause_s in (*BACKOFF_S, None):
            for endpoint in self._by_preference():
                try:
                    results = self._ask(endpoint, calls, faults)
                    if check is not None:
                        check(results)
                    return results
                except EndpointFailure as error:
                    why = f"{endpoint.host}: {error}"
                if time.monotonic() > deadline_s:
                    break
            if pause_s is None or time.monotonic() + pause_s > deadline_s:
                break
            self._sleep(pause_s)
        raise Unavailable(f"the chain's RPC does not answer ({why})", hint="see node status")

    def call_sync(self, method: str, *params: Any) -> Any:
        """One call's result, from a thread.

        Raises:
            RpcFault: The node answered with an error.
            Unavailable: No URL gave an answer.
        """
        (result,) = self.batch_sync((Call(method, params),), faults=True)
        if isinstance(result, RpcFault):
            raise result
        return result

    def broadcast_sync(self, raw: bytes) -> list[Any]:
        """Hand a signed transaction to every URL; the results are hashes, or `RpcFault`s.

        Raises:
            Unavailable: No URL gave an answer.
        """
        call = Call("eth_sendRawTransaction", ("0x" + raw.hex(),))
        results: list[Any] = []
        why = ""
        for endpoint in self._by_preference():
            try:
                results += self._ask(endpoint, (call,), True)
            except EndpointFailure as error:
                why = f"{endpoint.host}: {error}"
        if not results:
            raise Unavailable(f"the chain's RPC does not answer ({why})", hint="see node status")
        return results

    def health(self) -> tuple[EndpointHealth, ...]:
        """How each URL does."""
        return tuple(endpoint.health() for endpoint in self._endpoints)

    def close(self) -> None:
        """Drop all idle connections."""
        for endpoint in self._endpoints:
            endpoint.close()

    def _by_preference(self) -> list[Endpoint]:
        """In the order of the configuration, those that failed in the last seconds last."""
        wrong = [e for e in self._endpoints if e.chain_id not in (None, self.chain_id)]
        if len(wrong) == len(self._endpoints):
            raise ConfigError(
                f"chain.rpc_url is of chain {wrong[0].chain_id}, chain.chain_id is {self.chain_id}"
            )
        usable = [e for e in self._endpoints if e not in wrong]
        recent_s = time.monotonic() - 5.0
        return sorted(usable, key=lambda endpoint: endpoint.failed_s > recent_s)

    def _ask(self, endpoint: Endpoint, calls: Sequence[Call], faults: bool) -> list[Any]:
        unproven = endpoint.chain_id is None
        if unproven:
            calls = (Call("eth_chainId"), *calls)
        results: list[Any] = []
        for start in range(0, len(calls), BATCH_MAX):
            part = calls[start : start + BATCH_MAX]
            answer = endpoint.post(_encode(part))
            try:
                results += _decode(answer, len(part), faults)
            except EndpointFailure as error:
                endpoint.failed(str(error))
                raise
        if unproven:
            self._check_chain(endpoint, results.pop(0))
        return results

    def _check_chain(self, endpoint: Endpoint, answer: Any) -> None:
        try:
            found = int(answer, 16)
        except (TypeError, ValueError):
            endpoint.failed("eth_chainId is not a number")
            raise EndpointFailure("eth_chainId is not a number") from None
        endpoint.chain_id = found
        if found != self.chain_id:
            endpoint.failed(f"is of chain {found}, not {self.chain_id}")
            raise EndpointFailure(f"is of chain {found}, not {self.chain_id}")


def _encode(calls: Sequence[Call]) -> bytes:
    return json.dumps(
        [
            {"jsonrpc": "2.0", "id": number, "method": call.method, "params": call.params}
            for number, call in enumerate(calls)
        ]
    ).encode()


def _decode(answer: bytes, count: int, faults: bool) -> list[Any]:
    try:
        items = json.loads(answer)
    except (ValueError, RecursionError) as error:
        raise EndpointFailure("the answer is not JSON") from error
    if isinstance(items, dict) and isinstance(items.get("error"), dict):
        raise EndpointFailure(str(items["error"].get("message"))[:200])
    if not isinstance(items, list) or len(items) != count:
        raise EndpointFailure("the answer is not a batch of the same size")
    results: dict[int, Any] = {}
    for item in items:
        if not isinstance(item, dict) or not isinstance(item.get("id"), int):
            raise EndpointFailure("the answer is not JSON-RPC")
        results[item["id"]] = _result(item, faults)
    if set(results) != set(range(count)):
        raise EndpointFailure("the answer lacks results")
    return [results[number] for number in range(count)]


def _result(item: dict[str, Any], faults: bool) -> Any:
    error = item.get("error")
    if error is None:
        return item.get("result")
    if not isinstance(error, dict):
        raise EndpointFailure("the answer is not JSON-RPC")
    code = error.get("code")
    fault = RpcFault(
        code if isinstance(code, int) else 0,
        str(error.get("message", ""))[:500],
        error.get("data"),
    )
    if faults or fault.reverted:
        return fault
    raise EndpointFailure(str(fault))
