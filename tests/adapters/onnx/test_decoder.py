"""Decoders as exporters write them: which are understood, and that they all say the same."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from node.adapters.onnx.batch import SPREAD_MAX, Batch
from node.adapters.onnx.decoder import Decoder, Ints
from node.errors import ConfigError, Unavailable
from tests.adapters.onnx import variants

GRAPH = variants.SHIPPED / "model.onnx"
IDS = np.arange(5, 45, dtype=np.int64)[None]
NO_PADS = np.zeros(1, dtype=np.int64)


@pytest.fixture(scope="module")
def decoder() -> Decoder:
    return Decoder(GRAPH, threads=1)


def logits_of(
    decoder: Decoder, ids: Ints, chunk: int
) -> np.ndarray[tuple[int, int], np.dtype[np.float32]]:
    cache, rows = decoder.empty(), []
    for at in range(0, ids.shape[1], chunk):
        made, cache = decoder.forward(ids[:, at : at + chunk], cache, pads=NO_PADS)
        rows.append(made[0])
    assert cache.length == ids.shape[1]
    found: np.ndarray[tuple[int, int], np.dtype[np.float32]] = np.concatenate(rows)
    return found


def test_the_layout_of_the_shipped_model(decoder: Decoder) -> None:
    layout = decoder.layout
    assert layout.pads
    assert len(layout.parts) == 12
    assert {(part.heads, part.width) for part in layout.parts} == {(2, 32)}
    assert layout.parts[1].past == "past_key_values.0.value"
    assert layout.parts[1].present == "present.0.value"
    assert decoder.vocab() == 2048


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
def test_logits_do_not_depend_on_how_a_prompt_is_cut(decoder: Decoder, chunk: int) -> None:
    np.testing.assert_allclose(
        logits_of(decoder, IDS, chunk), logits_of(decoder, IDS, 40), atol=2e-4
    )


@pytest.mark.parametrize(
    ("make", "tolerance"),
    [(variants.without_positions, 1e-5), (variants.half_precision_cache, 0.1)],
)
def test_other_exports_of_the_same_model(
    decoder: Decoder, tmp_path: Path, make: Callable[[Path], Path], tolerance: float
) -> None:
    other = Decoder(make(tmp_path / "model.onnx"), threads=1)
    np.testing.assert_allclose(logits_of(other, IDS, 8), logits_of(decoder, IDS, 8), atol=tolerance)


def test_rows_without_positions_share_no_batch(tmp_path: Path) -> None:
    other = Decoder(variants.without_positions(tmp_path / "model.onnx"), threads=1)
    batch: Batch[str] = Batch(other)
    _, cache = other.forward(IDS[:, :10], other.empty(), pads=NO_PADS)
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
        Decoder(make(tmp_path / "model.onnx"), threads=1)


def test_what_the_runtime_refuses_is_unavailable(decoder: Decoder) -> None:
    with pytest.raises(Unavailable, match="engine failed"):
        decoder.forward(np.array([[10**9]]), decoder.empty(), pads=NO_PADS)


LENGTHS = (12, 40, 3)


def test_rows_in_a_batch_get_what_they_get_alone(decoder: Decoder) -> None:
    batch: Batch[int] = Batch(decoder)
    alone = []
    for at, length in enumerate(LENGTHS):
        _, cache = decoder.forward(IDS[:, :length], decoder.empty(), pads=NO_PADS)
        alone.append(cache)
        batch.join(at, cache)
    fresh = [100, 200, 300]
    for _ in range(4):
        together = batch.step(fresh)
        for at in range(3):
            own, alone[at] = decoder.forward(np.array([[fresh[at]]]), alone[at], pads=NO_PADS)
            np.testing.assert_allclose(together[at], own[0, -1], atol=2e-4)
        fresh = [int(row.argmax()) for row in together]


def test_rows_leave_and_come_back(decoder: Decoder) -> None:
    batch: Batch[int] = Batch(decoder)
    caches = {}
    for at, length in enumerate(LENGTHS):
        _, caches[at] = decoder.forward(IDS[:, :length], decoder.empty(), pads=NO_PADS)
        batch.join(at, caches[at])
    taken = batch.take(1)
    assert batch.rows == [0, 2]
    assert taken.length == LENGTHS[1]
    for kept, wanted in zip(taken.arrays(), caches[1].arrays(), strict=True):
        np.testing.assert_array_equal(kept, wanted)
    batch.leave([0])
    batch.join(1, taken)
    assert batch.rows == [2, 1]
    own, _ = decoder.forward(np.array([[7]]), caches[1], pads=NO_PADS)
    np.testing.assert_allclose(batch.step([9, 7])[1], own[0, -1], atol=2e-4)
    batch.leave([2, 1])
    assert batch.rows == []
    assert batch.fits(2000)


def test_rows_of_very_different_lengths_do_not_fit(decoder: Decoder) -> None:
    batch: Batch[int] = Batch(decoder)
    _, cache = decoder.forward(IDS[:, :10], decoder.empty(), pads=NO_PADS)
    batch.join(0, cache)
    assert batch.fits(10 + SPREAD_MAX)
    assert not batch.fits(11 + SPREAD_MAX)
