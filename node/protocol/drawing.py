"""Shared-seed sampling: which token follows, given the logits and what the client fixed.

Anyone with the weights can repeat it (protocol.md, "Sampling"; vectors in
tests/vectors/sampling.json).  All arithmetic is IEEE 754 binary64.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from node.protocol.sampling import Sampling

Floats = NDArray[np.float64]
Logits = NDArray[np.float32] | NDArray[np.float16]
Ids = NDArray[np.int64]

PERSON: Final = b"gpunode-sampling"
"""BLAKE2b's personalisation: exactly 16 bytes."""
NUCLEUS_FIRST: Final = 256
"""How many of the best tokens top-p sorts before it looks further; no part of the result."""

_TOP: Final = np.finfo(np.float32).max
_GOLDEN: Final = np.uint64(0x9E3779B97F4A7C15)
_MIX_1: Final = np.uint64(0xBF58476D1CE4E5B9)
_MIX_2: Final = np.uint64(0x94D049BB133111EB)


class History:
    """Which tokens a job has had, for the penalties.  Grows by `push`."""

    def __init__(self, prompt: Iterable[int] = (), output: Iterable[int] = ()) -> None:
        self._output = Counter(output)
        self._seen = dict.fromkeys(prompt) | dict.fromkeys(self._output)

    def push(self, token: int) -> None:
        """Count one more output token."""
        self._output[token] += 1
        self._seen[token] = None

    def penalise(self, scores: Floats, sampling: Sampling) -> None:
        """Apply the three penalties to `scores`, in place; ids beyond its end are ignored."""
        if sampling.repetition != 1.0:
            ids = self._within(self._seen, scores)
            old, by = scores[ids], sampling.repetition
            scores[ids] = np.where(old > 0, old / by, old * by)
        if sampling.presence or sampling.frequency:
            ids = self._within(self._output, scores)
            counts = np.array([self._output[token] for token in ids.tolist()], dtype=np.float64)
            scores[ids] -= sampling.presence + sampling.frequency * counts

    @staticmethod
    def _within(tokens: Iterable[int], scores: Floats) -> NDArray[np.int64]:
        return np.array([token for token in tokens if token < len(scores)], dtype=np.int64)


def gumbel(tokens: NDArray[Any], *, sampling: Sampling, position: int) -> Floats:
    """The noise of each token id at an output position: a keyed hash, as standard Gumbel values."""
    message = sampling.seed.to_bytes(8, "big") + sampling.choice.to_bytes(4, "big")
    digest = hashlib.blake2b(
        message + position.to_bytes(4, "big"), digest_size=16, person=PERSON
    ).digest()
    first, second = (np.uint64(int.from_bytes(digest[at : at + 8], "big")) for at in (0, 8))
    mixed = _finalise(_finalise(tokens.astype(np.uint64) * _GOLDEN + first) ^ second)
    # 52 bits and a half: never 0 and never 1, both exact in binary64.
    uniform: Floats = ((mixed >> np.uint64(12)).astype(np.float64) + 0.5) * 2.0**-52
    noise: Floats = -np.log(-np.log(uniform))
    return noise


def _finalise(x: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The output function of splitmix64 (Steele, Lea, Flood 2014), modulo 2^64."""
    x = (x ^ (x >> np.uint64(30))) * _MIX_1
    x = (x ^ (x >> np.uint64(27))) * _MIX_2
    return x ^ (x >> np.uint64(31))


def choose(
    logits: Logits,
    *,
    sampling: Sampling,
    position: int,
    history: History | None = None,
    allowed: Ids | None = None,
) -> int:
    """The token at an output position.

    Args:
        logits: One row, [vocabulary].
        sampling: What the client fixed.
        position: Output tokens of the whole job before this one.
        history: Prompt and output so far; needed only if `sampling.penalises`.
        allowed: The ids that a format allows here, ascending, at least one; None for all.
    """
    if sampling.temperature == 0.0 and not sampling.penalises and allowed is None:
        token = int(logits.argmax())
        if math.isfinite(logits[token]):
            return token  # the same as below, in a fifth of the time
    scores = _penalised(logits, sampling, history)
    ids = np.arange(len(scores)) if allowed is None else allowed
    if allowed is not None:
        scores = scores[allowed]
    if sampling.temperature == 0.0:
        return int(ids[scores.argmax()])
    scores /= sampling.temperature
    kept = _kept(scores, sampling)
    noisy = scores[kept] + gumbel(ids[kept], sampling=sampling, position=position)
    return int(ids[kept[noisy.argmax()]])


def margin(
    logits: Logits,
    chosen: int,
    *,
    sampling: Sampling,
    position: int,
    history: History | None = None,
    allowed: Ids | None = None,
    slack: float = 0.0,
) -> float:
    """How far the score of a chosen token is below the best: 0 if it is the one, else more.

    Args:
        logits: One row, [vocabulary], computed by whoever checks.
        chosen: The token that a worker delivered.
        sampling: What the client fixed.
        position: Output tokens of the whole job before this one.
        history: Prompt and output before the token; needed only if `sampling.penalises`.
        allowed: The ids that a format allows here, ascending, at least one; None for all.
        slack: How far a scaled logit, and top-p's sum, may be off at the thresholds of the
            filters, since honest logits differ a little between machines.

    Returns:
        The margin in units of logit over temperature (of logit, where the temperature is 0);
        infinite if the token was excluded by the format, top-k or top-p, or is not in the
        vocabulary.
    """
    ids = np.arange(len(logits)) if allowed is None else allowed
    found = np.flatnonzero(ids == chosen)
    if not len(found):
        return float("inf")
    at = int(found[0])
    scores = _penalised(logits, sampling, history)[ids]
    if sampling.temperature == 0.0:
        return float(scores.max() - scores[at])
    scores /= sampling.temperature
    if at not in _possibly_kept(scores, sampling, slack):
        return float("inf")
    sure = _surely_kept(scores, sampling, slack)
    if not len(sure):
        return 0.0
    noisy = scores[sure] + gumbel(ids[sure], sampling=sampling, position=position)
    own = scores[at] + gumbel(np.array([chosen]), sampling=sampling, position=position)[0]
    return max(0.0, float(noisy.max() - own))


def log_softmax(logits: Logits) -> Floats:
    """Log-probabilities of the model itself: before penalties, temperature and filters."""
    scores = _finite(logits)
    scores -= scores.max()
    scores -= np.log(np.exp(scores).sum())
    return scores


def best(logprobs: Floats, count: int) -> tuple[tuple[int, float], ...]:
    """The `count` likeliest tokens with their log-probabilities, best first, then by id."""
    ids = _best_first(logprobs, min(count, len(logprobs)))
    return tuple((int(token), float(logprobs[token])) for token in ids)


def _finite(logits: Logits) -> Floats:
    """Float32 to binary64; NaN counts as the least, so that one bad value can't poison a row."""
    # fmax takes the number where the other is none; it is a tenth of nan_to_num's time.
    return np.fmin(np.fmax(logits.astype(np.float32), -_TOP), _TOP).astype(np.float64)


def _penalised(logits: Logits, sampling: Sampling, history: History | None) -> Floats:
    scores = _finite(logits)
    if sampling.penalises:
        if history is None:
            raise ValueError("penalties need the history")
        history.penalise(scores, sampling)
    return scores


def _best_first(scores: Floats, count: int) -> Ids:
    """Ids of the `count` best scores, best first, ties by lower id."""
    if count <= 0:
        return np.empty(0, dtype=np.int64)
    if count < len(scores):
        threshold = np.partition(scores, len(scores) - count)[len(scores) - count]
        ids = np.flatnonzero(scores >= threshold)
    else:
        ids = np.arange(len(scores))
    return ids[np.argsort(-scores[ids], kind="stable")][:count]


def _kept(scores: Floats, sampling: Sampling, *, more: float = 0.0) -> Ids:
    """Ids that top-k and then top-p leave, with top-p's threshold raised by `more`."""
    ids = np.arange(len(scores))
    if 0 < sampling.top_k < len(scores):
        ids = np.sort(_best_first(scores, sampling.top_k))
    return ids if sampling.top_p >= 1.0 else _top_p(scores, ids, sampling.top_p + more)


def _possibly_kept(scores: Floats, sampling: Sampling, slack: float) -> Ids:
    """Ids that logits a little different might have kept."""
    kept = _kept(scores, sampling, more=slack)
    return np.flatnonzero(scores >= scores[kept].min() - slack) if slack else kept


def _surely_kept(scores: Floats, sampling: Sampling, slack: float) -> Ids:
    """Ids that logits a little different would have kept as well."""
    kept = _kept(scores, sampling, more=-slack)
    others = np.delete(scores, kept)
    return kept[scores[kept] > others.max() + slack] if slack and len(others) else kept


def _top_p(scores: Floats, ids: Ids, mass: float) -> Ids:
    among = scores[ids]
    weights = np.exp(among - among.max())
    wanted = mass * float(weights.sum())
    count = NUCLEUS_FIRST
    while True:
        order = _best_first(among, min(count, len(among)))
        before = np.concatenate(([0.0], np.cumsum(weights[order])[:-1]))
        if count >= len(among) or before[-1] >= wanted:
            return np.sort(ids[order[(before < wanted) | (np.arange(len(order)) == 0)]])
        count *= 8
