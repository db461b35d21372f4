"""Terms that a worker signed: what they say, and for how long they are honoured."""

from collections import OrderedDict

from node.config import WorkerConfig
from node.errors import ConfigError
from node.protocol import limits, signing
from node.protocol.fields import Address, Hash, Signed
from node.protocol.offers import splits_fault
from node.protocol.statements import Skill, Split, Terms
from node.roles.capacity import Promise, Reservations
from node.roles.generation import EngineModel
from node.roles.ports import Clock
from node.roles.stores import WorkerStore
from node.units import cost_micro

TERMS_LIFE_S = limits.OFFER_LIFE_S + 5.0
"""Terms are honoured longer than clients count on them, by the time that an award may take."""
ISSUED_MAX = 8192
SERIAL_BLOCK = 100_000


class TermsBook:
    """Signs terms at the operator's prices, and remembers them while they bind.

    Serials come from the store in blocks: one commit for many terms, and a restart uses none twice.
    """

    def __init__(
        self,
        *,
        worker: Address,
        payee: Address,
        clock: Clock,
        domain: signing.Domain,
        key: bytes,
        store: WorkerStore,
        config: WorkerConfig,
    ) -> None:
        """
        Args:
            worker: This node's session key, as an address.
            payee: Account that is paid.
            clock: Wall clock for what terms say, monotonic for how long they are honoured.
            domain: Chain and escrow.
            key: 32-byte session key that signs.
            store: Where serials come from.
            config: Prices, splits, quantum.

        Raises:
            ConfigError: The escrow would refuse the splits.
        """
        self._worker = worker
        self._payee = payee
        self._clock = clock
        self._domain = domain
        self._key = key
        self._store = store
        self._config = config
        self._splits = _splits(config)
        self._issued: OrderedDict[Hash, tuple[Signed[Terms], float]] = OrderedDict()
        """By digest, with the end of their life (monotonic); oldest first."""
        self._serial = self._serial_end = 0

    async def more_serials(self) -> None:
        """Have at least half a block of serials at hand.

        Raises:
            StoreFailed: The disk is broken.
        """
        if self._serial_end - self._serial < SERIAL_BLOCK // 2:
            # From the clock on: a home that was put back from an old copy repeats none either.
            now_ms = self._clock.unix_ms()
            first = await self._store.next_serials(SERIAL_BLOCK, at_least=now_ms)
            self._serial, self._serial_end = first, first + SERIAL_BLOCK

    def find(self, digest: Hash) -> Signed[Terms] | None:
        """Terms that are still honoured."""
        self._forget_expired()
        found = self._issued.get(digest)
        return None if found is None else found[0]

    def sign(
        self,
        sold: EngineModel,
        *,
        model: Hash,
        ask: Hash,
        prepay_micro: int,
        speed: Promise,
        places: Reservations,
    ) -> Signed[Terms] | None:
        """New terms; None while as many are in force as may be.

        Args:
            sold: What the engine has loaded.
            model: Its id.
            ask: Digest of the ask that they answer; zero for an offer to anyone.
            prepay_micro: Voucher that must come with the award.
            speed: What to promise.
            places: How full this worker is.
        """
        self._forget_expired()
        if self._serial >= self._serial_end or len(self._issued) >= ISSUED_MAX:
            return None
        config = self._config
        terms = Terms(
            worker=self._worker,
            payee=self._payee,
            model=model,
            tier=sold.tier,
            tokenizer=sold.tokenizer,
            skills=int(sold.skills),
            price_in=config.price_in,
            price_cached=config.price_cached,
            price_out=price_out(sold, config),
            splits=self._splits,
            quantum=config.quantum_micro,
            prepay=prepay_micro,
            context_max=sold.context,
            output_max=sold.context,
            first_token_ms=speed.first_token_ms,
            rate_mtps=speed.rate_mtps,
            prefill_tps=speed.prefill_tps,
            slots_free=min(places.slots_free(), 2**16 - 1),
            queued=min(places.queued(), 2**16 - 1),
            region=config.region,
            serial=self._serial,
            expires_ms=self._clock.unix_ms() + int(TERMS_LIFE_S * 1000),
            ask=ask,
        )
        self._serial += 1
        signed = signing.sign(terms, self._domain, self._key)
        until_s = self._clock.monotonic_s() + TERMS_LIFE_S
        self._issued[signing.digest(terms, self._domain)] = (signed, until_s)
        return signed

    def prepay_micro(self, tokens_in: int) -> int | None:
        """The voucher to ask for with an award, for a prompt of this size.

        None: the prompt costs more than the quantum, and the operator asks for no advance.
        """
        prompt_micro, first_micro = (self._cost(tokens_in, out) for out in (0, 1))
        above_micro = self._config.prepay_above_micro
        if above_micro == 0:
            return 0 if first_micro <= self._config.quantum_micro else None
        wanted = prompt_micro > above_micro or first_micro > self._config.quantum_micro
        return prompt_micro if wanted else 0

    def _cost(self, tokens_in: int, tokens_out: int) -> int:
        return cost_micro(
            tokens_in=tokens_in,
            tokens_cached=0,
            tokens_out=tokens_out,
            price_in=self._config.price_in,
            price_cached=self._config.price_cached,
            price_out=self._config.price_out,
        )

    def _forget_expired(self) -> None:
        now_s = self._clock.monotonic_s()
        while self._issued and next(iter(self._issued.values()))[1] <= now_s:
            self._issued.popitem(last=False)


def price_out(sold: EngineModel, config: WorkerConfig) -> int:
    """Micro per million output tokens; vectors are paid for by what they are made of."""
    return 0 if sold.skills & Skill.EMBEDDINGS else config.price_out


def _splits(config: WorkerConfig) -> tuple[Split, ...]:
    try:
        unsorted = [
            Split(payee=bytes.fromhex(each.payee.removeprefix("0x")), bps=each.bps)
            for each in config.splits
        ]
    except ValueError as error:
        raise ConfigError("a split's payee is no address", hint="worker.splits") from error
    splits = tuple(sorted(unsorted, key=lambda each: each.payee))
    fault = splits_fault(splits)
    if fault is not None or any(len(each.payee) != 20 for each in splits):
        raise ConfigError(f"worker.splits: {fault or 'an address has 20 bytes'}")
    return splits
