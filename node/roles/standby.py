"""Who would go on with a job if its worker stopped: known and connected while the job runs."""

from collections.abc import Callable, Collection, Mapping
from typing import Protocol

from node.protocol import choice
from node.protocol.auction_state import Reached
from node.protocol.fields import Address, Hash
from node.protocol.offers import Standing
from node.protocol.scoring import Need, Preferences, Track
from node.roles.ports import Session


class Desk(Protocol):
    """What a standby needs of the market."""

    def live_offers(self, model: Hash) -> tuple[Standing, ...]:
        """Verified offers that still bind."""
        ...

    def reached(self, model: Hash) -> Reached:
        """Workers with a session."""
        ...

    def tracks(self, model: Hash) -> Mapping[Address, Track]:
        """What was measured."""
        ...

    def live_session(self, worker: Address) -> Session | None:
        """The session with a worker, held until `let_go`."""
        ...

    def let_go(self, worker: Address) -> None:
        """It is needed no more."""
        ...


class Standby:
    """The runner-up of one job.  It costs nothing but its place among the sessions."""

    def __init__(
        self,
        desk: Desk,
        *,
        need: Need,
        prefs: Preferences,
        out: Collection[Address],
        on_close: Callable[["Standby"], None],
    ) -> None:
        """
        Args:
            desk: The market.
            need: The job's sizes.
            prefs: Limits and order.
            out: Workers that had the job, or have it now; it may grow.
            on_close: Told of the end.
        """
        self.need = need
        self._desk = desk
        self._prefs = prefs
        self._out = out
        self._on_close = on_close
        self._held: Address | None = None

    @property
    def worker(self) -> Address | None:
        """The best of those whose offers bind now and meet the limits; None if there is none."""
        reach = self._desk.reached(self.need.model).workers
        ranking = choice.rank(
            (each for each in self._desk.live_offers(self.need.model) if self._fits(each, reach)),
            need=self.need,
            prefs=self._prefs,
            tracks=self._desk.tracks(self.need.model),
            elapsed_ms=0,
        )
        return next((bid.worker for bid in ranking if bid.objection is None), None)

    def tend(self, offers: Collection[Standing], reach: Collection[Address]) -> None:
        """Hold the session with somebody who would go on now.

        Args:
            offers: Those for its model that bind.
            reach: Workers of it with a session.
        """
        if any(each.terms.worker == self._held and self._fits(each, reach) for each in offers):
            return
        worker = self.worker
        self._let_go()
        if worker is not None and self._desk.live_session(worker) is not None:
            self._held = worker

    def close(self) -> None:
        """The job is over."""
        self._let_go()
        self._on_close(self)

    def _fits(self, standing: Standing, reach: Collection[Address]) -> bool:
        worker = standing.terms.worker
        return worker in reach and worker not in self._out

    def _let_go(self) -> None:
        if self._held is not None:
            self._desk.let_go(self._held)
            self._held = None
