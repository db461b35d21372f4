"""Which models the market sells, and the files of theirs that a client needs, by hash."""

import random
import re
from collections import Counter
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import structlog
import trio

from node.errors import NodeError, NoPeers, PeerError, Unavailable
from node.protocol import manifest
from node.protocol.announcements import ANY_MODEL, crowds
from node.protocol.fields import ZERO_HASH, Address, Hash
from node.protocol.manifest import FileRole, Manifest
from node.protocol.signing import checksum
from node.protocol.statements import Tier
from node.roles.files import fetch
from node.roles.hints import Hints
from node.roles.market import Market
from node.roles.ports import Clock, Files, Session, Transport
from node.roles.pulse import Pulse

log = structlog.get_logger("catalog")

CLIENT_FILE_BYTES_MAX = 32 * 1024 * 1024
LOOK_EVERY_S = 0.5
SETTLE_S = 1.0
"""How long answers that are under way are waited for before a name is taken for the first hash."""
HEDGE_S = 2.0
"""A worker that has not sent a file by then is not waited for alone: another is asked as well."""
FETCHES_MAX = 4
FETCH_S = 60.0
NAMES_SHOWN_MAX = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientModel:
    """A model as a client needs it: to render, to count and to read, never to run."""

    manifest: Manifest
    files: Mapping[FileRole, bytes]
    tier: Tier = Tier.IDS
    """In which it is bought: by ids, where anybody sells it so."""

    @property
    def id(self) -> Hash:
        """Hash of the manifest."""
        return self.manifest.model_id

    @property
    def tokenizer(self) -> Hash:
        """sha256 of the file that counts; zero if there is none."""
        file = self.manifest.file(FileRole.TOKENIZER)
        return ZERO_HASH if file is None else file.sha256


class Catalog:
    """Finds models by name and brings their files, once."""

    def __init__(
        self,
        *,
        hints: Hints,
        market: Market,
        transport: Transport,
        files: Files,
        clock: Clock,
        rng: random.Random,
        discover_s: float,
    ) -> None:
        """
        Args:
            hints: Who announces what.
            market: Who is in reach.
            transport: Sessions.
            files: What was fetched before.
            clock: Monotonic.
            rng: Whom to ask first: an order that workers could foresee would be one to push into.
            discover_s: How long to look for somebody to ask.
        """
        self._hints = hints
        self._market = market
        self._transport = transport
        self._files = files
        self._clock = clock
        self._rng = rng
        self._discover_s = discover_s
        self._delivered: set[Address] = set()
        """Who sent a file that was what it should be."""

    async def choose(self, name: str) -> ClientModel:
        """The model that a person names: by its 0x-hash, by a name, or "" for the usual one.

        Anybody may announce a model under any name.  So a name goes on meaning the model that it
        meant here before, as long as somebody sells that; else the one that most workers sell;
        and the next one, if what is announced can't be had or calls itself something else.

        Raises:
            NoPeers: Nobody sells such a model, or nobody sends its files.
            PeerError: What the hash names is no model.
        """
        if re.fullmatch("0x[0-9a-fA-F]{64}", name):
            return await self.load(bytes.fromhex(name[2:]))
        self._hints.follow(ANY_MODEL)
        tried: set[Hash] = set()
        failure: NodeError | None = None
        await self._wait_for(name)
        while (model := self._named(name, tried)) is not None:
            try:
                found = await self.load(model)
            except (NoPeers, PeerError) as error:
                failure = error
            else:
                if not name or _announced(found.manifest.name) == name.casefold():
                    return found
                failure = NoPeers(f"0x{model.hex()} is announced as {name}, and is another model")
            log.warning("model passed over", model=model.hex(), reason=str(failure))
            tried.add(model)
        raise failure or NoPeers(self._not_found(name), hint="node market shows what is sold")

    async def load(self, model: Hash) -> ClientModel:
        """Manifest and client's files, from disk or from any worker that sells the model.

        Raises:
            NoPeers: No worker that sells it could be reached.
            PeerError: The manifest is none.
        """
        self._market.follow(model)
        described = manifest.decode(await self._file(model, model, manifest.MANIFEST_BYTES_MAX))
        files = {}
        for entry in described.client_files:
            size_max = min(entry.size, CLIENT_FILE_BYTES_MAX)
            files[entry.role] = await self._file(model, entry.sha256, size_max)
        return ClientModel(manifest=described, files=files, tier=await self._tier(model))

    async def _wait_for(self, name: str) -> None:
        """Return when the name is known, and what is being asked has been answered."""
        began_s = self._clock.monotonic_s()
        while True:
            found, passed_s = self._named(name, ()), self._clock.monotonic_s() - began_s
            if found is not None and self._files.read(found) is not None:
                return
            settled = not self._hints.searching(ANY_MODEL) or passed_s >= SETTLE_S
            if (found is not None and settled) or passed_s >= self._discover_s:
                return
            await self._hints.changed.wait_at_most(LOOK_EVERY_S)

    async def _tier(self, model: Hash) -> Tier:
        """How the model is sold, as far as is known; announcements that are on their way count."""
        began_s = self._clock.monotonic_s()
        while Tier.IDS not in (tiers := self._tiers(model)):
            passed_s = self._clock.monotonic_s() - began_s
            settled = not self._hints.searching(model) or passed_s >= SETTLE_S
            if (tiers and settled) or passed_s >= self._discover_s:
                break
            await self._hints.changed.wait_at_most(LOOK_EVERY_S)
        return Tier.TEXT if Tier.TEXT in tiers and Tier.IDS not in tiers else Tier.IDS

    def _tiers(self, model: Hash) -> set[int]:
        return self._hints.book.tiers(model, now_ms=self._clock.unix_ms())

    def _named(self, name: str, tried: Collection[Hash]) -> Hash | None:
        """Used before, then most sold first; the hash decides among equals, for all alike."""
        wanted = name.casefold()
        sold = sorted(
            (self._files.read(model) is None, -count, model)
            for model, (title, count) in self._hints.models().items()
            if model not in tried and (not wanted or title.casefold() == wanted)
        )
        return sold[0][2] if sold else None

    def _not_found(self, name: str) -> str:
        names = sorted({title for title, _ in self._hints.models().values()})
        if not names:
            return "no worker was found"
        return f"nobody sells the model {name}; sold are {', '.join(names[:NAMES_SHOWN_MAX])}"

    async def _file(self, model: Hash, sha256: Hash, size_max: int) -> bytes:
        content = self._files.read(sha256)
        if content is not None:
            return content
        search = _Search(sha256=sha256, size_max=size_max, rng=self._rng, clock=self._clock)
        give_up_s = self._clock.monotonic_s() + self._discover_s
        with trio.move_on_after(FETCH_S):
            async with trio.open_nursery() as nursery:
                while search.content is None:
                    worker = self._next_seller(model, search)
                    if worker is not None:
                        search.asked.add(worker.peer)
                        nursery.start_soon(search.ask, worker)
                    elif not search.transfers and self._clock.monotonic_s() >= give_up_s:
                        break
                    await search.changed.wait_at_most(HEDGE_S if worker else LOOK_EVERY_S)
                nursery.cancel_scope.cancel()
        if search.content is None:
            raise NoPeers(
                "no worker sent the model's files"
                if search.asked
                else "no worker of this model could be reached"
            )
        self._files.write(search.content)
        self._delivered |= search.delivered
        return search.content

    def _next_seller(self, model: Hash, search: "_Search") -> Session | None:
        """Who delivered before, then round the networks: most identities may be there to stall."""
        sessions, reached = self._transport.sessions(), self._market.reached(model)
        workers = reached.workers & sessions.keys()
        left = sorted(workers - search.asked)
        if not left or not search.make_room():
            return None
        crowd_of = crowds({each: reached.networks.get(each, frozenset()) for each in workers})
        asked = Counter(crowd_of[each] for each in workers & search.asked)

        def rank(worker: Address) -> tuple[bool, int]:
            return worker not in self._delivered, asked[crowd_of[worker]]

        best = min(map(rank, left))
        return sessions[self._rng.choice([each for each in left if rank(each) == best])]


def _announced(name: str) -> str:
    """A model's name as announcements have room for it (`AnnouncedModel.name`)."""
    return name.encode()[:64].decode(errors="ignore").casefold()


@dataclass(slots=True, kw_only=True, eq=False)
class _Transfer:
    """One worker sending a file."""

    scope: trio.CancelScope = field(default_factory=trio.CancelScope)
    began_s: float
    received: int = 0
    """Bytes."""

    def note(self, received: int) -> None:
        self.received = received


@dataclass(slots=True, kw_only=True)
class _Search:
    """One file, asked for from several workers."""

    sha256: Hash
    size_max: int
    rng: random.Random
    clock: Clock
    asked: set[Address] = field(default_factory=set)
    transfers: list[_Transfer] = field(default_factory=list)
    delivered: set[Address] = field(default_factory=set)
    content: bytes | None = None
    changed: Pulse = field(default_factory=Pulse)

    def make_room(self) -> bool:
        """Whether one more may be asked; who sent least in its time gives way to it."""
        if len(self.transfers) < FETCHES_MAX:
            return True
        late_s = self.clock.monotonic_s() - HEDGE_S
        late = [each for each in self.transfers if each.began_s <= late_s]
        if not late:
            return False
        slowest = min(late, key=lambda each: each.received)
        slowest.scope.cancel()
        self.transfers.remove(slowest)
        return True

    async def ask(self, session: Session) -> None:
        transfer = _Transfer(began_s=self.clock.monotonic_s())
        self.transfers.append(transfer)
        try:
            with transfer.scope:
                self.content = await fetch(
                    session,
                    self.sha256,
                    channel=self.rng.randbytes(16),
                    size_max=self.size_max,
                    on_received=transfer.note,
                )
                self.delivered.add(session.peer)
        except (PeerError, Unavailable) as error:
            log.info("file not fetched", worker=checksum(session.peer), reason=str(error))
        finally:
            if transfer in self.transfers:
                self.transfers.remove(transfer)
            self.changed.ring()
