"""Jobs that `node submit` hands to the running gateway of its home."""

import json
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, Final

import structlog
import trio

from node import __version__
from node.app.buyer import Buyer
from node.app.control_stream import Follower
from node.app.gateway_models import Shelf
from node.app.submit_job import Stop, buy
from node.app.submit_request import SubmitRequest
from node.config import Config, setting
from node.errors import ConfigError, NodeError, UsageError

log = structlog.get_logger("gateway")

OF_A_JOB: Final = frozenset(
    {"client.job_cap_micro", "client.value_of_time_micro_per_s", "client.prepay_max_micro"}
)
"""Settings that each job may have differently."""


class Submits:
    """Does them as `node submit` would alone: `handle` is the control socket's `submit`."""

    def __init__(self, config: Config, buyer: Buyer, shelf: Shelf) -> None:
        self._config = config
        self._buyer = buyer
        self._shelf = shelf
        self._under_way: dict[Stop, Follower] = {}

    @property
    def active(self) -> int:
        """Jobs under way."""
        return len(self._under_way)

    async def handle(self, body: bytes, follower: Follower) -> Any:
        """One job.

        Raises:
            NodeError: There is no answer, not even a part of one.
        """
        request, config = self._read(body)
        stop, result = Stop(), None
        self._under_way[stop] = follower

        async def watch() -> None:
            await follower.stopped.wait()
            stop.now()

        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(watch)
                result = await buy(
                    self._buyer, config, request, follower.tell, stop, self._shelf.reader_of
                )
                nursery.cancel_scope.cancel()
        except Exception as error:
            if _expected(error):
                raise
            # A bug of ours, which must not end everybody's jobs.
            log.exception("a job of node submit failed")
            raise NodeError("the gateway failed; see its log") from error
        finally:
            del self._under_way[stop]
        return result

    async def end_all(self) -> None:
        """End them; returns once each command has been told how."""
        under_way = dict(self._under_way)
        for stop in under_way:
            stop.now("the gateway was stopped")
        for follower in under_way.values():
            await follower.told.wait()

    def _read(self, body: bytes) -> tuple[SubmitRequest, Config]:
        """The request, and the settings under which it is done.

        Raises:
            ConfigError: The command is of another version, or needs another gateway.
            UsageError: It is none.
        """
        try:
            told = json.loads(body)
            version, settings = told["version"], dict(told["settings"])
            wanted = told["request"]
        except (ValueError, KeyError, TypeError, RecursionError) as error:
            raise UsageError("not a job's request") from error
        if version != __version__:
            raise ConfigError(
                f"the running gateway is version {__version__}, and this command {version}",
                hint="restart the gateway",
            )
        return SubmitRequest.from_json(wanted), self._with(settings)

    def _with(self, settings: Mapping[str, Any]) -> Config:
        for addr in settings.get("network.bootstrap", ()):
            self._buyer.hints.stay_connected(str(addr))
        own: dict[str, int] = {}
        for name, told in settings.items():
            value = tuple(told) if isinstance(told, list) else told
            if name in OF_A_JOB and type(value) is int:
                own[name.partition(".")[2]] = value
            elif name != "network.bootstrap" and value != setting(self._config, name):
                raise ConfigError(
                    f"the running gateway has {name} = {setting(self._config, name)}, and one job "
                    f"can't have {value}",
                    hint="start the gateway with it, or stop it for this job",
                )
        return replace(self._config, client=replace(self._config.client, **own))


def _expected(error: Exception) -> bool:
    """It says why there is no answer."""
    if isinstance(error, ExceptionGroup):
        return error.split(NodeError)[1] is None
    return isinstance(error, NodeError)
