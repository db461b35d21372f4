"""A whole job, signed by fixed keys: a worker that was lost, and one that finished.

Deterministic (RFC 6979), so that the vectors can be made from it too.  `Sample` is mutable on
purpose: a test changes one thing, and what depends on it is signed again unless it says otherwise.
"""

import json
from dataclasses import dataclass, field, replace
from typing import Any

from node.protocol import chain_hash, codec, receipts_tree, signing, tabs, transcript
from node.protocol.fields import ZERO_HASH, Signed
from node.protocol.frames import Request, SamplingFields
from node.protocol.signing import Domain, address_of_key, digest, keccak256, sign
from node.protocol.statements import (
    Acceptance,
    Award,
    Cutoff,
    CutoffReason,
    Finish,
    Progress,
    Receipt,
    Split,
    Terms,
    Tier,
    Voucher,
)
from node.protocol.transcript import AuctionSummary, Disclosure, Payment, Segment, Transcript
from node.units import cost_micro

CLIENT_KEY = bytes([0x11]) * 32
WORKER_KEYS = (bytes([0x22]) * 32, bytes([0x33]) * 32)
STRANGER_KEY = bytes([0x44]) * 32
PAYER = bytes([0xAA]) * 20
"""A cold account that the client's key signs vouchers for."""
CURATOR = bytes([0xCC]) * 20
DOMAIN = Domain(31337, bytes.fromhex("e7f1725e7734ce288f8367e1bb143e90bb3f0512"))
"""The second contract that Anvil's first account creates: the devnet's escrow."""
MODEL = keccak256(b"a model")
JOB = bytes(range(16))
NOW_MS = 1_790_000_000_000
PROMPT = tuple(range(100, 130))
OUTPUT = tuple(range(1_000, 1_040))
CUT_AT = 12
SAMPLING = SamplingFields(
    temperature=700_000,
    top_p=900_000,
    top_k=40,
    presence=0,
    frequency=-100_000,
    repetition=1_000_000,
    logprobs=0,
    choice=0,
)


def terms_of(worker: int, **changes: Any) -> Terms:
    key = WORKER_KEYS[worker]
    terms = Terms(
        worker=address_of_key(key),
        payee=address_of_key(key),
        model=MODEL,
        tier=Tier.IDS,
        tokenizer=ZERO_HASH,
        price_in=100_000,
        price_cached=25_000,
        price_out=400_000 + 100_000 * worker,
        splits=(Split(payee=CURATOR, bps=500),),
        quantum=2_000,
        prepay=0,
        context_max=2048,
        output_max=1024,
        first_token_ms=80,
        rate_mtps=50_000,
        prefill_tps=4_000,
        slots_free=3,
        queued=0,
        region="eu",
        serial=17 + worker,
        expires_ms=NOW_MS + 10_000,
        ask=ZERO_HASH,
    )
    return replace(terms, **changes)


def request_of(prefix: tuple[int, ...], salt: int, **changes: Any) -> Request:
    request = Request(
        salt=bytes([salt]) * 32,
        prompt=codec.pack_ids(PROMPT),
        prefix=codec.pack_ids(prefix),
        sampling=SAMPLING,
        stop=("\n\n", "END"),
        ignore_eos=False,
    )
    return replace(request, **changes)


@dataclass
class Piece:
    """One segment before it is signed, with the keys that will sign it."""

    terms: Terms
    award: Award
    body: bytes
    worker_key: bytes
    client_key: bytes = CLIENT_KEY
    acceptance: Acceptance | None = None
    progress: Progress | None = None
    receipt: Receipt | None = None
    cutoff: Cutoff | None = None
    paid_micro: int = 0
    voucher: Voucher | None = None
    proof: receipts_tree.InclusionProof | None = None

    def signed(self, domain: Domain) -> Segment:
        def by(key: bytes, statement: Any) -> Any:
            return None if statement is None else sign(statement, domain, key)

        return Segment(
            terms=by(self.worker_key, self.terms),
            award=by(self.client_key, self.award),
            acceptance=by(self.worker_key, self.acceptance),
            progress=by(self.worker_key, self.progress),
            receipt=by(self.worker_key, self.receipt),
            cutoff=by(self.client_key, self.cutoff),
            payment=self._payment(domain),
        )

    def change(self, **parts: Any) -> None:
        """Replace parts; what names the award or pays the receipt follows, unless it is given."""
        for name, value in parts.items():
            setattr(self, name, value)
        if "terms" in parts and "award" not in parts:
            self.award = replace(self.award, terms=digest(self.terms, DOMAIN))
        for name in ("acceptance", "progress", "receipt", "cutoff"):
            statement = getattr(self, name)
            if statement is not None and name not in parts:
                setattr(self, name, replace(statement, award=digest(self.award, DOMAIN)))
        if self.receipt is not None and not {"voucher", "proof", "paid_micro"} & set(parts):
            pay_with_receipt(self)

    def _payment(self, domain: Domain) -> Payment | None:
        if self.voucher is None:
            return None
        proof = self.proof or receipts_tree.InclusionProof(index=0, size=0, path=())
        return Payment(
            amount=self.paid_micro,
            voucher=sign(self.voucher, domain, self.client_key),
            index=proof.index,
            size=proof.size,
            path=proof.path,
        )


def award_of(terms: Terms, body: bytes, **changes: Any) -> Award:
    client = address_of_key(CLIENT_KEY)
    award = Award(
        client=client,
        payer=PAYER,
        worker=terms.worker,
        job=JOB,
        attempt=0,
        terms=digest(terms, DOMAIN),
        request=keccak256(body),
        request_bytes=len(body),
        tokens_in=len(PROMPT),
        output_max=64,
        cap=1_000,
        seed=7,
        position=0,
        chain=chain_hash.start(client, JOB),
        previous=ZERO_HASH,
        issued_ms=NOW_MS,
    )
    return replace(award, **changes)


def cost(terms: Terms, award: Award, *, cached: int, out: int) -> int:
    return cost_micro(
        tokens_in=award.tokens_in - cached,
        tokens_cached=cached,
        tokens_out=out,
        price_in=terms.price_in,
        price_cached=terms.price_cached,
        price_out=terms.price_out,
    )


def voucher_of(terms: Terms, award: Award, *, cumulative: int, root: bytes) -> Voucher:
    return Voucher(
        payer=award.payer,
        payee=terms.payee,
        model=terms.model,
        splits=tabs.splits_hash(terms.splits),
        cumulative=cumulative,
        receipts=root,
    )


def progress_of(terms: Terms, award: Award, *, out: int, chain: bytes, at_ms: int) -> Progress:
    return Progress(
        award=digest(award, DOMAIN),
        tokens_in=award.tokens_in,
        tokens_cached=0,
        tokens_out=out,
        amount=cost(terms, award, cached=0, out=out),
        chain=chain,
        at_ms=at_ms,
    )


def lost_piece() -> Piece:
    """The first worker: accepted, delivered, went silent; cut off at `CUT_AT`."""
    terms, body = terms_of(0), codec.encode(request_of((), 1))
    award = award_of(terms, body)
    head = chain_hash.start(award.client, JOB)
    piece = Piece(terms=terms, award=award, body=body, worker_key=WORKER_KEYS[0])
    piece.acceptance = Acceptance(award=digest(award, DOMAIN), accepted_ms=NOW_MS + 5)
    piece.progress = progress_of(
        terms, award, out=10, chain=chain_hash.extend(head, OUTPUT[:10]), at_ms=NOW_MS + 300
    )
    piece.cutoff = Cutoff(
        award=digest(award, DOMAIN),
        position=CUT_AT,
        chain=chain_hash.extend(head, OUTPUT[:CUT_AT]),
        reason=CutoffReason.LOST,
    )
    piece.paid_micro = cost(terms, award, cached=0, out=CUT_AT)
    piece.voucher = voucher_of(terms, award, cumulative=5_000, root=keccak256(b"older receipts"))
    return piece


def finished_piece(before: Piece | None) -> Piece:
    """The worker that finished the answer, from where the segment before it was cut off."""
    at = before.cutoff.position if before and before.cutoff else 0
    terms, body = terms_of(1), codec.encode(request_of(OUTPUT[:at], 2))
    head = chain_hash.extend(chain_hash.start(address_of_key(CLIENT_KEY), JOB), OUTPUT[:at])
    award = award_of(
        terms,
        body,
        attempt=3,
        tokens_in=len(PROMPT) + at,
        output_max=64 - at,
        position=at,
        chain=head,
        previous=digest(before.award, DOMAIN) if before else ZERO_HASH,
        issued_ms=NOW_MS + 5_000,
    )
    piece = Piece(terms=terms, award=award, body=body, worker_key=WORKER_KEYS[1])
    piece.acceptance = Acceptance(award=digest(award, DOMAIN), accepted_ms=NOW_MS + 5_010)
    piece.progress = progress_of(
        terms,
        award,
        out=8,
        chain=chain_hash.extend(head, OUTPUT[at : at + 8]),
        at_ms=NOW_MS + 5_200,
    )
    piece.receipt = Receipt(
        award=digest(award, DOMAIN),
        tokens_in=award.tokens_in,
        tokens_cached=0,
        tokens_out=len(OUTPUT) - at,
        amount=cost(terms, award, cached=0, out=len(OUTPUT) - at),
        chain=chain_hash.extend(head, OUTPUT[at:]),
        finish=Finish.STOP,
        accepted_ms=NOW_MS + 5_010,
        first_token_ms=NOW_MS + 5_090,
        ended_ms=NOW_MS + 6_000,
    )
    pay_with_receipt(piece)
    return piece


def pay_with_receipt(piece: Piece) -> None:
    """A voucher whose tree holds the piece's receipt among others, with its proof."""
    assert piece.receipt is not None
    leaf = digest(piece.receipt, DOMAIN)
    leaves = [keccak256(b"one"), keccak256(b"two"), leaf, keccak256(b"four"), keccak256(b"five")]
    root = receipts_tree.root(receipts_tree.append(receipts_tree.EMPTY, leaves))
    piece.paid_micro = piece.receipt.amount
    piece.proof = receipts_tree.prove(leaves, 2)
    piece.voucher = voucher_of(piece.terms, piece.award, cumulative=70_000, root=root)


@dataclass
class Sample:
    """A job of some pieces; `file` signs it, whatever was changed."""

    pieces: list[Piece]
    output: tuple[int, ...] = OUTPUT
    text: bytes = "a drawn answer – in UTF-8".encode()
    domain: Domain = field(default_factory=lambda: DOMAIN)
    bids: list[Signed[Terms]] = field(default_factory=list)
    record: bytes = json.dumps({"refusals": []}).encode()

    def disclosure(self) -> bytes:
        return transcript.encode_disclosure(
            Disclosure(
                job=JOB,
                requests=tuple(piece.body for piece in self.pieces),
                output=codec.pack_ids(self.output),
                text=self.text,
            )
        )

    def transcript(self) -> Transcript:
        bids = self.bids or [
            sign(piece.terms, self.domain, piece.worker_key) for piece in self.pieces
        ]
        auction = AuctionSummary(
            mode="direct", reason="the best score", bids=tuple(bids), record=self.record
        )
        return Transcript(
            chain_id=self.domain.chain_id,
            escrow=self.domain.escrow,
            job=JOB,
            disclosure=transcript.disclosure_hash(self.disclosure()),
            auctions=(auction,),
            segments=tuple(piece.signed(self.domain) for piece in self.pieces),
        )

    def file(self) -> bytes:
        return transcript.seal(self.transcript(), CLIENT_KEY)


def finished_job() -> Sample:
    """One worker did it all."""
    return Sample(pieces=[finished_piece(None)])


def continued_job() -> Sample:
    """The first worker was lost, the second went on."""
    lost = lost_piece()
    return Sample(pieces=[lost, finished_piece(lost)])


def signers() -> dict[str, bytes]:
    """Addresses by role, for the vectors."""
    return {
        "client": signing.address_of_key(CLIENT_KEY),
        "worker 1": signing.address_of_key(WORKER_KEYS[0]),
        "worker 2": signing.address_of_key(WORKER_KEYS[1]),
    }
