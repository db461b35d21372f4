"""Decoders as exporters write them: which are understood, and that they all say the same."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from node.adapters.onnx.batch import Batch
from node.adapters.onnx.decoder import Decoder, Ints, load, vocab
from node.adapters.onnx.inplace import GRAIN, InPlaceDecoder
from node.adapters.onnx.past import SPREAD_MAX, PastDecoder
from node.errors import ConfigError, Unavailable
from tests.adapters.onnx import variants

GRAPH = variants.SHIPPED / "model.onnx"
IDS = np.arange(5, 45, dtype=np.int64)[None]
CONTEXT = 2048


def opened(graph: Path) -> Decoder[Any]:
    return load(graph, threads=1, context=CONTEXT)


@pytest.fixture(scope="module")
def past() -> PastDecoder:
    return PastDecoder(GRAPH, threads=1)


@pytest.fixture(scope="module", params=["as exported", "in place"])
def decoder(request: pytest.FixtureRequest, past: PastDecoder) -> Decoder[Any]:
    return past if request.param == "as exported" else opened(GRAPH)


def logits_of(
    decoder: Decoder[Any], ids: Ints, chunk: int
) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    cache, rows = decoder.begun(), []
    for at in range(0, ids.shape[1], chunk):
        made, cache = decoder.forward(ids[:, at : at + chunk], cache)
        rows.append(made[0].copy())  # the next run may write over it
    assert cache.length == ids.shape[1]
    found: np.ndarray[tuple[int, int], np.dtype[np.float32]] = np.concatenate(rows)
    return found


def test_the_layout_of_the_shipped_model(past: PastDecoder) -> None:
    layout = past.layout
    assert layout.pads
    assert len(layout.parts) == 12
    assert {(part.heads, part.width) for part in layout.parts} == {(2, 32)}
    assert layout.parts[1].past == "past_key_values.0.value"
    assert layout.parts[1].present == "present.0.value"
    assert vocab(past) == 2048


def test_layers_are_in_the_order_of_their_numbers() -> None:
    from types import SimpleNamespace as Node

    from node.adapters.onnx.layout import detect

    past = [
        Node(name=f"past_key_values.{n}.{part}", type="tensor(float16)", shape=["b", 1, "p", 4])
        for n in range(12)
        for part in ("key", "value")
    ]
    rest = [Node(name=n, type="tensor(int64)", shape=[]) for n in ("input_ids", "attention_mask")]
    outputs = [Node(name=p.name.replace("past_key_values", "present")) for p in past]
    layout = detect([*reversed(past), *rest], [*outputs, Node(name="logits")])
    assert [part.past for part in layout.parts] == [node.name for node in past]
    assert not layout.pads
    assert layout.cache is np.float16


@pytest.mark.parametrize("chunk", [1, 7, 39])
def test_logits_do_not_depend_on_how_a_prompt_is_cut(decoder: Decoder[Any], chunk: int) -> None:
    np.testing.assert_allclose(
        logits_of(decoder, IDS, chunk), logits_of(decoder, IDS, 40), atol=2e-4
    )


@pytest.mark.parametrize(
    ("make", "tolerance"),
    [(variants.without_positions, 1e-5), (variants.half_precision_cache, 0.1)],
)
def test_other_exports_of_the_same_model(
    past: PastDecoder, tmp_path: Path, make: Callable[[Path], Path], tolerance: float
) -> None:
    other = opened(make(tmp_path / "model.onnx"))
    assert isinstance(other, PastDecoder)
    np.testing.assert_allclose(logits_of(other, IDS, 8), logits_of(past, IDS, 8), atol=tolerance)


def test_the_shipped_graph_is_rewritten_and_says_the_same(past: PastDecoder) -> None:
    other = opened(GRAPH)
    assert isinstance(other, InPlaceDecoder)
    np.testing.assert_allclose(logits_of(other, IDS, 40), logits_of(past, IDS, 40), atol=2e-4)


def test_a_rewritten_graph_with_its_weights_inside(past: PastDecoder, tmp_path: Path) -> None:
    other = opened(variants.self_contained(tmp_path / "model.onnx"))
    assert isinstance(other, InPlaceDecoder)
    np.testing.assert_allclose(logits_of(other, IDS, 7), logits_of(past, IDS, 7), atol=2e-4)


@pytest.mark.parametrize(
    "make",
    [variants.with_a_window, variants.with_a_soft_cap, variants.with_a_score_added],
)
def test_a_graph_whose_attention_is_another_one_is_run_as_it_is(
    tmp_path: Path, make: Callable[[Path], Path]
) -> None:
    other = opened(make(tmp_path / "model.onnx"))
    assert isinstance(other, PastDecoder)
    assert np.isfinite(logits_of(other, IDS, 40)).all()


def test_the_last_position_alone(decoder: Decoder[Any]) -> None:
    every, _ = decoder.forward(IDS, decoder.begun())
    wanted = every[:, -1].copy()
    last, cache = decoder.forward(IDS, decoder.begun(), last=True)
    np.testing.assert_array_equal(last[:, -1], wanted)
    assert last.shape[1] == (1 if decoder.slices else IDS.shape[1])
    assert cache.length == cache.shortest == IDS.shape[1]


def test_more_columns_change_nothing() -> None:
    decoder = opened(GRAPH)
    assert isinstance(decoder, InPlaceDecoder)
    _, cache = decoder.forward(IDS[:, :5], decoder.begun(), last=True)
    wide = cache.grown(10 * GRAIN)
    for token in (7, 8, 9):
        narrow_logits, cache = decoder.forward(np.array([[token]]), cache, last=True)
        found = narrow_logits.copy()
        wide_logits, wide = decoder.forward(np.array([[token]]), wide, last=True)
        np.testing.assert_array_equal(wide_logits, found)
    assert (cache.columns, wide.columns) == (GRAIN, 10 * GRAIN)


def test_rows_without_positions_share_no_batch(tmp_path: Path) -> None:
    other = opened(variants.without_positions(tmp_path / "model.onnx"))
    batch: Batch[str] = Batch(other)
    _, cache = other.forward(IDS[:, :10], other.begun())
    batch.join("a", cache)
    assert batch.fits(10)
    assert not batch.fits(11)


@pytest.mark.parametrize(
    ("make", "complaint"),
    [
        (variants.with_unknown_input, "use_cache_branch"),
        (variants.without_cache, "not an exported decoder"),
        (lambda path: path.write_bytes(b"no graph") and path, "model.onnx"),
        (lambda path: path.with_name("absent.onnx"), "absent.onnx"),
    ],
    ids=["unknown-input", "no-cache", "no-graph", "no-file"],
)
def test_refused(tmp_path: Path, make: Callable[[Path], Path], complaint: str) -> None:
    with pytest.raises(ConfigError, match=complaint):
        opened(make(tmp_path / "model.onnx"))


def test_what_the_runtime_refuses_is_unavailable(decoder: Decoder[Any]) -> None:
    with pytest.raises(Unavailable, match="engine failed"):
        decoder.forward(np.array([[10**9]]), decoder.begun())


LENGTHS = (12, 40, 3)


def read(decoder: Decoder[Any], length: int) -> Any:
    _, cache = decoder.forward(IDS[:, :length], decoder.begun())
    return cache


def test_rows_in_a_batch_get_what_they_get_alone(decoder: Decoder[Any]) -> None:
    batch: Batch[int] = Batch(decoder)
    alone = [read(decoder, length) for length in LENGTHS]
    for at, length in enumerate(LENGTHS):
        batch.join(at, read(decoder, length))
    fresh = [100, 200, 300]
    for _ in range(4):
        together = batch.step(fresh).copy()
        for at in range(3):
            own, alone[at] = decoder.forward(np.array([[fresh[at]]]), alone[at])
            np.testing.assert_allclose(together[at], own[0, -1], atol=2e-4)
        fresh = [int(row.argmax()) for row in together]


def test_rows_leave_and_come_back(decoder: Decoder[Any]) -> None:
    batch: Batch[int] = Batch(decoder)
    for at, length in enumerate(LENGTHS):
        batch.join(at, read(decoder, length))
    taken = batch.take(1)
    assert batch.rows == [0, 2]
    assert taken.length == taken.shortest == LENGTHS[1]
    batch.leave([0])
    batch.join(1, taken)
    assert batch.rows == [2, 1]
    own, _ = decoder.forward(np.array([[7]]), read(decoder, LENGTHS[1]))
    wanted = own[0, -1].copy()
    np.testing.assert_allclose(batch.step([9, 7])[1], wanted, atol=2e-4)
    batch.leave([2, 1])
    assert batch.rows == []
    assert batch.fits(2000)


def test_a_batch_is_as_before_when_a_run_fails(decoder: Decoder[Any]) -> None:
    batch: Batch[int] = Batch(decoder)
    for at, length in enumerate(LENGTHS):
        batch.join(at, read(decoder, length))
    with pytest.raises(Unavailable):
        batch.step([5, 10**9, 6])
    own, _ = decoder.forward(np.array([[7]]), read(decoder, LENGTHS[1]))
    wanted = own[0, -1].copy()
    np.testing.assert_allclose(batch.step([9, 7, 8])[1], wanted, atol=2e-4)


def test_rows_of_very_different_lengths_do_not_fit(decoder: Decoder[Any]) -> None:
    batch: Batch[int] = Batch(decoder)
    batch.join(0, read(decoder, 10))
    assert batch.fits(10 + SPREAD_MAX)
    assert not batch.fits(11 + SPREAD_MAX)
