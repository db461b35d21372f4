"""Hedges are a few per cent of awards, whatever all jobs want."""

from node.roles.hedge_budget import SAVED_MAX, SHARE, HedgeBudget


def test_a_thousand_late_awards_are_not_doubled() -> None:
    budget, hedges = HedgeBudget(), 0
    for _ in range(1000):
        budget.earn()
        hedges += budget.spend()
    assert hedges <= SAVED_MAX + 1000 * SHARE


def test_what_was_spent_is_earned_again() -> None:
    budget = HedgeBudget()
    while budget.spend():
        pass
    for _ in range(round(2 / SHARE)):
        budget.earn()
    assert 1 <= sum(budget.spend() for _ in range(3)) <= 2  # a tenth is no exact float
