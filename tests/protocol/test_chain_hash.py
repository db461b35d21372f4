import hashlib
import time

from hypothesis import given, settings
from hypothesis import strategies as st

from node.protocol import chain_hash

CLIENT = bytes(range(20))
JOB = bytes(range(16))
IDS = st.lists(st.integers(0, 2**32 - 1), max_size=40)


def test_a_head_is_the_hash_that_the_specification_writes_down() -> None:
    first = hashlib.sha256(b"gpu-market chain 1" + CLIENT + JOB).digest()
    second = hashlib.sha256(first + b"\x00\x00\x01\x02").digest()
    assert chain_hash.start(CLIENT, JOB) == first
    assert chain_hash.extend(first, [258]) == second


@settings(deadline=None)
@given(before=IDS, after=IDS)
def test_chunks_do_not_matter(before: list[int], after: list[int]) -> None:
    head = chain_hash.start(CLIENT, JOB)
    whole = chain_hash.extend(head, before + after)
    assert chain_hash.extend(chain_hash.extend(head, before), after) == whole


@settings(deadline=None)
@given(ids=st.lists(st.integers(0, 2**32 - 1), min_size=1, max_size=20), at=st.integers(0, 19))
def test_every_id_matters(ids: list[int], at: int) -> None:
    head = chain_hash.start(CLIENT, JOB)
    changed = list(ids)
    changed[at % len(ids)] ^= 1
    assert chain_hash.extend(head, changed) != chain_hash.extend(head, ids)
    assert chain_hash.extend(head, ids[:-1]) != chain_hash.extend(head, ids)


def test_client_and_job_matter() -> None:
    other = bytes(20)
    assert chain_hash.start(CLIENT, JOB) != chain_hash.start(other, JOB)
    assert chain_hash.start(CLIENT, JOB) != chain_hash.start(CLIENT, bytes(16))


@settings(deadline=None)
@given(text=st.binary(max_size=60), cut=st.integers(0, 60), again=st.integers(0, 60))
def test_text_is_hashed_by_its_bytes_however_it_was_cut(text: bytes, cut: int, again: int) -> None:
    chain = chain_hash.TextChain(CLIENT, JOB)
    whole = chain.after(text[:cut]).after(text[cut:])
    continued = chain_hash.TextChain(CLIENT, JOB, text[: cut + again])
    assert whole.head == continued.after(text[cut + again :]).head
    assert whole.size == len(text)
    assert chain.head == chain_hash.start(CLIENT, JOB)


def test_no_text_leaves_the_start_so_that_an_empty_segment_links() -> None:
    chain = chain_hash.TextChain(CLIENT, JOB)
    assert chain.head == chain_hash.start(CLIENT, JOB)
    expected = hashlib.sha256(chain_hash.start(CLIENT, JOB) + "é".encode()).digest()
    assert chain.after("é".encode()).head == expected


def test_ten_thousand_ids_take_milliseconds() -> None:
    head = chain_hash.start(CLIENT, JOB)
    started = time.perf_counter()
    chain_hash.extend(head, range(10_000))
    assert time.perf_counter() - started < 0.25
