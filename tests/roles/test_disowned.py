"""What a payer may take back by cutoffs."""

from node.roles.disowned import PAYERS_MAX, REGROWN_S, Disowned

PAYER = b"\x01" * 20


def test_one_allowance_and_no_more() -> None:
    book = Disowned(allowance_micro=100)
    book.note(PAYER, disowned_micro=100, paid_micro=0, now_s=0.0)
    assert not book.exceeded(PAYER, 0.0)
    book.note(PAYER, disowned_micro=1, paid_micro=0, now_s=0.0)
    assert book.exceeded(PAYER, 0.0)
    assert not book.exceeded(b"\x02" * 20, 0.0)


def test_time_and_payments_restore_it_and_never_more_than_it() -> None:
    book = Disowned(allowance_micro=100)
    book.note(PAYER, disowned_micro=150, paid_micro=0, now_s=0.0)
    assert book.exceeded(PAYER, 0.4 * REGROWN_S)
    assert not book.exceeded(PAYER, 0.6 * REGROWN_S)
    book.note(PAYER, disowned_micro=0, paid_micro=10**9, now_s=REGROWN_S)
    book.note(PAYER, disowned_micro=100, paid_micro=0, now_s=REGROWN_S)
    assert not book.exceeded(PAYER, REGROWN_S)
    book.note(PAYER, disowned_micro=1, paid_micro=0, now_s=REGROWN_S)
    assert book.exceeded(PAYER, REGROWN_S)


def test_it_remembers_no_more_payers_than_its_limit() -> None:
    book = Disowned(allowance_micro=100)
    for number in range(PAYERS_MAX + 10):
        book.note(number.to_bytes(20, "big"), disowned_micro=150, paid_micro=0, now_s=0.0)
    assert not book.exceeded(bytes(20), 0.0)
    assert book.exceeded((PAYERS_MAX + 9).to_bytes(20, "big"), 0.0)
    assert len(book._payers) == PAYERS_MAX
