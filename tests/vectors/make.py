"""Writes the vectors: `scripts/make-vectors`.  The same input gives the same bytes."""

import json
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from node.protocol import chain_hash, codec, receipts_tree, signing, tabs
from node.protocol.fields import Signed
from node.protocol.frames import FRAMES, Request
from node.protocol.signing import Domain
from node.protocol.statements import (
    Acceptance,
    Announcement,
    Ask,
    Award,
    Cutoff,
    Lock,
    LockRelease,
    Progress,
    Receipt,
    Split,
    Terms,
    TranscriptSeal,
    Voucher,
)
from node.units import cost_micro
from tests.protocol import sample_job as job
from tests.vectors import formats, invalid, jobs
from tests.vectors.examples import empty, filled, full, pseudo, to_json

FOLDER = Path(__file__).parent
KEYS = {"worker": bytes([0x22]) * 32, "client": bytes([0x11]) * 32}
DOMAIN = job.DOMAIN
SIGNED: dict[type[Any], str] = {
    Terms: "worker",
    Announcement: "worker",
    Ask: "client",
    Award: "client",
    Acceptance: "worker",
    Progress: "worker",
    Receipt: "worker",
    Cutoff: "client",
    Voucher: "client",
    Lock: "client",
    LockRelease: "worker",
    TranscriptSeal: "client",
}
"""Every statement, and who signs it."""
ORDER = 0xFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFEBAAEDCE6AF48A03BBFD25E8CD0364141
Vectors = dict[str, Any]


def frames() -> Vectors:
    """Every frame, and what is none."""
    valid = []
    for kind, cls in sorted(FRAMES.items()):
        for name, make in (("filled", filled), ("empty", empty), ("full", full)):
            payload = codec.encode(make(cls))
            valid.append(
                {
                    "name": f"{cls.__name__}, {name}",
                    "class": cls.__name__,
                    "kind": kind,
                    "payload": to_json(payload),
                    "wire": to_json(codec.pack_length(len(payload)) + payload[:12]),
                    "fields": to_json(make(cls)),
                }
            )
    return {
        "note": "wire: the length prefix and the payload's first 12 bytes",
        "valid": valid,
        "accepted": list(_other_forms()),
        "invalid": [_refused(*case) for case in invalid.frames()],
    }


def _other_forms() -> Iterator[Vectors]:
    """Longer forms than msgpack's shortest are the same message."""
    payload = codec.encode(filled(FRAMES[5]))
    forms = {
        "the array's header in two bytes": b"\xdc\x00\x03" + payload[1:],
        "the kind in two bytes": payload[:1] + b"\xcc\x05" + payload[2:],
        "the kind as a signed number": payload[:1] + b"\xd0\x05" + payload[2:],
        "the job's length in two bytes": payload[:2] + b"\xc5\x00\x10" + payload[4:],
    }
    for name, form in forms.items():
        yield {"name": name, "payload": to_json(form), "same_as": to_json(payload)}


def requests() -> Vectors:
    """Request bodies with their hashes, and what is none."""
    bodies = {
        "filled": filled(Request),
        "empty": empty(Request),
        "full": full(Request),
        "of the sample job": codec.decode_request(job.continued_job().pieces[1].body),
    }
    return {
        "valid": [
            {
                "name": name,
                "body": to_json(codec.encode(request)),
                "keccak256": to_json(signing.keccak256(codec.encode(request))),
                "fields": to_json(request),
            }
            for name, request in bodies.items()
        ],
        "invalid": [_refused(*case) for case in invalid.requests()],
    }


def formats_of() -> Vectors:
    """Formats that may be asked for, and what is none."""
    return {
        "valid": [{"name": name, "format": text} for name, text in formats.VALID.items()],
        "invalid": [
            {"why": why, "error": "FormatError", "place": place, "format": text}
            for why, (place, text) in formats.INVALID.items()
        ],
    }


def _refused(why: str, place: str, payload: bytes) -> Vectors:
    shown: Vectors = {"why": why, "error": "DecodeError", "place": place}
    if len(payload) <= 4096:
        return shown | {"payload": to_json(payload)}
    # A long tail of one byte is written as a count.
    body = payload.rstrip(payload[-1:])
    return shown | {
        "payload": to_json(body),
        "then": {"byte": payload[-1], "times": len(payload) - len(body)},
    }


def statements() -> Vectors:
    """EIP-712: types, digests and signatures of every statement, and what is not signed."""
    valid = []
    for cls, signer in SIGNED.items():
        for name, make in (("filled", filled), ("empty", empty), ("full", full)):
            statement = make(cls)
            signed = signing.sign(statement, DOMAIN, KEYS[signer])
            valid.append(
                {
                    "name": f"{cls.__name__}, {name}",
                    "class": cls.__name__,
                    "type": signing.type_string(cls),
                    "type_hash": to_json(signing.keccak256(signing.type_string(cls).encode())),
                    "fields": to_json(statement),
                    "packed": to_json(codec.encode_struct(statement)),
                    "digest": to_json(signing.digest(statement, DOMAIN)),
                    "signer": signer,
                    "signature": to_json(signed.signature),
                }
            )
    return {
        "domain": {
            "name": signing.NAME,
            "version": signing.VERSION,
            "chain_id": DOMAIN.chain_id,
            "escrow": to_json(DOMAIN.escrow),
            "separator": to_json(DOMAIN.separator),
        },
        "keys": {
            name: {
                "private": to_json(key),
                "address": to_json(signing.address_of_key(key)),
                "checksum": signing.checksum(signing.address_of_key(key)),
            }
            for name, key in KEYS.items()
        },
        "valid": valid,
        "invalid": list(_forged()),
    }


def _forged() -> Iterator[Vectors]:
    voucher = filled(Voucher)
    good = signing.sign(voucher, DOMAIN, KEYS["client"])
    r, vs = good.signature[:32], int.from_bytes(good.signature[32:], "big")
    s, parity = vs & (2**255 - 1), vs >> 255
    other_chain = Domain(1, DOMAIN.escrow)
    other_escrow = Domain(DOMAIN.chain_id, bytes([1]) * 20)
    raised = replace(voucher, cumulative=voucher.cumulative - 1)
    # The largest s that 255 bits hold is above n / 2: its top bit is where the parity stands.
    high_s = (2**255 - 1).to_bytes(32, "big")
    cases: dict[str, Signed[Voucher]] = {
        "signed by another key": signing.sign(voucher, DOMAIN, KEYS["worker"]),
        "of another chain": signing.sign(voucher, other_chain, KEYS["client"]),
        "of another escrow": signing.sign(voucher, other_escrow, KEYS["client"]),
        "of another amount": Signed(raised, good.signature),
        "the other parity": Signed(voucher, r + (s | (1 - parity) << 255).to_bytes(32, "big")),
        "a high s": Signed(voucher, r + high_s),
        "n - s for s, where the parity stands": Signed(
            voucher, r + ((ORDER - s) % 2**256).to_bytes(32, "big")
        ),
        "r of zero": Signed(voucher, bytes(32) + good.signature[32:]),
        "s of zero": Signed(voucher, r + bytes(32)),
        "all ones": Signed(voucher, b"\xff" * 64),
    }
    for why, signed in cases.items():
        yield {
            "why": why,
            "error": "SignatureError",
            "class": "Voucher",
            "fields": to_json(signed.statement),
            "signer": "client",
            "signature": to_json(signed.signature),
        }


def chain_hashes() -> Vectors:
    """Heads over ids and over text."""
    client, name = signing.address_of_key(KEYS["client"]), job.JOB
    start = chain_hash.start(client, name)
    ids = [[], [0], [1], [258, 70_000], [2**32 - 1], list(range(100))]
    texts = ["", "a", "añb", "two\n\nlines", "x" * 1_000]
    return {
        "client": to_json(client),
        "job": to_json(name),
        "start": to_json(start),
        "ids": [{"ids": each, "head": to_json(chain_hash.extend(start, each))} for each in ids],
        "texts": [
            {
                "text": text,
                "head": to_json(chain_hash.TextChain(client, name, text.encode()).head),
            }
            for text in texts
        ],
    }


def receipts_trees() -> Vectors:
    """Roots of trees of 0 to 9 and of 33 leaves, every proof of them, and what is none."""
    leaves = [signing.keccak256(f"receipt {at}".encode()) for at in range(33)]
    trees = []
    for size in (*range(10), 33):
        frontier = receipts_tree.append(receipts_tree.EMPTY, leaves[:size])
        proofs = receipts_tree.prove_appended(receipts_tree.EMPTY, leaves[:size])
        trees.append(
            {
                "size": size,
                "root": to_json(receipts_tree.root(frontier)),
                "peaks": to_json(frontier.peaks),
                "proofs": [{"index": proof.index, "path": to_json(proof.path)} for proof in proofs],
            }
        )
    return {"leaves": to_json(leaves), "trees": trees, "invalid": list(_no_proofs(leaves[:7]))}


def _no_proofs(leaves: list[bytes]) -> Iterator[Vectors]:
    root = receipts_tree.root(receipts_tree.append(receipts_tree.EMPTY, leaves))
    proof = receipts_tree.prove(leaves, 4)
    inner = receipts_tree.leaf_hash(leaves[4])
    cases = {
        "another leaf": (leaves[5], proof),
        "the leaf's hash for its digest": (inner, proof),
        "another index": (leaves[4], replace(proof, index=5)),
        "an index beyond the tree": (leaves[4], replace(proof, index=7)),
        "another size": (leaves[4], replace(proof, size=9)),
        "no tree": (leaves[4], replace(proof, size=0)),
        "a path cut short": (leaves[4], replace(proof, path=proof.path[:-1])),
        "a path too long": (leaves[4], replace(proof, path=(*proof.path, root))),
        "a path in another order": (leaves[4], replace(proof, path=proof.path[::-1])),
        "the root's children": (leaves[4], replace(proof, size=1, index=0, path=())),
    }
    for why, (leaf, wrong) in cases.items():
        yield {
            "why": why,
            "leaf": to_json(leaf),
            "index": wrong.index,
            "size": wrong.size,
            "path": to_json(wrong.path),
            "root": to_json(root),
        }


def money() -> Vectors:
    """Costs, splits and tab ids."""
    low, high = bytes([1]) * 20, bytes([2]) * 20
    lists = [
        (),
        (Split(payee=low, bps=500),),
        (Split(payee=low, bps=1), Split(payee=high, bps=4_999)),
    ]
    payee, escrow = bytes([9]) * 20, DOMAIN.escrow
    refused = {
        "more than 5000 basis points": (Split(payee=low, bps=5_001),),
        "a split of nothing": (Split(payee=low, bps=0),),
        "out of order": (Split(payee=high, bps=1), Split(payee=low, bps=1)),
        "twice the same": (Split(payee=low, bps=1), Split(payee=low, bps=1)),
        "the zero address": (Split(payee=bytes(20), bps=1),),
        "the payee itself": (Split(payee=payee, bps=1),),
        "the escrow": (Split(payee=escrow, bps=1),),
    }
    tab = tabs.Tab(
        payer=pseudo("payer", 20),
        payee=payee,
        model=pseudo("model", 32),
        splits=tabs.splits_hash(lists[1]),
    )
    return {
        "costs": list(_costs()),
        "splits": [
            {
                "splits": to_json(each),
                "packed": to_json(tabs.pack_splits(each)),
                "hash": to_json(tabs.splits_hash(each)),
            }
            for each in lists
        ],
        "splits_invalid": {
            "payee": to_json(payee),
            "escrow": to_json(escrow),
            "cases": [{"why": why, "splits": to_json(each)} for why, each in refused.items()],
        },
        "tab": {
            "payer": to_json(tab.payer),
            "payee": to_json(tab.payee),
            "model": to_json(tab.model),
            "splits": to_json(tab.splits),
            "id": to_json(tabs.tab_id(tab)),
        },
    }


def _costs() -> Iterator[Vectors]:
    for counts, prices in (
        ((0, 0, 0), (100, 25, 400)),
        ((1, 0, 0), (1, 0, 0)),
        ((10, 0, 1), (100_000, 25_000, 400_000)),
        ((7, 3, 2), (333_333, 111_111, 999_999)),
        ((1_000_000, 0, 0), (1, 0, 0)),
        ((1_000_001, 0, 0), (1, 0, 0)),
        ((2**32 - 1, 0, 2**32 - 1), (2**53, 0, 2**53)),
    ):
        numbers = dict(zip(("tokens_in", "tokens_cached", "tokens_out"), counts, strict=True))
        numbers |= dict(zip(("price_in", "price_cached", "price_out"), prices, strict=True))
        yield to_json_map(numbers | {"cost": cost_micro(**numbers)})


def to_json_map(values: dict[str, int]) -> Vectors:
    """Integers by name."""
    return {name: to_json(value) for name, value in values.items()}


FILES: dict[str, Callable[[], Vectors]] = {
    "frames.json": frames,
    "requests.json": requests,
    "formats.json": formats_of,
    "statements.json": statements,
    "chain-hash.json": chain_hashes,
    "receipts-tree.json": receipts_trees,
    "money.json": money,
    "transcripts.json": jobs.transcripts,
}


def text(make: Callable[[], Vectors]) -> str:
    """A file's content."""
    return json.dumps(make(), indent=1, ensure_ascii=False) + "\n"


def main() -> None:
    """Write all files."""
    for name, make in FILES.items():
        (FOLDER / name).write_text(text(make), encoding="utf-8")
        print(name)


if __name__ == "__main__":
    main()
