"""Models, endpoints and generations as OpenAI's and OpenRouter's clients read them."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from node.app import receipts
from node.protocol.fields import Hash
from node.protocol.offers import Standing
from node.protocol.scoring import OK_WHOLE, Track
from node.protocol.signing import checksum
from node.protocol.statements import Skill, Terms, Tier
from node.protocol.transcript import SealedTranscript
from node.roles.measurements import Sample
from node.units import MICRO_PER_UNIT, MS_PER_S, TOKENS_PER_PRICE

PRIVACY: Final = (
    "The worker that wins a request sees its prompt and its answer in plain text; the others see "
    "sizes only. No worker runs in a trusted execution environment."
)
PARAMETERS: Final = (
    "max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k", "presence_penalty",
    "frequency_penalty", "repetition_penalty", "seed", "stop", "n", "stream",
)  # fmt: skip
"""What every worker takes that writes text."""
OF_IDS: Final = ("logprobs", "top_logprobs")
OF_SKILLS: Final[Mapping[Skill, tuple[str, ...]]] = {
    Skill.JSON: ("response_format",),
    # A model that knows no tools calls them by a format.
    Skill.SCHEMA: ("response_format", "structured_outputs", "tools", "tool_choice"),
    Skill.TOOLS: ("tools", "tool_choice", "parallel_tool_calls"),
    Skill.DIMENSIONS: ("dimensions",),
}
OF_EMBEDDINGS: Final = ("encoding_format",)
PERCENTILES: Final = (50, 75, 90, 99)


def model_view(
    model: Hash, *, name: str, workers: int, offers: Sequence[Standing], created_s: int
) -> dict[str, Any]:
    """One model of `/v1/models`.

    Args:
        model: Its id.
        name: How it is to be called.
        workers: How many announce it.
        offers: Live ones.
        created_s: Unix time; OpenAI's clients want one.
    """
    terms = [each.terms for each in offers]
    cheapest = min(terms, key=lambda t: (t.price_out, t.price_in), default=None)
    return {
        "id": name,
        "object": "model",
        "created": created_s,
        "owned_by": "market",
        "name": name,
        "context_length": max(filter(None, map(_context, terms)), default=None),
        "pricing": None if cheapest is None else _pricing(cheapest),
        "supported_parameters": _parameters(terms),
        "x_model_id": "0x" + model.hex(),
        "x_workers": workers,
        "x_privacy": PRIVACY,
    }


def endpoint_view(
    terms: Terms, *, name: str, track: Track | None, samples: Sequence[Sample]
) -> dict[str, Any]:
    """One worker of a model: its offer, and how it did with this node's jobs.

    Args:
        terms: Its live offer.
        name: Of the model.
        track: What was measured; None for nothing.
        samples: The latest jobs, one by one.
    """
    worker = checksum(terms.worker)
    tried = track is not None and track.jobs > 0
    first = [each.first_token_s * MS_PER_S for each in samples if each.first_token_s is not None]
    rates = [each.rate_tps for each in samples if each.rate_tps is not None]
    return {
        "name": f"{worker} | {name}",
        "model_name": name,
        "provider_name": worker,
        "tag": worker,
        "context_length": _context(terms),
        "max_completion_tokens": terms.output_max,
        "pricing": _pricing(terms),
        "supported_parameters": _parameters([terms]),
        "uptime": None if track is None or not tried else 100 * track.ok_permille / OK_WHOLE,
        "latency_ms": _percentiles(first),
        "throughput_tps": _percentiles(rates),
        "x_jobs": track.jobs if track is not None else 0,
        "x_promised": {
            "first_token_ms": terms.first_token_ms,
            "rate_tps": terms.rate_mtps / 1000,
        },
        "x_region": terms.region,
        "x_slots_free": terms.slots_free,
        "x_queued": terms.queued,
    }


def generation_view(path: Path, sealed: SealedTranscript, *, name: str) -> dict[str, Any]:
    """The figures of a transcript, as OpenRouter's `/generation` has them.

    Args:
        path: Of its file.
        sealed: Its content.
        name: Of the model.
    """
    row = receipts.row(path, sealed)
    last = sealed.transcript.segments[-1]
    receipt = None if last.receipt is None else last.receipt.statement
    told = {} if receipt is None else {
        "native_tokens_cached": receipt.tokens_cached,
        "latency": receipt.first_token_ms - receipt.accepted_ms,
        "generation_time": receipt.ended_ms - receipt.accepted_ms,
    }  # fmt: skip
    return {
        "id": row.job.hex(),
        "model": name,
        "provider_name": checksum(row.workers[-1]),
        "created_at": row.issued_ms / MS_PER_S,
        "tokens_prompt": row.tokens_in,
        "tokens_completion": row.tokens_out,
        "native_tokens_prompt": row.tokens_in,
        "native_tokens_completion": row.tokens_out,
        "total_cost": row.paid_micro / MICRO_PER_UNIT,
        "total_cost_micro": row.paid_micro,
        "finish_reason": row.ending,
        **told,
        "x_receipt": str(path.absolute()),
    }


def _context(terms: Terms) -> int | None:
    """None of a model of embeddings: its terms say what all inputs of a job may be together."""
    return None if terms.skills & Skill.EMBEDDINGS else terms.context_max


def _parameters(terms: Sequence[Terms]) -> list[str]:
    """What one of these workers takes at least."""
    found = dict.fromkeys(() if terms else PARAMETERS)
    for each in terms:
        found |= dict.fromkeys(OF_EMBEDDINGS if each.skills & Skill.EMBEDDINGS else PARAMETERS)
        if each.tier == Tier.IDS:
            found |= dict.fromkeys(OF_IDS)
        for skill, names in OF_SKILLS.items():
            if each.skills & skill:
                found |= dict.fromkeys(names)
    return list(found)


def _pricing(terms: Terms) -> dict[str, str]:
    """Coins per token, as text: floats would lose digits."""
    return {
        "prompt": _per_token(terms.price_in),
        "completion": _per_token(terms.price_out),
        "input_cache_read": _per_token(terms.price_cached),
    }


def _per_token(price: int) -> str:
    digits = f"{price:013d}"  # micro per million tokens: twelve places
    assert MICRO_PER_UNIT * TOKENS_PER_PRICE == 10**12
    return f"{digits[:-12]}.{digits[-12:]}".rstrip("0").rstrip(".")


def _percentiles(values: Sequence[float]) -> dict[str, float] | None:
    """Nearest rank; None without a measurement."""
    if not values:
        return None
    ordered = sorted(values)
    last = len(ordered) - 1
    return {f"p{p}": round(ordered[round(last * p / 100)], 1) for p in PERCENTILES}
