"""Receipts as files, offline; and against a real escrow on a local chain."""

import json
import stat
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from devnet import chain as devchain
from devnet.chain import DevChain
from node.adapters.chain import voucher_batch
from node.app import receipts
from node.app.receipts_chain import chain_checks
from node.errors import ConfigError, DecodeError, Unavailable
from node.protocol import tabs, transcript
from node.protocol.fields import Address, Hash
from node.protocol.signing import Domain, address_of_key, checksum
from node.protocol.transcript_verify import Check
from node.roles.ports import Account, ChainView, LockState
from node.roles.redemption import Due
from tests.protocol import sample_job as job

SAMPLE = job.continued_job()
FILE, DISCLOSURE = SAMPLE.file(), SAMPLE.disclosure()
CLIENT = address_of_key(job.CLIENT_KEY)


def test_saved_files_are_the_owners_alone(tmp_path: Path) -> None:
    folder = tmp_path / "home" / "transcripts"
    path = receipts.save(folder, job.JOB, FILE, DISCLOSURE)
    beside = receipts.disclosure_beside(path)
    assert beside is not None
    assert path.read_bytes() == FILE
    assert beside.read_bytes() == DISCLOSURE
    for file in (path, beside):
        assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
    assert sorted(folder.iterdir()) == sorted([path, beside])


def test_saving_where_nothing_can_be_written(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="can't be written"):
        receipts.save(tmp_path / "file", job.JOB, FILE, None)


def test_a_receipt_is_found_by_path_job_or_its_beginning(tmp_path: Path) -> None:
    path = receipts.save(tmp_path, job.JOB, FILE, None)
    assert receipts.disclosure_beside(path) is None
    for name in (str(path), job.JOB.hex(), "0001", "0x0001"):
        assert receipts.find(tmp_path, name) == path
    receipts.save(tmp_path, bytes([0, 1]) + bytes(14), FILE, None)
    with pytest.raises(ConfigError, match="2 receipts"):
        receipts.find(tmp_path, "0001")
    with pytest.raises(ConfigError, match="no receipt"):
        receipts.find(tmp_path, "ff")


def test_the_list_is_newest_first_and_skips_what_is_no_transcript(tmp_path: Path) -> None:
    receipts.save(tmp_path, job.JOB, FILE, DISCLOSURE)
    receipts.save(tmp_path, bytes(16), job.finished_job().file(), None)
    receipts.save(tmp_path, bytes([9]) * 16, b"rubbish", None)
    newest, oldest = receipts.rows(tmp_path, count_max=10)
    assert newest.issued_ms > oldest.issued_ms
    assert oldest.tokens_out == newest.tokens_out == len(job.OUTPUT)
    assert (len(oldest.workers), len(newest.workers)) == (2, 1)
    assert newest.ending == "stop"
    assert newest.paid_micro == job.finished_job().pieces[0].paid_micro
    assert receipts.rows(tmp_path / "nowhere", count_max=10) == ()
    assert len(receipts.rows(tmp_path, count_max=1)) <= 1


def test_a_lost_job_says_how_it_ended(tmp_path: Path) -> None:
    lost = job.Sample(pieces=[job.lost_piece()])
    receipts.save(tmp_path, job.JOB, lost.file(), None)
    (row,) = receipts.rows(tmp_path, count_max=10)
    assert row.ending == "cut off: lost"
    assert row.tokens_out == job.CUT_AT


def test_an_honest_receipt_is_verified_and_says_what_it_proves(tmp_path: Path) -> None:
    path = receipts.save(tmp_path, job.JOB, FILE, DISCLOSURE)
    verdict = receipts.verify_file(path, disclosure=receipts.disclosure_beside(path))
    assert verdict.passed
    assert verdict.chain is None
    lines = list(receipts.verdict_lines(verdict))
    assert sum(line.startswith("ok ") for line in lines) == len(verdict.checks)
    assert "Verified. It proves that" in lines
    assert "It does not prove" in lines
    shown = receipts.verdict_json(verdict)
    assert json.loads(json.dumps(shown)) == shown
    assert shown["verified"] is True
    assert shown["failed"] == []
    assert shown["receipt"]["tokens_out"] == len(job.OUTPUT)
    assert len(shown["proves"]) == 4


def test_a_changed_receipt_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "changed.transcript"
    path.write_bytes(FILE[:-1] + bytes([FILE[-1] ^ 1]))
    verdict = receipts.verify_file(path)
    assert not verdict.passed
    assert list(receipts.verdict_lines(verdict))[-1] == "Refused: seal."
    shown = receipts.verdict_json(verdict)
    assert (shown["verified"], shown["failed"], shown["proves"]) == (False, ["seal"], [])


def test_rubbish_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "rubbish.transcript"
    path.write_bytes(b"rubbish")
    shown = receipts.verdict_json(receipts.verify_file(path))
    assert (shown["failed"], shown["receipt"]) == (["encoding"], None)


def test_files_that_can_not_be_read(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="can't be read"):
        receipts.verify_file(tmp_path / "none.transcript")
    path = tmp_path / "large.transcript"
    path.write_bytes(bytes(3 * 1024 * 1024))
    with pytest.raises(DecodeError, match="larger than"):
        receipts.verify_file(path)


def test_everything_of_a_transcript_is_shown() -> None:
    shown = receipts.transcript_json(transcript.read(FILE))
    assert json.loads(json.dumps(shown)) == shown
    segment = shown["transcript"]["segments"][1]
    assert segment["receipt"]["statement"]["tokens_out"] == len(job.OUTPUT) - job.CUT_AT
    assert segment["award"]["statement"]["client"] == "0x" + CLIENT.hex()


# --- against the chain: a fake escrow for the cases, a real one for the wiring


class FakeEscrow:
    def __init__(self, *, view: ChainView, paid_micro: int = 0, domain: Domain = job.DOMAIN):
        self._view, self._paid_micro, self._domain = view, paid_micro, domain

    async def separator(self) -> Hash:
        return self._domain.separator

    async def view(self, *, payer: Address, payee: Address, signer: Address) -> ChainView:
        assert (payer, signer) == (job.PAYER, CLIENT)
        return self._view

    async def tab_paid(self, tab: Hash) -> int:
        return self._paid_micro


GOOD = ChainView(
    block=9,
    block_time_s=1_000,
    account=Account(free_micro=75_000, locked_micro=0, exit_ready_s=0),
    lock=LockState(amount_micro=0, nonce=0, expiry_s=0),
    signer_expiry_s=1_001,
    signer_left_micro=10**9,
)
LOCKED = replace(
    GOOD,
    account=Account(free_micro=0, locked_micro=80_000, exit_ready_s=0),
    lock=LockState(amount_micro=80_000, nonce=1, expiry_s=1_001),
)


async def checked(escrow: FakeEscrow) -> list[tuple[str, bool]]:
    checks: tuple[Check, ...] = await chain_checks(SAMPLE.transcript(), escrow)
    assert all(check.detail for check in checks)
    return [(check.name, check.passed) for check in checks]


def both(authority: bool, redemption: bool) -> list[tuple[str, bool]]:
    of_a_tab = [("authority", authority), ("redemption", redemption)]
    return [("chain", True), *of_a_tab, *of_a_tab]


@pytest.mark.parametrize(
    ("view", "expected"),
    [
        (GOOD, both(True, True)),
        (LOCKED, both(True, True)),
        (replace(GOOD, signer_expiry_s=1_000), both(False, True)),
        (replace(LOCKED, lock=replace(LOCKED.lock, expiry_s=1_000)), both(True, False)),
        (replace(GOOD, signer_left_micro=100), both(True, False)),
        (replace(LOCKED, signer_left_micro=0), both(True, True)),
    ],
)
async def test_open_vouchers_need_authority_and_funds(
    view: ChainView, expected: list[tuple[str, bool]]
) -> None:
    assert await checked(FakeEscrow(view=view)) == expected


async def test_redeemed_vouchers_need_nothing_more() -> None:
    poor = replace(GOOD, signer_expiry_s=0, signer_left_micro=0)
    expected = [("chain", True), ("redemption", True), ("redemption", True)]
    assert await checked(FakeEscrow(view=poor, paid_micro=70_000)) == expected


async def test_another_contract_is_refused() -> None:
    other = FakeEscrow(view=GOOD, domain=Domain(31337, bytes([1]) * 20))
    assert await checked(other) == [("chain", False)]


@pytest.fixture(scope="module")
def chain() -> Iterator[DevChain]:
    with devchain.running() as running:
        assert running.contracts.escrow == checksum(job.DOMAIN.escrow)
        funding = devchain.Funding(address=job.PAYER, deposit_micro=80_000)
        running.fund((funding,))
        running.mine(3)
        yield running


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return receipts.save(tmp_path, job.JOB, FILE, None)


def results(path: Path, url: str, finality_blocks: int = 0) -> list[tuple[str, bool]]:
    verdict = receipts.verify_file(path, rpc=url, finality_blocks=finality_blocks)
    assert verdict.chain is not None
    assert verdict.report.passed
    assert len(verdict.unproven) == len(verdict.report.unproven) - 1
    assert verdict.passed == all(check.passed for check in verdict.chain)
    return [(check.name, check.passed) for check in verdict.chain]


@pytest.mark.devnet
def test_the_escrow_is_asked_for_authority_and_redemption(chain: DevChain, path: Path) -> None:
    url = chain.anvil.url
    assert results(path, url) == both(False, False)

    payer = checksum(job.PAYER)
    chain.rpc("anvil_impersonateAccount", payer)
    escrow = chain.contract("Escrow", chain.contracts.escrow)
    params = {"from": payer, "gas": 200_000}
    escrow.functions.setSigner(checksum(CLIENT), 2**40, 10**9).transact(params)
    chain.mine()
    assert results(path, url) == both(True, True)
    # What is not final yet is not believed.
    assert results(path, url, finality_blocks=1) == both(False, False)

    dues = []
    for segment in SAMPLE.transcript().segments:
        assert segment.payment is not None
        voucher = segment.payment.voucher
        dues.append(
            Due(
                tab=tabs.tab_id(tabs.tab_of_voucher(voucher.statement)),
                voucher=voucher,
                splits=segment.terms.statement.splits,
                paid_micro=0,
                signer=CLIENT,
                since_ms=0,
            )
        )
    batch = voucher_batch.pack(voucher_batch.in_order(dues))
    escrow.functions.redeem(batch).transact({"from": payer, "gas": 900_000})
    chain.mine()
    redeemed = [("chain", True), ("redemption", True), ("redemption", True)]
    assert results(path, url) == redeemed


@pytest.mark.devnet
@pytest.mark.parametrize("domain", [Domain(1, job.DOMAIN.escrow), Domain(31337, bytes([1]) * 20)])
def test_another_chain_or_no_contract_is_refused(
    chain: DevChain, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, domain: Domain
) -> None:
    monkeypatch.setattr(job, "DOMAIN", domain)
    path = receipts.save(tmp_path, job.JOB, job.finished_job().file(), None)
    assert results(path, chain.anvil.url) == [("chain", False)]


def test_no_answer_is_no_verdict(path: Path) -> None:
    with pytest.raises(Unavailable):
        receipts.verify_file(path, rpc="http://127.0.0.1:1")


def test_a_refused_file_is_not_taken_to_the_chain(tmp_path: Path) -> None:
    path = tmp_path / "rubbish.transcript"
    path.write_bytes(FILE[:-1] + b"\x00")
    assert receipts.verify_file(path, rpc="http://127.0.0.1:1").chain is None
