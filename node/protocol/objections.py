"""Which of a client's limits a worker's terms do not meet."""

from dataclasses import replace

from node.protocol.scoring import Estimate, Figures, Need, Preferences, price_micro
from node.protocol.statements import Skill, Terms
from node.units import MS_PER_S


def objection(
    need: Need, prefs: Preferences, terms: Terms, figures: Estimate, *, elapsed_ms: int
) -> str | None:
    """Which of the client's limits the terms do not meet, or None.

    Args:
        need: The job.
        prefs: The limits.
        terms: What is weighed against them.
        figures: `estimate` of the same.
        elapsed_ms: Time since the auction began: it is gone from the deadline.
    """
    if prefs.worker is not None and terms.worker != prefs.worker:
        return "not the wanted worker"
    if terms.worker in prefs.ignore or (prefs.only and terms.worker not in prefs.only):
        return "not one of the wanted workers"
    if terms.model != need.model:
        return "another model"
    if terms.tier != need.tier:
        return "another tier"
    if terms.tokenizer != need.tokenizer:
        return "counts with another tokenizer"
    if missing := need.skills & ~terms.skills:
        return f"can't do what is asked: {named(missing)}"
    if terms.skills & ~need.skills & Skill.EMBEDDINGS:
        return "makes embeddings and nothing else"
    if need.tokens_in + need.output_max > terms.context_max:
        return f"context of {terms.context_max} tokens is too short"
    if need.output_max > terms.output_max:
        return f"gives at most {terms.output_max} tokens"
    if prefs.region and not _in_region(terms.region, prefs.region):
        return f"region {terms.region or 'not given'}"
    if figures.price_most_micro > prefs.price_micro_max:
        return f"costs {figures.price_most_micro} micro, limit {prefs.price_micro_max}"
    fault = _price_fault(prefs, terms) or _pace_fault(prefs, figures.predicted)
    if fault is not None:
        return fault
    # Due with the first output token; a worker turns down an award that it can't cover.
    if terms.prepay + terms.quantum < price_micro(replace(need, output_max=1), terms):
        return f"gives no more credit than {terms.quantum} micro, and the prompt costs more"
    if terms.prepay > prefs.prepay_micro_max:
        return f"asks {terms.prepay} micro in advance, limit {prefs.prepay_micro_max}"
    if prefs.deadline_s is not None:
        left_ms = int(prefs.deadline_s * MS_PER_S) - elapsed_ms
        if figures.total_ms > left_ms:
            return f"would take {figures.total_ms} ms, {max(left_ms, 0)} ms are left"
    return None


def named(skills: int) -> str:
    """Skills, for people."""
    return ", ".join(skill.name.lower() for skill in Skill if skill & skills and skill.name)


def _price_fault(prefs: Preferences, terms: Terms) -> str | None:
    prices = (
        ("prompt", max(terms.price_in, terms.price_cached), prefs.price_in_max),
        ("output", terms.price_out, prefs.price_out_max),
    )
    for what, price, price_max in prices:
        if price_max is not None and price > price_max:
            return f"{price} micro per million {what} tokens, limit {price_max}"
    return None


def _pace_fault(prefs: Preferences, predicted: Figures) -> str | None:
    first_max, rate_min = prefs.first_token_ms_max, prefs.rate_mtps_min
    if first_max is not None and predicted.first_token_ms > first_max:
        return f"first token after {predicted.first_token_ms} ms, limit {first_max}"
    if rate_min is not None and 1_000_000_000 // predicted.token_us < rate_min:
        return f"{predicted.rate_tps:.1f} tokens per second, wanted {rate_min / 1000:.1f}"
    return None


def _in_region(region: str, wanted: str) -> bool:
    region, wanted = region.casefold(), wanted.casefold()
    return region == wanted or region.startswith(wanted + "-")
