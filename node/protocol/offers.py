"""Binding terms that a client holds: verified on arrival, alive for `OFFER_LIFE_S`, newest first.

Verification costs 0.1 ms, so it is done when an offer arrives and never while a job waits.
"""

from collections import Counter
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise

from node.errors import PeerError, SignatureError
from node.protocol import limits, signing
from node.protocol.fields import ZERO_ADDRESS, ZERO_HASH, Address, Hash, Signed
from node.protocol.statements import Split, Terms, Tier

OFFERS_MAX = 4096
MODELS_PER_WORKER_MAX = 32


class Drop(StrEnum):
    """Why terms were not taken."""

    FORGED = "forged"
    """Not signed by the peer that sent them, or for another chain or escrow."""
    MALFORMED = "malformed"
    """Terms that nobody could be held to."""
    REPLAYED = "replayed"
    """Not newer than what this worker signed before."""
    CROWDED = "crowded"


@dataclass(frozen=True, slots=True, kw_only=True)
class Standing:
    """Terms that bind their worker towards this client."""

    signed: Signed[Terms]
    digest: Hash
    arrived_s: float
    """Monotonic; the life of the terms is counted from here."""

    @property
    def terms(self) -> Terms:
        """The statement itself."""
        return self.signed.statement

    def live(self, now_s: float) -> bool:
        """Whether the worker is still bound, as far as this side may count on it."""
        return now_s - self.arrived_s < limits.OFFER_LIFE_S


def admit(
    signed: Signed[Terms],
    *,
    peer: Address,
    domain: signing.Domain,
    ask: Hash,
    arrived_s: float,
) -> Standing:
    """Check terms that a peer sent as its own.

    Args:
        signed: As received.
        peer: Session key of the sender.
        domain: Chain and escrow that the terms must be bound to.
        ask: Digest of the ask that a bid must answer; zero for an offer to anyone.
        arrived_s: Monotonic time of arrival.

    Raises:
        SignatureError: Another's terms, or not signed, or for another chain.
        PeerError: Terms that contradict themselves, or that answer another ask.
    """
    terms = signed.statement
    if terms.worker != peer:
        raise SignatureError("terms in another worker's name")
    signing.verify(signed, domain, peer)
    if terms.ask != ask:
        raise PeerError("terms for another ask")
    fault = terms_fault(terms)
    if fault is not None:
        raise PeerError(f"terms with {fault}")
    return Standing(signed=signed, digest=signing.digest(terms, domain), arrived_s=arrived_s)


def terms_fault(terms: Terms) -> str | None:
    """What makes terms unusable whoever reads them, or None."""
    if terms.tier not in (Tier.IDS, Tier.TEXT):
        return "an unknown tier"
    if (terms.tier == Tier.TEXT) != (terms.tokenizer != ZERO_HASH):
        return "a tokenizer that does not fit the tier"
    if ZERO_ADDRESS in (terms.worker, terms.payee):
        return "nobody to pay"
    if not (terms.context_max and terms.output_max and terms.rate_mtps):
        return "nothing to sell"
    if terms.price_cached > terms.price_in:
        return "cached tokens dearer than computed ones"
    return splits_fault(terms.splits)


def splits_fault(splits: tuple[Split, ...]) -> str | None:
    """What the escrow would refuse in a list of splits, or None."""
    if len(splits) > limits.SPLITS_MAX or sum(s.bps for s in splits) > limits.SPLITS_BPS_MAX:
        return "splits above the limit"
    if any(s.bps == 0 or s.payee == ZERO_ADDRESS for s in splits):
        return "an empty split"
    if any(a.payee >= b.payee for a, b in pairwise(splits)):
        return "splits out of order"
    return None


class OfferBook:
    """The newest offer per worker and model, of peers that this node has a session with."""

    def __init__(self, domain: signing.Domain, *, offers_max: int = OFFERS_MAX) -> None:
        self._domain = domain
        self._offers_max = offers_max
        self._by_model: dict[Hash, dict[Address, Standing]] = {}
        self._serials: dict[tuple[Address, Hash], int] = {}
        self.dropped: Counter[Drop] = Counter()

    def __len__(self) -> int:
        return len(self._serials)

    def take(self, signed: Signed[Terms], *, peer: Address, arrived_s: float) -> Standing | None:
        """Keep an offer that a peer pushed; None where an equal or newer one is held.

        Raises:
            PeerError: As `admit`; the peer broke the protocol.
        """
        terms = signed.statement
        key = (peer, terms.model)
        # Cheap checks first: a replayed flood must not cost a signature check each.
        if terms.worker == peer and terms.serial <= self._serials.get(key, -1):
            self.dropped[Drop.REPLAYED] += 1
            return None
        if key not in self._serials and self._full(peer):
            self.dropped[Drop.CROWDED] += 1
            return None
        try:
            standing = admit(
                signed, peer=peer, domain=self._domain, ask=ZERO_HASH, arrived_s=arrived_s
            )
        except SignatureError:
            self.dropped[Drop.FORGED] += 1
            raise
        except PeerError:
            self.dropped[Drop.MALFORMED] += 1
            raise
        self._serials[key] = terms.serial
        self._by_model.setdefault(terms.model, {})[peer] = standing
        return standing

    def live(self, model: Hash, now_s: float) -> tuple[Standing, ...]:
        """Offers for a model that still bind, in order of arrival of their workers."""
        return tuple(s for s in self._by_model.get(model, {}).values() if s.live(now_s))

    def withdraw(self, worker: Address, model: Hash, *, serial: int) -> None:
        """The worker no longer stands by terms up to `serial`: it refused an award on them."""
        held = self._by_model.get(model, {}).get(worker)
        if held is not None and held.terms.serial <= serial:
            del self._by_model[model][worker]

    def forget(self, worker: Address) -> None:
        """The session ended; what the worker offered on it is gone, its next start begins anew."""
        for key in [key for key in self._serials if key[0] == worker]:
            del self._serials[key]
            offers = self._by_model.get(key[1], {})  # of withdrawn offers only the serial is kept
            offers.pop(worker, None)
            if not offers:
                self._by_model.pop(key[1], None)

    def _full(self, peer: Address) -> bool:
        own = sum(1 for worker, _ in self._serials if worker == peer)
        return len(self._serials) >= self._offers_max or own >= MODELS_PER_WORKER_MAX
