"""From an award to what the payee's ledger asks about it."""

from node.config import ChainConfig, WorkerConfig
from node.protocol.fields import Hash
from node.protocol.frames import Refused
from node.protocol.payee_state import Admit, Effect, PayeeRules, Refuse, Segment
from node.protocol.statements import Award, Terms
from node.protocol.tabs import Tab, tab_id, tab_of_terms
from node.roles.ports import ChainView
from node.units import cost_micro

MONEY_CODES = frozenset(
    {
        Refused.LOCK_REQUIRED,
        Refused.DEPOSIT_TOO_LOW,
        Refused.EXIT_PENDING,
        Refused.CLIENT_UNAUTHORISED,
        Refused.CHAIN_UNAVAILABLE,
    }
)
"""Refusals that a newer view of the chain may lift."""


def rules_of(worker: WorkerConfig, chain: ChainConfig) -> PayeeRules:
    """The operator's settings, as the ledger takes them."""
    return PayeeRules(
        credit_micro=worker.credit_micro,
        credit_new_micro=worker.credit_new_micro,
        debt_max_micro=worker.quantum_micro,
        exit_margin_s=chain.exit_margin_s,
    )


def segment_of(award: Award, terms: Terms, digest: Hash) -> tuple[Segment, Tab]:
    """The segment that an award would begin, and the tab that it is paid on."""
    tab = tab_of_terms(terms, payer=award.payer)
    segment = Segment(
        award=digest,
        client=award.client,
        job=award.job,
        attempt=award.attempt,
        payer=award.payer,
        tab=tab_id(tab),
        cap_micro=award.cap,
        need_micro=min(award.cap, _most_micro(award, terms)),
    )
    return segment, tab


def admit_event(segment: Segment, tab: Tab, view: ChainView | None) -> Admit:
    """The question, with what the chain says about the signer."""
    return Admit(
        segment=segment,
        tab=tab,
        signer_expiry_s=view.signer_expiry_s if view else 0,
        signer_left_micro=view.signer_left_micro if view else 0,
    )


def newer_may_lift(effects: tuple[Effect, ...]) -> bool:
    """Whether it was refused for something that may have changed on the chain."""
    return any(isinstance(effect, Refuse) and effect.code in MONEY_CODES for effect in effects)


def _most_micro(award: Award, terms: Terms) -> int:
    return cost_micro(
        tokens_in=award.tokens_in,
        tokens_cached=0,
        tokens_out=award.output_max,
        price_in=max(terms.price_in, terms.price_cached),
        price_cached=0,
        price_out=terms.price_out,
    )
