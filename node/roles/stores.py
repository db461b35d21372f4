"""What the roles need kept on disk.  Every method returns when its rows are durable.

Writes are atomic, each on its own; they are committed in the order in which they were called, many
to a commit.  Bytes of statements are kept as they were signed or received, and resent as they are.

Any method raises `StoreFailed` once the disk failed; from then on all of them do, until a restart,
so that nothing is signed that could be forgotten.
"""

from dataclasses import dataclass

from node.errors import NodeError
from node.roles.stores_jobs import (
    BoughtSegment,
    ClientStore,
    Earnings,
    JobRow,
    JobState,
    MarketStore,
    Measurement,
    SegmentRow,
    WorkerStore,
)
from node.roles.stores_keys import KeyRow, KeyStore
from node.roles.stores_money import (
    PayeeRows,
    PayeeStore,
    PayerRows,
    PayerStore,
    ReceiptProof,
    TabRow,
)
from node.roles.transactions import TransactionJournal


class StoreFailed(NodeError):
    """The disk is full or broken: nothing may be signed or sent until it works again."""


class Duplicate(NodeError):
    """What would be saved is there already: it was begun, reserved or signed before."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Stores:
    """All of one home's."""

    payer: PayerStore
    payee: PayeeStore
    worker: WorkerStore
    client: ClientStore
    market: MarketStore
    chain: TransactionJournal
    keys: KeyStore


__all__ = [
    "BoughtSegment",
    "ClientStore",
    "Duplicate",
    "Earnings",
    "JobRow",
    "JobState",
    "KeyRow",
    "KeyStore",
    "MarketStore",
    "Measurement",
    "PayeeRows",
    "PayeeStore",
    "PayerRows",
    "PayerStore",
    "ReceiptProof",
    "SegmentRow",
    "StoreFailed",
    "Stores",
    "TabRow",
    "TransactionJournal",
    "WorkerStore",
]
