"""The other side of `scripts/bench-engine`: onnxruntime-genai, in an environment of its own.

Speaks as `engine_ours` does.  Imports nothing of this project, which is not installed there.

    python engine_genai.py MODEL_FOLDER
"""

import json
import resource
import sys
import time
from typing import Any

import numpy as np
import onnxruntime_genai as genai  # type: ignore[import-not-found]

FIRST_ID = 5


def main(folder: str) -> None:
    model = genai.Model(folder)
    for line in sys.stdin:
        sys.stdout.write(json.dumps(_run(model, json.loads(line))) + "\n")
        sys.stdout.flush()


def _run(model: Any, wanted: dict[str, Any]) -> dict[str, float]:
    batch, prompt, tokens = wanted["batch"], wanted["prompt"], wanted["tokens"]
    ids = np.tile(np.arange(FIRST_ID, FIRST_ID + prompt, dtype=np.int32), (batch, 1))
    cpu_s, wall_s = _cpu_s(), time.perf_counter()
    params = genai.GeneratorParams(model)
    length = prompt + tokens
    params.set_search_options(
        max_length=length,
        min_length=length,  # what `ignore_eos` is with us
        batch_size=batch,
        do_sample=wanted["sampled"],
        temperature=1.0,
        top_k=0,
        top_p=1.0,
    )
    generator = genai.Generator(model, params)
    generator.append_tokens(ids)
    for _ in range(tokens):
        generator.generate_next_token()
    made = sum(len(generator.get_sequence(row)) - prompt for row in range(batch))
    return {"made": made, "cpu_s": _cpu_s() - cpu_s, "wall_s": time.perf_counter() - wall_s}


def _cpu_s() -> float:
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_utime + used.ru_stime


if __name__ == "__main__":
    main(sys.argv[1])
