"""How many threads compute: which session is for which run, and that no bit depends on it."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from node.adapters.onnx import session
from node.adapters.onnx.decoder import Decoder, load
from node.adapters.onnx.past import PastDecoder
from node.adapters.onnx.session import SHORT_TOKENS, Sessions
from tests.adapters.onnx import variants

GRAPH = variants.SHIPPED / "model.onnx"


def threads_of(one: Any) -> int:
    count: int = one.get_session_options().intra_op_num_threads
    return count


def test_short_runs_of_small_models_are_computed_by_one_thread() -> None:
    found = Sessions(GRAPH, threads=3)
    assert threads_of(found.of(1)) == threads_of(found.of(SHORT_TOKENS - 1)) == 1
    assert threads_of(found.of(SHORT_TOKENS)) == threads_of(found.long) == 3


def test_large_models_have_one_session_for_all_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(session, "SMALL_BYTES", 1_000_000)
    found = Sessions(GRAPH, threads=2)
    assert found.of(1) is found.of(1000)
    assert threads_of(found.long) == 2


def test_one_thread_needs_no_second_session() -> None:
    found = Sessions(GRAPH, threads=1)
    assert found.of(1) is found.of(1000)


@pytest.mark.parametrize(("cores", "threads"), [(1, 1), (3, 3), (64, session.THREADS_MAX)])
def test_without_being_told_there_is_one_for_each_core(
    monkeypatch: pytest.MonkeyPatch, cores: int, threads: int
) -> None:
    monkeypatch.setattr(session, "_cores", lambda: cores)
    assert threads_of(Sessions(GRAPH, threads=0).long) == threads


def test_cores_that_the_process_may_not_use_do_not_count() -> None:
    assert 1 <= session._cores() <= 4096


def in_place(graph: Path, *, threads: int) -> Decoder[Any]:
    return load(graph, threads=threads, context=2048)


def as_exported(graph: Path, *, threads: int) -> Decoder[Any]:
    return PastDecoder(graph, threads=threads)


@pytest.mark.parametrize("make", [in_place, as_exported])
@pytest.mark.parametrize("threads", [2, 3, 8])
def test_no_bit_depends_on_the_threads(make: Any, threads: int) -> None:
    """Workers with other machines give the same answers, and so re-check each other's."""
    every = [_logits(make(GRAPH, threads=count)) for count in (1, threads)]
    for alone, together in zip(*every, strict=True):
        np.testing.assert_array_equal(alone, together)


@pytest.mark.parametrize("heads", [1, 3])
def test_no_bit_depends_on_the_threads_where_they_are_more_than_heads(
    heads: int, tmp_path: Path
) -> None:
    """ONNX Runtime has several threads share a head's product then, and sums in another order."""
    graph = variants.plain_attention(tmp_path / "model.onnx", heads=heads)
    ids = np.random.default_rng(1).integers(0, 256, size=(1, 1200))

    def last(threads: int, chunk: int) -> np.ndarray[Any, Any]:
        decoder = as_exported(graph, threads=threads)
        cache = decoder.begun()
        for start in range(0, ids.shape[1], chunk):
            logits, cache = decoder.forward(ids[:, start : start + chunk], cache, last=True)
        found: np.ndarray[Any, Any] = logits[0, -1].copy()
        return found

    wanted = last(1, 256)
    for threads in (2, 5, 8):
        for chunk in (32, 256):
            np.testing.assert_array_equal(last(threads, chunk), wanted)


def _logits(decoder: Decoder[Any]) -> list[np.ndarray[Any, Any]]:
    rng, found = np.random.default_rng(3), []
    for history, fresh, rows in ((0, 2, 1), (33, 97, 3), (250, 256, 12), (1500, 130, 9)):
        ids = rng.integers(5, 2048, size=(1, history + fresh + 4))
        cache = decoder.begun()
        for start in range(0, history, 256):
            part = ids[:, start : min(start + 256, history)]
            _, cache = decoder.forward(part, cache, last=True)
        logits, cache = decoder.forward(ids[:, history : history + fresh], cache)
        found.append(logits.copy())
        cache = cache.taken([0] * rows)
        for at in range(history + fresh, ids.shape[1]):
            step = np.repeat(ids[:, at : at + 1], rows, axis=0)
            logits, cache = decoder.forward(step, cache, last=True)
            found.append(logits.copy())
    return found
