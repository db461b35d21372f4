"""The engine around its loops: loading, stopping, several models."""

from dataclasses import replace
from pathlib import Path

import pytest
import trio

from node.adapters import model_folder
from node.adapters.onnx import OnnxEngine, OnnxModel
from node.errors import ConfigError, PeerError, Unavailable
from node.protocol.sampling import Sampling
from node.roles.generation import GenerationRequest
from tests.adapters.onnx import variants

FOLDER = model_folder.load(model_folder.shipped())
MODEL = OnnxModel(manifest=FOLDER.manifest, graph=FOLDER.graph, decode=lambda _ids: "")


def request(model: OnnxModel = MODEL) -> GenerationRequest:
    return GenerationRequest(
        model=model.manifest.model_id,
        prompt_ids=(5, 6, 7),
        max_tokens=1500,
        sampling=Sampling(temperature=0),
        ignore_eos=True,
    )


async def test_nothing_is_offered_before_it_runs() -> None:
    engine = OnnxEngine([MODEL])
    assert engine.models() == ()
    with pytest.raises(PeerError, match="not loaded"):
        async with engine.generate(request()):
            pass


async def test_a_manifest_of_another_vocabulary() -> None:
    wrong = replace(MODEL, manifest=replace(MODEL.manifest, vocab=2049))
    with pytest.raises(ConfigError, match="2048 logits"):
        await OnnxEngine([wrong]).run()


async def test_stopping_ends_running_jobs_soon() -> None:
    engine = OnnxEngine([MODEL])
    seen = trio.Event()
    ended: list[str] = []

    async def read() -> None:
        try:
            async with engine.generate(request()) as steps:
                async for _step in steps:
                    seen.set()
        except Unavailable as error:
            ended.append(str(error))

    with trio.fail_after(60):
        async with trio.open_nursery() as readers, trio.open_nursery() as nursery:
            await nursery.start(engine.run)
            readers.start_soon(read)
            await seen.wait()
            nursery.cancel_scope.cancel()
    assert ended == ["the engine has stopped"]
    assert engine.models() == ()


async def test_two_models_at_once(tmp_path: Path) -> None:
    graph = variants.without_positions(tmp_path / "model.onnx")
    other = replace(MODEL, graph=graph, manifest=replace(MODEL.manifest, name="other"))
    engine = OnnxEngine([MODEL, other], slots=2)
    found: dict[bytes, tuple[int, ...]] = {}

    async def read(model: OnnxModel) -> None:
        wanted = replace(request(model), max_tokens=30)
        ids: list[int] = []
        async with engine.generate(wanted) as steps:
            async for step in steps:
                ids += step.ids
        found[wanted.model] = tuple(ids)

    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        assert engine.load().slots == 4
        async with trio.open_nursery() as readers:
            for model in (MODEL, other):
                readers.start_soon(read, model)
        nursery.cancel_scope.cancel()
    first, second = found.values()
    assert first == second
    assert len(first) == 30


async def test_the_operators_limit_shows_in_the_rates() -> None:
    engine = OnnxEngine([MODEL], slots=2, tokens_per_s_max=25.0)
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        rates = engine.models()[0].rates
        nursery.cancel_scope.cancel()
    assert rates.decode_tps <= 25.0
    assert rates.decode_batch_tps <= 50.0
