"""Requests under way: each grows by itself, and is read by whatever connections there are.

A run belongs to no connection, so that a client that leaves ends it in order (cutoff, payment,
receipt), and so that one that comes back finds it.
"""

from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Final

import structlog
import trio

from node.adapters.http.errors import ApiError
from node.adapters.http.port import Ask, Customer, Desk, Ended, Job, Started, TokenText
from node.protocol.tool_calls import CallPart
from node.roles.pulse import Pulse

log = structlog.get_logger("gateway")

REPLAY_S: Final = 60.0
SERVER: Final = "server_error"
KEPT_MAX: Final = 1024
"""Ended runs that are kept for clients that come back; and of their text:"""
KEPT_CHARS_MAX: Final = 32 * 1024 * 1024


@dataclass(slots=True, eq=False)
class Choice:
    """One answer of a run (`port.Sink`)."""

    changed: Pulse
    begun: Started | None = None
    pieces: list[str | CallPart] = field(default_factory=list)
    tokens: list[TokenText] = field(default_factory=list)
    ended: Ended | None = None

    def started(self, started: Started) -> None:
        """A worker is being sent the job."""
        self.begun = started

    def write(self, text: str, tokens: tuple[TokenText, ...]) -> None:
        """More of the answer."""
        if text:
            self.pieces.append(text)
        self.tokens += tokens
        self.changed.ring()

    def call(self, part: CallPart) -> None:
        """The beginning of a call, or more of its arguments."""
        self.pieces.append(part)
        self.changed.ring()

    @property
    def text(self) -> str:
        """All of it so far, without calls."""
        return "".join(piece for piece in self.pieces if isinstance(piece, str))

    @property
    def calls(self) -> list[CallPart]:
        """All of them so far, each in one piece."""
        found: dict[int, CallPart] = {}
        for piece in self.pieces:
            if isinstance(piece, CallPart):
                known = found.get(piece.index)
                found[piece.index] = piece if known is None else known.and_then(piece)
        return list(found.values())


class Run:
    """One request being answered."""

    def __init__(self, desk: Desk, ask: Ask, customer: Customer, *, kept: bool) -> None:
        """
        Args:
            desk: The market.
            ask: What to answer.
            customer: Who pays.
            kept: Go on when the client leaves: it said that it would come back.

        Raises:
            ApiError: Nobody can meet the ask.
        """
        self.changed = Pulse()
        self.choices = tuple(Choice(self.changed) for _ in range(ask.answers))
        self.error: ApiError | None = None
        """Why there is no answer."""
        self.over = False
        self.left = False
        """Its client left, and it was ended for that."""
        self.kept = kept
        self.ended_s = 0.0
        self._readers = 0
        self._jobs = desk.jobs(ask, self.choices, customer)

    @property
    def chars(self) -> int:
        """Length of all texts and calls; final once it is over."""
        return sum(len(piece) for choice in self.choices for piece in choice.pieces)

    @property
    def useful(self) -> bool:
        """Whether a client that comes back is served by it: it is under way, or has answered."""
        broken = any(each.ended is not None and each.ended.failure for each in self.choices)
        return not (self.left or self.error or broken)

    @property
    def begun(self) -> bool:
        """Whether there is something to show, or nothing more to wait for."""
        return self.over or any(choice.pieces or choice.tokens for choice in self.choices)

    async def go(self) -> None:
        """Buy all answers side by side; returns when the last one has ended."""
        async with trio.open_nursery() as nursery:
            for job, choice in zip(self._jobs, self.choices, strict=True):
                nursery.start_soon(self._buy, job, choice)
        self.over = True
        self.ended_s = trio.current_time()
        self.changed.ring()

    async def _buy(self, job: Job, choice: Choice) -> None:
        try:
            choice.ended = await job.run()
        except ApiError as error:
            await self._fail(error)
        except Exception:
            # A bug of ours, which must not end everybody's answers.  Tracebacks have no values.
            log.exception("answer failed")
            await self._fail(ApiError(500, "internal error", code="internal_error", kind=SERVER))
        self.changed.ring()

    async def _fail(self, error: ApiError) -> None:
        if self.error is None:
            self.error = error
            await self.cancel("another answer of the request failed")

    async def cancel(self, why: str) -> None:
        """End what is under way; what was delivered is paid."""
        async with trio.open_nursery() as nursery:
            for job in self._jobs:
                nursery.start_soon(job.cancel, why)

    @contextmanager
    def read(self) -> Iterator[None]:
        """For a connection's time."""
        self._readers += 1
        try:
            yield
        finally:
            self._readers -= 1

    @property
    def deserted(self) -> bool:
        """Nobody reads it, nobody will, and it goes on."""
        return not (self._readers or self.kept or self.over)


@dataclass(frozen=True, slots=True, kw_only=True)
class Identity:
    """By what a client that comes back is known."""

    customer: Customer
    digest: bytes
    """Hash of path and body."""
    key: str = ""
    """Its Idempotency-Key; empty for none."""
    again: bool = False
    """It says that it asked before."""

    @property
    def names(self) -> tuple[tuple[str, bytes | str], ...]:
        """What its run is kept under; the last one finds it."""
        by_digest = (self.customer.key_id, self.digest)
        return (by_digest, (self.customer.key_id, self.key)) if self.key else (by_digest,)


class Runs:
    """All runs of a gateway."""

    def __init__(self, desk: Desk) -> None:
        self._desk = desk
        self._known: dict[tuple[str, bytes | str], tuple[bytes, Run]] = {}
        """By what a retry is known by: the request's hash, and the run."""
        self._ended: deque[tuple[Run, Identity]] = deque()
        """The first to be forgotten first."""
        self._chars = 0
        """Of the texts of those."""
        self._nursery: trio.Nursery | None = None

    async def run(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Carry runs until cancelled."""
        async with trio.open_nursery() as nursery:
            self._nursery = nursery
            task_status.started()
            await trio.sleep_forever()

    def open(self, ask: Ask, identity: Identity) -> Run:
        """The run of a request: the one of an earlier try, or a new one.

        Raises:
            ApiError: Nobody can meet the ask, or an Idempotency-Key was used for another request.
        """
        self._forget_old()
        found = self._earlier(identity)
        if found is not None:
            return found
        run = Run(self._desk, ask, identity.customer, kept=bool(identity.key))
        for name in identity.names:
            self._known[name] = (identity.digest, run)
        assert self._nursery is not None, "run() comes first"
        self._nursery.start_soon(self._carry, run, identity)
        return run

    @property
    def active(self) -> int:
        """Runs that are not over."""
        return len({id(run) for _, run in self._known.values() if not run.over})

    def leave(self, run: Run) -> None:
        """A connection is gone: a run that nobody reads any more is ended at once."""
        if run.deserted:
            run.left = True
            assert self._nursery is not None
            self._nursery.start_soon(run.cancel, "the client left")

    async def end_all(self) -> None:
        """End every run."""
        async with trio.open_nursery() as nursery:
            for run in {id(run): run for _, run in self._known.values()}.values():
                if not run.over:
                    nursery.start_soon(run.cancel, "the gateway ends")

    async def _carry(self, run: Run, identity: Identity) -> None:
        await run.go()
        self._ended.append((run, identity))
        self._chars += run.chars

    def _earlier(self, identity: Identity) -> Run | None:
        if not (identity.key or identity.again):
            return None
        digest, run = self._known.get(identity.names[-1], (identity.digest, None))
        if digest != identity.digest:
            raise ApiError(
                400, "this Idempotency-Key was used for another request",
                code="idempotency_key_reused",
            )  # fmt: skip
        return run if run is not None and run.useful else None

    def _forget_old(self) -> None:
        before_s = trio.current_time() - REPLAY_S
        while self._ended and (
            self._ended[0][0].ended_s < before_s
            or self._chars > KEPT_CHARS_MAX
            or len(self._ended) > KEPT_MAX
        ):
            run, identity = self._ended.popleft()
            self._chars -= run.chars
            for name in identity.names:
                if self._known.get(name, (b"", None))[1] is run:  # not a later one
                    del self._known[name]
