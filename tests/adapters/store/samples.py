"""Statements and rows to keep, distinct by number."""

from node.protocol import signing
from node.protocol.fields import ZERO_HASH, Hash, Signed
from node.protocol.frames import Rise, VoucherFrame
from node.protocol.payee_state import PayeeTab
from node.protocol.payer_state import PayerTab, Reservation, VoucherDraft
from node.protocol.receipts_tree import append, prove_appended, root
from node.protocol.statements import Award, Finish, Receipt, Split, Terms, Tier, Voucher
from node.protocol.tabs import Tab, splits_hash, tab_id
from node.roles.stores import TabRow
from tests.roles.fakes import DOMAIN, key_of

KEY = key_of(7)
PAYER = signing.address_of_key(KEY)
PAYEE = b"e" * 20
MODEL = b"m" * 32
SPLITS = (Split(payee=b"\x01" * 20, bps=100), Split(payee=b"\x02" * 20, bps=250))
TAB = Tab(payer=PAYER, payee=PAYEE, model=MODEL, splits=splits_hash(SPLITS))
TAB_ID = tab_id(TAB)
PAYER_TAB = PayerTab(id=TAB_ID, tab=TAB, worker=PAYEE)


def job(number: int) -> bytes:
    return number.to_bytes(16, "big")


def reservation(number: int, *, cap: int = 1_000) -> Reservation:
    return Reservation(job=job(number), attempt=0, tab=TAB_ID, cap_micro=cap)


def voucher(cumulative: int, receipts: Hash = ZERO_HASH) -> Signed[Voucher]:
    statement = Voucher(
        payer=PAYER,
        payee=PAYEE,
        model=MODEL,
        splits=TAB.splits,
        cumulative=cumulative,
        receipts=receipts,
    )
    return signing.sign(statement, DOMAIN, KEY)


def draft(
    before: PayerTab, number: int, amount: int, *, receipt: Hash | None = None
) -> tuple[VoucherDraft, VoucherFrame]:
    """The voucher that raises `before` by `amount` for one segment."""
    receipts = () if receipt is None else (receipt,)
    tree = append(before.tree, receipts)
    after = PayerTab(
        id=before.id,
        tab=before.tab,
        worker=before.worker,
        cumulative_micro=before.cumulative_micro + amount,
        tree=tree,
    )
    signed = voucher(after.cumulative_micro, root(tree))
    rises = (Rise(job=job(number), attempt=0, amount=amount),)
    ref = (job(number), 0)
    made = VoucherDraft(
        tab=after,
        voucher=signed.statement,
        rises=rises,
        receipts=receipts,
        proofs=tuple((ref, proof) for proof in prove_appended(before.tree, receipts)),
        reservations=(
            Reservation(
                job=job(number),
                attempt=0,
                tab=TAB_ID,
                cap_micro=1_000,
                paid_micro=amount,
                due_micro=amount,
                accepted_micro=amount,
                receipt=receipt,
            ),
        ),
    )
    return made, VoucherFrame(voucher=signed, rises=rises, receipts=receipts)


def payee_row(cumulative: int, *, best: int | None = None) -> TabRow:
    highest = max(cumulative, best or 0)
    tab = PayeeTab(
        id=TAB_ID, tab=TAB, client=PAYER, cumulative_micro=cumulative, best_micro=highest
    )
    return TabRow(
        tab=tab,
        splits=SPLITS,
        held=voucher(cumulative) if cumulative else None,
        best=voucher(highest) if highest else None,
        owed_since_ms=5 if highest else 0,
    )


def terms() -> Signed[Terms]:
    statement = Terms(
        worker=PAYEE,
        payee=PAYEE,
        model=MODEL,
        tier=Tier.IDS,
        tokenizer=ZERO_HASH,
        price_in=1,
        price_cached=1,
        price_out=1,
        splits=SPLITS,
        quantum=10,
        prepay=0,
        context_max=2048,
        output_max=512,
        first_token_ms=1,
        rate_mtps=1,
        prefill_tps=1,
        slots_free=1,
        queued=0,
        region="eu",
        serial=1,
        expires_ms=1,
        ask=ZERO_HASH,
    )
    return signing.sign(statement, DOMAIN, KEY)


def award(number: int, *, attempt: int = 0) -> Signed[Award]:
    statement = Award(
        client=PAYER,
        payer=PAYER,
        worker=PAYEE,
        job=job(number),
        attempt=attempt,
        terms=ZERO_HASH,
        request=ZERO_HASH,
        request_bytes=1,
        tokens_in=1,
        output_max=1,
        cap=100,
        seed=0,
        position=0,
        chain=ZERO_HASH,
        previous=ZERO_HASH,
        issued_ms=0,
    )
    return signing.sign(statement, DOMAIN, KEY)


def digest_of(signed: Signed[Award]) -> Hash:
    return signing.digest(signed.statement, DOMAIN)


def receipt(of: Hash, *, amount: int = 50) -> tuple[Signed[Receipt], Hash]:
    statement = Receipt(
        award=of,
        tokens_in=1,
        tokens_cached=0,
        tokens_out=3,
        amount=amount,
        chain=ZERO_HASH,
        finish=Finish.STOP,
        accepted_ms=1,
        first_token_ms=2,
        ended_ms=3,
    )
    return signing.sign(statement, DOMAIN, KEY), signing.digest(statement, DOMAIN)
