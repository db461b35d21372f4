"""Models as the gateway's clients name them, ready to be rendered and read."""

from collections import OrderedDict
from dataclasses import dataclass, field
from typing import Final

import trio

from node.adapters.http.errors import busy, model_not_found
from node.app.buyer import Buyer
from node.app.ordering import Reader
from node.errors import NoPeers, PeerError
from node.protocol.announcements import ANY_MODEL
from node.protocol.fields import Address, Hash
from node.protocol.offers import Standing
from node.roles.catalog import ClientModel

READERS_MAX: Final = 16
"""A tokenizer takes some 50 MB of memory for a large vocabulary."""
NAME_S: Final = 30.0
"""How long a name goes on meaning a model without being looked up again."""
LOOKS: Final = 25
LOOK_S: Final = 0.1
"""A list of offers looks so often for the first: a client that was idle has none."""


@dataclass(slots=True)
class _Named:
    """What a name means."""

    lock: trio.Lock = field(default_factory=trio.Lock)
    """Many requests for a model that nobody has yet load it once."""
    reader: Reader | None = None
    until_s: float = 0.0


class Shelf:
    """Readers of the models that are asked for."""

    def __init__(self, buyer: Buyer) -> None:
        self._buyer = buyer
        self._named: OrderedDict[str, _Named] = OrderedDict()
        self._readers: OrderedDict[Hash, Reader] = OrderedDict()

    async def reader(self, name: str) -> Reader:
        """The model of a name or 0x-hash.

        Raises:
            ApiError: 404 if nobody sells it, 503 if nobody is in reach.
        """
        entry = self._named.setdefault(name, _Named())
        self._named.move_to_end(name)
        if len(self._named) > READERS_MAX * 4:
            self._named.popitem(last=False)
        if entry.reader is not None and trio.current_time() < entry.until_s:
            return entry.reader
        async with entry.lock:
            if entry.reader is None or trio.current_time() >= entry.until_s:
                entry.reader = await self._load(name)
                entry.until_s = trio.current_time() + NAME_S
            return entry.reader

    async def _load(self, name: str) -> Reader:
        if name.startswith("0x") and self._unheard_of(name):
            raise model_not_found(f"nobody sells the model {name}")
        try:
            return await self.reader_of(await self._buyer.catalog.choose(name))
        except PeerError as error:
            raise model_not_found(str(error)) from error
        except NoPeers as error:
            titles = {title.casefold() for title, _ in self._buyer.hints.models().values()}
            if titles and name.casefold() not in titles and not name.startswith("0x"):
                raise model_not_found(str(error)) from error
            raise busy(str(error)) from error

    async def reader_of(self, model: ClientModel) -> Reader:
        """A model's reader, made once.

        Raises:
            PeerError: A file of the model can't be used.
        """
        reader = self._readers.get(model.id)
        if reader is None or reader.model.tier is not model.tier:
            reader = await trio.to_thread.run_sync(Reader.of, model)
        self._readers[model.id] = reader
        self._readers.move_to_end(model.id)
        if len(self._readers) > READERS_MAX:
            self._readers.popitem(last=False)
        return reader

    def _unheard_of(self, name: str) -> bool:
        known = {"0x" + model.hex() for model in self._buyer.hints.models()}
        return bool(known) and name.lower() not in known

    async def find(self, name: str) -> tuple[Hash, str]:
        """A model by what `/v1/models` calls it, without its files; and its usual name.

        Raises:
            ApiError: Nobody sells it.
        """
        for model, title in self.ids().items():
            if name in (title, "0x" + model.hex()):
                return model, title
        raise model_not_found(f"nobody sells the model {name}")

    def ids(self) -> dict[Hash, str]:
        """How each model that is sold is to be called: by its name, if that means this one."""
        found: dict[Hash, str] = {}
        models = self._buyer.hints.models()
        used = {r.reader.model.id for r in self._named.values() if r.reader is not None}
        order = sorted(models, key=lambda m: (m not in used, -models[m][1], m))
        taken: set[str] = set()
        for model in order:
            title = models[model][0]
            found[model] = title if title.casefold() not in taken else "0x" + model.hex()
            taken.add(title.casefold())
        return found

    def sellers(self, name: str) -> frozenset[Address]:
        """Workers with a live offer of a model by that name, as far as is known."""
        market, models = self._buyer.market, self._buyer.hints.models()
        wanted = {
            model
            for model, (title, _) in models.items()
            if name.casefold() in (title.casefold(), "0x" + model.hex())
        }
        return frozenset(o.terms.worker for model in wanted for o in market.live_offers(model))

    async def offers(self, model: Hash) -> tuple[Standing, ...]:
        """Live offers of a model (`ANY_MODEL`: wait for those of all); waits a little for them."""
        market = self._buyer.market
        market.follow(model)
        for _ in range(LOOKS):
            if self._live(model):
                break
            await trio.sleep(LOOK_S)
        return market.live_offers(model)

    def _live(self, model: Hash) -> bool:
        models = self._buyer.hints.models() if model == ANY_MODEL else (model,)
        return bool(models) and all(self._buyer.market.live_offers(each) for each in models)
