"""How fast a decoder is on this machine: measured once, when it is loaded."""

import time
from collections.abc import Callable
from typing import Any, Final

import numpy as np

from node.adapters.onnx.decoder import Decoder
from node.protocol.manifest import Manifest
from node.roles.generation import EngineRates

PROMPT_TOKENS: Final = 128
STEPS_MAX: Final = 32
LIMIT_S: Final = 1.0
"""How long each of the figures may take; a slow model is measured over fewer steps."""


def measure(
    decoder: Decoder[Any], manifest: Manifest, *, slots: int, limit_tps: float
) -> EngineRates:
    """Rates of one decoder while nothing else runs on it.

    Args:
        decoder: What to measure.
        manifest: Its vocabulary and context.
        slots: Rows of the batch.
        limit_tps: The operator's limit on one job's rate; 0 for none.
    """
    prompt = min(PROMPT_TOKENS, manifest.context // 2)
    _decode(decoder, rows=1, prompt=prompt, vocab=manifest.vocab)  # the first run allocates
    prefill_s, alone_s = _decode(decoder, rows=1, prompt=prompt, vocab=manifest.vocab)
    _, batch_s = _decode(decoder, rows=slots, prompt=prompt, vocab=manifest.vocab)
    limit = limit_tps or float("inf")
    return EngineRates(
        prefill_tps=prompt / prefill_s,
        decode_tps=min(limit, 1 / alone_s),
        decode_batch_tps=min(limit * slots, slots / batch_s),
        first_token_ms=1000 * prefill_s,
    )


def _decode(decoder: Decoder[Any], *, rows: int, prompt: int, vocab: int) -> tuple[float, float]:
    """Seconds of one prompt's prefill, and of one step of some rows after it."""
    ids = np.arange(prompt, dtype=np.int64)[None] % vocab
    started_s = time.perf_counter()
    _, cache = decoder.forward(ids, decoder.begun(room=prompt), last=True)
    prefill_s = time.perf_counter() - started_s
    cache = cache.taken([0] * rows)
    ids = np.zeros((rows, 1), dtype=np.int64)

    def step() -> None:
        nonlocal cache
        _, cache = decoder.forward(ids, cache, last=True)

    return prefill_s, _mean_s(step)


def _mean_s(step: Callable[[], None]) -> float:
    started_s, count = time.perf_counter(), 0
    while count < STEPS_MAX and (count == 0 or time.perf_counter() - started_s < LIMIT_S):
        step()
        count += 1
    return (time.perf_counter() - started_s) / count
