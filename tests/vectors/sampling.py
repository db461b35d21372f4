"""Writes sampling.json: `python -m tests.vectors.sampling`."""

import json
import random
from pathlib import Path
from typing import Any

import numpy as np

from node.protocol.drawing import History, choose, gumbel
from node.protocol.sampling import Sampling

PATH = Path(__file__).with_name("sampling.json")

CASES: tuple[tuple[str, Sampling], ...] = (
    ("greedy", Sampling(temperature=0)),
    ("plain", Sampling(seed=1)),
    ("largest-seed", Sampling(seed=2**64 - 1)),
    ("choice", Sampling(seed=1, choice=3)),
    ("warm", Sampling(seed=2, temperature=1.5)),
    ("cool", Sampling(seed=2, temperature=0.2)),
    ("top-k", Sampling(seed=3, temperature=2.0, top_k=3)),
    ("top-p", Sampling(seed=4, temperature=2.0, top_p=0.6)),
    ("top-k-and-p", Sampling(seed=5, temperature=3.0, top_k=6, top_p=0.8)),
    ("presence", Sampling(seed=6, presence=1.5)),
    ("frequency", Sampling(seed=6, frequency=0.8)),
    ("repetition", Sampling(seed=6, repetition=1.4)),
    ("all", Sampling(seed=7, temperature=0.7, top_k=9, top_p=0.9, presence=0.3, frequency=0.2,
                     repetition=1.1)),
    ("greedy-with-penalties", Sampling(temperature=0, presence=2.0, repetition=1.5)),
    ("greedy-in-a-format", Sampling(temperature=0)),
    ("plain-in-a-format", Sampling(seed=1)),
    ("all-in-a-format", Sampling(seed=7, temperature=0.7, top_k=4, top_p=0.9, presence=0.3,
                                 frequency=0.2, repetition=1.1)),
)  # fmt: skip
ALLOWED = [0, 2, 5, 7, 11]
"""By the format, where a case has one."""


def _case(name: str, sampling: Sampling, at: int) -> dict[str, Any]:
    draw = random.Random(name)
    row = np.array([round(draw.uniform(-4, 6), 3) for _ in range(12)], dtype=np.float32)
    row[3] = row[8]  # equals: the lower id goes first
    prompt = [draw.randrange(12) for _ in range(4)]
    output = [draw.randrange(12) for _ in range(at)]
    history = History(prompt, output)
    allowed = ALLOWED if "format" in name else None
    token = choose(
        row,
        sampling=sampling,
        position=at,
        history=history,
        allowed=None if allowed is None else np.array(allowed),
    )
    noise = gumbel(np.arange(len(row)), sampling=sampling, position=at)
    fields = sampling.fields()
    return {
        "name": name,
        "sampling": {key: getattr(fields, key) for key in fields.__slots__},
        "seed": str(sampling.seed),
        "position": at,
        "prompt": prompt,
        "output": output,
        "allowed": allowed,
        "logits": [repr(float(value)) for value in row],
        "noise": [repr(float(value)) for value in noise],
        "token": token,
    }


def text() -> str:
    """The file: numbers as text where binary64 matters."""
    cases = [_case(name, sampling, 3 + at) for at, (name, sampling) in enumerate(CASES)]
    note = "docs/protocol-sampling.md; logits are binary32 values, noise is g(t) of every id"
    note += "; allowed: ids that the format allows, null without one"
    return json.dumps({"note": note, "choose": cases}, indent=1) + "\n"


if __name__ == "__main__":
    PATH.write_text(text(), encoding="utf-8")
