"""Makes the shipped model from nothing: text, tokenizer, training, export, checks, figures.

Run by scripts/build-model inside an environment of its own.
"""

import argparse
import hashlib
import json
import sys
import time
from pathlib import Path
from typing import Any

import torch  # type: ignore[import-not-found]  # only where a model is built
from corpus import held_out, read_facts, topics_of
from export import GRAPH, WEIGHTS, write_configs, write_graph, write_weights
from measure import Runner, Score, largest_difference, prompt_ids, score
from network import Decoder
from shape import SPECIAL, Shape, id_of
from tokenizers import Tokenizer
from train import make_tokenizer, train

from node.adapters.model_folder import MANIFEST, describe

SEED = 20261122
STEPS = 1400
DIFFERENCE_MAX = 1e-3
"""Largest allowed difference of a logit between torch and the exported graph."""
NAME, LICENCE = "gpunode-chat-2.6m", "Apache-2.0"


def export(model: Decoder, tokenizer: Tokenizer, shape: Shape, folder: Path) -> None:
    """Write all files; the decoder's weights become what is stored, in half precision."""
    weights = {}
    for name, parameter in model.named_parameters():
        half = parameter.detach().half()
        parameter.data.copy_(half.float())
        weights[f"model.{name}"] = half.numpy()
    folder.mkdir(parents=True, exist_ok=True)
    write_graph(folder / GRAPH, shape, write_weights(folder / WEIGHTS, weights))
    write_configs(folder, shape, {token: id_of(tokenizer, token) for token in SPECIAL})
    (folder / "tokenizer.json").write_text(tokenizer.to_str(pretty=False), encoding="utf-8")
    manifest = describe(folder, name=NAME, licence=LICENCE)
    (folder / MANIFEST).write_bytes(manifest.encode())


def check(model: Decoder, runner: Runner, tokenizer: Tokenizer, shape: Shape) -> dict[str, float]:
    """The graph gives what torch gives, also one token at a time and over the whole context."""
    ids = prompt_ids(tokenizer, "What is a voucher? " * 40)
    whole, stepwise = largest_difference(model, runner, ids)
    ids = [token % shape.vocab for token in range(5, 5 + shape.context)]
    with torch.inference_mode():
        wanted = model(torch.tensor([ids]))[0].numpy()
    full, _ = runner.step(ids, runner.empty)
    found = {
        "whole": whole,
        "token_by_token": stepwise,
        "full_context": float(abs(full - wanted).max()),
    }
    print("largest difference of a logit from torch:", found)
    if max(found.values()) > DIFFERENCE_MAX:
        raise SystemExit("the exported graph differs from the trained decoder")
    return found


def show(result: Score) -> None:
    for question, topic, answer in result.wrong:
        print(f"wrong: {question} | {topic} | {answer[:90]}")
    print(
        f"held-out questions answered right: {result.right} of {result.asked} "
        f"({100 * result.right / result.asked:.1f} %); word for word: {result.exact}"
    )


def record(folder: Path, result: Score, differences: dict[str, float], took_s: float) -> None:
    """BUILD.json: what made the files, what they hash to, how good they are."""
    names = sorted(p.name for p in folder.iterdir() if p.is_file() and p.name != "BUILD.json")
    manifest = (folder / MANIFEST).read_bytes()
    document: dict[str, Any] = {
        "command": "scripts/build-model",
        "seed": SEED,
        "steps": STEPS,
        "torch": torch.__version__,
        "training_s": round(took_s),
        "model_id": hashlib.sha256(manifest).hexdigest(),
        "files": {n: hashlib.sha256((folder / n).read_bytes()).hexdigest() for n in names},
        "held_out": {
            "what": "questions that were never trained on, by the same author as the training "
            "text, asked alone, decoded greedily; right means that the answer has every key fact "
            "of the topic asked about (lines k: of scripts/model/facts.txt)",
            "asked": result.asked,
            "right": result.right,
            "share": round(result.right / result.asked, 3),
            "word_for_word": result.exact,
        },
        "largest_logit_difference_from_torch": differences,
    }
    (folder / "BUILD.json").write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--steps", type=int, default=STEPS)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    torch.use_deterministic_algorithms(True)
    shape, sections = Shape(), read_facts()
    print(f"{len(topics_of(sections))} topics, {len(held_out(sections))} questions held out")
    started = time.monotonic()
    tokenizer = make_tokenizer(sections, shape, SEED)
    model = train(
        sections=sections, tokenizer=tokenizer, shape=shape, steps=options.steps, seed=SEED
    )
    took_s = time.monotonic() - started
    export(model, tokenizer, shape, options.out)
    runner = Runner(options.out, shape)
    differences = check(model, runner, tokenizer, shape)
    result = score(runner, tokenizer, held_out(sections))
    show(result)
    record(options.out, result, differences, took_s)
    print(f"files: {sum(p.stat().st_size for p in options.out.iterdir())} bytes", file=sys.stderr)


if __name__ == "__main__":
    main()
