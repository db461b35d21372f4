"""Sessions with workers: whom to dial, whom to subscribe to, whom to let go."""

import random
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from functools import partial

import structlog
import trio

from node.errors import PeerError, SessionLost, Unavailable
from node.protocol import places
from node.protocol.announcements import ANY_MODEL
from node.protocol.auction_state import Reached
from node.protocol.fields import Address, Hash
from node.protocol.frames import OffersWanted
from node.protocol.signing import checksum
from node.roles.hints import Hints, Lead
from node.roles.ports import Clock, Session, Transport

log = structlog.get_logger("contacts")

MODELS_MAX = 32
COLD_S = 2.0
"""So long after a model was first wanted, searches under way are worth waiting for."""
DIAL_S = 5.0
DIALS_MAX = 8
RETRY_S = (5.0, 600.0)
"""Pause after a failed dial of one worker; doubles."""
REDIAL_S = 2.0
"""Least time between two dials of one worker: one with which no session lasts is no hurry."""
FAILED_MAX = 1024
NEW_MAX = 256
ROTATE_EVERY_S = 60.0
"""With all places taken, the worst idle worker gives way to an untried one, at last this often."""
IDLE_S = 60.0
"""A client without an auction for so long wants no more offers pushed, and keeps whom it has."""
SEND_S = 2.0

Source = tuple[Address | None, str]
"""Who announced a PeerID, and the PeerID: a failure is held against both together, so that nobody
can keep a worker from being dialled by announcing it at a wrong address."""


class Contacts:
    """The workers that this client keeps sessions with."""

    def __init__(
        self,
        *,
        transport: Transport,
        hints: Hints,
        clock: Clock,
        sessions_max: int,
        standing: Callable[[Address, Hash], places.Standing],
        rng: random.Random,
        on_lost: Callable[[Address], None],
    ) -> None:
        """
        Args:
            transport: Sessions.
            hints: Whom to dial; its `changed` rings when something here changed as well.
            clock: Monotonic.
            sessions_max: Workers per model to keep sessions with.
            standing: How a worker does with a model, as far as is known.
            rng: Which newcomers are tried.
            on_lost: Called when a session with a worker ended.
        """
        self._transport = transport
        self._hints = hints
        self._clock = clock
        self._sessions_max = sessions_max
        self._standing = standing
        self._rng = rng
        self._on_lost = on_lost
        self._wanted: OrderedDict[Hash, float] = OrderedDict()
        """Models, and since when (monotonic)."""
        self._used: dict[Hash, float] = {}
        """When each was last wanted."""
        self._subscribed: dict[Address, tuple[Session, tuple[Hash, ...]]] = {}
        self._dialling: set[str] = set()
        self._failed: OrderedDict[Source, tuple[float, float]] = OrderedDict()
        """Per source: not to be dialled before, and the pause after the next failure."""
        self._own: dict[Address, Session] = {}
        """Sessions that were dialled here, and may be ended here."""
        self._busy: Counter[Address] = Counter()
        self._new: OrderedDict[Address, float] = OrderedDict()
        """Workers that nobody had heard of, and until when they are new."""
        self._rotated_s = clock.monotonic_s()

    def want(self, model: Hash) -> None:
        """Look for workers of a model from now on."""
        if model in self._wanted:
            if self._idle(model):
                self._hints.changed.ring()  # it asks for offers again
            self._used[model] = self._clock.monotonic_s()
            self._wanted.move_to_end(model)
            return
        self._used[model] = self._clock.monotonic_s()
        self._wanted[model] = self._clock.monotonic_s()
        if len(self._wanted) > MODELS_MAX:
            del self._used[self._wanted.popitem(last=False)[0]]
        self._hints.follow(model)
        self._hints.changed.ring()

    def wants(self, model: Hash) -> bool:
        """Whether a model is looked for."""
        return model in self._wanted

    def tend(self, nursery: trio.Nursery, only: Iterable[Address]) -> None:
        """Do what is due: follow, subscribe, dial, let go.

        Args:
            nursery: Where sends and dials run.
            only: Workers that somebody insists on: dialled first, whether there is room or not.
        """
        self._want_all()
        self._subscribe(nursery)
        self._dial(nursery, (*only, *self._newcomers()))
        self._rotate()

    def reached(self, model: Hash) -> Reached:
        """Workers with a session that may sell a model; and what is under way to find more."""
        workers = frozenset(
            peer
            for peer, session in self._transport.sessions().items()
            if session.hello.sells and session.lost is None and self._may_sell(peer, model)
        )
        since_s = self._wanted.get(model, 0.0)
        warm = workers and self._clock.monotonic_s() - since_s > COLD_S
        pending = 0 if warm else len(self._dialling) + self._hints.searching(model)
        return Reached(
            workers=workers,
            pending=pending,
            networks=self._networks(workers),
            new_here=frozenset(filter(self._is_new_here, workers)),
        )

    def hold(self, worker: Address) -> Session | None:
        """The live session with a worker, kept until `release`."""
        session = self._transport.sessions().get(worker)
        if session is None or session.lost is not None:
            return None
        self._busy[worker] += 1
        return session

    def release(self, worker: Address) -> None:
        """One job with the worker is over."""
        self._busy[worker] -= 1
        if self._busy[worker] <= 0:
            del self._busy[worker]

    def _want_all(self) -> None:
        if ANY_MODEL not in self._wanted:
            return
        for model in self._hints.models():
            if len(self._wanted) < MODELS_MAX:
                self.want(model)

    def _subscribe(self, nursery: trio.Nursery) -> None:
        models = tuple(m for m in self._wanted if m != ANY_MODEL and not self._idle(m))
        for peer, session in self._transport.sessions().items():
            known, has = self._subscribed.get(peer, (None, ()))
            if known is not session:
                has = ()
            if not session.hello.sells or has == models:
                continue
            if session.lost is not None:
                continue  # watched, it would ring at once, and again when it is subscribed to anew
            if known is not session:
                nursery.start_soon(self._watch, session)
            self._subscribed[peer] = (session, models)
            nursery.start_soon(_send, session, OffersWanted(models=models))

    def _idle(self, model: Hash) -> bool:
        """Offers that nobody looks at cost both sides; the next auction asks for them again."""
        return self._clock.monotonic_s() - self._used[model] > IDLE_S

    async def _watch(self, session: Session) -> None:
        reason = await session.wait_lost()
        log.debug("session lost", worker=checksum(session.peer), reason=reason)
        known, _ = self._subscribed.get(session.peer, (None, ()))
        if known is session:  # not if a newer one has taken its place
            del self._subscribed[session.peer]
            self._on_lost(session.peer)
        if self._own.get(session.peer) is session:
            del self._own[session.peer]
        self._hints.changed.ring()

    def _dial(self, nursery: trio.Nursery, only: Iterable[Address]) -> None:
        for lead in self._wanted_leads(only):
            if len(self._dialling) >= DIALS_MAX:
                return
            if not self._is_new(lead):
                continue
            name = _name(lead)
            self._dialling.add(name)
            nursery.start_soon(partial(self._connect, lead, name))

    def _wanted_leads(self, only: Iterable[Address]) -> list[Lead]:
        leads = [lead for lead in map(self._hints.lead_to, only) if lead is not None]
        for model in reversed(self._wanted):
            room = self._sessions_max - len(self.reached(model).workers) - len(self._dialling)
            if model != ANY_MODEL and room > 0:
                # More than there is room for: some are connected, or were tried in vain.
                found = self._hints.leads(model, count_max=2 * self._sessions_max)
                leads += [lead for lead in found if self._is_new(lead)][:room]
        return leads

    def _is_new(self, lead: Lead) -> bool:
        name = _name(lead)
        up = any(session.peer_id == name for session in self._transport.sessions().values())
        return not (up or name in self._dialling or self._waits(lead))

    async def _connect(self, lead: Lead, name: str) -> None:
        before = set(self._transport.sessions())
        try:
            with trio.fail_after(DIAL_S):
                session = await self._transport.connect(lead.addrs)
            if session.peer not in before:
                self._own[session.peer] = session
            if lead.worker not in (None, session.peer):
                # The announcement lied. Whoever answered has done nothing wrong and may sell, too.
                self._hints.book.fail(lead.worker)
            self._keep_sellers(session)
            self._put_off((lead.worker, name), REDIAL_S, then_s=RETRY_S[0])
        except (Unavailable, PeerError, trio.TooSlowError) as error:
            log.info("worker not reached", peer=name, reason=str(error))
            self._note_failure(lead)
        finally:
            self._dialling.discard(name)
            self._hints.changed.ring()

    def _keep_sellers(self, session: Session) -> None:
        """Places are for workers: whoever else was found under a hint is let go.

        Raises:
            PeerError: It sells nothing.
        """
        if session.hello.sells:
            return
        if self._own.get(session.peer) is session:
            self._own.pop(session.peer).close("not a worker")
        raise PeerError("not a worker")

    def _note_failure(self, lead: Lead) -> None:
        source = (lead.worker, _name(lead))
        _, pause_s = self._failed.pop(source, (0.0, RETRY_S[0]))
        self._put_off(source, pause_s, then_s=min(2 * pause_s, RETRY_S[1]))
        # With no session at all the trouble may be ours; the book is not emptied for that.
        if lead.worker is not None and self._transport.sessions():
            self._hints.book.fail(lead.worker)

    def _put_off(self, source: Source, pause_s: float, *, then_s: float) -> None:
        self._failed[source] = (self._clock.monotonic_s() + pause_s, then_s)
        self._failed.move_to_end(source)
        if len(self._failed) > FAILED_MAX:
            self._failed.popitem(last=False)

    def _waits(self, lead: Lead) -> bool:
        until_s, _ = self._failed.get((lead.worker, _name(lead)), (0.0, 0.0))
        return until_s > self._clock.monotonic_s()

    def _rotate(self) -> None:
        """With all places taken, let the worst idle worker go now and then, for one not tried."""
        now_s = self._clock.monotonic_s()
        for model, since_s in self._wanted.items():
            pause_s = places.rotate_pause_s(searching_s=now_s - since_s, every_s=ROTATE_EVERY_S)
            if now_s < self._rotated_s + pause_s or self._idle(model):
                continue
            leads = self._hints.leads(model, count_max=2 * self._sessions_max)
            if self._full(model) and any(map(self._is_new, leads)):
                self._rotated_s = now_s
                self._let_go(model)

    def _newcomers(self) -> list[Address]:
        """Workers that nobody had heard of: a few clients try each at once, whoever has to go."""
        chosen = []
        for worker, model in self._hints.newcomers():
            if model not in self._wanted or self._idle(model):
                continue
            known = self._hints.book.count(model)
            if not places.tries_newcomer(
                places=self._sessions_max, workers=known, draw=self._rng.random()
            ):
                continue
            if self._full(model) and self._let_go(model):
                chosen.append(worker)
            self._note_new(worker, model)
        return chosen

    def _note_new(self, worker: Address, model: Hash) -> None:
        now_s = self._clock.monotonic_s()
        if now_s - self._wanted[model] > places.NEW_S:
            self._new[worker] = now_s + places.NEW_S
            if len(self._new) > NEW_MAX:
                self._new.popitem(last=False)

    def _is_new_here(self, worker: Address) -> bool:
        return self._new.get(worker, 0.0) > self._clock.monotonic_s()

    def _full(self, model: Hash) -> bool:
        return len(self.reached(model).workers) >= self._sessions_max

    def _let_go(self, model: Hash) -> bool:
        """The worst idle worker gives its place to another; False if all are busy."""
        held = {w: self._standing(w, model) for w in self.reached(model).workers}
        idle = frozenset(w for w in held if w in self._own and not self._busy[w])
        worst = places.worst(held, idle=idle, new=tuple(filter(self._is_new_here, held)))
        if worst is None:
            return False
        session = self._own.pop(worst)
        # Not to be dialled again before others had their turn.
        source = (worst, session.peer_id)
        self._put_off(source, 2 * ROTATE_EVERY_S, then_s=RETRY_S[0])
        session.close("a place for another worker")
        return True

    def _networks(self, workers: Iterable[Address]) -> dict[Address, frozenset[str]]:
        now_ms = self._clock.unix_ms()
        said = ((worker, self._hints.book.networks(worker, now_ms=now_ms)) for worker in workers)
        return {worker: networks for worker, networks in said if networks is not None}

    def _may_sell(self, worker: Address, model: Hash) -> bool:
        said = self._hints.book.find(worker, now_ms=self._clock.unix_ms())
        return said is None or any(each.model == model for each in said.models)


async def _send(session: Session, frame: OffersWanted) -> None:
    with trio.move_on_after(SEND_S):
        try:
            await session.send(frame)
        except SessionLost:
            return


def _name(lead: Lead) -> str:
    """A PeerID, as the address has it."""
    return lead.addrs[0].rpartition("/p2p/")[2]
