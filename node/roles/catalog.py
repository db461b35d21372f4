"""Which models the market sells, and the files of theirs that a client needs, by hash."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

import structlog

from node.errors import NoPeers, PeerError, Unavailable
from node.protocol import manifest
from node.protocol.announcements import ANY_MODEL
from node.protocol.fields import Address, Hash
from node.protocol.manifest import FileRole, Manifest
from node.roles.files import fetch
from node.roles.hints import Hints
from node.roles.market import Market
from node.roles.ports import Clock, Files, Session, Transport

log = structlog.get_logger("catalog")

CLIENT_FILE_BYTES_MAX = 32 * 1024 * 1024
LOOK_EVERY_S = 0.5
NAMES_SHOWN_MAX = 8


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientModel:
    """A model as a client needs it: to render, to count and to read, never to run."""

    manifest: Manifest
    files: Mapping[FileRole, bytes]

    @property
    def id(self) -> Hash:
        """Hash of the manifest."""
        return self.manifest.model_id


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
        discover_s: float,
    ) -> None:
        self._hints = hints
        self._market = market
        self._transport = transport
        self._files = files
        self._clock = clock
        self._discover_s = discover_s

    async def find(self, name: str) -> Hash:
        """The id of the model that a person names: a 0x-hash, a name, or "" for the usual one.

        Raises:
            NoPeers: Nobody announces such a model.
        """
        if name.startswith("0x") and len(name) == 66:
            return bytes.fromhex(name[2:])
        self._hints.follow(ANY_MODEL)
        give_up_s = self._clock.monotonic_s() + self._discover_s
        while True:
            found = self._named(name)
            if found is not None:
                return found
            left_s = give_up_s - self._clock.monotonic_s()
            if left_s <= 0:
                raise NoPeers(self._not_found(name), hint="node market shows what is sold")
            await self._hints.changed.wait_at_most(min(left_s, LOOK_EVERY_S))

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
        return ClientModel(manifest=described, files=files)

    def _named(self, name: str) -> Hash | None:
        """Most sold first; the hash decides among equals, so that all clients choose alike."""
        wanted = name.casefold()
        sold = sorted(
            ((-count, model) for model, (title, count) in self._hints.models().items()
             if not wanted or title.casefold() == wanted)
        )  # fmt: skip
        return sold[0][1] if sold else None

    def _not_found(self, name: str) -> str:
        names = sorted({title for title, _ in self._hints.models().values()})
        if not names:
            return "no worker was found"
        return f"nobody sells the model {name}; sold are {', '.join(names[:NAMES_SHOWN_MAX])}"

    async def _file(self, model: Hash, sha256: Hash, size_max: int) -> bytes:
        content = self._files.read(sha256)
        if content is not None:
            return content
        tried: set[Address] = set()
        give_up_s = self._clock.monotonic_s() + self._discover_s
        while self._clock.monotonic_s() < give_up_s:
            for session in self._sellers(model, tried):
                tried.add(session.peer)
                try:
                    content = await fetch(session, sha256, size_max=size_max)
                except (PeerError, Unavailable) as error:
                    log.info("file not fetched", reason=str(error))
                    continue
                self._files.write(content)
                return content
            await self._hints.changed.wait_at_most(LOOK_EVERY_S)
        raise NoPeers("no worker of this model could be reached")

    def _sellers(self, model: Hash, tried: set[Address]) -> Iterable[Session]:
        sessions = self._transport.sessions()
        workers = self._market.reached(model).workers - tried
        return [sessions[worker] for worker in sorted(workers) if worker in sessions]
