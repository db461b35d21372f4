"""One side of `scripts/bench-engine`: our engine, as a worker runs it.

Reads one JSON request a line, `{"batch", "prompt", "tokens", "sampled"}`, computes that many jobs
at once, and answers with the CPU and wall time that it took.
"""

import json
import resource
import sys
import time
from typing import Any

import trio

from node.adapters import model_folder
from node.adapters.onnx.engine import OnnxEngine, OnnxModel
from node.adapters.text.chat import ChatText
from node.protocol.sampling import Sampling
from node.roles.generation import GenerationRequest

SLOTS = 16
FIRST_ID = 5
"""Above the special tokens."""


async def main() -> None:
    folder = model_folder.load(model_folder.shipped())
    decode = ChatText.of(folder.client_files()).decode
    model = OnnxModel(manifest=folder.manifest, graph=folder.graph, decode=decode)
    engine = OnnxEngine([model], slots=SLOTS, threads=1)
    async with trio.open_nursery() as nursery:
        await nursery.start(engine.run)
        while line := await trio.to_thread.run_sync(sys.stdin.readline):
            answer = await _run(engine, folder.manifest.model_id, json.loads(line))
            sys.stdout.write(json.dumps(answer) + "\n")
            sys.stdout.flush()
        nursery.cancel_scope.cancel()


async def _run(engine: OnnxEngine, model: bytes, wanted: dict[str, Any]) -> dict[str, float]:
    made = 0

    async def job(seed: int) -> None:
        nonlocal made
        request = GenerationRequest(
            model=model,
            prompt_ids=tuple(range(FIRST_ID, FIRST_ID + wanted["prompt"])),
            max_tokens=wanted["tokens"],
            sampling=Sampling(temperature=1.0 if wanted["sampled"] else 0.0, seed=seed),
            ignore_eos=True,
        )
        async with engine.generate(request) as steps:
            async for step in steps:
                made += len(step.ids)

    cpu_s, wall_s = _cpu_s(), time.perf_counter()
    async with trio.open_nursery() as nursery:
        for seed in range(wanted["batch"]):
            nursery.start_soon(job, seed)
    return {"made": made, "cpu_s": _cpu_s() - cpu_s, "wall_s": time.perf_counter() - wall_s}


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    trio.run(main)
