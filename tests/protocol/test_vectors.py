"""The vectors are what this program makes; and each holds, read from its file alone."""

import json
from typing import Any

import pytest

from node.errors import DecodeError, PeerError, SignatureError
from node.protocol import chain_hash, codec, formats, receipts_tree, signing, tabs, transcript
from node.protocol.fields import Signed
from node.protocol.formats import FormatError
from node.protocol.frames import FRAMES, Request
from node.protocol.receipts_tree import InclusionProof
from node.protocol.signing import Domain
from node.protocol.statements import Split
from node.protocol.transcript_verify import verify
from node.units import cost_micro
from tests.protocol.strategies import STATEMENTS
from tests.vectors import make
from tests.vectors.examples import struct_from_json, to_json

BY_NAME = {cls.__name__: cls for cls in STATEMENTS}


def load(name: str) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((make.FOLDER / name).read_text(encoding="utf-8"))
    return found


def unhex(text: str) -> bytes:
    assert text.startswith("0x")
    return bytes.fromhex(text[2:])


def payload_of(case: dict[str, Any]) -> bytes:
    tail = case.get("then", {"byte": 0, "times": 0})
    return unhex(case["payload"]) + bytes([tail["byte"]]) * int(tail["times"])


@pytest.mark.parametrize("name", make.FILES)
def test_the_files_are_what_the_script_makes(name: str) -> None:
    written = (make.FOLDER / name).read_text(encoding="utf-8")
    assert written == make.text(make.FILES[name]), "run scripts/make-vectors"


def test_no_file_is_left_over() -> None:
    others = {"sampling.json"}  # of the engine's own script
    assert {path.name for path in make.FOLDER.glob("*.json")} - others == set(make.FILES)


def test_valid_frames() -> None:
    cases = load("frames.json")["valid"]
    assert {case["kind"] for case in cases} == set(FRAMES)
    for case in cases:
        cls = FRAMES[case["kind"]]
        payload = unhex(case["payload"])
        assert cls.__name__ == case["class"]
        assert codec.decode_frame(payload) == struct_from_json(cls, case["fields"])
        assert codec.encode(codec.decode_frame(payload)) == payload
        wire = unhex(case["wire"])
        assert codec.unpack_length(wire) == len(payload)
        assert payload.startswith(wire[codec.LENGTH_SIZE :])


def test_other_forms_of_a_frame() -> None:
    for case in load("frames.json")["accepted"]:
        same = codec.decode_frame(unhex(case["same_as"]))
        assert codec.decode_frame(unhex(case["payload"])) == same, case["name"]


def test_invalid_frames() -> None:
    cases = load("frames.json")["invalid"]
    assert len(cases) > 40
    for case in cases:
        with pytest.raises(DecodeError) as refused:
            codec.decode_frame(payload_of(case))
        assert str(refused.value).startswith(case["place"]), case["why"]


def test_valid_requests() -> None:
    for case in load("requests.json")["valid"]:
        body = unhex(case["body"])
        assert codec.decode_request(body) == struct_from_json(Request, case["fields"])
        assert to_json(signing.keccak256(body)) == case["keccak256"]


def test_invalid_requests() -> None:
    for case in load("requests.json")["invalid"]:
        with pytest.raises(DecodeError) as refused:
            codec.decode_request(payload_of(case))
        assert str(refused.value).startswith(case["place"]), case["why"]


def test_valid_formats() -> None:
    for case in load("formats.json")["valid"]:
        assert formats.written(formats.read(case["format"])) == case["format"]


def test_invalid_formats() -> None:
    for case in load("formats.json")["invalid"]:
        with pytest.raises(FormatError) as refused:
            formats.read(case["format"])
        assert str(refused.value).startswith(case["place"]), case["why"]


def test_valid_statements() -> None:
    vectors = load("statements.json")
    domain = Domain(vectors["domain"]["chain_id"], unhex(vectors["domain"]["escrow"]))
    assert to_json(domain.separator) == vectors["domain"]["separator"]
    assert {case["class"] for case in vectors["valid"]} == set(BY_NAME)
    for case in vectors["valid"]:
        cls, key = BY_NAME[case["class"]], unhex(vectors["keys"][case["signer"]]["private"])
        statement = struct_from_json(cls, case["fields"])
        assert signing.type_string(cls) == case["type"]
        assert to_json(signing.digest(statement, domain)) == case["digest"]
        assert codec.decode_struct(cls, unhex(case["packed"])) == statement
        signed = signing.sign(statement, domain, key)
        assert to_json(signed.signature) == case["signature"]
        signer = unhex(vectors["keys"][case["signer"]]["address"])
        assert signing.verify(signed, domain, signer) == statement


def test_keys_and_addresses() -> None:
    for key in load("statements.json")["keys"].values():
        address = signing.address_of_key(unhex(key["private"]))
        assert (to_json(address), signing.checksum(address)) == (key["address"], key["checksum"])


def test_invalid_statements() -> None:
    vectors = load("statements.json")
    domain = Domain(vectors["domain"]["chain_id"], unhex(vectors["domain"]["escrow"]))
    for case in vectors["invalid"]:
        statement = struct_from_json(BY_NAME[case["class"]], case["fields"])
        signer = unhex(vectors["keys"][case["signer"]]["address"])
        with pytest.raises(SignatureError):
            signing.verify(Signed(statement, unhex(case["signature"])), domain, signer)


def test_chain_hashes() -> None:
    vectors = load("chain-hash.json")
    client, job = unhex(vectors["client"]), unhex(vectors["job"])
    start = chain_hash.start(client, job)
    assert to_json(start) == vectors["start"]
    for case in vectors["ids"]:
        assert to_json(chain_hash.extend(start, case["ids"])) == case["head"]
    for case in vectors["texts"]:
        text = chain_hash.TextChain(client, job, case["text"].encode())
        assert to_json(text.head) == case["head"]


def test_receipts_trees() -> None:
    vectors = load("receipts-tree.json")
    leaves = [unhex(leaf) for leaf in vectors["leaves"]]
    for tree in vectors["trees"]:
        grown = receipts_tree.append(receipts_tree.EMPTY, leaves[: tree["size"]])
        assert to_json(receipts_tree.root(grown)) == tree["root"]
        assert to_json(grown.peaks) == tree["peaks"]
        assert len(tree["proofs"]) == tree["size"]
        for proof in tree["proofs"]:
            path = tuple(unhex(sibling) for sibling in proof["path"])
            known = InclusionProof(index=proof["index"], size=tree["size"], path=path)
            leaf, root = leaves[proof["index"]], unhex(tree["root"])
            assert receipts_tree.verify_inclusion(leaf, known, root)


def test_what_proves_no_receipt() -> None:
    for case in load("receipts-tree.json")["invalid"]:
        path = tuple(unhex(sibling) for sibling in case["path"])
        proof = InclusionProof(index=case["index"], size=case["size"], path=path)
        leaf, root = unhex(case["leaf"]), unhex(case["root"])
        assert not receipts_tree.verify_inclusion(leaf, proof, root), case["why"]


def test_money() -> None:
    vectors = load("money.json")
    for case in vectors["costs"]:
        numbers = {name: int(value) for name, value in case.items()}
        cost = numbers.pop("cost")
        assert cost_micro(**numbers) == cost
    for case in vectors["splits"]:
        splits = [struct_from_json(Split, each) for each in case["splits"]]
        assert to_json(tabs.pack_splits(splits)) == case["packed"]
        assert to_json(tabs.splits_hash(splits)) == case["hash"]
    tab = dict(vectors["tab"])
    name = tab.pop("id")
    known = tabs.Tab(**{field: unhex(value) for field, value in tab.items()})
    assert to_json(tabs.tab_id(known)) == name


def test_splits_that_the_escrow_refuses() -> None:
    vectors = load("money.json")["splits_invalid"]
    payee, escrow = unhex(vectors["payee"]), unhex(vectors["escrow"])
    for case in vectors["cases"]:
        splits = [struct_from_json(Split, each) for each in case["splits"]]
        with pytest.raises(PeerError):
            tabs.check_splits(splits, payee=payee, escrow=escrow)


def test_valid_transcripts() -> None:
    for case in load("transcripts.json")["valid"]:
        file, disclosure = unhex(case["transcript"]), unhex(case["disclosure"])
        sealed = transcript.read(file)
        report = verify(file, disclosure, domain=make.DOMAIN)
        assert report.passed
        assert [check.name for check in report.checks] == case["checks"]
        assert to_json(transcript.content_hash(sealed.transcript)) == case["content_hash"]
        assert to_json(sealed) == case["fields"]


def test_invalid_transcripts() -> None:
    for case in load("transcripts.json")["invalid"]:
        report = verify(unhex(case["transcript"]))
        assert [check.name for check in report.failed] == case["failed"], case["why"]
        assert case["failed"]
